"""The images that a list of pairs names."""

import math
import os
from typing import NamedTuple

import numpy as np

from bce_jax.data import pairs, reading, sources
from bce_jax.data.pairs import PairList
from bce_jax.data.reading import Progress, Skipped


class ListedPairs(NamedTuple):
  """Images to be verified in pairs.

  Attributes:
    source: the images, each once, in the order of the list's paths.
    listed: the pairs.
    notes: what is to be reported, a line each.
    skipped: the damaged images that were found; their pairs are left out.
  """

  source: sources.Source
  listed: PairList
  notes: tuple[str, ...]
  skipped: tuple[Skipped, ...]


def listed_pairs(
  file: str | os.PathLike[str],
  folder: str | os.PathLike[str],
  *,
  image_size: int | None = None,
  channels: int = 3,
  full_scale: float | None = None,
  skip_damaged: int = 0,
  progress: Progress | None = None,
) -> ListedPairs:
  """Reads the images that a list of pairs names, such as LFW's pairs.txt.

  Args:
    file: the list; see `pairs.read`.
    folder: of the images.
    image_size: as in `sources.folder`.
    channels: as in `sources.folder`.
    full_scale: as in `sources.folder`.
    skip_damaged: how many images may be damaged; pairs of them are left out.
    progress: as in `sources.folder`.

  Returns:
    `ListedPairs`.

  Raises:
    ValueError: for a list or an image that can't be read, by name.
  """
  listed = pairs.read(file, folder=folder)
  paths = [os.path.join(folder, path) for path in listed.paths]
  labels = np.zeros(len(paths), np.int32)
  source = sources.FolderSource(paths, labels, image_size, channels, full_scale, skip_damaged > 0)
  read = reading.read_all(
    source,
    in_memory=len(paths) * math.prod(source.image_shape) <= sources.MEMORY_LIMIT,
    decoded=range(len(paths)),
    most_damaged=skip_damaged,
    progress=progress,
    what="pairs",
  )
  found = sources.split_source(source, read, range(len(paths)), training=False)
  kept = np.array([row not in read.damaged for row in range(len(paths))])
  if not kept.all():
    listed = pairs.without(listed, kept)
  if found is None or not len(listed.pairs):
    raise ValueError(f"{file} leaves no pair of images that are not damaged")
  skipped = tuple(
    Skipped(os.path.relpath(paths[row], folder), reason) for row, reason in read.damaged.items()
  )
  return ListedPairs(found, listed, tuple(read.notes), skipped)
