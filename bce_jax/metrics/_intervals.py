"""How many open intervals (n, p) one point can cover: sorting, counting, and nothing rounded."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Counts(NamedTuple):
  """Numbers of samples, and the ends of the widest interval of best thresholds."""

  total: Any  # samples that count
  bad: Any  # of these, with a nan score or a label out of range
  sample_wise: Any
  class_wise: Any
  uniform: Any
  low: Any
  high: Any


@functools.partial(jax.jit, static_argnames="num_classes")
def count(
  p: jax.Array,
  n: jax.Array,
  labels: jax.Array,
  mask: jax.Array,
  valid: jax.Array,
  *,
  num_classes: int,
) -> Counts:
  """Everything but the divisions: integer counts and the ends of the best interval."""
  size = p.size
  bad = mask & (jnp.isnan(p) | jnp.isnan(n) | ~valid)
  # End points are sorted as integers of the same order: exact, and several times faster on CPU.
  opens, closes = _ordered(n), _ordered(p)
  right = mask & ~bad & (opens < closes)
  total, bad_total, right_total = (jnp.sum(x, dtype=jnp.int32) for x in (mask, bad, right))
  if size == 0:
    zero, nan = jnp.zeros((), jnp.int32), jnp.full((), jnp.nan, p.dtype)
    return Counts(total, bad_total, right_total, zero, zero, nan, nan)

  # What is not right goes to the far end, above +inf, as an interval that opens where it closes.
  far = jnp.iinfo(opens.dtype).max
  opens, closes = jnp.where(right, opens, far), jnp.where(right, closes, far)
  starts, ends = jnp.sort(opens), jnp.sort(closes)
  # Just above the start of an interval so many have opened, so many of those have closed again.
  opened = jnp.searchsorted(starts, opens, side="right").astype(jnp.int32)
  closed = jnp.searchsorted(ends, opens, side="right").astype(jnp.int32)
  cover = jnp.where(right, opened - closed, 0)
  uniform = jnp.max(cover)
  # At the best cover the next end point closes an interval: an opening one would cover more.
  next_close = ends[jnp.minimum(closed, size - 1)]
  low, high = _widest(
    _unordered(opens, p.dtype),
    _unordered(next_close, p.dtype),
    where=(cover == uniform) & (uniform > 0),
  )

  # A_CW: the end points ordered by (class, place in the common order). A class's running cover
  # starts at 0, because every class before it has closed what it opened. An opening comes before a
  # closing of the same place, which can only be a later one.
  open_place = opened + closed
  close_place = jnp.searchsorted(starts, closes) + jnp.searchsorted(ends, closes)
  place = jnp.concatenate([open_place, close_place.astype(jnp.int32)]).astype(jnp.uint32)
  is_close = (jnp.arange(2 * size) >= size).astype(jnp.uint32)
  ids = jnp.concatenate([labels, labels]).astype(jnp.uint32)
  span = 2 * size + 1
  if 2 * num_classes * span <= 2**32:  # one integer holds class, place and kind: a plain sort
    key = jnp.sort((ids * np.uint32(span) + place) * np.uint32(2) + is_close)
    ids, is_close = key // np.uint32(2) // np.uint32(span), key % np.uint32(2)
  else:
    ids, _, is_close = lax.sort((ids, place, is_close), num_keys=3)
  class_cover = jnp.cumsum(1 - 2 * is_close.astype(jnp.int32))
  best = jax.ops.segment_max(
    class_cover, ids.astype(jnp.int32), num_segments=num_classes, indices_are_sorted=True
  )
  class_wise = jnp.sum(jnp.maximum(best, 0), dtype=jnp.int32)
  return Counts(total, bad_total, right_total, class_wise, uniform, low, high)


def _ordered(x: jax.Array) -> jax.Array:
  """Floats as integers of the same order; −0, 0 and the subnormal numbers become one."""
  integer = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
  bits = lax.bitcast_convert_type(x, integer)
  magnitude = bits & jnp.iinfo(integer).max
  # XLA's maximum flushes subnormal numbers to 0 on CPU, so an order among them would be made up.
  smallest = np.asarray(np.finfo(x.dtype).tiny).view(np.dtype(integer)).item()
  ordered = jnp.where(bits < 0, bits ^ jnp.iinfo(integer).max, bits)
  return jnp.where(magnitude < smallest, 0, ordered)


def _unordered(keys: jax.Array, dtype: Any) -> jax.Array:
  return lax.bitcast_convert_type(
    jnp.where(keys < 0, keys ^ jnp.iinfo(keys.dtype).max, keys), dtype
  )


def _widest(low: jax.Array, high: jax.Array, *, where: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The widest of the intervals, the lowest of equals; nan where there is none.

  Rounded widths alone would tie, or order wrongly, what differs by less than a rounding; Knuth's
  two-sum recovers that rounding error.
  """
  width = high - low
  virtual = width - high
  error = (high - (width - virtual)) - (low + virtual)
  error = jnp.where(jnp.isfinite(width), error, 0.0)
  for key in (width, error):
    where &= key == jnp.max(jnp.where(where, key, -jnp.inf))
  found = jnp.any(where)
  ends = (jnp.min(jnp.where(where, x, jnp.inf)) for x in (low, high))
  low, high = (jnp.where(found, x, jnp.nan) for x in ends)
  return low, high
