import collections
import functools
import re

import jax
import jax.numpy as jnp
import linear_by_hand
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bce_jax import losses

pytestmark = pytest.mark.slow

B, D, CLASSES, DEVICES = 8, 5, 13, 8
SPLIT = ("weights", "bias")  # what is cut along the classes; the rest is common to all devices


def close(actual, expected, rtol=1e-5):
  expected = np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def mesh_of(data: int, classes: int) -> Mesh:
  return jax.make_mesh((data, classes), ("data", "class"), axis_types=(AxisType.Auto,) * 2)


def draw(devices, *, diverse=True):
  """Operands with the table padded by nan to a multiple of the devices."""
  rng = np.random.default_rng(0)
  rows = -(-CLASSES // devices) * devices
  operands = {
    "features": rng.normal(size=(B, D)),
    "weights": np.pad(
      rng.normal(size=(CLASSES, D)), ((0, rows - CLASSES), (0, 0)), constant_values=np.nan
    ),
    "bias": np.pad(rng.normal(size=CLASSES), (0, rows - CLASSES), constant_values=np.nan)
    if diverse
    else rng.normal(),
    "scale": 1.3,
    "margin": 0.2,
    "negative_weight": 0.7,
    "smoothing": 0.1,
  }
  operands = {name: jnp.asarray(x, jnp.float32) for name, x in operands.items()}
  labels = jnp.asarray(rng.integers(0, CLASSES, B), jnp.int32).at[0].set(CLASSES - 1)
  return operands, labels


def specs(operands):
  """How the operands are cut: features along 'data', the table along 'class'."""
  cut = {name: P("class") if name in SPLIT and x.ndim else P() for name, x in operands.items()}
  return cut | {"features": P("data")}


def padding_mask(rows):
  """sample_classes over the true classes, with padding chosen too: it still must not count."""
  kept = losses.sample_classes(jax.random.key(3), jnp.arange(5), CLASSES, share=0.6)
  return jnp.concatenate([kept, jnp.ones(rows - CLASSES, bool)])


def loss_of(form, operands, labels, mask=None, **options):
  operands = dict(operands)
  x, w = operands.pop("features"), operands.pop("weights")
  options |= operands | {"class_mask": mask, "num_classes": CLASSES, "chunk_size": 2}
  if form == "mean":
    return losses.linear_bce_mean(x, w, labels, **options)
  return jnp.mean(losses.linear_bce(x, w, labels, **options))


def true_rows(operands):
  return {name: x[:CLASSES] if name in SPLIT and x.ndim else x for name, x in operands.items()}


def expected_of(operands, labels, mask=None, normalize=False):
  """All scores of the true classes, in float64."""
  kept = None if mask is None else np.asarray(mask)[..., :CLASSES]
  value, grads = linear_by_hand.mean_and_gradients(
    true_rows(operands), labels, normalize=normalize, class_mask=kept
  )
  return value, {name: grads[name] for name in (*operands, "labels") if name in grads}


def agree(value, grads, expected):
  close(value, expected[0])
  for name, wanted in expected[1].items():
    found = np.asarray(grads[name])
    if name in SPLIT and found.ndim:
      assert np.all(found[CLASSES:] == 0.0), name  # padding, which holds nan
      found = found[:CLASSES]
    close(found, wanted)


LAYOUTS = [  # (data, class), a bias per class, classes sampled and cosines
  ((1, 8), True, True),
  ((1, 8), False, False),
  ((2, 4), True, False),
  ((4, 2), False, True),
]


# Each form with every layout and with every place of the derivative.
@pytest.mark.parametrize(
  ("layout", "where", "form"),
  [
    (layout, where, ("mean", "each")[(i + j) % 2])
    for i, layout in enumerate(LAYOUTS)
    for j, where in enumerate(("inside", "outside", "outside unchecked"))
  ],
)
def test_shard_map(form, layout, where):
  shape, diverse, masked = layout
  operands, labels = draw(shape[1], diverse=diverse)
  mask = padding_mask(operands["weights"].shape[0]) if masked else None
  cut = specs(operands)

  def mean(operands, labels, mask):
    local = loss_of(form, operands, labels, mask, axis_name="class", normalize=masked)
    return lax.pmean(local, "data")

  over = functools.partial(
    jax.shard_map,
    mesh=mesh_of(*shape),
    in_specs=(cut, P("data"), None if mask is None else P("class")),
  )
  if where == "inside":
    step = over(jax.value_and_grad(mean), out_specs=(P(), cut))
  else:
    step = jax.value_and_grad(over(mean, out_specs=P(), check_vma=where == "outside"))
  value, grads = jax.jit(step)(operands, labels, mask)
  agree(value, grads, expected_of(operands, labels, mask, masked))


@pytest.mark.parametrize(("form", "check_vma"), [("mean", True), ("each", False)])
def test_values_without_jit(form, check_vma):
  operands, labels = draw(4, diverse=True)

  def per_device(operands, labels):
    return jax.lax.pmean(loss_of(form, operands, labels, axis_name="class"), "data")

  value = jax.shard_map(
    per_device,
    mesh=mesh_of(2, 4),
    in_specs=(specs(operands), P("data")),
    out_specs=P(),
    check_vma=check_vma,
  )(operands, labels)
  close(value, expected_of(operands, labels)[0])


@pytest.mark.parametrize("form", ["mean", "each"])
def test_soft_targets_and_a_mask_for_each_example(form):
  operands, _ = draw(4)
  del operands["margin"]
  rng = np.random.default_rng(2)
  rows = operands["weights"].shape[0]
  targets = np.full((B, rows), np.nan, np.float32)
  targets[:, :CLASSES] = rng.uniform(size=(B, CLASSES))
  mask = rng.uniform(size=(B, rows)) < 0.6
  cut = specs(operands)

  def mean(operands, targets, mask):
    return lax.pmean(loss_of(form, operands, targets, mask, axis_name="class"), "data")

  both = P("data", "class")
  step = jax.shard_map(
    jax.value_and_grad(mean, (0, 1)),
    mesh=mesh_of(2, 4),
    in_specs=(cut, both, both),
    out_specs=(P(), (cut, both)),
  )
  value, (grads, target_grads) = jax.jit(step)(operands, targets, mask)

  wanted, wanted_grads = expected_of(operands, targets[:, :CLASSES], mask)
  target_wanted = wanted_grads.pop("labels")
  agree(value, grads, (wanted, wanted_grads))
  close(target_grads[:, :CLASSES], target_wanted)
  assert np.all(np.asarray(target_grads)[:, CLASSES:] == 0.0)


def split_table(operands):
  """The table as pmap wants it: [devices, rows, …]."""
  return {
    name: x.reshape(DEVICES, -1, *x.shape[1:]) if name in SPLIT and x.ndim else x
    for name, x in operands.items()
  }


def pmap_axes(operands):
  return {name: 0 if name in SPLIT and x.ndim else None for name, x in operands.items()}


@pytest.mark.parametrize("form", ["mean", "each"])
def test_pmap_differentiated_from_outside(form):
  operands, labels = draw(DEVICES)

  def mean(operands):
    each = jax.pmap(
      functools.partial(loss_of, form, axis_name="class"),
      axis_name="class",
      in_axes=(pmap_axes(operands), None),
    )(split_table(operands), labels)
    return each[0]

  value, grads = jax.value_and_grad(mean)(operands)
  agree(value, grads, expected_of(operands, labels))


@pytest.mark.parametrize(
  ("form", "where"), [("mean", "pmap"), ("each", "shard_map unchecked"), ("each", "pmap")]
)
def test_the_documented_factor_of_gradients_taken_inside(form, where):
  operands, labels = draw(DEVICES)
  expected = expected_of(operands, labels)

  def per_device(operands, labels):
    step = jax.value_and_grad(functools.partial(loss_of, form, axis_name="class"))
    value, grads = step(operands, labels)
    common = {name: x for name, x in grads.items() if name not in SPLIT}
    return value, {name: grads[name] for name in SPLIT} | lax.pmean(common, "class")

  if where == "pmap":
    value, grads = jax.pmap(per_device, axis_name="class", in_axes=(pmap_axes(operands), None))(
      split_table(operands), labels
    )
    value = value[0]
    grads = {
      name: g.reshape(operands[name].shape) if name in SPLIT else g[0] for name, g in grads.items()
    }
  else:
    cut = specs(operands) | {"features": P()}
    step = jax.shard_map(
      per_device,
      mesh=mesh_of(1, DEVICES),
      in_specs=(cut, P()),
      out_specs=(P(), cut),
      check_vma=False,
    )
    value, grads = jax.jit(step)(operands, labels)
  for name in SPLIT:
    close(grads[name][:CLASSES], DEVICES * expected[1][name])
    grads[name] /= DEVICES
  agree(value, grads, expected)


@pytest.mark.parametrize("form", ["mean", "each"])
def test_the_batch_split_by_the_compiler(form):
  """Plain jit over a sharded batch: no axis_name, the table on every device."""
  operands, labels = draw(1)
  mesh = mesh_of(8, 1)
  cut = NamedSharding(mesh, P("data"))
  common = NamedSharding(mesh, P())
  placed = {
    name: jax.device_put(x, cut if name == "features" else common) for name, x in operands.items()
  }
  step = jax.jit(jax.value_and_grad(functools.partial(loss_of, form)))
  value, grads = step(placed, jax.device_put(labels, cut))
  agree(value, grads, expected_of(operands, labels))


@pytest.mark.parametrize("form", ["mean", "each"])
def test_shard_map_over_the_batch_only(form):
  """The table on every device: no axis_name, yet what varies over 'data' meets what doesn't."""
  operands, labels = draw(1)
  mask = padding_mask(CLASSES)
  cut = specs(operands) | {name: P() for name in SPLIT}

  def mean(operands, labels):
    return lax.pmean(loss_of(form, operands, labels, mask), "data")

  step = jax.shard_map(
    jax.value_and_grad(mean),
    mesh=mesh_of(8, 1),
    in_specs=(cut, P("data")),
    out_specs=(P(), cut),
  )
  value, grads = jax.jit(step)(operands, labels)
  agree(value, grads, expected_of(operands, labels, mask))


def test_labels_out_of_range_and_num_classes_beyond_the_table():
  operands, labels = draw(8)
  cut = specs(operands) | {"features": P()}

  def each(operands, labels, form=losses.linear_bce, num_classes=CLASSES):
    x, w = operands["features"], operands["weights"]
    options = {"bias": operands["bias"], "axis_name": "class", "num_classes": num_classes}
    return form(x, w, labels, **options)

  over = functools.partial(jax.shard_map, mesh=mesh_of(1, 8), in_specs=(cut, P()))
  wrong = labels.at[2].set(CLASSES).at[5].set(-1)  # the first is a row, but padding
  value = jax.jit(over(each, out_specs=P()))(operands, wrong)
  np.testing.assert_array_equal(np.flatnonzero(np.isnan(value)), [2, 5])
  mean = functools.partial(each, form=losses.linear_bce_mean)
  assert np.isnan(jax.jit(over(mean, out_specs=P()))(operands, wrong))
  too_many = functools.partial(each, num_classes=17)
  with pytest.raises(ValueError, match="num_classes must be at most 16, 2 rows on each of 8"):
    over(too_many, out_specs=P())(operands, labels)


COLLECTIVE = re.compile(
  r"= (?P<result>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
  r"(-start)?\("
)


def alone(line):
  """Whether a collective runs along an axis of one device, in the words of old and of new XLA."""
  if named := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return all(sizes[axis] == "1" for axis in re.findall(r"'(\w+)'", named[2]))
  return "replica_groups={{0},{1}" in line


def exchanged(f, *args):
  """Numbers in the results of each kind of collective of a compiled program."""
  found = collections.Counter()
  for line in jax.jit(f).lower(*args).compile().as_text().splitlines():
    if (match := COLLECTIVE.search(line)) and not alone(line):
      for shape in re.findall(r"\w+\[([\d,]*)\]", match["result"]):
        found[match["kind"]] += int(np.prod([int(n) for n in shape.split(",") if n]))
  return found


@pytest.mark.core
@pytest.mark.parametrize(("form", "shape"), [("mean", (1, 8)), ("mean", (2, 4)), ("each", (2, 4))])
def test_devices_exchange_only_sums_of_losses(form, shape):
  operands, labels = draw(shape[1])
  x, w, bias = (operands[name] for name in ("features", "weights", "bias"))
  over_data = 1 if shape[0] > 1 else 0

  def loss(x, w, bias, labels):
    local = loss_of(form, {"features": x, "weights": w, "bias": bias}, labels, axis_name="class")
    return lax.pmean(local, "data")

  mean = jax.shard_map(
    loss,
    mesh=mesh_of(*shape),
    in_specs=(P("data"), P("class"), P("class"), P("data")),
    out_specs=P(),
  )
  one_loss = 1 if form == "mean" else B // shape[0]
  # One number (or one per example) over 'class', and the mean over 'data'.
  assert exchanged(mean, x, w, bias, labels) == {"all-reduce": one_loss + over_data}
  # The features' gradient is a sum over the classes, whatever the loss; the table's over the data.
  gradients = B // shape[0] * D + over_data * (x.shape[1] + 1) * w.shape[0] // shape[1]
  step = jax.value_and_grad(mean, (0, 1, 2))
  assert exchanged(step, x, w, bias, labels) == {"all-reduce": one_loss + over_data + gradients}
