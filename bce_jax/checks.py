"""Argument checks shared by the losses and the metrics.

A value can be looked at only where it is known. Inside a trace `jnp` on a closed-over constant
gives a tracer, so every check of a value goes through `known`, which uses numpy.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def known(x: Any) -> np.ndarray | None:
  """Returns the value of `x` as a numpy array, or None where a trace or another host holds it."""
  if isinstance(x, jax.core.Tracer):
    return None
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return None
  return np.asarray(x)


def dtype_of(x: Any) -> np.dtype:
  """Returns the dtype of an array, or the one numpy would give to a number or a list."""
  return np.dtype(x.dtype) if hasattr(x, "dtype") else np.asarray(x).dtype


def is_real(dtype: Any) -> bool:
  """Whether a dtype holds real numbers: integers or floats, not bool, complex or text."""
  return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def computing_dtype(*dtypes: Any) -> np.dtype:
  """float32, or float64 where one of the dtypes is: losses are computed in no less."""
  wide = any(dtype == np.float64 for dtype in dtypes)
  return jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)


def float_array(name: str, x: Any) -> jax.Array:
  """Returns `x` as a floating array of at least float32; other kinds are refused."""
  dtype = dtype_of(x)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"{name} must be floating point, got dtype {dtype}")
  return jnp.asarray(x, computing_dtype(dtype))


def scalar(
  name: str, x: Any, dtype: Any, *, low: float = -math.inf, high: float = math.inf
) -> jax.Array:
  """Returns the number `x` as a scalar array of `dtype`; low ≤ x ≤ high is checked where known.

  Infinite bounds exclude the infinities: every option of a loss is a finite number.
  """
  if np.shape(x):
    raise ValueError(f"{name} must be a scalar, got shape {np.shape(x)}")
  if not is_real(dtype_of(x)):
    raise ValueError(f"{name} must be a real number, got {x!r}")
  value = known(x)
  if value is not None:
    with np.errstate(over="ignore"):
      finite = np.isfinite(value.astype(dtype))  # 1e39 is finite, but not in float32
    if not (finite and low <= value <= high):
      raise ValueError(f"{name} must be a finite number in [{low}, {high}], got {x}")
  return jnp.asarray(x).astype(dtype)


def integer(name: str, x: Any, *, low: int) -> int:
  """Returns the static integer `x`, which must be at least `low`."""
  if isinstance(x, jax.core.Tracer) or np.shape(x):
    raise ValueError(f"{name} must be a static integer, got {x}")
  if isinstance(x, (bool, np.bool_)) or not np.issubdtype(np.asarray(x).dtype, np.integer):
    raise ValueError(f"{name} must be an integer, got {x!r}")
  if x < low:
    raise ValueError(f"{name} must be at least {low}, got {x}")
  return int(x)


def int_labels(
  labels: Any, shape: tuple[int, ...], num_classes: int, *, where: Any = None
) -> tuple[jax.Array, jax.Array]:
  """Checks integer class labels against the examples' shape and the number of classes.

  Args:
    labels: integers, of exactly `shape`, each in [0, num_classes).
    shape: the shape of the examples.
    num_classes: the number of classes.
    where: optional bool mask of `shape`; labels under False are not looked at.

  Returns:
    (labels as int32, with 0 in place of one out of range; valid: bool, where it was in range).

  Raises:
    ValueError: for another dtype or shape; for a known label out of range.
  """
  dtype = dtype_of(labels)
  if not jnp.issubdtype(dtype, jnp.integer):
    raise ValueError(f"labels must be integers, got dtype {dtype}")
  if np.shape(labels) != shape:
    raise ValueError(f"integer labels must have shape {shape}, got {np.shape(labels)}")
  value, mask = known(labels), None if where is None else known(where)
  if value is not None and (where is None or mask is not None):
    wrong = (value < 0) | (value >= num_classes)
    if mask is not None:
      wrong &= mask
    if wrong.any():
      raise ValueError(
        f"labels must lie in [0, {num_classes}), got {value[wrong].flat[0]}"
        f" ({wrong.sum()} of {wrong.size} out of range)"
      )
  if value is not None:  # in numpy: a wide integer must not wrap into the range as int32
    valid = (value >= 0) & (value < num_classes)
    return jnp.asarray(np.where(valid, value, 0).astype(np.int32)), jnp.asarray(valid)
  # An unsigned value compares right in its own dtype; a negative one can only be signed.
  valid = (labels >= 0) & (labels <= min(num_classes - 1, jnp.iinfo(labels.dtype).max))
  return jnp.where(valid, labels, 0).astype(jnp.int32), valid


def float_targets(targets: Any, logits: jax.Array) -> jax.Array:
  """Checks soft targets, whose shape must be the logits' own; in the logits' dtype.

  Known targets that lie outside [0, 1] by a rounding only, as sums of float32 shares do, are
  clipped.

  Raises:
    ValueError: for another shape, or a known target farther outside [0, 1].
  """
  if np.shape(targets) != logits.shape:
    raise ValueError(
      f"float targets must have the logits' shape {logits.shape}, got {np.shape(targets)};"
      " only integer labels name one class per example"
    )
  value = known(targets)
  array = jnp.asarray(targets)
  if value is not None and value.size and not (value.min() >= 0 and value.max() <= 1):
    slack = rounding(value.dtype)
    if not (value.min() >= -slack and value.max() <= 1 + slack):
      low, high = float(value.min()), float(value.max())
      raise ValueError(f"float targets must lie in [0, 1], got [{low:.8g}, {high:.8g}]")
    array = jnp.clip(array, 0, 1)
  return array.astype(logits.dtype)


def rounding(dtype: Any) -> float:
  """How far a share may lie outside [0, 1] by roundings alone: 2 ulp, in float32 or less 4.

  Shares in float64 may have been float32 before.
  """
  return max(2.0 * float(jnp.finfo(dtype).eps), 4.0 * float(jnp.finfo(jnp.float32).eps))


def example_mask(where: Any, shape: tuple[int, ...]) -> jax.Array:
  """Returns the mask of the examples that count: all of them for None."""
  if where is None:
    return jnp.ones(shape, bool)
  dtype = dtype_of(where)
  if dtype != np.bool_:
    raise ValueError(f"where must be a bool mask, got dtype {dtype}")
  if np.shape(where) != shape:
    raise ValueError(f"where must have shape {shape}, got {np.shape(where)}")
  return jnp.asarray(where)


def class_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
  """Returns a mask of classes, [N] or of the logits' `shape`, with as many axes as that."""
  dtype = dtype_of(mask)
  if dtype != np.bool_ or np.shape(mask) not in (shape[-1:], shape):
    raise ValueError(
      f"class_mask must be bool of shape {shape[-1:]} or {shape}, got {dtype} of shape"
      f" {np.shape(mask)}"
    )
  array = jnp.asarray(mask)
  return jnp.expand_dims(array, tuple(range(len(shape) - array.ndim)))
