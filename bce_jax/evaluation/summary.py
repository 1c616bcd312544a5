"""The results of a split, computed from a few numbers per example, and their printed table.

They need no network: `bce-eval` makes them of anybody's scores.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bce_jax import metrics, results, terminal
from bce_jax.evaluation import measures, tables
from bce_jax.evaluation.split_outputs import SplitOutputs
from bce_jax.results import Result

Results = dict[str, Any]

_OTHER_TABLES = ("verification", "binary")


class NonFiniteError(RuntimeError):
  """A network gives nan or infinity, so that it can't be evaluated."""


class EvalOutputs(NamedTuple):
  """What an evaluation step returns of a batch: a few numbers per example, and its features.

  Attributes:
    positive: score of the own class, on z = scale · c − bias.
    hardest_negative: largest score of another class, on z.
    scaled_positive: the same on scale · c, where a diverse bias makes them differ.
    scaled_hardest_negative: likewise.
    flipped: (positive, hardest negative) with test-time horizontal flip, of z averaged over image
      and flipped image; or None.
    adjusted: (positive, hardest negative) of z − τ log π, post-hoc logit adjustment; or None.
    features: [batch, D]; None where nobody wants them, or once they are summed up.
    scores: scale · c, [batch, N]; likewise.
  """

  positive: Any
  hardest_negative: Any
  scaled_positive: Any
  scaled_hardest_negative: Any
  flipped: tuple[Any, Any] | None = None
  adjusted: tuple[Any, Any] | None = None
  features: Any = None
  scores: Any = None


def summarize(
  outputs: EvalOutputs,
  labels: np.ndarray,
  bias: np.ndarray | None,
  *,
  train_counts: np.ndarray | None = None,
  num_classes: int | None = None,
  threshold: float | None = None,
  moments: metrics.ClassMoments | None = None,
  weights: np.ndarray | None = None,
) -> Results:
  """Returns the results of a split: the accuracies, the best threshold, the bias and more.

  Accuracies are on the decision scores z = scale · c − bias. `threshold` and `bias` are both on
  scale · c: where the bias is one number, threshold = (best threshold on z) + bias, and the
  paper's claim is that the two agree. A diverse bias is a threshold of its own for each class; its
  mean, least and largest are given, and beside the accuracies on z those on scale · c ("raw_…"),
  which `threshold` belongs to. Without a bias z = scale · c, and there are no results at the bias.

  A group of classes (many, medium, few) without samples is absent. Results averaged over image and
  flipped image are named "flip_…", those after post-hoc logit adjustment "adjusted_…".

  Args:
    outputs: of each image.
    labels: [n].
    bias: the head's, [] or [N]; None where there is none.
    train_counts: training images of each class: [N]; None leaves many, medium and few out.
    num_classes: N, where no training images are given.
    threshold: one that was chosen elsewhere, on scale · c, to be evaluated too.
    moments: of the features; None leaves their geometry out.
    weights: the classifier's rows [N, D]; what needs them is left out without.

  Returns:
    Named results; shares in [0, 1], compactness and separability in %.

  Raises:
    NonFiniteError: when a score is nan.
    ValueError: where the number of classes is not known, or not one.
  """
  if train_counts is not None:
    if num_classes not in (None, len(train_counts)):
      raise ValueError(f"num_classes is {num_classes}, but train_counts has {len(train_counts)}")
    num_classes = len(train_counts)
  if num_classes is None:
    raise ValueError("expected train_counts or num_classes, got neither")
  pairs = (outputs.positive, outputs.hardest_negative)
  broken = int(np.sum(np.isnan(pairs[0]) | np.isnan(pairs[1])))
  if broken:
    raise NonFiniteError(f"{broken} of {len(labels)} images have a score that is nan")
  on_z = metrics.uniform_accuracy_from_pairs(*pairs, labels, num_classes=num_classes)
  out: Results = {
    "images": len(labels),
    "sample_wise_accuracy": on_z.sample_wise,
    "class_wise_accuracy": on_z.class_wise,
    "uniform_accuracy": on_z.uniform,
  }
  raw = (outputs.scaled_positive, outputs.scaled_hardest_negative)
  best = on_z
  if bias is not None:
    out |= at_threshold("bias", pairs, 0.0)
    out["bias"] = float(np.mean(bias, dtype=np.float64))
    if bias.ndim == 0:
      low, high = (float(x) + out["bias"] for x in (on_z.threshold_low, on_z.threshold_high))
      best = on_z._replace(
        threshold=on_z.threshold + out["bias"], threshold_low=low, threshold_high=high
      )
    else:
      best = metrics.uniform_accuracy_from_pairs(*raw, labels, num_classes=num_classes)
      out |= {
        "bias_min": float(bias.min()),
        "bias_max": float(bias.max()),
        "raw_sample_wise_accuracy": best.sample_wise,
        "raw_class_wise_accuracy": best.class_wise,
        "raw_uniform_accuracy": best.uniform,
        "threshold_on_decision": on_z.threshold,
      }
  out |= {
    "threshold": best.threshold,
    "threshold_low": best.threshold_low,
    "threshold_high": best.threshold_high,
  }
  if threshold is not None:
    out |= at_threshold("threshold", raw, threshold)
  kept = split_outputs(
    outputs, labels, bias, num_classes=num_classes, train_counts=train_counts
  )._replace(moments=moments, weights=weights)
  return out | measures.compute(kept)


def split_outputs(
  outputs: EvalOutputs,
  labels: np.ndarray,
  bias: np.ndarray | None,
  *,
  num_classes: int,
  train_counts: np.ndarray | None,
) -> SplitOutputs:
  """Returns a split's outputs as measures take them; its arguments are those of `summarize`."""
  return SplitOutputs(labels, num_classes, train_counts, bias, **outputs._asdict())


def at_threshold(name: str, pairs: tuple[np.ndarray, np.ndarray], threshold: float) -> Results:
  """Returns the accuracies at one threshold, each named after it."""
  at = metrics.accuracy_at_from_pairs(*pairs, threshold)
  return {
    f"uniform_accuracy_at_{name}": at.accepted_right,
    f"none_above_{name}": at.none_above,
    f"several_or_wrong_above_{name}": at.several_or_wrong,
  }


def at_validation_threshold(
  outputs: EvalOutputs, validation: EvalOutputs, labels: np.ndarray, n: int
) -> float:
  """Returns A_Uni of one split at the threshold that is best on another.

  Args:
    outputs: of the split that is evaluated.
    validation: of the split that the threshold is chosen on.
    labels: of the validation split.
    n: number of classes.

  Returns:
    The share of examples with exactly their own class above that threshold; nan where no threshold
    gets any validation example right.
  """
  best = metrics.uniform_accuracy_from_pairs(
    validation.positive, validation.hardest_negative, labels, num_classes=n
  )
  if math.isnan(best.threshold):
    return math.nan
  at = metrics.accuracy_at_from_pairs(outputs.positive, outputs.hardest_negative, best.threshold)
  return float(at.accepted_right)


def table(split: str, values: Results, *, unit: str = "images", rows: Sequence[Result] = ()) -> str:
  """Returns the results of a split as a table for people.

  Args:
    split: its name, for the first line.
    values: as of `summarize`; what is not among them is not shown.
    unit: what was evaluated, in the plural.
    rows: of results that an objective or metrics from outside bring.
  """
  shown = [row for row in results.known(values, rows) if row.group not in _OTHER_TABLES]
  return terminal.two_columns(f"{split}: {values['images']:,} {unit}", tables.lines(shown, values))
