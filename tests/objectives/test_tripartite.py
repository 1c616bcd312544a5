"""BCE3S against the released code's numbers, and what its objective promises of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bce_jax import losses, objectives
from bce_jax.data.sources import CIFAR10_STATISTICS
from bce_jax.models import Head, Outputs
from bce_jax.objectives import Batch, Rebalance
from bce_jax.objectives.tripartite import MixedTargets, tripartite

N = 20


def interleaved(features):
  """[3B, …] view after view to the views of an image side by side."""
  views = features.reshape(3, -1, *features.shape[1:])
  return np.swapaxes(views, 0, 1).reshape(features.shape)


def golden(official, name):
  prefix = f"tripartite/{name}/"
  return {k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)}


def parameters(case):
  return {
    "backbone": {},
    # The released code adds its bias, this package subtracts it.
    "head": {"weights": jnp.asarray(case["weights"]), "bias": -jnp.asarray(case["bias"])},
    "objective": {
      "hidden": {"kernel": case["proj0/kernel"], "bias": case["proj0/bias"]},
      "out": {"kernel": case["proj1/kernel"], "bias": case["proj1/bias"]},
    },
  }


def method(case, **options):
  return tripartite(
    "bce-d",
    N,
    warmup_steps=10,
    contrast_weight=float(case["ss_weight"]),
    uniform_weight=float(case["cc_weight"]),
    temperature=float(case["temperature"]),
    projection_size=16,
    **options,
  )


def value(objective, case, params, features, memory, step=10):
  head = Head(N, normalize_weights=True, bias="diverse")
  outputs = Outputs(features, head.apply({"params": params["head"]}, features), {})
  mixed = jnp.stack([case["mixed_targets"]] * 2, 1)
  targets = MixedTargets(jnp.asarray(case["labels"], jnp.int32), mixed, None)
  loss, after, logs = objective.loss(params, outputs, targets, memory, jnp.int32(step))
  return loss, (after, logs)


@pytest.mark.parametrize("name", ["a", "b"])
def test_loss_gradients_and_memory_equal_the_released_code(official, name):
  case = golden(official, name)
  objective = method(case, released=True)

  def total(params, features):
    return value(objective, case, params, features, jnp.asarray(case["memory"]))

  features = jnp.asarray(interleaved(case["features"]))
  grad_fn = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (loss, (after, logs)), (grads, grad_features) = grad_fn(parameters(case), features)
  close = {"rtol": 1e-5, "atol": 1e-6}
  np.testing.assert_allclose(loss, case["loss"], rtol=1e-5)
  np.testing.assert_allclose(after, case["memory_after"], **close)
  np.testing.assert_allclose(logs["class_class"], case["uniform_loss"], rtol=1e-5)
  np.testing.assert_allclose(grad_features, interleaved(case["grad_features"]), **close)
  np.testing.assert_allclose(grads["head"]["weights"], case["grad_weights"], **close)
  np.testing.assert_allclose(-grads["head"]["bias"], case["grad_bias"], **close)
  for ours, theirs in (("hidden", "proj0"), ("out", "proj1")):
    for leaf in ("kernel", "bias"):
      expected = case[f"grad_{theirs}/{leaf}"]
      np.testing.assert_allclose(grads["objective"][ours][leaf], expected, **close)


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_first_epoch_fills_the_memory_without_contrast(official, name):
  case = golden(official, name)
  objective = method(case, released=True)
  features = jnp.asarray(interleaved(case["features"]))
  memory = jnp.zeros((N, 16))

  @jax.jit
  def total(params, step):
    def of(params):
      return value(objective, case, params, features, memory, step)

    return jax.value_and_grad(of, has_aux=True)(params)

  (loss, (after, _)), grads = total(parameters(case), 9)
  np.testing.assert_allclose(loss, case["loss_without_contrast"], rtol=1e-5)
  assert all(not np.any(x) for x in jax.tree.leaves(grads["objective"]))
  present = np.isin(np.arange(N), case["labels"])
  np.testing.assert_allclose(after[present], case["memory_after"][present], rtol=1e-5, atol=1e-6)
  assert not np.any(after[~present])
  assert total(parameters(case), 10)[0][0] != loss


def test_gradients_reach_both_sides_of_a_pair_unless_released(official):
  case = golden(official, "a")
  features = jnp.asarray(interleaved(case["features"]))

  def contrast_only(features, released):
    objective = method(case, released=released)
    memory = jnp.asarray(case["memory"])
    _, (_, logs) = value(objective, case, parameters(case), features, memory)
    return logs["sample_sample"]

  for released in (False, True):
    grads = jax.jit(jax.grad(contrast_only), static_argnums=1)(features, released)
    grads = np.asarray(grads).reshape(-1, 3, features.shape[-1])
    source, mixed = grads[:, 0], grads[:, 1:]
    assert np.any(mixed)
    assert np.any(source) == (not released)


def test_mended_contrast_compares_with_the_newest_projections(official):
  """By hand: rows of the batch's classes are the last source projections, the rest the memory."""
  case = golden(official, "b")
  objective = method(case)
  features = jnp.asarray(interleaved(case["features"]))
  params = parameters(case)
  _, (after, logs) = jax.jit(lambda x, memory: value(objective, case, params, x, memory))(
    features, case["memory"]
  )
  hidden = np.maximum(features @ case["proj0/kernel"] + case["proj0/bias"], 0)
  g = (hidden @ case["proj1/kernel"] + case["proj1/bias"]).reshape(-1, 3, 16)
  table = case["memory"].copy()
  for row, label in enumerate(case["labels"]):
    table[label] = g[row, 0]
  np.testing.assert_allclose(after, table, rtol=1e-4, atol=1e-6)
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
  cosines = unit(np.asarray(g[:, 1:], np.float64)) @ unit(np.asarray(table, np.float64)).T
  t = np.stack([case["mixed_targets"]] * 2, 1)
  z = cosines / float(case["temperature"])
  terms = t * np.logaddexp(0, -z) + (t == 0) * np.logaddexp(0, z)
  expected = terms.sum(-1).mean(0).sum()  # the sum over two views of the mean over the batch
  np.testing.assert_allclose(logs["sample_sample"], expected, rtol=1e-5)
  np.testing.assert_allclose(logs["positive_cosine"], (t * cosines).sum() / t.sum(), rtol=1e-4)
  np.testing.assert_allclose(logs["negative_cosine"], cosines[t == 0].mean(), rtol=1e-4, atol=1e-6)


