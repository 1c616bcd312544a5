"""One step, cut in every way there is: over devices, in micro-batches, under jit and under pmap."""

import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from bce_jax import sharding
from bce_jax.data import loader, sources
from bce_jax.models import resnet
from bce_jax.training import config as config_lib
from bce_jax.training import experiment, pmap, step

pytestmark = pytest.mark.slow

DEVICES = 8
AUGMENTED = {"data.flip": True, "data.cutout": 3}
# Of the code, not of the program: the few steps here run in less time than it takes.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def changed(config, method="joint", changes=()):
  config_lib.set_objective(config, method)
  if method == "balanced":
    config.start_from = "a run, which nobody reads here"
  for key, value in dict(changes).items():
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
  return config


def build(config, devices=1, *, frozen=False, noise=True):
  """As built for a run, on noise.

  Digits have flat backgrounds, so that many activations are equal and meet the kink of a ReLU at
  once, where rounding decides on their gradient: see the test of digits.
  """
  mesh = jax.make_mesh(
    (devices, 1),
    ("data", "class"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:devices],
  )
  built = experiment.build(config)._replace(mesh=mesh)
  train = built.dataset.train
  shape = (len(train), *train.image_shape)
  if noise:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    train = sources.ArraySource(images, train.labels)
  built = built._replace(dataset=built.dataset._replace(train=train))
  if frozen:
    built = built._replace(objective=built.objective._replace(batch_statistics=False))
  return built


def of_step(built):
  return built.model, built.objective, built.optimizer, built.preprocess, built.key


def batches(built, steps):
  return loader.train_batches(
    built.dataset.train,
    seed=0,
    batch_size=built.config.batch_size,
    first_step=0,
    last_step=steps,
    partner_exponent=built.objective.partner,
  )


def jitted(built, *, unrolled=None):
  train_step = step.make_train_step(
    *of_step(built), micro_batches=built.config.micro_batches, unrolled=unrolled
  )
  return step.jit_train_step(train_step, built.state_sharding)


def start(built, _made={}):  # noqa: B006
  """The state before the first step, on the host; made once for all tests with the same."""
  config, shapes = built.config, jax.eval_shape(built.init_state)
  key = (config.objective.name, config.loss, str(shapes))
  if key not in _made:
    init_state = jax.jit(built.init_state).lower().compile(UNOPTIMIZED)
    _made[key] = jax.device_get(init_state())
  return _made[key]


def trained(built, *, steps=3, unrolled=None, order=None):
  """The state after some steps under jit, and the logs of each."""
  state, logs, compiled = jax.device_put(start(built), built.state_sharding.shardings()), [], None
  for batch in batches(built, steps):
    if order is not None:
      batch = {name: x[order] for name, x in batch.items()}
    batch = sharding.put_batch(batch, built.mesh)
    if compiled is None:
      compiled = jitted(built, unrolled=unrolled).lower(state, batch).compile(UNOPTIMIZED)
    state, of_this = compiled(state, batch)
    logs.append({name: float(x) for name, x in of_this.items()})
  return state, logs


def assert_alike(actual, expected):
  (actual, actual_logs), (expected, expected_logs) = actual, expected
  for a, b in zip(actual_logs, expected_logs, strict=True):
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(np.abs(b).max(), 0.1))


@pytest.mark.parametrize(
  ("method", "changes", "numbers"),
  [
    ("joint", {"loss": "bce-nu", **AUGMENTED}, (8,)),
    (
      "joint",
      {
        "loss": "soft-d",
        "rebalance.logit_adjustment": 1.0,
        "rebalance.class_weight_beta": 0.99,
        "batch_norm_group": 4,  # within the images of each device
      },
      (8,),
    ),
    ("joint", {"batch_norm_group": 8}, (8,)),  # of two devices
    ("joint", {"micro_batches": 2, **AUGMENTED}, (2, 8)),  # of 16 and 4 images
    ("joint", {"loss": "bce-nd", "micro_batches": 2, "batch_norm_group": 2}, (8,)),
    ("tripartite", {"loss": "bce-d", "data.cutout": 3, "objective.class_share": 0.5}, (8,)),
    (
      "tripartite",
      {"loss": "bce-nu", "objective.released": True, "objective.class_share": 0.5},
      (8,),
    ),
    ("tripartite", {"loss": "bce-d", "micro_batches": 2}, (2,)),
  ],
)
def test_any_number_of_devices_trains_like_one(tiny, method, changes, numbers):
  changed(tiny, method, changes)
  if method == "tripartite":
    tiny.data.imbalance = 20.0  # 14 steps per epoch would be too many to wait for L_ss: 2
    tiny.batch_size = 160
  one = trained(build(tiny, 1))
  for devices in numbers:
    assert_alike(trained(build(tiny, devices)), one)


