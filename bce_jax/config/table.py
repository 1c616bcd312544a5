"""All keys of a config in one table; the defaults, and what may change, follow from it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from bce_jax import objectives
from bce_jax.config import doors
from bce_jax.config.key import Group, Key
from bce_jax.config.keys import data, evaluation, loss, network, optimizer, training, verification
from bce_jax.keys import nearest_key

GROUPS: tuple[Group, ...] = (
  loss.GROUP,
  loss.REBALANCE,
  network.GROUP,
  training.GROUP,
  optimizer.GROUP,
  data.GROUP,
  verification.GROUP,
  evaluation.GROUP,
)
# Those of the chosen method, the group `objective`, stand in its module.
KEYS: dict[str, Key] = {key: row for group in GROUPS for key, row in group.keys.items()}

# Relative ones start from the folder that bce-train is called in; config.json has them absolute.
PATHS = tuple(key for key, row in KEYS.items() if row.path)


def may_change(*, on: str) -> tuple[str, ...]:
  """Returns the keys that may differ from the config that a run was started with.

  Args:
    on: "resume", training goes on; "finished", it has ended; "evaluate", a checkpoint of the run
      is evaluated; "comparison", runs are compared as with the same settings.

  >>> "log_every_steps" in may_change(on="resume"), "seed" in may_change(on="resume")
  (True, False)
  """
  return tuple(key for key, row in KEYS.items() if row.may_change(on))


def default(objective: str = "joint") -> ConfigDict:
  """Returns a config with every key there is, at its default.

  Args:
    objective: name of the method, whose own options are the group `objective`.

  Raises:
    ValueError: for an unknown method.

  >>> default().loss
  'bce-nu'
  """
  config = ConfigDict()
  doors.set_name(config, "objective.name", objective)
  for key, row in KEYS.items():
    group, _, _ = key.rpartition(".")
    if group and group not in config:
      config[group] = ConfigDict()
    none = row.default is None and row.kind is not None
    set_value(config, key, config_dict.placeholder(row.kind) if none else row.default)
  doors.complete(config)
  return config


def like(config: Mapping[str, Any]) -> ConfigDict:
  """Returns the default config for the model, data, loss, … that another config names.

  Raises:
    ValueError: for an unknown name; for a module from outside that is missing.
  """
  out = default(method_name(config))
  for door in doors.DOORS:
    name = doors.name_at(config, door)
    if isinstance(name, str):
      doors.set_name(out, door.key, name)
  return out


def method_name(config: Mapping[str, Any]) -> str:
  """Returns the name of a config's method, also of a damaged or an older config."""
  group = config.get("objective", {})
  return str(group.get("name", "joint")) if hasattr(group, "get") else str(group)


def set_objective(config: ConfigDict, name: str) -> None:
  """Changes a config's method; the options of another one start at their defaults.

  Raises:
    ValueError: for an unknown method.
  """
  doors.set_name(config, "objective.name", name)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"group.key": value} of a nested config."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, (ConfigDict, Mapping)):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """Returns a config with the values of a config.json.

  A key that it lacks, of an older version, is at its default.

  Raises:
    ValueError: for an unknown key or method, or a value of another type.
  """
  config = like(values)
  refuse_unknown_keys(flatten(values), config)
  for key, value in flatten(values).items():
    try:
      set_value(config, key, value)
    except TypeError:
      raise ValueError(f"config key {key!r} can't be {value!r}") from None
  return config


def set_value(config: ConfigDict, key: str, value: Any) -> None:
  """Sets config.key, where key may be "group.key"."""
  group, _, name = key.rpartition(".")
  (config[group] if group else config)[name] = value


def refuse_unknown_keys(keys: Iterable[str], config: ConfigDict) -> None:
  """Raises ValueError for the first key that does not exist beside the names in this config."""
  known = flatten(like(config))
  for key in keys:
    if key not in known:
      raise ValueError(f"unknown config key {key!r}; {_hint(key, known, config)}")


def _hint(key: str, known: Iterable[str], config: ConfigDict) -> str:
  """What an unknown key may be: an option of another method, or the nearest of this one's keys."""
  group, _, option = key.partition(".")
  if group == "objective":
    own = method_name(config)
    others = [name for name in objectives.names() if option in objectives.module(name).OPTIONS]
    if others:
      return f"it is an option of config.objective.name {' and '.join(others)}, not of {own!r}"
  door = next((door for door in doors.DOORS if door.options == group), None)
  if door is not None and not any(other.startswith(f"{group}.") for other in known):
    return f"config.{door.key} {doors.name_at(config, door)!r} has no options"
  return f"did you mean {nearest_key(key, known)!r}?"
