"""Calls the metrics from outside, config.metrics, with what is kept of a split."""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bce_jax import extensions, results
from bce_jax.config.metrics import OwnMetric
from bce_jax.evaluation.split_outputs import SplitOutputs


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
    given = _read_only(split)
    given = given._replace(
      features=given.features if "features" in metric.needs else None,
      scores=given.scores if "scores" in metric.needs else None,
    )
    returned = extensions.calling(metric.said, metric.compute, given)
    found = returned if isinstance(returned, Mapping) else {metric.key: returned}
    for key, value in found.items():
      if not isinstance(key, str) or results.is_ours(key) or key in out:
        why = "expected text" if not isinstance(key, str) else "there is such a result already"
        raise ValueError(f"{metric.said} returned a result called {key!r}: {why}")
      out[key] = _number(metric.said, key, value)
  return out


def _read_only(split: SplitOutputs) -> SplitOutputs:
  """The same arrays, which nobody can change in place: others are measured by them too."""

  def view(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
      return x
    seen = x.view()
    seen.flags.writeable = False
    return seen

  return jax.tree.map(view, split)


def _number(said: str, key: str, value: Any) -> float:
  array = np.asarray(value)
  if array.shape or not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
    raise ValueError(f"{said} returned {value!r} for {key!r}: expected a number")
  return int(array) if isinstance(value, numbers.Integral) else float(array)