def test_on_digits_devices_differ_as_one_rounding_of_the_learning_rate_does(tiny, monkeypatch):
  """Equal to rounding after a step; later no further apart than by what rounding itself causes.

  With a smooth activation: the kink of a ReLU makes of rounding whatever it may, at some step.
  """
  monkeypatch.setattr(nn, "relu", lambda x: jax.nn.softplus(4 * x) / 4)

  def parameters(devices):
    built = build(tiny, devices, noise=False)
    state, compiled, found = (
      jax.device_put(start(built), built.state_sharding.shardings()),
      None,
      [],
    )
    for batch in batches(built, 20):
      batch = sharding.put_batch(batch, built.mesh)
      if compiled is None:
        compiled = jitted(built).lower(state, batch).compile(UNOPTIMIZED)
      state, _ = compiled(state, batch)
      leaves = [
        np.ravel(x).astype(np.float64) for x in jax.tree.leaves(jax.device_get(state.params))
      ]
      found.append(np.concatenate(leaves))
    return np.stack(found)

  tiny.steps = 400
  one, eight = parameters(1), parameters(DEVICES)
  tiny.optimizer.learning_rate *= 1 + 1e-7
  rounded = parameters(1)
  norms = np.linalg.norm(one, axis=1)
  apart, by_rounding = (np.linalg.norm(x - one, axis=1) / norms for x in (eight, rounded))
  assert apart[0] < 1e-6
  assert by_rounding[-1] > 0  # the change was seen
  assert apart[-1] < 10 * by_rounding[-1]


@pytest.mark.parametrize(
  ("method", "changes", "cuts"),
  [
    ("joint", {"loss": "bce-nd"}, [(4, False), (2, True)]),
    ("balanced", {"loss": "bce-u", "objective.class_share": 0.3}, [(4, False)]),
    # Without contrast no memory is handed on.
    ("tripartite", {"objective.contrast_weight": 0.0, "objective.class_share": 0.3}, [(2, True)]),
  ],
)
def test_micro_batches_train_like_one_batch(tiny, method, changes, cuts):
  changed(tiny, method, {**AUGMENTED, **changes})
  one = trained(build(tiny, frozen=True), steps=2)
  for count, unrolled in cuts:
    tiny.micro_batches = count
    built = build(tiny, frozen=True)
    assert_alike(trained(built, steps=2, unrolled=unrolled), one)


@pytest.mark.parametrize("unrolled", [True, False])
def test_micro_batches_of_whole_groups_train_like_one_batch(tiny, unrolled):
  tiny.batch_norm_group = 4
  tiny.data.crop_padding = 0  # an image is augmented by its row, and the rows differ here
  # Micro-batch i has the images i, i + 2, … and groups of them; so has a batch in that order.
  order = np.arange(tiny.batch_size).reshape(-1, 2).T.ravel()
  one = trained(build(tiny), order=order)
  tiny.micro_batches = 2
  assert_alike(trained(build(tiny), unrolled=unrolled), one)


def test_micro_batches_have_statistics_of_their_own(tiny):
  tiny.data.crop_padding = 0
  tiny.micro_batches = 2
  halves = trained(build(tiny), steps=1)
  tiny.micro_batches, tiny.batch_norm_group = 1, tiny.batch_size // 2
  order = np.arange(tiny.batch_size).reshape(-1, 2).T.ravel()
  assert_alike(halves, trained(build(tiny), steps=1, order=order))


@pytest.mark.parametrize("unrolled", [True, False])
def test_a_memory_is_handed_from_micro_batch_to_micro_batch(tiny, unrolled):
  changed(tiny, "tripartite", {"micro_batches": 4})
  built = build(tiny)
  [batch] = batches(built, 1)
  state, _ = trained(built, steps=1, unrolled=unrolled)
  held = np.asarray(state.memory).any(-1)
  assert held.sum() > tiny.batch_size // 4  # more classes than a micro-batch has images
  np.testing.assert_array_equal(held, np.bincount(batch["labels"], minlength=10) > 0)


