"""Rows of results from outside, kept in results.json so that a report needs no code from there.

A method's rows are `RESULTS` of its module; a metric's from outside those of its own.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from bce_jax import extensions, objectives
from bce_jax.config import metrics
from bce_jax.results import Curve, Result

_KEY = "rows"  # in the provenance of results.json


def of_objective(name: Any) -> Sequence[Result]:
  """Returns the rows of what one of our methods logs; none for another one."""
  if name not in objectives.names():
    return ()
  return getattr(importlib.import_module(f"bce_jax.objectives.{name}"), "RESULTS", ())


def from_outside(config: ConfigDict, values: Mapping[str, Any]) -> list[Result]:
  """Returns the rows that come from outside: of a config's own metrics and of its own method.

  Args:
    config: checked.
    values: results by key.
  """
  rows = metrics.rows(config, values)
  name = config.objective.name
  if name not in objectives.names():
    module, _ = extensions.load(f"config.objective.name {name!r}", name)
    rows += getattr(module, "RESULTS", ())
  return rows


def to_keep(config: ConfigDict, values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what results.json keeps of rows from outside; nothing where there are none."""
  rows = from_outside(config, values)
  return {_KEY: to_json(rows)} if rows else {}


def kept(values: Mapping[str, Any]) -> list[Result]:
  """Returns the rows that results.json keeps.

  Args:
    values: all of results.json.
  """
  whence = values.get("provenance")
  rows = whence.get(_KEY, ()) if isinstance(whence, Mapping) else ()
  return from_json(row for row in rows if isinstance(row, Mapping) and "key" in row)


def to_json(rows: Iterable[Result]) -> list[dict[str, Any]]:
  """Returns rows as results.json keeps those from outside, so that a report needs no module."""
  usual = Result._field_defaults
  return [
    {name: value for name, value in one._asdict().items() if usual.get(name, ()) != value}
    for one in rows
  ]


def from_json(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
  """Returns the rows that `to_json` made; what a newer version adds to them is left out."""
  found = []
  for values in rows:
    fields: dict[str, Any] = {name: values[name] for name in Result._fields if name in values}
    if isinstance(fields.get("curve"), list):
      fields["curve"] = Curve(*fields["curve"])
    found.append(Result(**fields)._replace(suffixes=tuple(values.get("suffixes", ()))))
  return found
