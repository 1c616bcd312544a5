"""Rows of results that others bring, kept in results.json: a report then needs no module of theirs.

A method's rows are `RESULTS` of its module; a metric's from outside those of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bce_jax import objectives
from bce_jax.results import Curve, Result

KEY = "rows"  # in results.json


def of_objective(name: Any) -> Sequence[Result]:
  """Returns the rows of what a method logs; none where the method is not known here."""
  return getattr(objectives.module(name), "RESULTS", ()) if name in objectives.names() else ()


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
