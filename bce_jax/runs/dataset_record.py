"""dataset.json: what a run records of its data, to recognize them later."""

import pathlib
from typing import Any

import numpy as np

from bce_jax.data.preprocess import Preprocess
from bce_jax.data.sources import Dataset
from bce_jax.runs import checkpoint, data_files, files, records


def describe(dataset: Dataset, preprocess: Preprocess, train_counts: np.ndarray) -> dict[str, Any]:
  """Returns the contents of dataset.json for the data of a run."""
  train = dataset.train
  return {
    "class_names": list(dataset.class_names),
    "image_shape": [int(n) for n in train.image_shape],
    "train_images": len(train),
    "train_counts": [int(n) for n in train_counts],
    "mean": [float(x) for x in preprocess.mean],
    "std": [float(x) for x in preprocess.std],
  }


def refuse_other(
  workdir: pathlib.Path,
  now: dict[str, Any],
  data: data_files.DataFiles,
  *,
  skip_damaged: int,
) -> None:
  """Refuses to go on with a run on other data than it was started with.

  Args:
    workdir: the run folder.
    now: of `describe`.
    data: the files of the data set.
    skip_damaged: how many of them may be corrupted, so others or missing.

  Raises:
    ValueError: naming the first file that differs, or what else does.
  """
  path = workdir / files.DATASET
  if not path.exists() or not checkpoint.any_in(workdir):
    return
  before = records.read_json(path)
  if isinstance(before.get("files"), dict):  # else it is of an older version
    names = (before.get("class_names") or (), now["class_names"])
    differs = data_files.difference(workdir, before["files"], data, names, damaged=skip_damaged)
    if differs:
      raise ValueError(f"{workdir} holds a run on other data: {differs}")
  changed = [key for key in now if before.get(key) != now[key]]
  if changed:
    raise ValueError(f"{workdir} holds a run on other data: {', '.join(changed)} differ")


def with_statistics_of(
  workdir: pathlib.Path, now: dict[str, Any], preprocess: Preprocess
) -> tuple[Preprocess, np.ndarray]:
  """Returns the normalization and the class counts of a run's training images.

  Mean and std of the channels, and images of each class: a folder of other images, to be
  evaluated by what was trained, has others.

  Args:
    workdir: the run folder.
    now: of `describe`, of the data there are.
    preprocess: of these data.

  Returns:
    (the preprocessing with the run's statistics; its training images of each class, [N]).

  Raises:
    ValueError: when the classes or the size of the images are not the run's.
  """
  before, preprocess = _with_normalization_of(workdir, preprocess)
  for key in ("class_names", "image_shape"):
    if before.get(key) != now[key]:
      was, now_is = str(before.get(key)), str(now[key])
      raise ValueError(f"{workdir} was trained with {key} {was[:80]}, got {now_is[:80]}")
  return preprocess, np.asarray(before.get("train_counts", now["train_counts"]))


def _with_normalization_of(
  workdir: pathlib.Path, preprocess: Preprocess, *keys: str
) -> tuple[dict[str, Any], Preprocess]:
  """Returns a run's dataset.json, with `keys`, and the preprocessing with its mean and std."""
  before = records.read_json(workdir / files.DATASET, "mean", "std", *keys)
  mean, std = (np.asarray(before[key], np.float32) for key in ("mean", "std"))
  return before, preprocess._replace(mean=mean, std=std)


def normalization_of(
  workdir: pathlib.Path, now: dict[str, Any], preprocess: Preprocess
) -> Preprocess:
  """Returns the preprocessing with the mean and std of a run on images of as many channels.

  Args:
    workdir: the run folder.
    now: of `describe`, of the data there are.
    preprocess: of these data.

  Raises:
    ValueError: when the run's images have other channels.
  """
  before, preprocess = _with_normalization_of(workdir, preprocess, "image_shape")
  was, is_now = before["image_shape"][-1], now["image_shape"][-1]
  if was != is_now:
    raise ValueError(f"{workdir} was trained on images of {was} channel(s), these have {is_now}")
  return preprocess
