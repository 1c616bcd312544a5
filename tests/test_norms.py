"""Norms against numpy in float64, where float32 squares overflow or vanish too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses, norms

normalize, norm = jax.jit(losses.l2_normalize), jax.jit(norms.norm)
VECTORS = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
SCALES = [1e-30, 1e-12, 1e-3, 1.0, 1e19, 1e20, 1e36]


def float64_norm(v):
  return np.linalg.norm(np.asarray(v, np.float64), axis=-1, keepdims=True)


@pytest.mark.parametrize("scale", SCALES)
def test_unit_of_any_length(scale):
  v = VECTORS * np.float32(scale)
  expected = v / np.maximum(float64_norm(v), 1e-5)
  np.testing.assert_allclose(normalize(v), expected, rtol=1e-5)
  np.testing.assert_allclose(norm(v), float64_norm(v), rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_of_any_length(scale):
  v = VECTORS * np.float32(scale)
  x = np.asarray(v, np.float64)
  length = float64_norm(v)
  np.testing.assert_allclose(
    jax.grad(lambda v: norms.norm(v).sum())(jnp.asarray(v)), x / length, rtol=1e-5
  )
  weights = np.linspace(-1, 1, 7)
  direction = x / length
  along = np.sum(direction * weights, -1, keepdims=True)
  expected = (weights - direction * along) / length
  if scale < 1e-6:  # divided by the bound
    expected = np.broadcast_to(weights / 1e-5, v.shape)
  grad = jax.grad(lambda v: jnp.sum(losses.l2_normalize(v) * jnp.asarray(weights, jnp.float32)))(v)
  np.testing.assert_allclose(
    grad, expected, rtol=2e-5, atol=1.2e-38 + 1e-5 * np.abs(expected).max()
  )


def test_one_long_entry_does_not_hide_the_others():
  np.testing.assert_allclose(
    losses.l2_normalize(jnp.array([3e20, 4e20, 1.0])), [0.6, 0.8, 2e-21], rtol=1e-6
  )


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_not_hidden(wrong):
  v = jnp.array([[1.0, wrong, 0.0], [3.0, 4.0, 0.0]])
  assert np.isnan(losses.l2_normalize(v)[0]).any()
  np.testing.assert_allclose(losses.l2_normalize(v)[1], [0.6, 0.8, 0.0], rtol=1e-6)
  assert not np.isfinite(norms.norm(v)[0]).any()


def test_cosine_of_long_vectors():
  x, w = jnp.array([[3e20, 4e20], [3e-3, 4e-3]]), jnp.array([[1e30, 0.0], [0.0, -2e25]])
  np.testing.assert_allclose(losses.cosine(x, w), [[0.6, -0.8]] * 2, rtol=1e-6)
  scores = losses.cosine(x, w)
  for normalized in (losses.linear_bce(x, w, np.array([0, 1]), normalize=True, chunk_size=1),):
    np.testing.assert_allclose(normalized, losses.bce(scores, np.array([0, 1])), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e20, 1e37])
def test_max_norm_of_rows_of_any_length(scale):
  rows = VECTORS * np.float32(scale)
  length = float64_norm(rows)
  limit = losses.max_norm_limit(rows, fraction=0.25)
  expected = length.min() + 0.25 * (length.max() - length.min())
  np.testing.assert_allclose(limit, expected, rtol=1e-5)
  projected = losses.max_norm(rows, limit=limit)
  np.testing.assert_allclose(projected, rows * np.minimum(1, expected / length), rtol=2e-5)


def test_gradients_of_max_norm_at_a_zero_row():
  rows = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
  grad = jax.grad(lambda w: losses.max_norm_limit(w, fraction=0.5))(rows)
  # The limit is half of the longest row's norm; the zero row is the shortest, and adds nothing.
  np.testing.assert_allclose(grad, [[0.0, 0.0], [0.3, 0.4], [0.0, 0.0]], rtol=1e-6)
  grad = jax.grad(lambda w: losses.max_norm(w, limit=losses.max_norm_limit(w)).sum())(rows)
  assert np.isfinite(grad).all()
