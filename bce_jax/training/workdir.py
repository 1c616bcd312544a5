"""What a run folder says of the run in it, and when it may be used again."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bce_jax import objectives
from bce_jax.training import checkpoint, records
from bce_jax.training import config as config_lib
from bce_jax.training.experiment import Experiment
from bce_jax.training.figures import Figures

# What may differ when a checkpoint is judged: none of it changes the network.
JUDGING_KEYS = (
  "report",
  "class_devices",
  "eval_batch_size",
  "eval_flip",
  "eval_geometry",
  "eval_logit_adjustment",
  "data.folder",
  "data.workers",
  "data.in_memory",
  "data.layout",
  "data.full_scale",
  "data.skip_damaged",
  "verification.folder",
  "verification.pairs",
  "verification.flip",
)

# What may differ when a run goes on: where its data lie, and who reads and computes how much at
# once. That the images are the same is told by dataset.json.
RESUMING_KEYS = (
  "report",
  "class_devices",
  "eval_batch_size",
  "data.folder",
  "data.workers",
  "data.in_memory",
  "data.skip_damaged",
  "verification.folder",
  "verification.pairs",
)

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
  keys = ("images", "uniform_accuracy", "threshold", "seconds")
  return records.read_json(path, *keys) if path.exists() else None


def config_of(workdir: pathlib.Path) -> ConfigDict:
  """Returns the config of the run in a folder.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  return config_lib.from_dict(records.read_json(workdir / records.CONFIG))


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
  path = workdir / records.CONFIG
  if not path.exists() or not (finished(workdir) or checkpoint.any_in(workdir)):
    return
  before = config_lib.flatten(config_of(workdir))
  now = config_lib.flatten(config.to_dict())
  changed = [
    f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key) and key not in except_keys
  ]
  if changed:
    raise ValueError(
      f"{workdir} holds a run with another config: {'; '.join(changed)}."
      " Take another --workdir, or the same config"
    )


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


def refuse_other_dataset(workdir: pathlib.Path, experiment: Experiment) -> None:
  """Refuses to go on with a run on other data than it was started with.

  Raises:
    ValueError: naming what differs.
  """
  path = workdir / records.DATASET
  if not path.exists() or not checkpoint.any_in(workdir):
    return
  before, now = records.read_json(path), describe_dataset(experiment)
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
