"""The data that a config names."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bce_jax import extensions
from bce_jax.data import listed, longtail, reading, sources
from bce_jax.data.sources import Dataset


def load_dataset(
  config: ConfigDict,
  progress: Any = None,
  *,
  judging: bool = False,
  given: Dataset | None = None,
) -> Dataset:
  """Reads the data that a config names.

  Args:
    config: checked.
    progress: wraps the reading of a folder, called like tqdm.
    judging: nothing will be trained: the training split is left as it is.
    given: in place of the data that it names; all else is done with them.

  Raises:
    ValueError: one line, for a folder or an image that can't be read; for data that are none.
  """
  data = config.data
  dataset = given if given is not None else _named(config, progress)
  if data.imbalance is not None and not judging:
    dataset = _long_tailed(dataset, data)
  if config.verification.folder:
    dataset = _with_listed_pairs(dataset, config, progress)
  return dataset


def _named(config: ConfigDict, progress: Any) -> Dataset:
  found = sources.module(config.data.name)
  options = config.data_options if found.outside else {}
  return extensions.make("data.name", found, config, given={"progress": progress}, options=options)


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
