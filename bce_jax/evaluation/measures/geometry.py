"""Compactness, separability and neural collapse of the features, from their class moments."""

from typing import Any

import numpy as np

from bce_jax import metrics
from bce_jax.evaluation.split_outputs import SplitOutputs


def compute(split: SplitOutputs) -> dict[str, Any]:
  """Returns mean and standard deviation over classes, and NC1 to NC3; nothing without moments.

  Without the classifier's weights what needs them is left out.
  """
  moments, weights = split.moments, split.weights
  if moments is None:
    return {}
  measured = metrics.geometry(moments, np.zeros_like(moments.means) if weights is None else weights)
  names, collapse = ["compactness", "separability"], ["nc1", "nc2"]
  if weights is not None:
    names, collapse = [*names, "classifier_separability"], [*collapse, "nc3"]
  out: dict[str, Any] = {}
  for name in names:
    out[name], out[f"{name}_std"] = metrics.mean_and_std(getattr(measured, name))
  return out | {name: getattr(measured, name) for name in collapse}
