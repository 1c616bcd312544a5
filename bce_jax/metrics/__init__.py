"""Measures of a classifier, each with a streaming half and a final half."""

from bce_jax.metrics._binary import BinaryAccuracy, Confusion, binary_accuracy, confusion_at
from bce_jax.metrics._counting import (
  PairCounts,
  merge_pair_counts,
  pair_counts,
  pair_counts_from_scores,
  pair_scores,
)
from bce_jax.metrics._curve import uniform_accuracy_curve
from bce_jax.metrics._distributions import (
  Histogram,
  ScoreDistributions,
  Spread,
  merge_distributions,
  score_distributions,
)
from bce_jax.metrics._geometry import (
  ClassMoments,
  Geometry,
  class_moments,
  geometry,
  mean_and_std,
  merge_moments,
)
from bce_jax.metrics._identification import Identification, open_set_identification, rank_one
from bce_jax.metrics._longtail import FEW, MANY, ShotAccuracy, shot_accuracy
from bce_jax.metrics._uniform import (
  AccuracyAt,
  UniformAccuracy,
  accuracy_at,
  accuracy_at_from_pairs,
  score_pairs,
  uniform_accuracy,
  uniform_accuracy_from_pairs,
)
from bce_jax.metrics._verification import (
  FoldAccuracy,
  RocCurve,
  Verification,
  VerificationAt,
  roc,
  ten_fold_accuracy,
  verification,
  verify_at,
)

__all__ = [
  "FEW",
  "MANY",
  "AccuracyAt",
  "BinaryAccuracy",
  "ClassMoments",
  "Confusion",
  "FoldAccuracy",
  "Geometry",
  "Histogram",
  "Identification",
  "PairCounts",
  "RocCurve",
  "ScoreDistributions",
  "ShotAccuracy",
  "Spread",
  "UniformAccuracy",
  "Verification",
  "VerificationAt",
  "accuracy_at",
  "accuracy_at_from_pairs",
  "binary_accuracy",
  "class_moments",
  "confusion_at",
  "geometry",
  "mean_and_std",
  "merge_distributions",
  "merge_moments",
  "merge_pair_counts",
  "open_set_identification",
  "pair_counts",
  "pair_counts_from_scores",
  "pair_scores",
  "rank_one",
  "roc",
  "score_distributions",
  "score_pairs",
  "shot_accuracy",
  "ten_fold_accuracy",
  "uniform_accuracy",
  "uniform_accuracy_curve",
  "uniform_accuracy_from_pairs",
  "verification",
  "verify_at",
]
