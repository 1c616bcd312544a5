"""The share of samples that one threshold classifies correctly, over thresholds."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from bce_jax import checks


def uniform_accuracy_curve(
  positive: Float[ArrayLike, " n"],
  hardest_negative: Float[ArrayLike, " n"],
  thresholds: Float[ArrayLike, " K"],
) -> Float[np.ndarray, " K"]:
  """The share of samples that each threshold classifies correctly, in O((n + K) log n).

    1/n #{X: n(X) ≤ t < p(X)}

  At each t what `accuracy_at_from_pairs` calls accepted_right. Its largest value over all t is
  A_Uni, which is reached at the hardest negative of some sample.

  Args:
    positive: p, the score of the own class.
    hardest_negative: n, the largest score of another class.
    thresholds: t, in any order; compared in float64.

  Returns:
    float64, one per threshold; nan where there is no sample.

  Raises:
    ValueError: for wrong shapes or dtypes, or a nan.

  >>> import numpy as np
  >>> p, n = np.array([3.0, 2.5, 0.8]), np.array([1.0, 0.5, 0.2])
  >>> uniform_accuracy_curve(p, n, np.array([0.0, 0.6, 1.75])).round(2)
  array([0.  , 0.67, 0.67])

  Source: Li et al. 2024, §3.
  """
  named = (
    ("positive", positive),
    ("hardest_negative", hardest_negative),
    ("thresholds", thresholds),
  )
  for name, x in named:
    if not jnp.issubdtype(checks.dtype_of(x), jnp.floating) or np.ndim(x) != 1:
      raise ValueError(
        f"{name} must be floats of one dimension, got {checks.dtype_of(x)} of {np.shape(x)}"
      )
  p, n = _flushed(positive), _flushed(hardest_negative)
  t = np.asarray(thresholds, np.float64)
  if p.shape != n.shape:
    raise ValueError(f"hardest_negative must have positive's shape {p.shape}, got {n.shape}")
  for name, x in zip(("positive", "hardest_negative", "thresholds"), (p, n, t), strict=True):
    if np.isnan(x).any():
      raise ValueError(f"{name} must not be nan, got {np.isnan(x).sum()} of {x.size}")
  if not p.size:
    return np.full(t.shape, np.nan)
  right = n < p  # of these what has closed at t had opened before
  opened = np.searchsorted(np.sort(n[right]), t, side="right")
  closed = np.searchsorted(np.sort(p[right]), t, side="right")
  return (opened - closed) / p.size


def _flushed(x: Any) -> np.ndarray:
  """float64, with 0 in place of what is subnormal in its own dtype: XLA compares so on CPU."""
  tiny = np.finfo(np.float64 if checks.dtype_of(x) == np.float64 else np.float32).tiny
  values = np.asarray(x, np.float64)
  return np.where(np.abs(values) < tiny, 0.0, values)