@pytest.mark.parametrize("unrolled", [True, False])
def test_micro_batches_take_less_memory(tiny, unrolled):
  tiny.batch_size = 256
  backbone = resnet.ResNet(block=resnet.BasicBlock, stage_sizes=(1,), width=8)

  def bytes_taken(count):
    tiny.micro_batches = count
    built = build(tiny)
    built = built._replace(model=built.model.clone(backbone=backbone))
    [batch] = batches(built, 1)
    lowered = jitted(built, unrolled=unrolled).lower(jax.eval_shape(built.init_state), batch)
    compiled = lowered.compile(UNOPTIMIZED)
    return compiled.memory_analysis().temp_size_in_bytes

  whole, less = bytes_taken(1), bytes_taken(4)
  assert less < 0.35 * whole


def collectives(compiled):
  """How often each kind of communication stands in a compiled program."""
  kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
  found = re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text())
  return {kind: found.count(kind) for kind in set(found)}


def forward(built):
  """Compiles the network's forward pass in training mode, without the new running statistics."""

  def features(state, images):
    outputs, _ = built.model.apply(
      {"params": state.params, "batch_stats": state.batch_stats},
      images,
      train=True,
      mutable=["batch_stats"],
    )
    return outputs.features

  split, whole = sharding.batch_sharded(built.mesh), sharding.replicated(built.mesh)
  state = jax.eval_shape(built.init_state)
  images = jax.ShapeDtypeStruct((32, *built.dataset.train.image_shape), np.float32)
  return jax.jit(features, in_shardings=(whole, split)).lower(state, images).compile(UNOPTIMIZED)


@pytest.mark.parametrize(("group", "travels"), [(None, True), (8, True), (4, False), (2, False)])
def test_groups_within_a_device_need_no_communication(tiny, group, travels):
  tiny.batch_norm_group = group
  assert bool(collectives(forward(build(tiny, DEVICES)))) == travels


@pytest.mark.parametrize("unrolled", [True, False])
def test_micro_batches_leave_images_where_they_are(tiny, unrolled):
  changed(tiny, changes={**AUGMENTED, "micro_batches": 2})
  built = build(tiny, DEVICES)
  [batch] = batches(built, 1)
  state = jax.eval_shape(built.init_state)
  compiled = jitted(built, unrolled=unrolled).lower(state, batch).compile(UNOPTIMIZED)
  assert set(collectives(compiled)) == {"all-reduce"}


@pytest.mark.parametrize(
  ("method", "changes"),
  [
    ("joint", {"loss": "bce-nu"}),
    (
      "joint",
      {
        "loss": "soft-d",
        "rebalance.logit_adjustment": 1.0,
        "rebalance.class_weight_beta": 0.99,
        "batch_norm_group": 2,
      },
    ),
    ("joint", {"loss": "bce-nd", "micro_batches": 2}),
    ("balanced", {"objective.class_share": 0.3, "objective.drifting_statistics": True}),
    ("tripartite", {"objective.contrast_weight": 0.0, "objective.class_share": 0.3}),
  ],
)
def test_pmap_trains_like_jit(tiny, method, changes):
  changed(tiny, method, {**AUGMENTED, **changes})
  tiny.data.imbalance = 10.0
  expected = trained(build(tiny, DEVICES))
  built = build(tiny, DEVICES)
  train_step = pmap.make_pmap_train_step(*of_step(built), micro_batches=tiny.micro_batches)
  states, logs, compiled = pmap.replicate(start(built)), [], None
  for batch in map(pmap.split, batches(built, 3)):
    if compiled is None:
      compiled = train_step.lower(states, batch).compile(UNOPTIMIZED)
    states, of_this = compiled(states, batch)
    logs.append({name: float(x[0]) for name, x in of_this.items()})
  for x in jax.tree.leaves((states, of_this)):
    np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
  assert_alike((pmap.unreplicate(states), logs), expected)


def test_pmap_refuses_a_memory_of_the_whole_batch(tiny):
  built = build(changed(tiny, "tripartite"))
  with pytest.raises(ValueError, match="remembers images of the whole batch, which no device sees"):
    pmap.make_pmap_train_step(*of_step(built))


def test_pmap_refuses_a_batch_that_its_devices_cannot_share():
  with pytest.raises(ValueError, match=r"8 device\(s\) can't share a batch of 12 rows evenly"):
    pmap.split({"labels": np.zeros(12, np.int32)})
  assert pmap.split({"labels": np.zeros(12, np.int32)}, 4)["labels"].shape == (4, 3)
