"""Accuracies with test-time horizontal flip ("flip_…") and logit adjustment ("adjusted_…")."""

from typing import Any

from bce_jax import metrics
from bce_jax.evaluation.measures import by_shots
from bce_jax.evaluation.split_outputs import Pairs, SplitOutputs


def compute(split: SplitOutputs) -> dict[str, Any]:
  """Returns the accuracies with flip and with adjustment, where the split has such scores."""
  out: dict[str, Any] = {}
  for prefix, pairs in (("flip_", split.flipped), ("adjusted_", split.adjusted)):
    if pairs is not None:
      out |= {prefix + key: value for key, value in _accuracies(pairs, split).items()}
  return out


def _accuracies(pairs: Pairs, split: SplitOutputs) -> dict[str, Any]:
  found = metrics.uniform_accuracy_from_pairs(*pairs, split.labels, num_classes=split.num_classes)
  return {
    "sample_wise_accuracy": found.sample_wise,
    "uniform_accuracy": found.uniform,
    **by_shots.of_pairs(pairs, split),
  }
