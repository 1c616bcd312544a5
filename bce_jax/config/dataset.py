"""The data that a config names."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bce_jax import extensions
from bce_jax.data import listed, longtail, reading, sources, splits
from bce_jax.data.checked_source import CheckedSource
from bce_jax.data.sources import Dataset, Source


def load_dataset(
  config: ConfigDict,
  progress: Any = None,
  *,
  evaluate_only: bool = False,
  given: Dataset | None = None,
) -> Dataset:
  """Reads the data that a config names.

  Args:
    config: checked.
    progress: wraps the reading of a folder, called like tqdm.
    evaluate_only: nothing will be trained: the training split is left as it is.
    given: in place of the data that it names; all else is done with them.

  Raises:
    ValueError: one line, for a folder or an image that can't be read; for data that are none.
  """
  data = config.data
  found = sources.module(data.name)
  dataset = given if given is not None else _named(found, config, progress)
  if given is not None or found.outside:
    what = "the dataset" if given is not None else f"config.data.name {found.name!r}"
    dataset = _with_validation(_checked(dataset, what), data.validation_fraction)
  if data.imbalance is not None and not evaluate_only:
    dataset = _long_tailed(dataset, data)
  if config.verification.folder:
    dataset = _with_listed_pairs(dataset, config, progress)
  return dataset


def _named(found: extensions.Plugin, config: ConfigDict, progress: Any) -> Dataset:
  options = config.data_options if found.outside else {}
  return extensions.make("data.name", found, config, given={"progress": progress}, options=options)


def _checked(dataset: Any, what: str) -> Dataset:
  """The data, as of a source from outside, with splits that are looked at when they are read.

  Raises:
    ValueError: for what is no data.
  """
  if not isinstance(dataset, Dataset):
    raise ValueError(f"{what} is {dataset!r:.80}: expected a bce_jax.data.sources.Dataset")
  names = dataset.class_names
  texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
  if not texts or len(set(names)) < len(names) or not names:
    raise ValueError(f"{what}: class_names is {names!r:.80}: expected different names, a tuple")
  dataset = dataset._replace(class_names=tuple(names))
  for split in ("train", "validation", "test", "unseen"):
    source = getattr(dataset, split)
    if source is None and split in ("validation", "unseen"):
      continue
    if not isinstance(source, Source):
      raise ValueError(
        f"{what}: {split} is {source!r:.80}: expected a Source, with labels, image_shape, images,"
        " take and a length"
      )
    source = CheckedSource(source, f"{what}: {split}")
    classes = None if split == "unseen" else len(names)
    _check_source(source, f"{what}: {split}", tuple(dataset.train.image_shape), classes)
    if not isinstance(getattr(dataset, split), sources.ArraySource | sources.FolderSource):
      dataset = dataset._replace(**{split: source})
  return dataset


def _check_source(
  source: CheckedSource, what: str, shape: tuple[int, ...], classes: int | None
) -> None:
  labels = source.labels
  if labels.min() < 0 or (classes is not None and labels.max() >= classes):
    wrong = labels.min() if labels.min() < 0 else labels.max()
    raise ValueError(f"{what} has the label {wrong}: expected 0 … {(classes or wrong) - 1}")
  if source.image_shape != shape:
    raise ValueError(
      f"{what} has images of {source.image_shape}: expected (height, width, channels), as"
      f" those of train, {shape}"
    )
  source.images(np.zeros(1, np.int64))


def _with_validation(dataset: Dataset, fraction: float) -> Dataset:
  """The data with a validation split held out of the training images, if they have none."""
  if not fraction or dataset.validation is not None:
    return dataset
  labels = np.asarray(dataset.train.labels)
  kept, taken = splits.held_out(labels, fraction, "data.validation_fraction")
  train = dataset.train
  return dataset._replace(train=train.take(kept), validation=train.take(taken))


def _long_tailed(dataset: Dataset, data: ConfigDict) -> Dataset:
  """The data with a training split whose classes fall from large to small."""
  labels = dataset.train.labels
  available = np.bincount(labels, minlength=len(dataset.class_names))
  try:
    counts = longtail.largest_fit(
      available, imbalance=data.imbalance, profile=data.imbalance_profile
    )
  except ValueError as error:
    raise ValueError(f"config.data.imbalance: {error}") from None
  kept = longtail.subset(labels, counts, seed=data.imbalance_seed)
  return dataset._replace(train=dataset.train.take(kept))


def _with_listed_pairs(dataset: Dataset, config: ConfigDict, progress: Any) -> Dataset:
  """The data with the images of the listed pairs, of the size of the training images."""
  data = config.data
  pairs = listed.listed_pairs(
    config.verification.pairs,
    config.verification.folder,
    image_size=data.image_size,
    channels=dataset.train.image_shape[2],
    full_scale=data.full_scale,
    skip_damaged=data.skip_damaged,
    progress=progress,
  )
  if pairs.source.image_shape != dataset.train.image_shape:
    raise ValueError(
      f"config.verification.folder holds images of {pairs.source.image_shape[:2]} (height,"
      f" width), the training images are of {dataset.train.image_shape[:2]}: set"
      " config.data.image_size"
    )
  skipped = (*dataset.skipped, *pairs.skipped)
  reading.check_count([one.reason for one in skipped], data.skip_damaged)
  return dataset._replace(
    unseen=pairs.source,
    listed=pairs.listed,
    notes=(*dataset.notes, *pairs.notes),
    skipped=skipped,
  )
