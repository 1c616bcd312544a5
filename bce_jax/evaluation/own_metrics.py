"""What a metric from outside is given of a split, and how it is called; see `config.metrics`."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bce_jax import extensions, results
from bce_jax.config.metrics import OwnMetric


class SplitOutputs(NamedTuple):
  """What evaluation keeps of each of the n images of a split, as numpy arrays.

  Attributes:
    labels: class ids.
    num_classes: N.
    train_counts: training images of each class.
    bias: the head's, one number or one per class.
    positive: score of the own class, on z = scale · c − bias.
    hardest_negative: largest score of another class, on z.
    scaled_positive: the same on scale · c.
    scaled_hardest_negative: likewise.
    features: what the head is given; None without NEEDS = ("features",).
    scores: scale · c of every class; None without NEEDS = ("scores",).
  """

  labels: Int[np.ndarray, "n"]
  num_classes: int
  train_counts: Int[np.ndarray, "N"]
  bias: Float[np.ndarray, "..."]
  positive: Float[np.ndarray, "n"]
  hardest_negative: Float[np.ndarray, "n"]
  scaled_positive: Float[np.ndarray, "n"]
  scaled_hardest_negative: Float[np.ndarray, "n"]
  features: Float[np.ndarray, "n D"] | None = None
  scores: Float[np.ndarray, "n N"] | None = None


def measure(metrics: Sequence[OwnMetric], split: SplitOutputs) -> dict[str, float]:
  """Returns the results of metrics from outside, by key.

  Args:
    metrics: as a config names them.
    split: what they are given.

  Raises:
    ValueError: one line, for an error in one of them, or for what is no number.
  """
  out: dict[str, float] = {}
  for metric in metrics:
    given = split._replace(
      features=split.features if "features" in metric.needs else None,
      scores=split.scores if "scores" in metric.needs else None,
    )
    returned = extensions.calling(metric.said, metric.compute, given)
    found = returned if isinstance(returned, Mapping) else {metric.key: returned}
    for key, value in found.items():
      if not isinstance(key, str) or results.is_ours(key) or key in out:
        why = "expected text" if not isinstance(key, str) else "there is such a result already"
        raise ValueError(f"{metric.said} returned a result called {key!r}: {why}")
      out[key] = _number(metric.said, key, value)
  return out


def _number(said: str, key: str, value: Any) -> float:
  array = np.asarray(value)
  if array.shape or not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
    raise ValueError(f"{said} returned {value!r} for {key!r}: expected a number")
  return int(array) if isinstance(value, numbers.Integral) else float(array)
