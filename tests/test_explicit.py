"""Arrays over a mesh with Explicit axes, as jax.make_mesh makes them, equal one device."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bce_jax import losses, metrics

P = PartitionSpec
RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype(np.float32)
W = RNG.normal(size=(4, 4)).astype(np.float32)
Y = np.arange(8, dtype=np.int32) % 4
SCORES = (X + 2 * np.eye(4)[Y]).astype(np.float32)
MOMENTS = metrics.class_moments(SCORES, Y, num_classes=4)


def linear(form, **options):
  def loss(x, w, y):
    return form(x, w, y, bias=w[:, 0], scale=2.0, smoothing=0.1, chunk_size=3, **options)

  return loss


def values_and_gradients(loss):
  return jax.value_and_grad(lambda x, w, y: jnp.mean(loss(x, w, y)), (0, 1))


def of_scores(f, **options):
  return lambda x, w, y: f(losses.cosine(x, w), y, **options)


CALLS = {
  "linear_bce": values_and_gradients(linear(losses.linear_bce, normalize=True)),
  "linear_bce_mean": values_and_gradients(linear(losses.linear_bce_mean)),
  "linear_bce, mask": linear(losses.linear_bce, class_mask=np.arange(4) != 2),
  "cosine": values_and_gradients(lambda x, w, y: losses.cosine(x, w)),
  "bce": of_scores(losses.bce, bias=0.5),
  "softmax_cross_entropy": of_scores(losses.softmax_cross_entropy, margin=0.1),
  "contrast": lambda x, w, y: losses.contrast(x, w, y),
  "classifier_uniformity": lambda x, w, y: losses.classifier_uniformity(w),
  "max_norm": lambda x, w, y: losses.max_norm(w, limit=losses.max_norm_limit(w)),
  "score_pairs": of_scores(metrics.score_pairs),
  "uniform_accuracy": of_scores(metrics.uniform_accuracy),
  "accuracy_at": of_scores(metrics.accuracy_at, threshold=0.5),
  "class_moments": lambda x, w, y: metrics.class_moments(x, y, num_classes=4),
  "shot_accuracy": lambda x, w, y: metrics.shot_accuracy(y > 1, y, np.arange(4) * 50),
}


def sharded(mesh, both):
  put = (P("data"), P("class") if both else P("data"), P("data"))
  return [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((X, W, Y), put, strict=True)]


def same(actual, expected):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_equal_to_one_device(name):
  """Rows over one axis for features and weights alike, under jit; what is split stays split."""
  mesh = jax.make_mesh((4, 2), ("data", "class"))
  expected = jax.jit(CALLS[name])(X, W, Y)
  with jax.set_mesh(mesh):
    result = jax.jit(CALLS[name])(*sharded(mesh, both=False))
  same(result, expected)


@pytest.mark.parametrize("known", [True, False])
def test_without_jit(known):
  """Values are looked at there: a label out of range raises, and results are Python numbers."""
  mesh = jax.make_mesh((8,), ("data",))
  logits, labels = (jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (SCORES, Y))
  with jax.set_mesh(mesh) if known else contextlib.nullcontext():
    found = metrics.uniform_accuracy(logits, labels)
    same(metrics.class_moments(logits, labels, num_classes=4).scatter, MOMENTS.scatter)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 3"):
      metrics.class_moments(logits, labels, num_classes=3)
  assert found == metrics.uniform_accuracy(SCORES, Y)
  assert isinstance(found.uniform, float)


def test_losses_stay_split_over_the_examples():
  mesh = jax.make_mesh((4, 2), ("data", "class"))
  with jax.set_mesh(mesh):
    for form in (losses.linear_bce, lambda x, w, y: losses.bce(losses.cosine(x, w), y)):
      result = jax.jit(form)(*sharded(mesh, both=True))
      assert result.sharding.spec == P("data")
      assert jax.jit(losses.cosine)(*sharded(mesh, both=True)[:2]).sharding.spec == P(
        "data", "class"
      )