def test_cosines_leave_out_classes_that_the_memory_does_not_hold(official):
  case = golden(official, "a")
  features = jnp.asarray(interleaved(case["features"]))
  memory = np.zeros((N, 16), np.float32)
  held = [3, int(case["labels"][0])]
  memory[held] = case["memory"][held]
  released = method(case, released=True)
  _, (_, logs) = jax.jit(lambda x, memory: value(released, case, parameters(case), x, memory))(
    features, memory
  )
  hidden = np.maximum(features @ case["proj0/kernel"] + case["proj0/bias"], 0)
  g = np.asarray(hidden @ case["proj1/kernel"] + case["proj1/bias"], np.float64)
  g = g.reshape(-1, 3, 16)[:, 1:]
  rows = memory[held].astype(np.float64)
  cosines = (g / np.linalg.norm(g, axis=-1, keepdims=True)) @ (
    rows / np.linalg.norm(rows, axis=-1, keepdims=True)
  ).T
  t = np.stack([case["mixed_targets"]] * 2, 1)[..., held]
  np.testing.assert_allclose(logs["negative_cosine"], cosines[t == 0].mean(), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    logs["positive_cosine"], (t * cosines).sum() / t.sum(), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_no_contrast_needs_no_projector(weight):
  objective = tripartite("bce-d", N, warmup_steps=1, contrast_weight=weight)
  assert (objective.parameters is None) == (weight == 0)
  assert (objective.memory({}) == ()) if weight == 0 else (objective.memory({}).shape == (N, 128))


def batch(size=8, classes=N):
  rng = np.random.default_rng(0)
  images, partners = rng.normal(size=(2, size, 6, 6, 3)).astype(np.float32)
  labels = np.arange(size) % classes
  partner_labels = (np.arange(size) + 1) % classes
  return Batch(images, np.int32(labels), partners, np.int32(partner_labels))


def views_of(objective):
  return jax.jit(lambda key, data: objective.views(key, data, ()))


def test_views_are_source_mixup_and_cutmix_side_by_side():
  data = batch()
  objective = tripartite("bce-d", N, warmup_steps=1)
  views = views_of(objective)(jax.random.key(3), data)
  images = np.asarray(views.images).reshape(8, 3, 6, 6, 3)
  np.testing.assert_array_equal(images[:, 0], data.images)
  mixed = np.asarray(views.targets.mixed)
  np.testing.assert_allclose(mixed.sum(-1), 1.0, rtol=1e-6)
  rows = np.arange(8)
  share = mixed[rows, 0, np.asarray(data.labels)]
  assert np.ptp(share) == 0  # one λ a batch
  np.testing.assert_allclose(
    images[:, 1],
    share[0] * np.asarray(data.images) + (1 - share[0]) * np.asarray(data.partner_images),
    rtol=1e-5,
    atol=1e-6,
  )
  pasted = images[:, 2] == np.asarray(data.partner_images)
  kept = images[:, 2] == np.asarray(data.images)
  assert (pasted ^ kept).all()
  np.testing.assert_allclose(
    mixed[rows, 1, np.asarray(data.labels)], kept.mean((1, 2, 3)), rtol=1e-6
  )


def test_released_labels_go_by_lambda():
  data = batch()
  released = views_of(tripartite("bce-d", N, warmup_steps=1, released=True))
  mended = views_of(tripartite("bce-d", N, warmup_steps=1))
  differ = 0
  for number in range(8):
    key = jax.random.key(number)
    mixed = np.asarray(released(key, data).targets.mixed)
    np.testing.assert_array_equal(mixed[:, 0], mixed[:, 1])
    area = np.asarray(mended(key, data).targets.mixed)
    differ += not np.allclose(area[:, 0], area[:, 1])
  assert differ == 8


def test_lambda_is_uniform_and_every_step_draws_anew():
  objective = tripartite("bce-d", N, warmup_steps=1)
  draw = jax.jit(lambda key: objective.views(key, batch(), ()).targets.mixed[0, 0, 0])
  shares = np.sort([float(draw(jax.random.key(k))) for k in range(200)])
  assert np.abs(shares - (np.arange(200) + 0.5) / 200).max() < 0.12  # Kolmogorov: 1 in 160


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_share_of_the_classes_never_drops_a_positive(share):
  data = batch(size=16)  # 17 classes with the partners', more than r · N
  views = views_of(tripartite("bce-d", N, warmup_steps=1, class_share=share))
  for number in range(5):
    mask = np.asarray(views(jax.random.key(number), data).targets.class_mask)
    assert mask[np.asarray(data.labels)].all()
    assert mask[np.asarray(data.partner_labels)].all()
    assert mask.sum() == max(int(share * N), 17)


def test_the_released_share_has_a_fixed_size_and_is_for_the_source_view():
  data = batch(size=16)
  views = views_of(tripartite("bce-d", N, warmup_steps=1, class_share=0.4, released=True))
  masks = [np.asarray(views(jax.random.key(k), data).targets.class_mask) for k in range(20)]
  assert {int(mask.sum()) for mask in masks} == {8}
  assert all(np.isin(np.flatnonzero(mask), data.labels).all() for mask in masks)
  few = batch(size=4)
  mask = np.asarray(views(jax.random.key(0), few).targets.class_mask)
  assert mask.sum() == 8
  assert mask[np.asarray(few.labels)].all()


def test_the_share_masks_the_first_term_only(official):
  case = golden(official, "a")
  features = jnp.asarray(interleaved(case["features"]))
  mask = np.arange(N) < 15
  mask[case["labels"]] = True
  mask[np.any(case["mixed_targets"] > 0, 0)] = True
  assert not mask.all()
  params = parameters(case)
  head = Head(N, normalize_weights=True, bias="diverse")
  outputs = Outputs(features, head.apply({"params": params["head"]}, features), {})
  z = np.asarray(outputs.scores.decision, np.float64).reshape(-1, 3, N)
  labels, t = case["labels"], case["mixed_targets"]
  sp = lambda x: np.logaddexp(0, x)  # noqa: E731
  own = np.eye(N)[labels]
  source = own * sp(-z[:, 0]) + (1 - own) * sp(z[:, 0])
  mixed = [t * sp(-z[:, k]) + (t == 0) * sp(z[:, k]) for k in (1, 2)]
  for released in (False, True):
    objective = method(case, released=released, class_share=0.5)
    targets = MixedTargets(np.int32(labels), np.stack([t, t], 1), mask)
    _, _, logs = jax.jit(objective.loss)(params, outputs, targets, case["memory"], np.int32(10))
    of_mixed = np.ones(N) if released else mask
    parts = [source * mask, mixed[0] * of_mixed, mixed[1] * of_mixed]
    expected = np.mean([part.sum(-1).mean() for part in parts])
    np.testing.assert_allclose(logs["sample_class"], expected, rtol=1e-5)


def test_the_last_sample_of_a_class_is_remembered_on_any_number_of_devices(official):
  case = golden(official, "a")
  objective = method(case)
  labels = jnp.asarray([3, 1, 3, 3, 0, 1, 7, 7], jnp.int32)
  features = jnp.asarray(interleaved(case["features"]))
  params = parameters(case)

  def step(features, labels, memory):
    head = Head(N, normalize_weights=True, bias="diverse")
    outputs = Outputs(features, head.apply({"params": params["head"]}, features), {})
    mixed = jax.nn.one_hot(jnp.stack([labels, labels], 1), N)
    loss, after, logs = objective.loss(
      params, outputs, MixedTargets(labels, mixed, None), memory, jnp.int32(10)
    )
    return loss, after, logs

  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  memory = jnp.asarray(case["memory"])
  one = jax.jit(step)(features, labels, memory)
  args = (jax.device_put(features, split), jax.device_put(labels, split))
  eight = jax.jit(step)(*args, jax.device_put(memory, whole))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
  hidden = np.maximum(features @ case["proj0/kernel"] + case["proj0/bias"], 0)
  g = (hidden @ case["proj1/kernel"] + case["proj1/bias"]).reshape(-1, 3, 16)[:, 0]
  for label, row in {3: 3, 1: 5, 0: 4, 7: 7}.items():
    np.testing.assert_allclose(one[1][label], g[row], rtol=1e-4, atol=1e-6)
  untouched = np.setdiff1d(np.arange(N), [0, 1, 3, 7])
  np.testing.assert_array_equal(one[1][untouched], case["memory"][untouched])


def test_softmax_with_soft_targets_is_its_twin(official):
  case = golden(official, "a")
  objective = tripartite("soft-d", N, warmup_steps=1, contrast_weight=0.0, uniform_weight=0.0)
  features = jnp.asarray(interleaved(case["features"]))
  loss, _ = jax.jit(lambda x: value(objective, case, parameters(case), x, ()))(features)
  z = (
    interleaved(case["features"])
    @ (case["weights"] / np.linalg.norm(case["weights"], axis=1, keepdims=True)).T
    + case["bias"]
  )
  z = np.asarray(z, np.float64).reshape(-1, 3, N)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  own, t = np.eye(N)[case["labels"]], case["mixed_targets"]
  parts = [own * log_p[:, 0], t * log_p[:, 1], t * log_p[:, 2]]
  expected = -np.mean([part.sum(-1).mean() for part in parts])
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_rebalancing_combines_with_the_three_losses(official):
  case = golden(official, "a")
  counts = np.arange(1, N + 1)[::-1] * 5
  offsets = losses.logit_adjustment(counts)
  weights = losses.class_weights(counts, beta=0.99)
  features = interleaved(case["features"])

  def loss_of(**options):
    return jax.jit(
      lambda params: value(method(case, **options), case, params, features, case["memory"])[0]
    )

  as_it_is = loss_of()
  plain = as_it_is(parameters(case))
  moved = parameters(case)
  moved["head"]["bias"] = moved["head"]["bias"] - offsets
  expected = as_it_is(moved)
  adjusted = loss_of(rebalance=Rebalance(offsets))(parameters(case))
  np.testing.assert_allclose(adjusted, expected, rtol=1e-6)
  assert adjusted != plain
  same = loss_of(rebalance=Rebalance(weights=jnp.ones(N)))(parameters(case))
  np.testing.assert_allclose(same, plain, rtol=1e-6)
  weighed = loss_of(rebalance=Rebalance(weights=weights))(parameters(case))
  assert abs(float(weighed) - float(plain)) > 1e-3


def test_what_it_asks_of_the_rest():
  mended, released = (tripartite("bce-d", N, warmup_steps=1, released=x) for x in (False, True))
  assert mended.partner == 0.0
  assert mended.channel_statistics is None
  assert released.channel_statistics == CIFAR10_STATISTICS
  assert {"balanced", "joint", "tripartite"} <= set(objectives.names())
