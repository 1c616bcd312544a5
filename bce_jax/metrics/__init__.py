"""Measures of a classifier, each with a streaming half and a final half."""

from bce_jax.metrics.geometry import (
  ClassMoments,
  Geometry,
  class_moments,
  geometry,
  mean_and_std,
  merge_moments,
)
from bce_jax.metrics.longtail import FEW, MANY, ShotAccuracy, shot_accuracy
from bce_jax.metrics.uniform import (
  AccuracyAt,
  UniformAccuracy,
  accuracy_at,
  accuracy_at_from_pairs,
  score_pairs,
  uniform_accuracy,
  uniform_accuracy_from_pairs,
)

__all__ = [
  "FEW",
  "MANY",
  "AccuracyAt",
  "ClassMoments",
  "Geometry",
  "ShotAccuracy",
  "UniformAccuracy",
  "accuracy_at",
  "accuracy_at_from_pairs",
  "class_moments",
  "geometry",
  "mean_and_std",
  "merge_moments",
  "score_pairs",
  "shot_accuracy",
  "uniform_accuracy",
  "uniform_accuracy_from_pairs",
]
