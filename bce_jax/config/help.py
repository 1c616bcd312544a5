"""The keys of a config as text for people: bce-train --help-config."""

from typing import Any

from ml_collections import ConfigDict

from bce_jax import objectives, terminal
from bce_jax.config.key import UPDATES, Key
from bce_jax.config.table import GROUPS, flatten, method_name

_INDENT = "      "


def lines(config: ConfigDict, columns: int) -> list[str]:
  """Returns every key of a config: value, what it may be, what it changes, what it means.

  Args:
    config: whose values are shown.
    columns: of a line, at most.
  """
  flat = flatten(config)
  out = ["Keys of a config: --config.KEY=VALUE, or config.KEY = VALUE in a config file."]
  groups = [(group.title, group.keys) for group in GROUPS]
  for title, keys in [(f"Method {method_name(config)!r}", _method_keys(config)), *groups]:
    out += ["", *terminal.wrap(title, columns)]
    for key, row in keys.items():
      out += _lines(key, row, flat[key], columns)
  return out


def _method_keys(config: ConfigDict) -> dict[str, Key]:
  """The options of the config's method as rows of the table."""
  module = objectives.module(method_name(config))
  name = Key("joint", UPDATES, "the method, and its options", choices=objectives.names())
  rows = {"objective.name": name}
  for option, value in module.OPTIONS.items():
    meaning = getattr(module, "MEANINGS", {}).get(option, "")
    rows[f"objective.{option}"] = Key(value, UPDATES, meaning, range=module.RANGES.get(option))
  return rows


def _lines(key: str, row: Key, value: Any, columns: int) -> list[str]:
  default = "" if value == row.default else f", default {_shown(row.default)}"
  what = f"({row.expected()}{default}; changes: {row.changes})"
  head = f"  {key} = {_shown(value)}  {what}"
  meaning = terminal.wrap(f"{_INDENT}{row.meaning}", columns, indent=_INDENT)
  return [*terminal.wrap(head, columns, indent=_INDENT), *(meaning if row.meaning else [])]


def _shown(value: Any) -> str:
  """A value as it is written on the command line."""
  if value == "":
    return "''"
  return str(value).lower() if value is None or isinstance(value, bool) else str(value)
