"""Where the scores of a data set lie, from one pass over them, without keeping them.

Histograms of positive, negative and hardest negative scores, and for each class the mean, standard
deviation (std) and ends of its positives and of its two kinds of negatives. Of a sample of class i,
c_j(X) with j ≠ i are its type I negatives; the type II negatives of class i are c_i(X) of the
samples of other classes. Every score of a negative pair is both, but a class's two sets differ.

The streaming half, `score_distributions`, takes any part of the samples; `merge_distributions` puts
parts together. The bins of a histogram follow from the values alone, not from how they were split
or in which order they came: they are [i · 2^k, (i + 1) · 2^k) with the least k that does, so the
bins of a finer histogram lie whole in those of a coarser one, and counts are exact integers.

All is done on the host, in float64, a block of rows at a time.

Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289, §3.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from bce_jax import checks

BINS = 1024
"""A histogram has no more bins than this."""

_FINEST = -1074  # 2^−1074 is the least float64 above 0
_PRECISION = 53  # bits: i stays below 2^53, so that i and i · 2^k are exact in float64
_BLOCK = 2**18  # scores that are looked at at once: about what a processor's cache holds
_FEWEST_ROWS = 16  # of many classes: what is merged for each block grows with N


class Histogram(NamedTuple):
  """Numbers of values by bin: bin j holds those in [(first + j) · 2^k, (first + j + 1) · 2^k).

  k is the least integer with which all finite values fit into `BINS` bins and each bin number is
  exact in float64. Without finite values there is no bin.

  Attributes:
    exponent: k.
    first: number of the first bin; the values of the first and of the last bin are never none.
    counts: int64 [K], K ≤ `BINS`.
    minus_infinity: how many values were −inf: they are in no bin.
    plus_infinity: how many were +inf.
  """

  exponent: int = _FINEST
  first: int = 0
  counts: Int[np.ndarray, " K"] = np.zeros(0, np.int64)
  minus_infinity: int = 0
  plus_infinity: int = 0

  @property
  def edges(self) -> Float[np.ndarray, " K+1"]:
    """The ends of the bins, exact: [K + 1]; empty without a bin."""
    if not self.counts.size:
      return np.zeros(0)
    edges = self.first + np.arange(self.counts.size + 1.0)
    return np.asarray(np.ldexp(edges, self.exponent))

  @property
  def total(self) -> int:
    """How many values were counted, infinite ones too."""
    return int(self.counts.sum()) + self.minus_infinity + self.plus_infinity

  def coarser(self, bins: int) -> "Histogram":
    """The same values in at most so many bins (≥ 2), each a power of 2 of these wide."""
    shift = 0
    while (self.last >> shift) - (self.first >> shift) >= bins:
      shift += 1
    return self.with_exponent(self.exponent + shift)

  def with_exponent(self, exponent: int) -> "Histogram":
    """The same values in bins 2^exponent wide.

    Raises:
      ValueError: for an exponent below its own: what lies in a bin can't be told apart.
    """
    if exponent < self.exponent:
      raise ValueError(f"exponent must be at least {self.exponent}, got {exponent}")
    return _coarsened(self, exponent)

  @property
  def last(self) -> int:
    """The number of the last bin."""
    return self.first + self.counts.size - 1


class Spread(NamedTuple):
  """Sums over the finite scores of each class; a class without any has count 0.

  Attributes:
    count: int64 [N].
    total: Σ s, float64 [N].
    scatter: Σ (s − mean)², float64 [N]: unlike Σ s² it keeps its digits where the std is small
      beside the mean.
    low: the least; +inf for a class without scores.
    high: the largest; −inf for a class without scores.
  """

  count: Int[np.ndarray, " N"]  # type: ignore[assignment]
  total: Float[np.ndarray, " N"]
  scatter: Float[np.ndarray, " N"]
  low: Float[np.ndarray, " N"]
  high: Float[np.ndarray, " N"]

  def mean(self) -> Float[np.ndarray, " N"]:
    """Of each class; nan for one without scores."""
    return _over(self.total, self.count)

  def std(self) -> Float[np.ndarray, " N"]:
    """Standard deviation √(mean (s − mean)²) of each class; nan for one without scores."""
    return np.asarray(np.sqrt(_over(self.scatter, self.count)))


class ScoreDistributions(NamedTuple):
  """Where the scores of a data set lie.

  Infinite scores (a class that was masked) are counted in the histograms and left out of spreads.

  Attributes:
    positive: c_y(X) of every sample.
    negative: c_j(X) of every sample and every j ≠ y.
    hardest_negative: max_{j≠y} c_j(X) of every sample; −inf where N = 1.
    positive_by_class: c_i(X) of the samples of class i.
    type_one_by_class: c_j(X), j ≠ i, of the samples of class i.
    type_two_by_class: c_i(X) of the samples of other classes.
  """

  positive: Histogram
  negative: Histogram
  hardest_negative: Histogram
  positive_by_class: Spread
  type_one_by_class: Spread
  type_two_by_class: Spread


def score_distributions(
  scores: Float[ArrayLike, "n N"], labels: Int[ArrayLike, " n"]
) -> ScoreDistributions:
  r"""Sums up where the scores of some samples lie, the streaming half.

    positive: c_y,   negative: c_j, j ≠ y,   hardest negative: max_{j≠y} c_j

  Counts are exact, sums float64. 50,000 × 1,000 float32 scores take 3.2 s of one core of
  an AMD EPYC that had other work too, and 48 MB beside the scores themselves (2026-11-25).

  Args:
    scores: any floating dtype; −inf and +inf are counted apart.
    labels: class ids in [0, N).

  Returns:
    `ScoreDistributions`. Of no samples all counts are 0, and merging it changes nothing.

  Raises:
    ValueError: for wrong shapes or dtypes, a label out of range or a nan score.

  >>> import numpy as np
  >>> scores = np.array([[3.0, 1.0, 0.5], [0.5, 2.5, 1.5]])
  >>> found = score_distributions(scores, np.array([0, 1]))
  >>> found.positive.total, found.negative.total
  (2, 4)
  >>> found.type_one_by_class.mean()  # of the samples of a class, their other scores
  array([0.75, 1.  ,  nan])
  >>> found.type_two_by_class.mean()  # a class's scores of the other classes' samples
  array([0.5, 1. , 1. ])

  Source: Li et al. 2024, §3.
  """
  dtype = checks.dtype_of(scores)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"scores must be floating point, got dtype {dtype}")
  if np.ndim(scores) != 2 or not np.shape(scores)[1]:
    raise ValueError(f"scores must have shape [n, N] with N ≥ 1, got {np.shape(scores)}")
  matrix = np.asarray(scores)
  size, num_classes = matrix.shape
  ids = np.asarray(checks.int_labels(labels, (size,), num_classes)[0])
  rows = max(_FEWEST_ROWS, _BLOCK // num_classes)
  negative, columns, by_row = Histogram(), _no_spread(num_classes), [_no_spread(0)]
  positive, hardest = np.zeros(size), np.zeros(size)
  for start in range(0, size, rows):
    part = slice(start, start + rows)
    block = _block(matrix[part], ids[part])
    positive[part], hardest[part] = block.positive, block.hardest
    negative = _merge_histograms(negative, block.negative)
    columns = _merge_spreads(columns, block.columns)
    by_row.append(block.rows)
  of_rows = Spread(*(np.concatenate(x) for x in zip(*by_row, strict=True)))
  return ScoreDistributions(
    positive=_histogram(positive),
    negative=negative,
    hardest_negative=_histogram(hardest),
    positive_by_class=_by_class(_singles(positive), ids, num_classes),
    type_one_by_class=_by_class(of_rows, ids, num_classes),
    type_two_by_class=columns,
  )


def merge_distributions(a: ScoreDistributions, b: ScoreDistributions) -> ScoreDistributions:
  """The distributions of two parts together; the order does not matter but for rounding of sums.

  Histograms become those of all values at once, to the last count; a scatter grows by what the
  means of the parts differ by.

    n = n_a + n_b,   scatter = scatter_a + scatter_b + (n_a n_b / n) (μ_a − μ_b)²

  Args:
    a: as of `score_distributions`.
    b: the same, with as many classes.

  Returns:
    `ScoreDistributions`.

  Raises:
    ValueError: for parts with different numbers of classes.

  >>> import numpy as np
  >>> one = score_distributions(np.array([[3.0, 1.0]]), np.array([0]))
  >>> two = score_distributions(np.array([[5.0, 9.0]]), np.array([0]))
  >>> both = merge_distributions(one, two)
  >>> both.positive_by_class.mean(), both.positive.total
  (array([ 4., nan]), 2)

  Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983.
  """
  classes = [len(x.positive_by_class.count) for x in (a, b)]
  if classes[0] != classes[1]:
    raise ValueError(f"the parts have {classes[0]} and {classes[1]} classes: expected as many")
  merged: list[Any] = [_merge_histograms(x, y) for x, y in zip(a[:3], b[:3], strict=True)]
  merged += [_merge_spreads(x, y) for x, y in zip(a[3:], b[3:], strict=True)]
  return ScoreDistributions(*merged)


class _Block(NamedTuple):
  """What is kept of some rows of scores."""

  positive: np.ndarray  # [rows]
  hardest: np.ndarray  # [rows]
  negative: Histogram
  rows: Spread  # of each row's negatives
  columns: Spread  # of each column's


def _block(scores: np.ndarray, ids: np.ndarray) -> _Block:
  """Looks at some rows; `scores` stays as it is."""
  x = np.array(scores, np.float64, order="C")
  rows, num_classes = x.shape
  own = np.arange(rows) * num_classes + ids
  positive = x.take(own)
  odd = np.flatnonzero(~np.isfinite(x))
  if np.isnan(x.take(odd)).any():
    broken = int(np.isnan(x).any(1).sum())
    raise ValueError(f"{broken} of {rows} samples have a nan score")
  np.put(x, own, -np.inf)
  hardest = x.max(1)
  infinite = np.setdiff1d(odd, own)
  signs = x.take(infinite)
  left_out = np.concatenate([own, infinite])

  count = (
    num_classes - np.bincount(left_out // num_classes, minlength=rows),
    rows - np.bincount(left_out % num_classes, minlength=num_classes),
  )
  np.put(x, left_out, -np.inf)
  high = (x.max(1), x.max(0))
  np.put(x, left_out, np.inf)
  low = (x.min(1), x.min(0))
  np.put(x, left_out, 0.0)
  with np.errstate(over="ignore", invalid="ignore"):
    total = (x.sum(1), x.sum(0))
    scatter = []
    for axis in (1, 0):
      centered = x - np.expand_dims(total[1 - axis] / np.maximum(count[1 - axis], 1), axis)
      np.put(centered, left_out, 0.0)
      scatter.append(np.einsum("ij,ij->i" if axis else "ij,ij->j", centered, centered))
  by_row, by_column = (
    Spread(*parts) for parts in zip(count, total, scatter, low, high, strict=True)
  )
  histogram = _histogram(np.delete(x, left_out))._replace(
    minus_infinity=int((signs < 0).sum()), plus_infinity=int((signs > 0).sum())
  )
  return _Block(positive, hardest, histogram, by_row, by_column)


def _histogram(values: np.ndarray) -> Histogram:
  """Counts float64 values, none of them nan."""
  infinities = (int((values == -np.inf).sum()), int((values == np.inf).sum()))
  if any(infinities):
    values = values[np.isfinite(values)]
  if not values.size:
    return Histogram(Histogram().exponent, 0, np.zeros(0, np.int64), *infinities)
  low, high = float(values.min()), float(values.max())
  # The finest that keeps bin numbers exact; coarser until all fit.
  largest = max(abs(low), abs(high))
  k = max(int(np.frexp(largest)[1]) - _PRECISION, _FINEST) if largest else _FINEST
  first, last = (int(_bin(np.asarray(x), k)) for x in (low, high))
  shift = max(0, (last - first).bit_length() - BINS.bit_length())
  while (last >> shift) - (first >> shift) >= BINS:
    shift += 1
  k, first, last = k + shift, first >> shift, last >> shift
  places = (_bin(values, k) - first).astype(np.intp)
  counts = np.bincount(places, minlength=last - first + 1).astype(np.int64)
  return Histogram(k, first, counts, *infinities)


def _bin(values: np.ndarray, k: int) -> np.ndarray:
  """⌊v / 2^k⌋, exact, as float64."""
  with np.errstate(under="ignore"):  # a product is several times faster than ldexp
    places = np.floor(values * 2.0**-k if abs(k) <= 1000 else np.ldexp(values, -k))
  if k > 0:  # what underflows to −0 lies below 0 all the same
    places = np.where((values < 0) & (places == 0), -1.0, places)
  return places


def _coarsened(histogram: Histogram, k: int) -> Histogram:
  """The same values in bins of 2^k, k ≥ the exponent."""
  shift = k - histogram.exponent
  if not histogram.counts.size or not shift:
    return histogram
  first, last = histogram.first >> shift, histogram.last >> shift
  # Of more than 63 places numpy's shift is undefined, and of that many nothing but the sign stays.
  old = histogram.first + np.arange(histogram.counts.size, dtype=np.int64)
  counts = np.zeros(last - first + 1, np.int64)
  np.add.at(counts, (old >> min(shift, 63)) - first, histogram.counts)
  return histogram._replace(exponent=k, first=first, counts=counts)


def _merge_histograms(a: Histogram, b: Histogram) -> Histogram:
  infinities = (a.minus_infinity + b.minus_infinity, a.plus_infinity + b.plus_infinity)
  if not (a.counts.size and b.counts.size):
    k, first, counts, *_ = a if a.counts.size else b
    return Histogram(k, first, counts, *infinities)
  k = max(a.exponent, b.exponent)
  a, b = _coarsened(a, k), _coarsened(b, k)
  first, last, shift = min(a.first, b.first), max(a.last, b.last), 0
  while (last >> shift) - (first >> shift) >= BINS:
    shift += 1
  k, first, last = k + shift, first >> shift, last >> shift
  counts = np.zeros(last - first + 1, np.int64)
  for part in (_coarsened(a, k), _coarsened(b, k)):
    counts[part.first - first : part.last - first + 1] += part.counts
  return Histogram(k, first, counts, *infinities)


def _no_spread(size: int) -> Spread:
  zero = np.zeros(size)
  return Spread(np.zeros(size, np.int64), zero, zero, np.full(size, np.inf), np.full(size, -np.inf))


def _singles(values: np.ndarray) -> Spread:
  """The spread of each value alone; an infinite one is left out."""
  finite = np.isfinite(values)
  return Spread(
    finite.astype(np.int64),
    np.where(finite, values, 0.0),
    np.zeros(values.shape),
    np.where(finite, values, np.inf),
    np.where(finite, values, -np.inf),
  )


def _by_class(parts: Spread, ids: np.ndarray, num_classes: int) -> Spread:
  """Puts [n] spreads together by class: [N]."""

  def summed(x: np.ndarray) -> np.ndarray:
    return np.bincount(ids, x, minlength=num_classes)

  count = np.rint(summed(parts.count)).astype(np.int64)  # exact below 2^53
  total = summed(parts.total)
  with np.errstate(over="ignore", invalid="ignore"):  # of numbers beyond 1e150 squares are inf
    means = _over(total, count)[ids]
    apart = np.where(parts.count > 0, _over(parts.total, parts.count) - means, 0.0)
    scatter = summed(parts.scatter + parts.count * apart**2)
  low, high = np.full(num_classes, np.inf), np.full(num_classes, -np.inf)
  np.minimum.at(low, ids, parts.low)
  np.maximum.at(high, ids, parts.high)
  return Spread(count, total, scatter, low, high)


def _merge_spreads(a: Spread, b: Spread) -> Spread:
  count = a.count + b.count
  both = (a.count > 0) & (b.count > 0)
  weight = a.count * (b.count / np.maximum(count, 1))
  with np.errstate(over="ignore", invalid="ignore"):
    apart = np.where(both, a.mean() - b.mean(), 0.0)
    total, scatter = a.total + b.total, a.scatter + b.scatter + weight * apart**2
  return Spread(count, total, scatter, np.minimum(a.low, b.low), np.maximum(a.high, b.high))


def _over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
  """total / count; nan where there is nothing."""
  out = np.full(np.shape(total), np.nan)
  np.divide(total, count, out=out, where=count > 0)
  return out
