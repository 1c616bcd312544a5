"""Sample-wise accuracy over the classes of many, medium and few training images."""

import math
from typing import Any

from bce_jax import metrics
from bce_jax.evaluation.split_outputs import Pairs, SplitOutputs


def compute(split: SplitOutputs) -> dict[str, Any]:
  """Returns the accuracy of each shot group; one without samples is absent."""
  return of_pairs((split.positive, split.hardest_negative), split)


def of_pairs(pairs: Pairs, split: SplitOutputs) -> dict[str, Any]:
  """Returns the same of other scores of the split's images."""
  if split.train_counts is None:
    return {}
  shots = metrics.shot_accuracy(pairs[1] < pairs[0], split.labels, split.train_counts)
  groups = {"many": shots.many, "medium": shots.medium, "few": shots.few}
  return {f"{name}_accuracy": x for name, x in groups.items() if not math.isnan(x)}
