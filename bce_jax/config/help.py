"""The keys of a config as text for people: bce-train --help-config."""

from typing import Any

from ml_collections import ConfigDict

from bce_jax import objectives, terminal
from bce_jax.config import doors
from bce_jax.config.key import UPDATES, Key
from bce_jax.config.table import GROUPS, KEYS, flatten

_INDENT = "      "
_INTRODUCTION = (
  "Keys of a config: --config.KEY=VALUE, or config.KEY = VALUE in a config file (none is None"
  " there). Each with its value, what it may be, and what it changes: when a run goes on, keys that"
  " change evaluation, records, where files lie, or nothing, may have other values."
)


def lines(config: ConfigDict, columns: int) -> list[str]:
  """Returns every key of a config: value, what it may be, what it changes, what it means.

  Args:
    config: whose values are shown.
    columns: of a line, at most.
  """
  doors.complete(config)
  flat = flatten(config)
  out = terminal.wrap(_INTRODUCTION, columns)
  groups = [(group.title, group.keys) for group in GROUPS]
  method, *options = _of_names(config)
  for title, keys in [method, *groups, *options]:
    out += ["", *terminal.wrap(title, columns)]
    for key, row in keys.items():
      out += _lines(key, row, flat[key], columns)
  return out


def _of_names(config: ConfigDict) -> list[tuple[str, dict[str, Key]]]:
  """The options of what the config names, as rows of the table; of the method with its name."""
  out = []
  for door in doors.DOORS:
    plugin = door.find(str(doors.name_at(config, door)))
    rows = {}
    if door.key == "objective.name":
      meaning = (
        "the method: joint (the loss alone), tripartite (BCE3S), balanced (its second stage)"
      )
      rows[door.key] = Key("joint", UPDATES, meaning, choices=objectives.names(), outside=True)
    for option, value in plugin.OPTIONS.items():
      meaning, bounds = plugin.MEANINGS.get(option, ""), plugin.RANGES.get(option)
      changes = KEYS[door.key].changes if door.key in KEYS else UPDATES
      rows[f"{door.options}.{option}"] = Key(value, changes, meaning, range=bounds)
    if rows:
      what = "Method" if door.key == "objective.name" else f"Options of config.{door.key}"
      out.append((f"{what} {plugin.name!r}", rows))
  return out


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
