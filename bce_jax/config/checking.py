"""Checks of a config that need no data: what no run could use is refused."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bce_jax.config import doors, metrics, writers
from bce_jax.config.key import Range
from bce_jax.config.keys import data, loss, network, optimizer, verification
from bce_jax.config.table import KEYS, flatten, like, refuse_unknown_keys
from bce_jax.names import nearest

# Rules between keys, each beside its group.
_RULES = (data.check, network.check, loss.check, optimizer.check)


def check(config: ConfigDict, *, evaluate_only: bool = False) -> None:
  """Refuses a config that no run could use; what depends on the data is checked with them.

  Args:
    config: as `default()` makes it, with values changed. Options that it lacks of what it names
      are set to their defaults.
    evaluate_only: nothing will be trained: metrics may be other ones.

  Raises:
    ValueError: one line: which key, its value, what was expected.
  """
  doors.complete(config)
  flat = flatten(config)
  _check_completeness(config, flat)
  _check_choices(flat)
  named = doors.plugins(config)
  groups = {door.options: named[door.key].RANGES for door in doors.DOORS}
  options = {f"{group}.{key}": r for group, ranges in groups.items() for key, r in ranges.items()}
  _check_numbers(flat, options)
  for rule in _RULES:
    rule(config)
  for key, plugin in named.items():
    if key != "data.name":
      plugin.check(config)
  verification.check(config)
  metrics.check(config)
  if not evaluate_only:
    metrics.check_best(config)
  writers.check(config)
  named["data.name"].check(config)


def _check_completeness(config: ConfigDict, flat: Mapping[str, Any]) -> None:
  refuse_unknown_keys(flat, config)
  defaults = flatten(like(config))
  missing = set(defaults) - set(flat)
  if missing:
    raise ValueError(f"config lacks the key {min(missing)!r}")
  for key, usual in defaults.items():
    if flat[key] is None and usual is not None:
      raise ValueError(f"config.{key} is none: expected a value like {usual!r}")


def _check_choices(flat: Mapping[str, Any]) -> None:
  for key, row in KEYS.items():
    if row.choices is None or row.outside:  # such a name is looked for elsewhere
      continue
    if flat[key] not in row.choices:
      near = nearest(flat[key], row.choices)
      listed = ", ".join(map(str, row.choices))
      raise ValueError(
        f"unknown config.{key} {flat[key]!r}; did you mean {near!r}? expected one of {listed}"
      )


def _check_numbers(flat: Mapping[str, Any], options: Mapping[str, Range]) -> None:
  for key, row in KEYS.items():
    if row.least is not None and flat[key] is not None and flat[key] < row.least:
      raise ValueError(
        f"config.{key} must be a whole number of at least {row.least}, got {flat[key]}"
      )
  ranges = {key: row.range for key, row in KEYS.items() if row.range is not None}
  for key, bounds in {**ranges, **options}.items():
    _check_range(key, flat[key], bounds)
  for key, row in KEYS.items():
    if row.below is not None and flat[key] is not None and flat[key] >= row.below:
      raise ValueError(f"config.{key} must be less than {row.below:g}, got {flat[key]}")


def _check_range(key: str, value: float | None, bounds: Range) -> None:
  low, closed, high = bounds
  if value is None:
    return
  if not (low <= value <= high) or not math.isfinite(value) or (value == low and not closed):
    raise ValueError(
      f"config.{key} must be a finite number {'≥' if closed else '>'} {low}"
      f"{f' and ≤ {high}' if math.isfinite(high) else ''}, got {value}"
    )
