"""A folder of image files, one folder per class."""

import itertools
import math
import os
import pathlib
from typing import Any

import numpy as np

from bce_jax.data import folders, reading, sources
from bce_jax.data.folder_source import FolderSource, split_source
from bce_jax.data.reading import Progress, Skipped
from bce_jax.data.source import Dataset

OPTIONS: dict[str, Any] = {}
RANGES: dict[str, tuple[float, bool, float]] = {}


def check(config: Any) -> None:
  """Refuses a config that names no folder."""
  if not config.data.folder:
    raise ValueError("config.data.name is 'folder': set --config.data.folder=FOLDER too")


def create(config: Any, progress: Progress | None = None) -> Dataset:
  """Reads the folder that a config names."""
  data = config.data
  return sources.folder(
    data.folder,
    image_size=data.image_size,
    channels=data.channels,
    full_scale=data.full_scale,
    in_memory=data.in_memory,
    validation_fraction=data.validation_fraction,
    test_fraction=data.test_fraction,
    unseen_fraction=config.verification.identities,
    layout=data.layout,
    empty_classes=data.empty_classes,
    skip_damaged=data.skip_damaged,
    progress=progress,
  )


def folder(
  path: str | os.PathLike[str],
  *,
  image_size: int | None = None,
  channels: int = 3,
  full_scale: float | None = None,
  in_memory: bool | None = None,
  validation_fraction: float = 0.0,
  test_fraction: float = 0.2,
  unseen_fraction: float = 0.0,
  layout: str = "auto",
  empty_classes: str = "refuse",
  skip_damaged: int = 0,
  threads: int | None = None,
  progress: Progress | None = None,
) -> Dataset:
  """Reads a folder of image files, one folder per class.

  Three layouts: `path/train/<class>/…` with `path/test/<class>/…`; the same with `val`, `valid`,
  `validation` or `dev`, which is the test split where there is no `test` and the validation split
  where there is one; or `path/<class>/…`, of which `test_fraction` becomes the test split. Folders
  within a class are searched too, linked ones as well; hidden files are passed over. Class ids
  follow the sorted names of the training classes, images their sorted names.

  Args:
    path: the folder.
    image_size: side in pixels of the square every image becomes (see `images.decode`); None when
      all have one size already.
    channels: 3 for color, 1 for gray.
    full_scale: value of white in images of more than 8 bits; None: as each file says.
    in_memory: True decodes every image now; False checks every file's header now, and decodes
      when asked; None decides by `sources.MEMORY_LIMIT`.
    validation_fraction: share of the training images to set apart, class by class, 0 ≤ f < 1;
      every class keeps an image for training. A folder that has a validation split keeps it.
    test_fraction: the same for the test split, 0 < f < 1, where the folder has none.
    unseen_fraction: share of the classes, 0 ≤ f < 1, that is in none of these splits: all of their
      images are `unseen`.
    layout: auto, flat (classes) or splits (train, test, …).
    empty_classes: what becomes of a class without training images: refuse, drop or keep.
    skip_damaged: how many damaged images may be skipped: in training another of the class stands
      in, the other splits are without them.
    threads: how many read files now; None for one per core.
    progress: wraps the reading; called like tqdm: `progress(iterable, total=n, desc="…")`.

  Returns:
    A `Dataset`.

  Raises:
    ValueError: for another layout; for a file that cannot be read or has another size, by name.
  """
  path = pathlib.Path(path)
  listing = folders.list_splits(
    path,
    validation_fraction,
    test_fraction,
    layout=layout,
    empty_classes=empty_classes,
  )
  files, class_names = [listing.train, listing.validation, listing.test], listing.class_names
  unseen = folders.unseen_classes(len(class_names), unseen_fraction)
  unseen_names = tuple(class_names[label] for label in unseen)
  unseen_files = folders.of_classes(folders.joined(files), unseen)
  if unseen_names:
    seen = np.setdiff1d(np.arange(len(class_names)), unseen)
    class_names = tuple(class_names[label] for label in seen)
    files = [folders.of_classes(split, seen) for split in files]
  files.append(unseen_files)
  paths, labels = folders.joined(files)
  # One source over all splits, so that a size that differs between two of them is found as well.
  everything = FolderSource(paths, labels, image_size, channels, full_scale, skip_damaged > 0)
  if in_memory is None:
    in_memory = len(paths) * math.prod(everything.image_shape) <= sources.MEMORY_LIMIT
  read = reading.read_all(
    everything,
    in_memory=in_memory,
    decoded=range(len(files[0].paths), len(paths)),
    most_damaged=skip_damaged,
    threads=threads,
    progress=progress,
  )
  starts = np.cumsum([0, *(len(split.paths) for split in files)])
  split_sources = [
    split_source(everything, read, range(start, stop), training=number == 0)
    for number, (start, stop) in enumerate(itertools.pairwise(starts))
  ]
  train, validation, test, others = split_sources
  if train is None or test is None:
    raise ValueError(f"{path} leaves no training or no test images of the seen classes")
  skipped = tuple(
    Skipped(os.path.relpath(paths[row], path), reason) for row, reason in read.damaged.items()
  )
  notes = (*listing.notes, *read.notes)
  return Dataset(
    train, validation, test, class_names, others, unseen_names, notes=notes, skipped=skipped
  )
