"""Open-set verification inside a run: do two images show the same class, one never trained on?"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bce_jax import metrics, results, terminal
from bce_jax.data.pairs import PairList
from bce_jax.evaluation import tables
from bce_jax.evaluation.summary import Results
from bce_jax.runs.test_outputs import RocPoints

_FIRST = (  # of the printed table
  *("verification_fold_accuracy", "verification_equal_error_rate"),
  *(f"verification_tar_at_far_{rate:g}" for rate in results.FAR),
  "verification_auc",
)
_POINTS = 2000  # of a curve that is drawn


def verify_all_pairs(
  embeddings: Float[np.ndarray, "n D"],
  labels: Int[np.ndarray, " n"],
  *,
  threshold: float | None = None,
  progress: Any = None,
) -> tuple[Results, RocPoints]:
  """Verifies every pair of images, and identifies each image by the first one of its identity.

  Args:
    embeddings: of any length.
    labels: identities.
    threshold: a fixed one to evaluate at, too, on cosines.
    progress: see `metrics.pair_counts`.

  Returns:
    (results, points of the curve).

  Raises:
    ValueError: where there is no pair of one identity, or none of two.
  """
  thresholds = () if threshold is None else (threshold,)
  counts = metrics.pair_counts(embeddings, labels, thresholds=thresholds, progress=progress)
  identities = len(np.unique(labels))
  out = _results(counts, threshold) | {
    "verification_images": len(labels),
    "verification_identities": identities,
  }
  _, first = np.unique(labels, return_index=True)
  probes = np.ones(len(labels), bool)
  probes[first] = False
  if probes.any():
    out["verification_rank_one"] = metrics.rank_one(
      embeddings[first], labels[first], embeddings[probes], labels[probes]
    )
  return out, _points(counts)


def verify_listed_pairs(
  embeddings: Float[np.ndarray, "n D"], listed: PairList, *, threshold: float | None = None
) -> tuple[Results, RocPoints]:
  """Verifies listed pairs: LFW's protocol, where they come in folds.

  Args:
    embeddings: of any length.
    listed: the pairs; embeddings are those of `listed.paths`.
    threshold: a fixed one to evaluate at, too, on cosines.

  Returns:
    (results, points of the curve).
  """
  scores = metrics.pair_scores(embeddings, listed.pairs)
  thresholds = () if threshold is None else (threshold,)
  counts = metrics.pair_counts_from_scores(scores, listed.same, thresholds=thresholds)
  out = _results(counts, threshold) | {"verification_images": len(embeddings)}
  if len(np.unique(listed.folds)) > 1:
    folds = metrics.ten_fold_accuracy(scores, listed.same, listed.folds)
    out |= {
      "verification_fold_accuracy": folds.mean,
      "verification_fold_accuracy_std": folds.std,
      "verification_fold_threshold": float(np.mean(folds.thresholds)),
    }
  return out, _points(counts)


def _results(counts: metrics.PairCounts, threshold: float | None) -> Results:
  far = [x for x in results.FAR if x * counts.num_impostor >= 1]
  measured = metrics.verification(counts, far=far)
  out: Results = {
    "verification_genuine_pairs": counts.num_genuine,
    "verification_impostor_pairs": counts.num_impostor,
    "verification_equal_error_rate": measured.equal_error_rate,
    "verification_equal_error_threshold": shortest(counts, measured.eer_threshold),
    "verification_auc": measured.auc,
  }
  for rate, share in zip(far, measured.tar_at_far, strict=True):
    out[f"verification_tar_at_far_{rate:g}"] = float(share)
  if threshold is not None:
    at = metrics.verify_at(counts, threshold)
    out |= {
      "verification_threshold": threshold,
      "verification_true_accept_at_threshold": at.true_accept,
      "verification_false_accept_at_threshold": at.false_accept,
      "verification_accuracy_at_threshold": at.accuracy,
      "verification_balanced_accuracy_at_threshold": at.balanced_accuracy,
    }
  return out


def shortest(counts: metrics.PairCounts, threshold: float) -> float:
  """Returns the threshold of fewest digits (3 or more) that accepts the same pairs.

  What a table shows can then be typed, and gives the results beside it.

  Args:
    counts: of the pairs.
    threshold: as `metrics.verification` gives it; one that is infinite stays so.
  """
  if not math.isfinite(threshold):
    return threshold
  expected = metrics.verify_at(counts, threshold)
  for digits in range(3, 17):
    rounded = float(f"{threshold:.{digits}g}")
    try:
      if metrics.verify_at(counts, rounded) == expected:
        return rounded
    except ValueError:  # so far away that the counts do not say
      continue
  return threshold


def _points(counts: metrics.PairCounts) -> RocPoints:
  """Shares accepted over the threshold, at not too many thresholds."""
  chosen = np.unique(np.linspace(0, len(counts.thresholds) - 1, _POINTS).astype(int))
  return RocPoints(
    thresholds=counts.thresholds[chosen].astype(np.float64),
    true_accept=counts.genuine_above[chosen] / counts.num_genuine,
    false_accept=counts.impostor_above[chosen] / counts.num_impostor,
  )


def table(values: Results) -> str:
  """Returns the results of a verification as a table for people."""
  rows = [row for row in results.known(values) if row.group == "verification"]
  if values.get("verification_threshold") is None:
    rows = [row for row in rows if not row.key.endswith("_at_threshold")]
  rows.sort(key=lambda row: _FIRST.index(row.key) if row.key in _FIRST else len(_FIRST))
  genuine, impostor = (values[f"verification_{n}_pairs"] for n in ("genuine", "impostor"))
  title = (
    f"verification: {values['verification_images']:,} images, {genuine:,} pairs of one identity,"
    f" {impostor:,} of two"
  )
  return terminal.two_columns(title, tables.lines(rows, values))
