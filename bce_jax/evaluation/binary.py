"""The figures of one score a sample, positive or not, and the table people read."""

import math

import numpy as np
from jaxtyping import Bool, Float

from bce_jax import metrics, terminal
from bce_jax.evaluation.summary import Results, between
from bce_jax.evaluation.verification import shortest


def summarize(
  scores: Float[np.ndarray, "n"],
  positive: Bool[np.ndarray, "n"],
  *,
  bias: float | None = None,
  threshold: float | None = None,
) -> Results:
  """Sums up scores of two kinds of samples: by every threshold, by the best and by fixed ones.

  Args:
    scores: higher for positive samples; infinite ones are welcome.
    positive: the kind of each; some of both.
    bias: the learned threshold, on the scores' scale; None where there is none.
    threshold: one that was chosen elsewhere; None for none.

  Returns:
    Named figures; shares in [0, 1].

  Raises:
    ValueError: for a nan, or where all samples are of one kind.
  """
  finite = _finite(scores)
  # Counted at every score, so that what any threshold makes of them is known.
  counts = metrics.pair_counts_from_scores(finite, positive, thresholds=np.unique(finite))
  curve = metrics.verification(counts, far=())
  best = metrics.binary_accuracy(scores, positive)
  equal = shortest(counts, curve.eer_threshold)
  out: Results = {
    "images": len(scores),
    "positives": counts.num_genuine,
    "negatives": counts.num_impostor,
    "auc": curve.auc,
    "equal_error_rate": curve.equal_error_rate,
    # Beyond all finite scores stands what was infinite.
    "equal_error_threshold": math.copysign(math.inf, equal) if abs(equal) > _FAR else equal,
    "best_accuracy": best.accuracy,
    "threshold": best.threshold,
    "threshold_low": best.threshold_low,
    "threshold_high": best.threshold_high,
  }
  if bias is not None:
    out |= {"bias": bias, **_at("bias", scores, positive, bias)}
  if threshold is not None:
    out |= {"given_threshold": threshold, **_at("threshold", scores, positive, threshold)}
  return out


_FAR = 1e308  # no score is expected beyond


def _finite(scores: np.ndarray) -> np.ndarray:
  """Scores of the same order, in float64, none of them infinite."""
  largest = np.finfo(np.float64).max
  return np.nan_to_num(scores.astype(np.float64), nan=np.nan, posinf=largest, neginf=-largest)


def _at(name: str, scores: np.ndarray, positive: np.ndarray, threshold: float) -> Results:
  found = metrics.confusion_at(scores, positive, threshold)
  rates = ("true_positive_rate", "false_positive_rate", "precision", "accuracy")
  out: Results = {f"{key}_at_{name}": value for key, value in found._asdict().items()}
  return out | {f"{key}_at_{name}": getattr(found, key) for key in rates}


def table(title: str, values: Results) -> str:
  """Lays the figures of one score a sample out for reading.

  Args:
    title: what was judged, for the first line.
    values: as of `summarize`.
  """

  def percent(name: str) -> str:
    return "      –" if math.isnan(values[name]) else f"{100 * values[name]:6.2f} %"

  def number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.6g}"

  t, low, high = (values[name] for name in ("threshold", "threshold_low", "threshold_high"))
  equal = values["equal_error_threshold"]
  known = "none" if math.isnan(t) else f"{between(t, low, high)}  ({number(low)} … {number(high)})"
  rows = [
    ("AUC    area under the ROC curve", percent("auc")),
    ("EER    equal error rate", percent("equal_error_rate")),
    ("       its threshold", repr(equal) if math.isfinite(equal) else "none"),
    ("accuracy, best threshold", percent("best_accuracy")),
    ("t*     best threshold (its interval)", known),
  ]
  for name, key, what in (
    ("bias", "bias", "at the bias"),
    ("threshold", "given_threshold", "at the given threshold"),
  ):
    if key in values:
      found = [
        f"{values[f'{above}_at_{name}']:,} / {values[f'{below}_at_{name}']:,}"
        for above, below in (
          ("true_positives", "false_negatives"),
          ("false_positives", "true_negatives"),
        )
      ]
      rows += [
        (f"{what}, t = {values[key]!r}: accuracy", percent(f"accuracy_at_{name}")),
        ("       TPR, positives above (recall)", percent(f"true_positive_rate_at_{name}")),
        ("       FPR, negatives above", percent(f"false_positive_rate_at_{name}")),
        ("       precision", percent(f"precision_at_{name}")),
        ("       positives: above, not above", found[0]),
        ("       negatives: above, not above", found[1]),
      ]
  first = (
    f"{title}: {values['images']:,} samples, one score each, {values['positives']:,} positive,"
    f" {values['negatives']:,} negative"
  )
  return terminal.two_columns(first, rows)
