"""Evaluates scores that lie in a file, a few rows at a time: of any model, without its network."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bce_jax import metrics
from bce_jax.data.arrays import StoredArray
from bce_jax.evaluation import summary
from bce_jax.evaluation.summary import EvalOutputs

_BLOCK = 2**22  # numbers that are held at once
_LARGE = 1e30  # of a bias: from here on float32 has not far to go to infinity
_MOST_FEATURES = 2**14  # a matrix of so many squared takes 2 GB

Progress = Callable[[int], Any]
"""Is called with the number of rows that were looked at."""


class Extremes(NamedTuple):
  """Counts of scores that have left the range of their dtype, as a cast does silently.

  −infinity is none of them: it is what a class has that was masked, or whose probability is 0.

  Attributes:
    plus_infinity: scores that are +infinity.
    plus_infinity_samples: samples with such a score.
    largest: scores that are the largest finite number of the dtype, as of a cast that saturates.
    largest_samples: samples with such a score.
    nothing: samples without a finite score or +infinity.
  """

  plus_infinity: int = 0
  plus_infinity_samples: int = 0
  largest: int = 0
  largest_samples: int = 0
  nothing: int = 0

  def plus(self, rows: np.ndarray, top: np.ndarray, largest: float) -> "Extremes":
    """Returns the counts with those of more rows, whose maxima are `top`."""
    infinite, saturated = np.isposinf(top), top >= largest
    at_end = rows[saturated]
    counts = (
      int(np.isposinf(at_end).sum()),
      int(infinite.sum()),
      int((at_end == largest).sum()),
      int((at_end == largest).any(1).sum()),
      int(np.isneginf(top).sum()),
    )
    return Extremes(*(a + b for a, b in zip(self, counts, strict=True)))

  def results(self) -> summary.Results:
    """Returns the counts that are not 0, named as in the JSON of bce-eval."""
    names = (
      *("plus_infinity_scores", "plus_infinity_samples"),
      *("largest_number_scores", "largest_number_samples", "samples_without_finite_score"),
    )
    return {name: count for name, count in zip(names, self, strict=True) if count}

  def lines(self, array: StoredArray) -> list[str]:
    """Returns a line of text for each count that is not 0."""
    size, lines = array.shape[0], []
    if self.plus_infinity:
      lines.append(
        f"{array.name}: {self.plus_infinity:,} of its scores, in {self.plus_infinity_samples:,} of"
        f" {size:,} samples, are +infinity{_overflow(array.dtype)}; they lie above every threshold"
      )
    if self.largest:
      lines.append(
        f"{array.name}: {self.largest:,} of its scores, in {self.largest_samples:,} of {size:,}"
        f" samples, are {_largest(array.dtype):g}, the largest number of {array.dtype}: they seem"
        " to have been cut off there, and are tied"
      )
    if self.nothing:
      lines.append(
        f"{array.name}: {self.nothing:,} of {size:,} samples have no score but -infinity: no"
        " threshold gets them right"
      )
    return lines


def scores(
  logits: StoredArray,
  labels: np.ndarray,
  bias: np.ndarray | None,
  *,
  distributions: bool = False,
  progress: Progress = lambda rows: None,
) -> tuple[EvalOutputs, metrics.ScoreDistributions | None, Extremes]:
  """Evaluates stored scores in one pass, holding only some rows of them.

    z = logits − bias

  float16 and integers of 8 or 16 bits are evaluated in float32, float32 in itself, float64 and
  wider integers in float64; the bias is rounded to that, unless it is far too large for float32.

  Args:
    logits: scale · c, decision scores before the bias: [n, N].
    labels: [n], each in [0, N).
    bias: diverse and finite, [N]; None where z = logits. One number for all classes is no matter
      here: it leaves the order of the scores as it is, see `at_unified_bias`.
    distributions: also say where the scores lie; takes twice the time.
    progress: is called with how far it is.

  Returns:
    (what is kept of each sample; the distributions of the logits, or None; how many scores are at
    the end of their dtype).

  Raises:
    ValueError: for a dtype that is no real number, or scores that are nan.
  """
  size, num_classes = logits.shape
  given = bias
  if bias is not None:
    given = bias.astype(computed_in(logits) if np.abs(bias).max() < _LARGE else np.float64)
  parts, raw_parts, broken, extremes = [], [], 0, Extremes()
  seen: metrics.ScoreDistributions | None = None
  for start, chunk, rows in _chunks(logits, num_classes, progress):
    ids = labels[start : start + rows]
    top = chunk[:rows].max(1)  # nan where any score is
    broken += int(np.isnan(top).sum())
    if broken:  # how many there are is all that will be said
      continue
    extremes = extremes.plus(chunk[:rows], top, _largest(logits.dtype))
    padded = np.pad(ids, (0, len(chunk) - rows))

    def pairs(x: np.ndarray, ids: np.ndarray = padded, rows: int = rows) -> tuple[np.ndarray, ...]:
      return tuple(np.asarray(part)[:rows] for part in metrics.score_pairs(x, ids))

    raw_parts.append(pairs(chunk))
    if given is not None:
      with np.errstate(over="ignore"):  # what float32 can't hold is infinite, which has its order
        parts.append(pairs(chunk - given))
    if distributions:
      part = metrics.score_distributions(chunk[:rows], ids)
      seen = part if seen is None else metrics.merge_distributions(seen, part)
  if broken:
    raise ValueError(f"{logits.name}: {broken:,} of {size:,} samples have a score that is nan")
  p, n = (np.concatenate(x) for x in zip(*raw_parts, strict=True))
  on_z = tuple(np.concatenate(x) for x in zip(*parts, strict=True)) if parts else (p, n)
  return EvalOutputs(on_z[0], on_z[1], p, n), seen, extremes


def column(logits: StoredArray) -> tuple[np.ndarray, Extremes]:
  """Reads one score per example, and counts those at the ends of their dtype.

  Args:
    logits: [n] or [n, 1].

  Returns:
    (the scores as floats, [n]; how many are at the end of their dtype).

  Raises:
    ValueError: for a dtype that is no real number, or scores that are nan.
  """
  dtype, values = computed_in(logits), logits.load().reshape(-1, 1)
  if logits.dtype.kind in "iu" and logits.dtype.itemsize == 8 and _inexact(values):
    raise ValueError(f"{logits.name} holds integers beyond 2^53, which float64 would round")
  scores = values.astype(dtype)
  broken = int(np.isnan(scores).sum())
  if broken:
    raise ValueError(f"{logits.name}: {broken:,} of {len(scores):,} scores are nan")
  extremes = Extremes().plus(scores, scores[:, 0], _largest(logits.dtype))
  # A score of −infinity is one below every threshold, and nothing is amiss.
  return scores[:, 0], extremes._replace(nothing=0)


def at_unified_bias(outputs: EvalOutputs, bias: float) -> summary.Results:
  """Returns the results of the scores at one bias for all classes.

  A class is above it where scale · c > b, which is z > 0 but for what a subtraction would round.

  Args:
    outputs: of each example, on scale · c.
    bias: finite.
  """
  pairs = (outputs.scaled_positive, outputs.scaled_hardest_negative)
  return summary.at_threshold("bias", pairs, bias) | {"bias": bias}


def moments(
  features: StoredArray,
  labels: np.ndarray,
  *,
  num_classes: int,
  progress: Progress = lambda rows: None,
) -> metrics.ClassMoments:
  """Returns the class moments of stored features, holding only some rows of them.

  Args:
    features: [n, D].
    labels: [n], each in [0, num_classes).
    num_classes: N.
    progress: is called with how far it is.

  Raises:
    ValueError: for a dtype that is no real number, features that are not finite, or far too many.
  """
  if features.shape[1] > _MOST_FEATURES:
    raise ValueError(
      f"{features.name} has {features.shape[1]:,} numbers per sample: expected {_MOST_FEATURES:,}"
      " or fewer, since their covariance is taken"
    )
  total: metrics.ClassMoments | None = None
  for start, chunk, rows in _chunks(features, features.shape[1], progress):
    try:
      part = metrics.class_moments(
        chunk,
        np.pad(labels[start : start + rows], (0, len(chunk) - rows)),
        num_classes=num_classes,
        where=np.arange(len(chunk)) < rows,
      )
    except ValueError as error:
      raise ValueError(f"{features.name}, rows {start:,} … {start + rows:,}: {error}") from None
    total = part if total is None else metrics.merge_moments(total, part)
  assert total is not None
  return total


def computed_in(array: StoredArray) -> np.dtype:
  """Returns the dtype that a stored array of real numbers is evaluated in.

  Raises:
    ValueError: when it holds something else.
  """
  kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
  if (kind == "f" and bits <= 32) or (kind in "iu" and bits <= 16):
    return np.dtype(np.float32)
  if (kind == "f" and bits == 64) or kind in "iu":
    return np.dtype(np.float64)
  hint = " (numpy keeps bfloat16 so)" if array.dtype == np.dtype("V2") else ""
  raise ValueError(
    f"{array.name} has dtype {array.dtype}{hint}: expected float16, float32, float64 or integers;"
    " save array.astype('float32')"
  )


def _largest(dtype: np.dtype) -> float:
  """The largest finite number; +infinity of integers, which are cut off on purpose."""
  return float(np.finfo(dtype).max) if dtype.kind == "f" else np.inf


def _overflow(dtype: np.dtype) -> str:
  return f", as in {dtype} is all above {_largest(dtype):g}" if dtype.kind == "f" else ""


def _chunks(
  array: StoredArray, width: int, progress: Progress
) -> Iterator[tuple[int, np.ndarray, int]]:
  """(first row, some rows as floats, how many they are).

  All chunks are of one shape, so that JAX compiles once: the last is filled up with rows of 0.
  """
  dtype = computed_in(array)
  rows = min(max(1, _BLOCK // max(width, 1)), max(len(array), 1))
  start = 0
  for chunk in array.chunks(rows):
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and _inexact(chunk):
      raise ValueError(f"{array.name} holds integers beyond 2^53, which float64 would round")
    here = len(chunk)
    floats = chunk.astype(dtype, copy=False)
    if here < rows:
      floats = np.concatenate([floats, np.zeros((rows - here, width), dtype)])
    yield start, floats, here
    start += here
    progress(here)


def _inexact(chunk: np.ndarray) -> bool:
  return bool(chunk.size) and max(-int(chunk.min()), int(chunk.max())) > 2**53
