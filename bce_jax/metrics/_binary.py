"""One score per sample and one threshold: which samples are positive?

A sample is taken as positive when its score is > t, strictly, as everywhere in this package. Area
under the curve and equal error rate are those of `metrics.verification`, with positives as genuine:
`pair_counts_from_scores(scores, positive)`.

Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289, §3, for
the one threshold; this is its case of one class, whose samples are to lie above.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from bce_jax.metrics import _cosines
from bce_jax.metrics._uniform import uniform_accuracy_from_pairs


class BinaryAccuracy(NamedTuple):
  """The best accuracy that one threshold reaches, and where.

  Attributes:
    accuracy: the largest share of samples classified correctly by one threshold. It is chosen on
      the data it is evaluated on.
    threshold: t*, strictly inside (threshold_low, threshold_high).
    threshold_low: lower end of the widest optimal interval (the lowest one of equals); −inf where
      to take all samples as positive is best. The interval is open, as that of
      `UniformAccuracy`.
    threshold_high: its upper end; +inf where to take none is best.
  """

  accuracy: float
  threshold: float
  threshold_low: float
  threshold_high: float


class Confusion(NamedTuple):
  """What one fixed threshold makes of samples of two kinds.

  Attributes:
    true_positives: positive samples above the threshold.
    false_positives: negative samples above it.
    true_negatives: negative samples at it or below.
    false_negatives: positive samples at it or below.
  """

  true_positives: int
  false_positives: int
  true_negatives: int
  false_negatives: int

  @property
  def true_positive_rate(self) -> float:
    """Recall, sensitivity: the share of positive samples above the threshold; nan without any."""
    return _share(self.true_positives, self.true_positives + self.false_negatives)

  @property
  def false_positive_rate(self) -> float:
    """The share of negative samples above the threshold; nan without any."""
    return _share(self.false_positives, self.false_positives + self.true_negatives)

  @property
  def precision(self) -> float:
    """The share of samples above the threshold that are positive; nan without any."""
    return _share(self.true_positives, self.true_positives + self.false_positives)

  @property
  def accuracy(self) -> float:
    """The share of samples classified correctly."""
    return _share(self.true_positives + self.true_negatives, sum(self))


def binary_accuracy(
  scores: Float[ArrayLike, " n"], positive: Bool[ArrayLike, " n"]
) -> BinaryAccuracy:
  r"""The best accuracy of one threshold, exact, by sorting.

    max_t 1/n (#{positive: s > t} + #{negative: s ≤ t})

  The uniform accuracy of the open intervals (−∞, s) of positive and (s, +∞) of negative samples, by
  its conventions: of equally good intervals the widest, of equals the lowest.

  Args:
    scores: any floating dtype; infinite ones are welcome. float64 is evaluated in float64.
    positive: which samples are to lie above the threshold.

  Returns:
    `BinaryAccuracy`; of no sample all are nan.

  Raises:
    ValueError: for wrong shapes or dtypes, a nan, or inside a trace.

  >>> binary_accuracy([0.1, 0.4, 0.3, 0.9], [False, False, True, True])
  BinaryAccuracy(accuracy=0.75, threshold=0.65, threshold_low=0.4, threshold_high=0.9)
  """
  values, kinds = _checked(scores, positive)
  best = uniform_accuracy_from_pairs(
    np.where(kinds, values, np.inf).astype(values.dtype),
    np.where(kinds, -np.inf, values).astype(values.dtype),
    np.zeros(values.shape, np.int32),
    num_classes=1,
  )
  return BinaryAccuracy(
    *(float(x) for x in (best.uniform, best.threshold, best.threshold_low, best.threshold_high))
  )


def confusion_at(
  scores: Float[ArrayLike, " n"],
  positive: Bool[ArrayLike, " n"],
  threshold: float | Float[ArrayLike, ""],
) -> Confusion:
  """Evaluates one FIXED threshold, such as a learned bias or one of another split.

  Args:
    scores: any floating dtype; infinite ones are welcome.
    positive: which samples are to lie above the threshold.
    threshold: t, finite; a Python float is compared in float64.

  Returns:
    `Confusion`: four counts, exact.

  Raises:
    ValueError: for wrong shapes or dtypes, a nan, a threshold that is not finite, or inside a
      trace.

  >>> confusion_at([0.1, 0.4, 0.3, 0.9], [False, False, True, True], 0.35)
  Confusion(true_positives=1, false_positives=1, true_negatives=1, false_negatives=1)
  """
  values, kinds = _checked(scores, positive)
  above = values > _cosines.threshold(threshold, values.dtype)
  pairs = ((kinds, above), (~kinds, above), (~kinds, ~above), (kinds, ~above))
  return Confusion(*(int(np.count_nonzero(a & b)) for a, b in pairs))


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  values = _cosines.host("scores", scores, np.floating, (None,))
  values = values.astype(np.float64 if values.dtype == np.float64 else np.float32)
  kinds = _cosines.host("positive", positive, np.bool_, values.shape)
  if np.isnan(values).any():
    raise ValueError(f"scores must not be nan: {np.count_nonzero(np.isnan(values))} are")
  return values, kinds


def _share(count: int, total: int) -> float:
  return count / total if total else float("nan")
