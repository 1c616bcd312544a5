"""What no run could use is refused before anything is read or written."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bce_jax import objectives
from bce_jax.config import metrics
from bce_jax.config.key import Range
from bce_jax.config.keys import data, loss, network, verification
from bce_jax.config.table import KEYS, default, flatten, method_name, refuse_unknown_keys
from bce_jax.names import nearest

# Rules between keys, each beside its group.
_BEFORE_THE_METHOD = (data.check_imbalance, network.check, loss.check)
_AFTER_THE_METHOD = (verification.check, data.check, metrics.check)


def check(config: ConfigDict) -> None:
  """Refuses a config that no run could use; what depends on the data is checked with them.

  Args:
    config: as `default()` makes it, with values changed.

  Raises:
    ValueError: one line: which key, its value, what was expected.
  """
  flat = flatten(config)
  method = objectives.module(method_name(config))
  _check_completeness(config, flat)
  _check_choices(flat)
  _check_numbers(flat, method.RANGES)
  for rule in _BEFORE_THE_METHOD:
    rule(config)
  method.check(config)
  for rule in _AFTER_THE_METHOD:
    rule(config)


def _check_completeness(config: ConfigDict, flat: Mapping[str, Any]) -> None:
  refuse_unknown_keys(flat, config)
  defaults = flatten(default(method_name(config)))
  missing = set(defaults) - set(flat)
  if missing:
    raise ValueError(f"config lacks the key {min(missing)!r}")
  for key, usual in defaults.items():
    if flat[key] is None and usual is not None:
      raise ValueError(f"config.{key} is none: expected a value like {usual!r}")


def _check_choices(flat: Mapping[str, Any]) -> None:
  for key, row in KEYS.items():
    if row.choices is not None and flat[key] not in row.choices:
      near = nearest(flat[key], row.choices)
      listed = ", ".join(map(str, row.choices))
      raise ValueError(
        f"unknown config.{key} {flat[key]!r}; did you mean {near!r}? expected one of {listed}"
      )


def _check_numbers(flat: Mapping[str, Any], of_method: Mapping[str, Range]) -> None:
  for key, row in KEYS.items():
    if row.least is not None and flat[key] is not None and flat[key] < row.least:
      raise ValueError(
        f"config.{key} must be a whole number of at least {row.least}, got {flat[key]}"
      )
  ranges = {key: row.range for key, row in KEYS.items() if row.range is not None}
  for key, bounds in {**ranges, **{f"objective.{k}": r for k, r in of_method.items()}}.items():
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
