"""The config of the run in a folder, and whether another may go on with it."""

import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax.runs import checkpoint, files, provenance, records


def finished(workdir: pathlib.Path) -> dict[str, Any] | None:
  """Returns the results of a run folder whose run has ended, else None.

  Raises:
    ValueError: when they are damaged.
  """
  path = workdir / files.RESULTS
  if not path.exists():
    return None
  results = records.read_json(path, "images", "uniform_accuracy", "threshold", "seconds")
  return {key: value for key, value in results.items() if key != "provenance"}


def begun(workdir: pathlib.Path) -> bool:
  """Whether a folder holds a run with results or a checkpoint; else it may be started anew."""
  kept = (workdir / files.RESULTS).exists() or checkpoint.any_in(workdir)
  return kept and (workdir / files.CONFIG).exists()


def may_change(workdir: pathlib.Path) -> tuple[str, ...]:
  """Returns the keys that may differ when a run goes on, or is asked for its results again.

  Raises:
    ValueError: when its results are damaged.
  """
  return config_lib.may_change(on="resume" if finished(workdir) is None else "finished")


def config_of(workdir: pathlib.Path) -> ConfigDict:
  """Returns the config of the run in a folder.

  That is config.json; of what was changed there by hand, see `edited`, only what an evaluation
  may change counts.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  config = written_config(workdir)
  before = _trained_config(workdir)
  if before is not None:
    keys = config_lib.may_change(on="evaluate")
    allowed = {key: value for key, value in _flat(config).items() if key in keys}
    config = before
    for key, value in allowed.items():
      config_lib.set_value(config, key, value)
  return config


def edited(workdir: pathlib.Path, *, believed: bool = False) -> str:
  """Returns how config.json was changed since the run has written it; empty where it was not.

  Args:
    workdir: the run folder.
    believed: whether `written_config` is used, not `config_of`.

  Raises:
    ValueError: when it is damaged.
  """
  trained = provenance.read(workdir).get("config")
  if trained is None:  # of an older version, which kept no other copy
    return ""
  # Of another version, perhaps, with keys that are not known here.
  before, now = (_with_defaults(x) for x in (trained, records.read_json(workdir / files.CONFIG)))
  changed = _changes(before, now, "is")
  if not changed:
    return ""
  own = _changes(before, now, "is", config_lib.may_change(on="evaluate"))
  end = "; what the run was trained by is used" if own else ""
  end = "; what it says now is used" if believed else end
  return f"{files.CONFIG} was changed after the run: {'; '.join(changed)} there{end}"


def trained_by(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the config that a run was trained by, even if config.json was edited since."""
  written = records.read_json(workdir / files.CONFIG)
  return provenance.read(workdir).get("config", written)


def written_config(workdir: pathlib.Path) -> ConfigDict:
  """Returns the config in config.json, edited or not.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  values = records.read_json(workdir / files.CONFIG)
  try:
    return config_lib.from_dict(values)
  except ValueError as error:
    raise ValueError(f"{workdir / files.CONFIG}: {error}") from None


def _trained_config(workdir: pathlib.Path) -> ConfigDict | None:
  """The config that a run wrote down besides config.json; None where there is none to be used."""
  values = provenance.read(workdir).get("config")
  try:
    return None if values is None else config_lib.from_dict(values)
  except (ValueError, TypeError, KeyError, AttributeError):
    return None


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
  try:
    return _flat(config_lib.from_dict(values))
  except (ValueError, TypeError, KeyError, AttributeError):
    return config_lib.flatten(values)


def _flat(config: ConfigDict) -> dict[str, Any]:
  return config_lib.flatten(config.to_dict())


def _changes(
  before: Mapping[str, Any], now: Mapping[str, Any], verb: str, except_keys: Collection[str] = ()
) -> list[str]:
  """The keys whose values differ, with both, in words."""
  return [
    f"{key} was {before.get(key)!r} and {verb} {now.get(key)!r}"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key) and key not in except_keys
  ]


def refuse_other_config(
  workdir: pathlib.Path, config: ConfigDict, *, except_keys: Collection[str] = ()
) -> None:
  """Refuses to use a run folder under another config than its run was started with.

  A folder in which nothing was kept yet may be started anew.

  Args:
    workdir: the run folder.
    config: to be used.
    except_keys: that may differ.

  Raises:
    ValueError: naming the keys that differ.
  """
  if not begun(workdir):
    return
  finished(workdir)  # damaged results are reported first
  before = _flat(_trained_config(workdir) or written_config(workdir))
  now = _flat(config_lib.with_absolute_paths(config))
  for key in config_lib.PATHS:
    if key in before and config_lib.same_path(before[key], now[key]):
      before[key] = now[key]
  changed = _changes(before, now, "is", except_keys)
  if changed:
    raise ValueError(
      f"{workdir} holds a run with another config: {'; '.join(changed)}."
      f" Take another --workdir, or the same config{_how_to_train_on(workdir, before, now)}"
    )


def _how_to_train_on(workdir: pathlib.Path, before: dict[str, Any], now: dict[str, Any]) -> str:
  """What to do where the run was to be made longer; empty where it was not."""
  longer = [key for key in ("epochs", "steps") if before.get(key) != now[key]]
  if not longer or not (now["steps"] or now["epochs"] > before.get("epochs", 0)):
    return ""
  return (
    f". To train on from its network: --config.start_from={workdir} --workdir NEW_FOLDER, where"
    f" {now['steps'] or now['epochs']:g} {'steps' if now['steps'] else 'epochs'} more are trained"
    " with a learning-rate schedule of their own"
  )


def find_paths(workdir: pathlib.Path, config: ConfigDict) -> list[str]:
  """Makes a config's paths absolute; one that is not here is taken from the run, where it is.

  A run may be gone on with from another folder than it was started in.

  Returns:
    What was taken from the run, a line each.

  Raises:
    ValueError: when the run's config is damaged.
  """
  said = []
  here = _flat(config_lib.with_absolute_paths(config))
  before = {}
  if begun(workdir):
    before = _flat(_trained_config(workdir) or written_config(workdir))
  for key in config_lib.PATHS:
    typed, was = _flat(config)[key], before.get(key) or ""
    if not typed:
      continue
    config_lib.set_value(config, key, here[key])
    elsewhere = not os.path.isabs(typed) and os.path.isabs(was) and config_lib.same_path(typed, was)
    if elsewhere and not os.path.exists(here[key]) and os.path.exists(was):
      config_lib.set_value(config, key, was)
      said.append(f"config.{key} {typed!r} is not in {os.getcwd()}: {was} is used, as before")
  return said
