"""Norms of vectors, right at zero and where squares overflow; shared by losses and metrics."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bce_jax import checks, explicit

MIN_NORM = 1e-5
"""‖v‖ is bounded from below by this where a vector is normalized, as in the released code."""


@explicit.auto(explicit.alike)
def l2_normalize(vectors: Float[ArrayLike, "*batch D"]) -> Float[Array, "*batch D"]:
  """Vectors divided by their norm: v / max(‖v‖, 1e-5), in float32 at least.

  Args:
    vectors: v, any floating dtype, of any length; a vector with an infinite entry gives nan.

  Returns:
    v̂, and for a zero vector zeros with a finite gradient: [*batch, D].

  Raises:
    ValueError: for a dtype that is not floating.

  >>> import jax.numpy as jnp
  >>> l2_normalize(jnp.array([[3.0, 4.0], [0.0, 2e30]]))
  Array([[0.6, 0.8],
         [0. , 1. ]], dtype=float32)
  """
  v = checks.float_array("vectors", vectors)
  v = v * _factor(v, _large(v.dtype), 0.0)
  # v / max(‖v‖, ε) has a nan gradient at v = 0; this form has 1/ε.
  squared = jnp.sum(v * v, -1, keepdims=True)
  return v * lax.rsqrt(jnp.maximum(squared, MIN_NORM**2))


def norm(vectors: jax.Array) -> jax.Array:
  """‖v‖ along the last axis, [..., D] to [..., 1], wherever v's entries are finite.

  The gradient is v̂, and 0 for a zero vector.
  """
  factor = _factor(vectors, _large(vectors.dtype), 1.0 / _large(vectors.dtype))
  squared = jnp.sum((vectors * factor) ** 2, -1, keepdims=True)
  zero = squared == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squared)) / factor)


def _large(dtype: jnp.dtype) -> float:
  """A length whose square fits the dtype by far, even summed over a million entries."""
  return 2.0 ** int(jnp.finfo(dtype).maxexp // 2 - 14)


def _factor(v: jax.Array, large: float, small: float) -> jax.Array:
  """[..., 1]: 1, or 1/max|v| where v is too large or too small to be squared as it is."""
  longest = lax.stop_gradient(jnp.max(jnp.abs(v), -1, keepdims=True, initial=0.0))
  safe = (longest <= large) & (longest >= small) | (longest == 0)
  return jnp.where(safe, 1.0, 1.0 / jnp.where(safe, 1.0, longest))
