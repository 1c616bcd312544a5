"""Metrics from outside that a config names: config.metrics = "package.module:function, …".

Each is a function of what evaluation keeps of a split (`bce_jax.evaluation.split_outputs`), or a
module with such a function, `compute`. It returns a number, which is called by the function's (or
the module's) name, or a dict of numbers. Beside it the module may have:

  RESULTS   rows (`bce_jax.results.Result`) that say how its results are called and where they are
            shown; one without a row is shown everywhere, by its key
  NEEDS     ("features",), ("scores",) or both, which are kept for it only
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bce_jax import extensions, results
from bce_jax.config.names import listed, refuse_repeated
from bce_jax.names import nearest
from bce_jax.results import Result

KEPT = ("features", "scores")


class OwnMetric(NamedTuple):
  """A metric from outside: its function, and the rows of the results that it returns.

  Attributes:
    name: as in the config.
    key: of its result, where it returns one number.
    compute: see `bce_jax.evaluation.split_outputs.SplitOutputs`.
    rows: of its results.
    needs: which of `KEPT` it needs.
  """

  name: str
  key: str
  compute: Callable[[Any], Any]
  rows: tuple[Result, ...]
  needs: tuple[str, ...]

  @property
  def said(self) -> str:
    """The metric as messages name it."""
    return f"config.metrics {self.name!r}"


def find(config: ConfigDict) -> list[OwnMetric]:
  """Imports the metrics that a config names.

  Raises:
    ValueError: one line: a missing module or function; rows or needs that are none.
  """
  return [_find(name) for name in listed(config, "metrics")]


def check(config: ConfigDict) -> None:
  """Refuses metrics that can't be imported, or are named twice."""
  find(config)
  refuse_repeated(config, "metrics")


def check_best(config: ConfigDict) -> None:
  """Refuses to choose the best checkpoint by what is no result of an evaluation; likewise."""
  best, found = config.best_metric, find(config)
  choices = _selecting(found)
  if best in choices:
    return
  named = next((one.name for one in found if best in (one.key, *(x.key for x in one.rows))), None)
  if named is not None:
    raise ValueError(
      f"config.best_metric {best!r} is of config.metrics {named!r}, which does not say which way is"
      f" better: expected Result({best!r}, …, better='up') or 'down' in RESULTS of its module"
    )
  raise ValueError(
    f"unknown config.best_metric {best!r}; did you mean {nearest(best, choices)!r}? expected one of"
    f" {', '.join(choices)}, or a result of config.metrics"
  )


def better(config: ConfigDict) -> str:
  """Returns which way of config.best_metric is better, "up" or "down"."""
  return _selecting(find(config)).get(config.best_metric, "up")


def _selecting(found: Sequence[OwnMetric]) -> dict[str, str]:
  """Returns {what may choose the best checkpoint: which way is better}."""
  own = {row.key: row.better for metric in found for row in metric.rows if row.better}
  return dict.fromkeys(results.BEST_METRICS, "up") | own


def _find(name: str) -> OwnMetric:
  said = f"config.metrics {name!r}"
  module, target = extensions.load_function(said, name, "compute")
  rows, needs = getattr(module, "RESULTS", ()), getattr(module, "NEEDS", ())
  needs = (needs,) if isinstance(needs, str) else tuple(needs)
  for row in rows:
    if not isinstance(row, Result):
      raise ValueError(f"{said}: RESULTS holds {row!r}: expected bce_jax.results.Result")
    if results.is_ours(row.key):
      raise ValueError(f"{said}: RESULTS holds {row.key!r}, which is a result of bce_jax")
  for need in needs:
    if need not in KEPT:
      near = nearest(str(need), KEPT)
      raise ValueError(f"{said}: NEEDS holds {need!r}; did you mean {near!r}?")
  key = name.replace(":", ".").rpartition(".")[2]
  return OwnMetric(name, key, target, tuple(rows), needs)


def rows(config: ConfigDict, values: Mapping[str, Any]) -> list[Result]:
  """Returns the rows of a config's own metrics; what has none is shown everywhere, by its key.

  Args:
    config: checked.
    values: results by key.
  """
  found = find(config)
  declared = [row for metric in found for row in metric.rows]
  known = {row.key for row in declared}
  others = [key for key in values if found and key not in known and not results.is_ours(key)]
  return [*declared, *(_everywhere(key) for key in others if _is_number(values[key]))]


def _everywhere(key: str) -> Result:
  return Result(key, key, line=True, tile=True, column=True, curve=True)


def _is_number(value: Any) -> bool:
  return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
