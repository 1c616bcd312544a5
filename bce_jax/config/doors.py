"""The keys of a config that take a name, of ours or of code from outside, and their options."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bce_jax import extensions, models, objectives, optim
from bce_jax.config.names import listed
from bce_jax.data import preprocess, sources
from bce_jax.extensions import Plugin
from bce_jax.objectives import families


class Door(NamedTuple):
  """A key that takes a name, and the group of keys that holds the options of what it names.

  Attributes:
    key: of the config.
    options: the group that the options of what it names are in.
    find: returns what a name stands for.
  """

  key: str
  options: str
  find: Callable[[str], Plugin]


DOORS = (
  Door("objective.name", "objective", objectives.module),
  Door("loss", "loss_options", families.module),
  Door("model", "model_options", models.module),
  Door("data.name", "data_options", sources.module),
  Door("data.augmentation", "augmentation_options", preprocess.augmentation),
  Door("optimizer.name", "optimizer_options", optim.optimizer),
  Door("optimizer.schedule", "schedule_options", optim.schedule),
)
BY_KEY = {door.key: door for door in DOORS}
_OWN_GROUP = "objective.name"  # which is in one group with its options


def name_at(config: Mapping[str, Any], door: Door) -> Any:
  """Returns the name that a config, or a config.json, has at a door; None where it has none."""
  group, _, key = door.key.rpartition(".")
  found = config.get(group, {}) if group else config
  return found.get(key) if hasattr(found, "get") else None


def set_name(config: ConfigDict, key: str, name: str) -> None:
  """Sets the name at a door; the options of another one start at their defaults.

  Args:
    config: to be changed.
    key: of a door.
    name: of ours, or "package.module:object".

  Raises:
    ValueError: one line: for an unknown name, with the nearest; for a module that is missing.
  """
  door = BY_KEY[key]
  options = door.find(name).OPTIONS
  if key == _OWN_GROUP:
    if name_at(config, door) != name:
      config[door.options] = ConfigDict({"name": name, **options})
    return
  if name_at(config, door) != name or door.options not in config:
    config[door.options] = ConfigDict(dict(options))
  group, _, last = key.rpartition(".")
  (config[group] if group else config)[last] = name


def complete(config: ConfigDict) -> None:
  """Fills in the defaults of options that a config lacks, for all that it names.

  Raises:
    ValueError: as `set_name`.
  """
  values = dict(config.items())  # also of a config that is watched for what is read
  for door in DOORS:
    name = name_at(values, door)
    if not isinstance(name, str):
      continue
    group = values.get(door.options)
    if group is None:
      config[door.options] = group = ConfigDict()
    for option, default in door.find(name).OPTIONS.items():
      if option not in group:
        group[option] = default


def plugins(config: Mapping[str, Any]) -> dict[str, Plugin]:
  """Returns {key of a door: the plugin that the config names there}."""
  return {door.key: door.find(str(name_at(config, door))) for door in DOORS}


def from_outside(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns {key of a door: what a run records of it} for all code from outside."""
  out = {
    key: extensions.describe(plugin.name)
    for key, plugin in plugins(config).items()
    if plugin.outside
  }
  return out | {
    f"{key} {name}": extensions.describe(name)
    for key in ("metrics", "writers")
    for name in listed(config, key)
  }
