"""Sample-wise, class-wise and uniform accuracy, exact, in O(n log n) and without an [n, N] array.

A sample X of class y is summed up by two numbers, p(X) = c_y(X), its positive, and n(X) = max over
j ≠ y of c_j(X), its hardest negative. A threshold t is right about X where n(X) < t < p(X), so the
best threshold is the point that most of the open intervals (n, p) cover.

The streaming half, `score_pairs`, gives the two numbers of each sample. With the label they are
all that has to be kept: parts are merged by concatenation, in any order, and across devices by
`axis_name`. The final half, `uniform_accuracy_from_pairs`, sorts them once.

Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289, §3.
"""

import contextlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bce_jax import checks, explicit
from bce_jax.metrics import _intervals, _pairs


class UniformAccuracy(NamedTuple):
  """The three accuracies of a data set and its best single threshold.

  Python floats outside a trace, scalars inside one. A_Uni ≤ A_CW ≤ A_SW.

  Attributes:
    sample_wise: A_SW = mean of 1[n < p], ordinary top-1 accuracy with ties counted as wrong.
    class_wise: A_CW, one threshold per class: the sum over classes of the most samples of the class
      that one threshold classifies correctly, over the number of samples.
    uniform: A_Uni, one threshold for the data set.
    threshold: t*, strictly inside (threshold_low, threshold_high).
    threshold_low: lower end of the widest optimal interval (the lowest one of equals); the end
      itself is not optimal, the interval is open. −inf where there is but one class.
    threshold_high: its upper end.

  With no sample in the mask all six are nan; where no threshold classifies any sample correctly the
  accuracies are 0 and the thresholds nan.
  """

  sample_wise: float | jax.Array
  class_wise: float | jax.Array
  uniform: float | jax.Array
  threshold: float | jax.Array
  threshold_low: float | jax.Array
  threshold_high: float | jax.Array


class AccuracyAt(NamedTuple):
  """What one fixed threshold makes of a data set; the three shares sum to 1.

  Attributes:
    accepted_right: share of samples with exactly their own class above the threshold.
    none_above: share with no class above it (rejected).
    several_or_wrong: share with several classes or a wrong one above it.
  """

  accepted_right: float | jax.Array
  none_above: float | jax.Array
  several_or_wrong: float | jax.Array


