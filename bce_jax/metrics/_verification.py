"""Open-set verification, exact and streaming: are two samples of one identity, at one threshold?

A pair is accepted when its score is > t, strictly, as everywhere in this package. Pairs of one
identity are genuine, all others impostors. What is known of them are counts over the threshold,
the streaming half in counting.py: the ROC curve, the area under it, the TAR at a FAR and the equal
error rate follow exactly. `verify_at` evaluates one threshold fixed beforehand, which is what a
deployed system has.

Sources: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289, for the
one unified threshold; Huang et al., "Labeled Faces in the Wild", 2007, for the folds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from bce_jax.metrics import _cosines
from bce_jax.metrics._counting import PairCounts


class RocCurve(NamedTuple):
  """The curve from (0, 0) to (1, 1), by its vertices; thresholds descend.

  Attributes:
    far: false accept rate, the share of impostor pairs with score > threshold.
    tar: true accept rate, the share of genuine pairs with score > threshold.
    thresholds: one at which the vertex is reached, the highest of those known; +inf … −inf.
  """

  far: Float[np.ndarray, " n"]
  tar: Float[np.ndarray, " n"]
  thresholds: Float[np.ndarray, " n"]


class Verification(NamedTuple):
  """Results of a verification experiment. FAR steps by 1 / num_impostor, TAR by 1 / num_genuine.

  Attributes:
    tar_at_far: for each FAR asked for, the largest TAR of a threshold whose FAR is not above it;
      nothing is interpolated. Below 1 / num_impostor that means: no impostor accepted.
    thresholds_at_far: the highest threshold that reaches it; +inf where none but that is known to.
    equal_error_rate: where the curve, drawn with straight lines, meets FAR = 1 − TAR.
    eer_threshold: of the vertex nearest to it, by |FAR − (1 − TAR)|; the highest of equals.
    auc: area under the curve, the probability that a genuine pair scores higher than an impostor
      (Mann–Whitney), ties counted half.
    best_accuracy: the largest share of all pairs classified correctly by one threshold. It is
      chosen on the data it is evaluated on, and where impostors abound refusing everything is hard
      to beat.
    best_threshold: the highest threshold that reaches it; +inf: to refuse everything is best.
  """

  tar_at_far: Float[np.ndarray, " n"]
  thresholds_at_far: Float[np.ndarray, " n"]
  equal_error_rate: float
  eer_threshold: float
  auc: float
  best_accuracy: float
  best_threshold: float


class VerificationAt(NamedTuple):
  """What one fixed threshold makes of all pairs.

  Attributes:
    true_accept: TAR, the share of genuine pairs accepted.
    false_accept: FAR, the share of impostor pairs accepted.
    accuracy: the share of all pairs classified correctly.
    balanced_accuracy: (TAR + 1 − FAR) / 2.
  """

  true_accept: float
  false_accept: float
  accuracy: float
  balanced_accuracy: float


class FoldAccuracy(NamedTuple):
  """Accuracy by folds, each evaluated at the threshold that is best on the others.

  Attributes:
    mean: over the folds.
    std: √(mean (a − mean)²) over the folds. The standard error of the mean, which the tables of LFW
      give, is std / √(folds − 1).
    thresholds: of each fold, the folds in ascending order of their ids.
    accuracies: of each fold.
  """

  mean: float
  std: float
  thresholds: Float[np.ndarray, " k"]
  accuracies: Float[np.ndarray, " k"]


def roc(counts: PairCounts) -> RocCurve:
  """The ROC curve, exact: every vertex, horizontal runs as one.

  Args:
    counts: as of `pair_counts`.

  Returns:
    `RocCurve`. A threshold below which a vertex lies is given as the next smaller number of the
    scores' dtype.

  Raises:
    ValueError: where no pair is genuine or none is an impostor.

  >>> from bce_jax.metrics import pair_counts_from_scores
  >>> import numpy as np
  >>> counts = pair_counts_from_scores(np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False])
  >>> curve = roc(counts)
  >>> curve.far, curve.tar
  (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
  """
  _check_both(counts)
  # At t, and just below it: in that order for every threshold from the highest down.
  accepted_genuine = _interleaved(counts.genuine_above, counts.genuine_at_or_above)
  accepted_impostor = _interleaved(counts.impostor_above, counts.impostor_at_or_above)
  below = _cosines.just_below(counts.thresholds)
  t = np.concatenate([[np.inf], _interleaved(counts.thresholds, below), [-np.inf]])
  genuine = np.concatenate([[0], accepted_genuine, [counts.num_genuine]])
  impostor = np.concatenate([[0], accepted_impostor, [counts.num_impostor]])
  new = np.concatenate([[True], (np.diff(genuine) > 0) | (np.diff(impostor) > 0)])
  return RocCurve(
    impostor[new] / counts.num_impostor, genuine[new] / counts.num_genuine, t[new].astype(float)
  )


def verification(
  counts: PairCounts, *, far: Sequence[float] | Float[ArrayLike, " n"] = (1e-4, 1e-3, 1e-2, 1e-1)
) -> Verification:
  r"""TAR at given FARs, equal error rate, area under the curve and best accuracy.

    AUC = 1/(G·I) Σ_genuine s (#{impostors < s} + ½ #{impostors = s})

  Args:
    counts: as of `pair_counts`.
    far: false accept rates, each in [0, 1].

  Returns:
    `Verification`.

  Raises:
    ValueError: for a FAR out of range, or where no pair is genuine or none is an impostor.

  >>> from bce_jax.metrics import pair_counts_from_scores
  >>> import numpy as np
  >>> counts = pair_counts_from_scores(np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False])
  >>> results = verification(counts, far=[0.1, 0.5])
  >>> results.tar_at_far, results.equal_error_rate, results.auc, results.best_accuracy
  (array([0.5, 1. ]), 0.5, 0.75, 0.75)
  """
  _check_both(counts)
  limits = _cosines.host("far", np.asarray(far, np.float64), np.floating, (None,))
  if not ((limits >= 0) & (limits <= 1)).all():
    raise ValueError(f"far must lie in [0, 1], got {limits.tolist()}")
  G, I = counts.num_genuine, counts.num_impostor  # noqa: E741

  # The best of what is accepted is reached just below a genuine score, at the fewest impostors.
  own = counts.genuine_at_or_above > counts.genuine_above
  s, above, at = (
    counts.thresholds[own],
    counts.impostor_above[own],
    counts.impostor_at_or_above[own],
  )
  genuine, below = counts.genuine_at_or_above[own], _cosines.just_below(s)
  # FAR rises as t falls, so the first score that is not too low is the one.
  first = np.array([np.count_nonzero(at / I > limit) for limit in limits], np.int64)
  tar = np.append(genuine, 0)[first] / G
  at_far = np.append(below, np.inf)[first]

  right = np.append(genuine - at, 0) + I  # last: everything refused
  best = len(right) - 1 - int(np.argmax(right[::-1]))
  weights = (genuine - counts.genuine_above[own]).astype(np.float64)
  area = math.fsum(weights / G * (1.0 - (above / I + at / I) / 2))
  eer, eer_threshold = _equal_error_rate(roc(counts))
  return Verification(
    tar,
    at_far.astype(np.float64),
    eer,
    eer_threshold,
    area,
    float(right[best] / (G + I)),
    float(np.append(below, np.inf)[best]),
  )


def verify_at(counts: PairCounts, threshold: float | Float[ArrayLike, ""]) -> VerificationAt:
  """Evaluates one FIXED threshold, such as t = b/γ that was learned on other identities.

  Args:
    counts: as of `pair_counts`, best with this threshold among its `thresholds`. Another one is
      evaluated where the counts leave no doubt: no impostor between it and its tracked neighbors.
    threshold: t; a pair is accepted when its score is > t. Those that `verification` and `roc` give
      are always evaluated.

  Returns:
    `VerificationAt`, exact.

  Raises:
    ValueError: for a threshold that is not finite, one the counts do not determine, or where no
      pair is genuine or none is an impostor.

  >>> from bce_jax.metrics import pair_counts_from_scores
  >>> import numpy as np
  >>> scores, same = np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False]
  >>> verify_at(pair_counts_from_scores(scores, same, thresholds=[0.3]), 0.3)
  VerificationAt(true_accept=1.0, false_accept=0.5, accuracy=0.75, balanced_accuracy=0.75)
  """
  _check_both(counts)
  t = _cosines.threshold(threshold, counts.thresholds.dtype)
  # Between tracked thresholds nothing is known but that the counts do not rise; no score lies
  # between one and the next number below it, which `verification` and `roc` give.
  k = int(np.searchsorted(counts.thresholds, t, "right"))
  if k < len(counts.thresholds) and t == _cosines.just_below(counts.thresholds[k]):
    accepted, above = counts.genuine_at_or_above[k], counts.impostor_at_or_above[k]
    return _at(counts, int(accepted), int(above))
  above = counts.impostor_above[k - 1] if k else counts.num_impostor
  least = counts.impostor_at_or_above[k] if k < len(counts.thresholds) else 0
  if above != least and not (k and counts.thresholds[k - 1] == t):
    raise ValueError(
      f"threshold {threshold} was not counted at, and {above - least} impostors lie around it:"
      f" expected it among the thresholds given to pair_counts"
    )
  return _at(counts, int(counts.genuine_above[k - 1] if k else counts.num_genuine), int(above))


def _at(counts: PairCounts, genuine: int, impostors: int) -> VerificationAt:
  """What a threshold makes of the pairs that accepts so many of them."""
  G, I = counts.num_genuine, counts.num_impostor  # noqa: E741
  tar, far = genuine / G, impostors / I
  return VerificationAt(tar, far, (genuine + I - impostors) / (G + I), (tar + 1.0 - far) / 2)


def ten_fold_accuracy(
  scores: Float[ArrayLike, " n"], same: Bool[ArrayLike, " n"], folds: Int[ArrayLike, " n"]
) -> FoldAccuracy:
  """The protocol of LFW: each fold is evaluated at the threshold that is best on the other folds.

  The best threshold is exact. Of the intervals between two neighboring scores of the other folds
  it lies in one where most of their pairs are right, the widest (the lowest of equals), in
  the middle; beyond all scores, by max(1, |score|), only where no such interval is as good.

  Args:
    scores: of each pair, any floating dtype.
    same: whether the pair is genuine.
    folds: the fold each pair belongs to, any integers, usually ten of them.

  Returns:
    `FoldAccuracy`.

  Raises:
    ValueError: for wrong shapes or dtypes, scores that are not finite, fewer than two folds, or
      inside a trace.

  >>> import numpy as np
  >>> scores, same = np.array([0.9, 0.1, 0.8, 0.6]), np.array([True, False, True, False])
  >>> result = ten_fold_accuracy(scores, same, np.array([0, 0, 1, 1]))
  >>> result.mean, result.thresholds.round(2).tolist(), result.accuracies.tolist()
  (0.75, [0.7, 0.5], [1.0, 0.5])
  """
  values = _cosines.scores(scores).astype(np.float64)
  genuine = _cosines.host("same", same, np.bool_, values.shape)
  ids = _cosines.host("folds", folds, np.integer, values.shape)
  names = np.unique(ids)
  if len(names) < 2:
    raise ValueError(f"folds must name at least two, got {len(names)}: {names.tolist()}")
  found = []
  for name in names:
    inside = ids == name
    t = _best_threshold(values[~inside], genuine[~inside])
    found.append((t, np.mean((values[inside] > t) == genuine[inside])))
  thresholds, accuracies = np.array(found).T
  return FoldAccuracy(
    float(accuracies.mean()), float(accuracies.std()), thresholds.copy(), accuracies.copy()
  )


def _check_both(counts: PairCounts) -> None:
  if not counts.num_genuine or not counts.num_impostor:
    raise ValueError(
      f"the counts hold {counts.num_genuine} genuine and {counts.num_impostor} impostor pairs:"
      " expected some of both"
    )


def _interleaved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """a, b, a, b, … from the last to the first."""
  return np.stack([a[::-1], b[::-1]], 1).reshape(-1)


def _equal_error_rate(curve: RocCurve) -> tuple[float, float]:
  excess = curve.far + curve.tar - 1.0  # FAR − (1 − TAR), from −1 to 1 without falling
  k = int(np.argmax(excess >= 0))
  share = -excess[k - 1] / (excess[k] - excess[k - 1])
  rate = curve.far[k - 1] + share * (curve.far[k] - curve.far[k - 1])
  nearest = k if abs(excess[k]) < abs(excess[k - 1]) else k - 1
  return float(rate), float(curve.thresholds[nearest])


def _best_threshold(scores: np.ndarray, genuine: np.ndarray) -> float:
  """The threshold that classifies most pairs correctly, by the rule of `ten_fold_accuracy`."""
  values, place = np.unique(scores, return_inverse=True)
  change = np.bincount(place, np.where(genuine, -1, 1), len(values))
  # How many t classifies correctly in [v_i, v_i+1), less those right by t below all.
  right = np.concatenate([[0], np.cumsum(change)])
  best = right == right.max()
  if best[1:-1].any():
    width = np.where(best[1:-1], np.diff(values), -1.0)
    low, high = values[np.argmax(width)], values[np.argmax(width) + 1]
    middle = 0.5 * low + 0.5 * high
    return float(middle if low < middle < high else low)
  edge = values[0] if best[0] else values[-1]
  return float(edge - max(1.0, abs(edge)) if best[0] else edge + max(1.0, abs(edge)))
