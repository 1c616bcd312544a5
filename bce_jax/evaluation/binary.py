"""Results of binary scores, one per example, positive or not, and their table for people."""

import math

import numpy as np
from jaxtyping import Bool, Float

from bce_jax import metrics, results, terminal
from bce_jax.evaluation import tables
from bce_jax.evaluation.summary import Results
from bce_jax.evaluation.verification import shortest


def summarize(
  scores: Float[np.ndarray, " n"],
  positive: Bool[np.ndarray, " n"],
  *,
  bias: float | None = None,
  threshold: float | None = None,
) -> Results:
  """Returns the results of binary scores: over all thresholds, at the best and at fixed ones.

  Args:
    scores: higher for positive samples; infinite ones are welcome.
    positive: the kind of each; some of both.
    bias: the learned threshold, on the scores' scale; None where there is none.
    threshold: one that was chosen elsewhere; None for none.

  Returns:
    Results by name; shares in [0, 1].

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


_ABOVE = {
  "positives": ("true_positives", "false_negatives"),
  "negatives": ("false_positives", "true_negatives"),
}
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
  """Returns the results of binary scores as a table for people.

  Args:
    title: what was evaluated, for the first line.
    values: as of `summarize`.
  """

  known = [row for row in results.known(values) if row.group == "binary"]
  rows = [row for row in known if "_at_" not in row.key] + [results.row("threshold")]
  shown = tables.lines(rows, values)
  for name in ("bias", "threshold"):
    rows = [row for row in known if row.key.endswith(f"_at_{name}")]
    shown += tables.lines(rows, values)
    if rows:
      shown += [
        (f"       {kind}: above, not above", _counts(values, name, *kinds))
        for kind, kinds in _ABOVE.items()
      ]
  first = (
    f"{title}: {values['images']:,} samples, one score each, {values['positives']:,} positive,"
    f" {values['negatives']:,} negative"
  )
  return terminal.two_columns(first, shown)


def _counts(values: Results, name: str, above: str, below: str) -> str:
  return f"{values[f'{above}_at_{name}']:,} / {values[f'{below}_at_{name}']:,}"