@explicit.auto(explicit.leading)
def score_pairs(
  logits: Float[ArrayLike, "*batch N"], labels: Int[ArrayLike, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
  """Returns each sample's positive and hardest negative score, the streaming half.

    p = c_y,   n = max_{j≠y} c_j   (−inf where N = 1)

  Args:
    logits: scores, any floating dtype.
    labels: class ids in [0, N). One out of range raises where its value is known; inside a trace
      both numbers of that sample are nan.

  Returns:
    (positive, hardest_negative), float32 at least; numpy float64 of numpy float64 scores. A nan
    among a sample's scores gives nan.

  Raises:
    ValueError: for wrong shapes or dtypes, or a known label out of range.

  >>> import jax.numpy as jnp
  >>> score_pairs(jnp.array([[0.1, 0.7, 0.4]]), jnp.array([1]))
  (Array([0.7], dtype=float32), Array([0.4], dtype=float32))
  """
  eager = _is_eager(logits, labels)
  with _precision(eager, logits):
    pairs = _masked_pairs(logits, labels, None)
    # JAX holds float64 only where it is switched on; numpy does anywhere.
    wide = eager and checks.dtype_of(logits) == np.float64
    return jax.device_get(pairs) if wide else pairs


@explicit.auto(explicit.replicated)
def uniform_accuracy(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"],
  *,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> UniformAccuracy:
  """The three accuracies and the best threshold of scores that are at hand as one array.

  Equal to `uniform_accuracy_from_pairs` of `score_pairs`; see there.

  Args:
    logits: scores, any floating dtype: [*batch, N].
    labels: class ids in [0, N).
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over: every
      device gets the results of all samples together.

  Returns:
    `UniformAccuracy`.

  Raises:
    ValueError: for wrong shapes or dtypes, a label out of range or a nan score (outside a trace;
      inside one, either makes all results nan).

  >>> import jax.numpy as jnp
  >>> logits = jnp.array([[3.0, 1.0], [0.5, 2.5], [0.2, 0.8]])
  >>> uniform_accuracy(logits, jnp.array([0, 1, 1]))
  UniformAccuracy(sample_wise=1.0, class_wise=1.0, uniform=0.666..., threshold=1.75,
  threshold_low=1.0, threshold_high=2.5)
  """
  with _precision(_is_eager(logits, labels, where), logits):
    positive, negative = _masked_pairs(logits, labels, where)
    return uniform_accuracy_from_pairs(
      positive,
      negative,
      labels,
      num_classes=np.shape(logits)[-1],
      where=where,
      axis_name=axis_name,
    )


@explicit.auto(explicit.replicated)
def uniform_accuracy_from_pairs(
  positive: Float[ArrayLike, "*batch"],
  hardest_negative: Float[ArrayLike, "*batch"],
  labels: Int[ArrayLike, "*batch"],
  *,
  num_classes: int,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> UniformAccuracy:
  r"""The three accuracies and the best threshold from (positive, hardest negative, label) alone.

    A_SW = mean 1[n < p]
    A_CW = 1/|D| Σ_i max_t #{X in class i: n(X) < t < p(X)}
    A_Uni = 1/|D| max_t #{X: n(X) < t < p(X)}

  The maximum overlap of the open intervals (n, p), found by sorting their end points; at equal
  values an interval closes before the next opens. Exact: integer counts, divided once. The result
  does not depend on the order of the samples or on how they were split.

  Outside a trace numpy float64 scores are compared in float64 and the threshold is a float64
  strictly inside its interval even between float32 neighbors. Inside a trace it is float32, and
  equals threshold_low where no float32 lies inside. Subnormal scores count as 0: XLA's own maximum
  flushes them on CPU.

  Args:
    positive: p, the score of the own class.
    hardest_negative: n, the largest score of another class; −inf where there is none.
    labels: class ids in [0, num_classes).
    num_classes: N ≥ 1.
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over.

  Returns:
    `UniformAccuracy`.

  Raises:
    ValueError: for wrong shapes or dtypes, a label out of range or a nan score (outside a trace;
      inside one, either makes all results nan).

  >>> import jax.numpy as jnp
  >>> p, n = jnp.array([3.0, 2.5, 0.8]), jnp.array([1.0, 0.5, 0.2])
  >>> uniform_accuracy_from_pairs(p, n, jnp.array([0, 1, 1]), num_classes=2).uniform
  0.666...
  """
  num_classes = checks.integer("num_classes", num_classes, low=1)
  eager = axis_name is None and _is_eager(positive, hardest_negative, labels, where)
  with _precision(eager, positive, hardest_negative):
    p, n = _checked_pairs(positive, hardest_negative)
    mask = checks.example_mask(where, p.shape)
    ids, valid = checks.int_labels(labels, p.shape, num_classes, where=where)
    flat = [x.reshape(-1) for x in (p, n, ids, mask, valid)]
    if axis_name is not None:
      flat = [lax.all_gather(x, axis_name, tiled=True) for x in flat]
    counts = _intervals.count(*flat, num_classes=num_classes)
    if axis_name is not None:  # equal on all devices already; this tells shard_map so
      counts = lax.pmax(counts, axis_name)
  return _results_eager(jax.device_get(counts)) if eager else _results(counts)


@explicit.auto(explicit.replicated)
def accuracy_at(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"],
  threshold: Float[ArrayLike, ""],
  *,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> AccuracyAt:
  """Evaluates one FIXED threshold, which is what a user deploys.

  t* of `uniform_accuracy` is chosen on the data it is evaluated on; a learned bias, or a threshold
  chosen on another split, is not. A class is above the threshold when its score is > t.

  Args:
    logits: scores, any floating dtype: [*batch, N].
    labels: class ids in [0, N).
    threshold: t, on the logits' scale. A Python float is compared in float64.
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over.

  Returns:
    `AccuracyAt`: three shares that sum to 1; nan where no sample counts.

  Raises:
    ValueError: for wrong shapes or dtypes, a label out of range or a nan (outside a trace; inside
      one, either makes the three nan).

  >>> import jax.numpy as jnp
  >>> logits = jnp.array([[3.0, 1.0], [0.5, 2.5], [0.2, 0.8], [3.0, 3.0]])
  >>> accuracy_at(logits, jnp.array([0, 1, 1, 0]), 1.75)
  AccuracyAt(accepted_right=0.5, none_above=0.25, several_or_wrong=0.25)
  """
  with _precision(_is_eager(logits, labels, where), logits):
    positive, negative = _masked_pairs(logits, labels, where)
    return accuracy_at_from_pairs(positive, negative, threshold, where=where, axis_name=axis_name)


@explicit.auto(explicit.replicated)
def accuracy_at_from_pairs(
  positive: Float[ArrayLike, "*batch"],
  hardest_negative: Float[ArrayLike, "*batch"],
  threshold: Float[ArrayLike, ""],
  *,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> AccuracyAt:
  """`accuracy_at` from the streamed pairs: p and n say all that a threshold decides.

  Args:
    positive: p, the score of the own class.
    hardest_negative: n, the largest score of another class.
    threshold: t, on the scores' scale. A Python float is compared in float64.
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over.

  Returns:
    `AccuracyAt`: three shares that sum to 1; nan where no sample counts.

  Raises:
    ValueError: for wrong shapes or dtypes, or a nan (outside a trace).

  >>> import jax.numpy as jnp
  >>> accuracy_at_from_pairs(jnp.array([3.0, 0.8]), jnp.array([1.0, 0.2]), 1.75)
  AccuracyAt(accepted_right=0.5, none_above=0.5, several_or_wrong=0.0)
  """
  if np.shape(threshold):
    raise ValueError(f"threshold must be a scalar, got shape {np.shape(threshold)}")
  eager = axis_name is None and _is_eager(positive, hardest_negative, threshold, where)
  with _precision(eager, positive, hardest_negative):
    p, n = _checked_pairs(positive, hardest_negative)
    mask = checks.example_mask(where, p.shape)
    value = checks.known(threshold)
    if value is None:
      t = jnp.asarray(threshold).astype(p.dtype)
    elif np.isnan(value.astype(np.float64)):
      raise ValueError("threshold is nan")
    else:
      t = jnp.asarray(_largest_not_above(float(value), np.dtype(p.dtype)))
    right, none, total, bad = _count_at(p, n, mask, t)
    if axis_name is not None:
      right, none, total, bad = lax.psum((right, none, total, bad), axis_name)
  if not eager:
    total = jnp.where(bad > 0, 0, total)  # 0/0 below: nan
    rest = total - right - none
    return AccuracyAt(*(_share(c, total, p.dtype) for c in (right, none, rest)))
  right, none, total, bad = (int(c) for c in (right, none, total, bad))
  if bad:
    raise ValueError(f"{bad} of {total} samples have a nan score")
  if not total:
    return AccuracyAt(math.nan, math.nan, math.nan)
  return AccuracyAt(right / total, none / total, (total - right - none) / total)


def _masked_pairs(logits: Any, labels: Any, where: Any) -> tuple[jax.Array, jax.Array]:
  """`score_pairs` that looks at the labels under `where` only."""
  scores = checks.float_array("logits", logits)
  if scores.ndim == 0 or scores.shape[-1] == 0:
    raise ValueError(f"logits must have shape [..., classes] with classes ≥ 1, got {scores.shape}")
  shape = scores.shape[:-1]
  if where is not None:
    checks.example_mask(where, shape)
  ids, valid = checks.int_labels(labels, shape, scores.shape[-1], where=where)
  positive, negative = _pairs.split(scores, ids, valid)
  return positive, negative


def _results_eager(counts: _intervals.Counts) -> UniformAccuracy:
  if counts.bad:
    raise ValueError(f"{counts.bad} of {counts.total} samples have a nan score")
  if not counts.total:
    return UniformAccuracy(*[math.nan] * 6)
  low, high = float(counts.low), float(counts.high)
  return UniformAccuracy(
    sample_wise=float(counts.sample_wise / counts.total),
    class_wise=float(counts.class_wise / counts.total),
    uniform=float(counts.uniform / counts.total),
    threshold=_inside(low, high),
    threshold_low=low,
    threshold_high=high,
  )


def _inside(low: float, high: float) -> float:
  """A number strictly between two ends, either of which may be infinite; `low` if there is none."""
  if math.isinf(low) and math.isinf(high):
    middle = 0.0
  elif math.isinf(low):
    middle = high - max(1.0, abs(high))
  elif math.isinf(high):
    middle = low + max(1.0, abs(low))
  else:
    middle = 0.5 * low + 0.5 * high
  return middle if low < middle < high else low


def _results(counts: _intervals.Counts) -> UniformAccuracy:
  """`_results_eager` inside a trace: nan instead of an exception."""
  low, high = counts.low, counts.high
  total = jnp.where(counts.bad > 0, 0, counts.total)  # 0/0 below: nan
  middle = 0.5 * low + 0.5 * high
  middle = jnp.where(jnp.isinf(low), high - jnp.maximum(1.0, jnp.abs(high)), middle)
  middle = jnp.where(jnp.isinf(high), low + jnp.maximum(1.0, jnp.abs(low)), middle)
  middle = jnp.where(jnp.isinf(low) & jnp.isinf(high), 0.0, middle)
  # A subnormal threshold would compare as 0.
  subnormal = (middle != 0.0) & (jnp.abs(middle) < jnp.finfo(middle.dtype).tiny)
  middle = jnp.where((low < middle) & (middle < high) & ~subnormal, middle, low)
  middle, low, high = (jnp.where(counts.bad > 0, jnp.nan, x) for x in (middle, low, high))
  return UniformAccuracy(
    sample_wise=_share(counts.sample_wise, total, low.dtype),
    class_wise=_share(counts.class_wise, total, low.dtype),
    uniform=_share(counts.uniform, total, low.dtype),
    threshold=middle,
    threshold_low=low,
    threshold_high=high,
  )


def _share(count: jax.Array, total: jax.Array, dtype: Any) -> jax.Array:
  """count / total; nan where the total is 0."""
  count, total = count.astype(dtype), total.astype(dtype)
  return jnp.where(total > 0, count / total, jnp.nan)


@jax.jit
def _count_at(p: jax.Array, n: jax.Array, mask: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
  right = mask & (p > t) & (n <= t)
  none = mask & (p <= t) & (n <= t)
  bad = mask & (jnp.isnan(p) | jnp.isnan(n) | jnp.isnan(t))
  return tuple(jnp.sum(x, dtype=jnp.int32) for x in (right, none, mask, bad))


def _largest_not_above(value: float, dtype: np.dtype) -> np.ndarray:
  """The largest number of `dtype` that is ≤ value: scores compare with it as with value itself."""
  with np.errstate(over="ignore"):
    rounded = np.asarray(value, dtype)
  # Compared as Python floats: numpy would round `value` to the dtype first.
  if float(rounded) > value:
    rounded = np.nextafter(rounded, -np.inf, dtype=dtype)
  tiny = np.finfo(dtype).tiny
  if 0 < abs(float(rounded)) < float(tiny):  # scores are never subnormal
    rounded = np.asarray(0.0 if rounded > 0 else -tiny, dtype)
  return rounded


def _is_eager(*arrays: Any) -> bool:
  """Whether all values are known and what is computed now has a value too."""
  # Inside jit even `jnp` on constants gives a tracer.
  tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
  return not tracing and all(x is None or checks.known(x) is not None for x in arrays)


def _precision(eager: bool, *arrays: Any) -> contextlib.AbstractContextManager[Any]:
  """float64 while numpy float64 scores are compared: as float32 some of them would tie."""
  wide = eager and any(checks.dtype_of(x) == np.float64 for x in arrays)
  return jax.enable_x64(True) if wide else contextlib.nullcontext()


def _checked_pairs(positive: Any, hardest_negative: Any) -> tuple[jax.Array, jax.Array]:
  p = checks.float_array("positive", positive)
  n = checks.float_array("hardest_negative", hardest_negative)
  if n.shape != p.shape:
    raise ValueError(f"hardest_negative must have positive's shape {p.shape}, got {n.shape}")
  dtype = checks.computing_dtype(p.dtype, n.dtype)
  return p.astype(dtype), n.astype(dtype)
