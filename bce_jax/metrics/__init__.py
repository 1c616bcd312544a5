"""Measures of a classifier, each with a streaming half and a final half."""

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
  "AccuracyAt",
  "UniformAccuracy",
  "accuracy_at",
  "accuracy_at_from_pairs",
  "score_pairs",
  "uniform_accuracy",
  "uniform_accuracy_from_pairs",
]
