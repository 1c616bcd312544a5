"""Embeddings and their cosines, checked and made ready for tiles."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bce_jax import checks
from bce_jax.norms import MIN_NORM

_ROWS = 4096  # vectors that are normalised at once, in float64
BLOCK = 2**22
"""Scores that exist at once."""


def host(name: str, x: Any, kind: Any, shape: tuple[int | None, ...]) -> np.ndarray:
  """`x` as a numpy array of that kind and shape, in which None is any length."""
  value = checks.known(x)
  if value is None:
    raise ValueError(f"{name} must be at hand: call this outside jit, on what jit returned")
  if not jnp.issubdtype(value.dtype, kind):
    raise ValueError(f"{name} must be of kind {kind.__name__}, got dtype {value.dtype}")
  fits = value.ndim == len(shape) and all(
    want in (None, have) for want, have in zip(shape, value.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join("n" if length is None else str(length) for length in shape)
    raise ValueError(f"{name} must have shape [{wanted}], got {value.shape}")
  return value


def scores(scores: Any) -> np.ndarray:
  """Scores of pairs as float32, or float64 where they are; finite, [n]."""
  values = host("scores", scores, np.floating, (None,))
  values = values if values.dtype == np.float64 else values.astype(np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f"scores must be finite: {np.count_nonzero(~np.isfinite(values))} are not")
  return values


def unit_rows(name: str, vectors: Any) -> np.ndarray:
  """x / max(‖x‖, 1e-5), divided in float64: float32, or float64 where the vectors are."""
  x = host(name, vectors, np.floating, (None, None))
  wide = x.dtype == np.float64 and hasattr(vectors, "dtype")  # a list of numbers is not meant so
  out = np.empty(x.shape, np.float64 if wide else np.float32)
  for i in range(0, len(x), _ROWS):
    block = x[i : i + _ROWS].astype(np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", block, block))[:, None]
    if not np.isfinite(norm).all():
      raise ValueError(f"{name} must be finite, and their squares too")
    out[i : i + _ROWS] = block / np.maximum(norm, MIN_NORM)
  return out


def thresholds(values: Any, dtype: np.dtype) -> np.ndarray:
  """The largest numbers of `dtype` that are ≤ the values: scores compare with them alike."""
  exact = np.asarray([float(v) for v in np.asarray(values).reshape(-1)], np.float64)
  if not np.isfinite(exact).all():
    raise ValueError(f"a threshold must be a finite number, got {exact[~np.isfinite(exact)][0]}")
  with np.errstate(over="ignore"):
    rounded = exact.astype(dtype)
  return np.where(rounded.astype(np.float64) > exact, just_below(rounded), rounded)


def threshold(value: Any, dtype: np.dtype) -> np.floating:
  """One threshold, as `thresholds` makes it."""
  if np.shape(value):
    raise ValueError(f"threshold must be a scalar, got shape {np.shape(value)}")
  return thresholds(value, dtype)[0]


def just_below(values: np.ndarray) -> np.ndarray:
  """The next numbers towards −∞ of the same dtype."""
  return np.nextafter(values, np.array(-np.inf, values.dtype))


def precision(dtype: np.dtype) -> contextlib.AbstractContextManager[Any]:
  """What is computed within may be float64 where `dtype` is."""
  return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def padded(x: np.ndarray, side: int, value: float) -> np.ndarray:
  """`x` with rows of `value` at the end, so that it is a whole number of tiles of ≤ `side` rows."""
  tiles = -(-len(x) // side)
  rows = -(-len(x) // tiles)
  fill = np.full((tiles * rows - len(x), *x.shape[1:]), value, x.dtype)
  return np.concatenate([x, fill])
