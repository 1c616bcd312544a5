"""What a run folder says of the run in it, and when it may be used again."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax import objectives
from bce_jax.training import checkpoint, data_files, provenance, records
from bce_jax.training.experiment import Experiment
from bce_jax.training.figures import Figures

LOCK = "lock"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a run folder; the lock ends with the process, however it ends.

  Raises:
    ValueError: when a run is using it, saying which.
  """
  path = workdir / LOCK
  with contextlib.ExitStack() as stack:
    while True:
      file = stack.enter_context(open(path, "a+"))
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        raise ValueError(
          f"{workdir} is in use by {file.read().strip() or 'another run'}: wait for its end, or"
          " take another --workdir"
        ) from None
      except OSError as error:
        raise ValueError(
          f"{workdir} can't be locked against a second run ({error.strerror}): expected a file"
          " system with locks"
        ) from None
      if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
        break  # else it was removed by a run that ended in between: another may lock a new one
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    try:
      yield
    finally:
      path.unlink(missing_ok=True)


def finished(workdir: pathlib.Path) -> Figures | None:
  """Returns the results of a run folder whose run has ended, else None.

  Raises:
    ValueError: when they are damaged.
  """
  path = workdir / records.RESULTS
  if not path.exists():
    return None
  results = records.read_json(path, "images", "uniform_accuracy", "threshold", "seconds")
  return {key: value for key, value in results.items() if key != "provenance"}


def begun(workdir: pathlib.Path) -> bool:
  """Whether a folder holds a run of which something was kept; else it may be started anew."""
  kept = (workdir / records.RESULTS).exists() or checkpoint.any_in(workdir)
  return kept and (workdir / records.CONFIG).exists()


def may_change(workdir: pathlib.Path) -> tuple[str, ...]:
  """The keys that may differ when the run of a folder goes on, or is asked for its results again.

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
  """Says how config.json was changed since the run wrote it; empty where it was not.

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
  before, now = (_with_defaults(x) for x in (trained, records.read_json(workdir / records.CONFIG)))
  changed = _changes(before, now, "is")
  if not changed:
    return ""
  own = _changes(before, now, "is", config_lib.may_change(on="evaluate"))
  end = "; what the run was trained by is used" if own else ""
  end = "; what it says now is used" if believed else end
  return f"{records.CONFIG} was changed after the run: {'; '.join(changed)} there{end}"


def trained_by(workdir: pathlib.Path) -> dict[str, Any]:
  """The config that a run wrote down besides config.json; that one where there is no other."""
  written = records.read_json(workdir / records.CONFIG)
  return provenance.read(workdir).get("config", written)


def written_config(workdir: pathlib.Path) -> ConfigDict:
  """Returns what config.json says, whoever has written it.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  return config_lib.from_dict(records.read_json(workdir / records.CONFIG))


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
  finished(workdir)  # damaged results are told of first
  before = _flat(_trained_config(workdir) or written_config(workdir))
  now = _flat(config_lib.with_absolute_paths(config))
  for key in config_lib.PATHS:
    if key in before and config_lib.same_path(before[key], now[key]):
      before[key] = now[key]
  changed = _changes(before, now, "is", except_keys)
  if changed:
    raise ValueError(
      f"{workdir} holds a run with another config: {'; '.join(changed)}."
      " Take another --workdir, or the same config"
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


def describe_dataset(experiment: Experiment) -> dict[str, Any]:
  """Returns what a run needs to be sure that it meets the same data again: dataset.json."""
  train = experiment.dataset.train
  return {
    "class_names": list(experiment.dataset.class_names),
    "image_shape": [int(n) for n in train.image_shape],
    "train_images": len(train),
    "train_counts": [int(n) for n in experiment.train_counts],
    "mean": [float(x) for x in experiment.preprocess.mean],
    "std": [float(x) for x in experiment.preprocess.std],
  }


def refuse_other_dataset(
  workdir: pathlib.Path, experiment: Experiment, files: data_files.DataFiles
) -> None:
  """Refuses to go on with a run on other data than it was started with.

  Raises:
    ValueError: naming the first file that differs, or what else does.
  """
  path = workdir / records.DATASET
  if not path.exists() or not checkpoint.any_in(workdir):
    return
  before, now = records.read_json(path), describe_dataset(experiment)
  if isinstance(before.get("files"), dict):  # else it is of an older version
    names = (before.get("class_names") or (), now["class_names"])
    most = experiment.config.data.skip_damaged
    differs = data_files.difference(workdir, before["files"], files, names, damaged=most)
    if differs:
      raise ValueError(f"{workdir} holds a run on other data: {differs}")
  changed = [key for key in now if before.get(key) != now[key]]
  if changed:
    raise ValueError(f"{workdir} holds a run on other data: {', '.join(changed)} differ")


def with_statistics_of(workdir: pathlib.Path, experiment: Experiment) -> Experiment:
  """Returns the experiment with what a run knows of its training images.

  Mean and std of the channels, and images of each class: a folder of other images, to be
  judged by what was trained, has others.

  Raises:
    ValueError: when the classes or the size of the images are not the run's.
  """
  path = workdir / records.DATASET
  before, now = records.read_json(path, "mean", "std"), describe_dataset(experiment)
  for key in ("class_names", "image_shape"):
    if before.get(key) != now[key]:
      was, now_is = str(before.get(key)), str(now[key])
      raise ValueError(f"{workdir} was trained with {key} {was[:80]}, got {now_is[:80]}")
  mean, std = (np.asarray(before[key], np.float32) for key in ("mean", "std"))
  return experiment._replace(
    preprocess=experiment.preprocess._replace(mean=mean, std=std),
    train_counts=np.asarray(before.get("train_counts", now["train_counts"])),
  )


def refuse_other_network(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Refuses to start from the run in a folder with a network that is not its own.

  Raises:
    ValueError: when there is no run, or naming what differs.
  """
  source = config_of(workdir)
  before, now = _network(source), _network(config)
  changed = [
    f"{key} is {before[key]!r} there and {now[key]!r} here"
    for key in now
    if before[key] != now[key]
  ]
  if changed:
    raise ValueError(f"config.start_from {workdir} has another network: {'; '.join(changed)}")
  here, there = config.data.validation_fraction, source.data.validation_fraction
  if here and here != there:
    raise ValueError(
      f"config.data.validation_fraction is {here}, but config.start_from {workdir} was trained with"
      f" {there}, so on images that would be held out here: expected {there} or 0"
    )


def _network(config: ConfigDict) -> dict[str, Any]:
  """What the network of a run is made of."""
  normalized = objectives.parse(config.loss).normalized
  return {
    **{key: config[key] for key in ("model", "stem", "embedding", "loss", "zero_init_last_norm")},
    "normalize_weights": normalized or bool(config.normalize_weights),
    "scale": config.scale if normalized else 1.0,
  }
