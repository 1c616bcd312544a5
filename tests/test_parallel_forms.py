"""Losses and metric reductions agree under jit, pmap, shard_map and jit over a sharded batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bce_jax import losses, metrics

pytestmark = pytest.mark.core

DEVICES, PER_DEVICE, CLASSES, FEATURES = 8, 6, 10, 5
BATCH = DEVICES * PER_DEVICE


def bce_nu(features, weights, bias, labels):
  return losses.bce(losses.cosine(features, weights), labels, bias=bias, scale=8.0, margin=0.1)


def bce_d(features, weights, bias, labels):
  logits = jnp.matmul(features, weights.T, precision="highest")
  diverse = bias * jnp.arange(CLASSES, dtype=jnp.float32)
  return losses.bce(logits, labels, bias=diverse, smoothing=0.1, negative_weight=0.7)


def soft_d(features, weights, bias, labels):
  logits = jnp.matmul(features, weights.T, precision="highest")
  diverse = bias * jnp.arange(CLASSES, dtype=jnp.float32)
  return losses.softmax_cross_entropy(logits, labels, bias=diverse, smoothing=0.1)


def naive(features, weights, bias, labels):
  return losses.naive(losses.cosine(features, weights), labels, threshold=bias)


@pytest.fixture(scope="module")
def arrays():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
  weights = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
  return features, weights, np.float32(0.7), labels


def mesh() -> Mesh:
  assert jax.device_count() == DEVICES
  return jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize("loss", [bce_nu, bce_d, soft_d, naive])
@pytest.mark.parametrize("form", ["pmap", "shard_map", "jit_sharded"])
def test_losses_and_gradients(arrays, loss, form):
  features, weights, bias, labels = arrays

  def mean(features, weights, bias, labels):
    return jnp.mean(loss(features, weights, bias, labels))

  expected, expected_grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(
    features, weights, bias, labels
  )

  if form == "jit_sharded":
    split = NamedSharding(mesh(), PartitionSpec("batch"))
    step = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))
    args = (jax.device_put(features, split), weights, bias, jax.device_put(labels, split))
    value, grads = step(*args)
    feature_grads = grads[0]
  elif form == "shard_map":
    # pmean(grad(pmean(loss))) is right under check_vma; pmean(grad(loss)) is not.
    def per_device(features, weights, bias, labels):
      def global_mean(features, weights, bias):
        return jax.lax.pmean(mean(features, weights, bias, labels), "batch")

      return jax.value_and_grad(global_mean, (0, 1, 2))(features, weights, bias)

    batch, whole = PartitionSpec("batch"), PartitionSpec()
    step = jax.jit(
      jax.shard_map(
        per_device,
        mesh=mesh(),
        in_specs=(batch, whole, whole, batch),
        out_specs=(whole, (batch, whole, whole)),
      )
    )
    value, grads = step(features, weights, bias, labels)
    feature_grads = grads[0]
  else:

    @functools.partial(jax.pmap, axis_name="batch", in_axes=(0, None, None, 0))
    def step(features, weights, bias, labels):
      value, grads = jax.value_and_grad(mean, (0, 1, 2))(features, weights, bias, labels)
      shared = jax.lax.pmean((value, grads[1:]), "batch")
      return shared[0], (grads[0] / DEVICES, *shared[1])

    cut = (DEVICES, PER_DEVICE)
    value, grads = step(features.reshape(*cut, FEATURES), weights, bias, labels.reshape(cut))
    np.testing.assert_allclose(value, np.full(DEVICES, value[0]), rtol=1e-6)
    value, grads = value[0], (grads[0], grads[1][0], grads[2][0])
    feature_grads = grads[0].reshape(BATCH, FEATURES)

  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for actual, wanted in zip((feature_grads, *grads[1:]), expected_grads, strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def scored():
  rng = np.random.default_rng(1)
  logits = rng.integers(-4, 5, (BATCH, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
  logits[np.arange(BATCH), labels] += 3
  return logits, labels, rng.uniform(size=BATCH) < 0.8


def results(logits, labels, where, axis_name=None):
  """Everything that `metrics` says of a data set."""
  options = {"where": where, "axis_name": axis_name}
  pairs = metrics.score_pairs(logits, labels)
  return (
    metrics.uniform_accuracy(logits, labels, **options),
    metrics.uniform_accuracy_from_pairs(*pairs, labels, num_classes=CLASSES, **options),
    metrics.accuracy_at(logits, labels, 0.5, **options),
    metrics.accuracy_at_from_pairs(*pairs, 0.5, **options),
  )


@pytest.mark.parametrize("form", ["jit", "pmap", "shard_map", "jit_sharded"])
def test_metric_reductions(scored, form):
  logits, labels, where = scored
  expected = [np.float32(x) for x in jax.tree.leaves(results(logits, labels, where))]
  assert 0 < expected[0] < 1
  if form == "jit":
    actual = jax.jit(results)(logits, labels, where)
  elif form == "jit_sharded":
    split = NamedSharding(mesh(), PartitionSpec("batch"))
    actual = jax.jit(results)(*(jax.device_put(x, split) for x in scored))
  elif form == "shard_map":
    batch = PartitionSpec("batch")
    actual = jax.jit(
      jax.shard_map(
        functools.partial(results, axis_name="batch"),
        mesh=mesh(),
        in_specs=(batch, batch, batch),
        out_specs=PartitionSpec(),
      )
    )(logits, labels, where)
  else:
    cut = [x.reshape(DEVICES, PER_DEVICE, *x.shape[1:]) for x in scored]
    actual = jax.pmap(functools.partial(results, axis_name="batch"), axis_name="batch")(*cut)
  for value, wanted in zip(jax.tree.leaves(actual), expected, strict=True):
    np.testing.assert_array_equal(value, np.full(np.shape(value), wanted))


def test_pairs_of_each_device_merge_to_the_whole(scored):
  logits, labels, _ = scored
  whole = metrics.uniform_accuracy(logits, labels)
  cut = [x.reshape(DEVICES, PER_DEVICE, *x.shape[1:]) for x in (logits, labels)]
  positive, negative = jax.pmap(metrics.score_pairs)(*cut)
  merged = metrics.uniform_accuracy_from_pairs(positive, negative, cut[1], num_classes=CLASSES)
  assert merged == whole
