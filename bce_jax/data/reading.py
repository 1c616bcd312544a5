"""Reading the files of a set once, before it is used: all of them, or only their headers."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from bce_jax.data import depth as depths
from bce_jax.data.depth import Depth
from bce_jax.data.images import DamagedError

Progress = Callable[..., Iterable[Any]]  # called like tqdm: progress(iterable, total=n, desc="…")


class Skipped(NamedTuple):
  """An image that is damaged and left out, or replaced by another of its class in training.

  Attributes:
    file: its name, from the folder of the set on.
    reason: what is wrong with it, a line that begins with its path.
  """

  file: str
  reason: str


class Reader(Protocol):
  """Protocol: image files by row, such as a `sources.FolderSource`."""

  image_shape: tuple[int, int, int]
  full_scale: float | None

  def __len__(self) -> int: ...

  def load(self, index: int) -> tuple[np.ndarray, Depth | None]:
    """Decodes an image."""
    ...

  def check(self, index: int) -> Depth | None:
    """Reads an image's header."""
    ...

  @property
  def paths(self) -> tuple[str, ...]:
    """The files."""
    ...


class Read(NamedTuple):
  """What reading the files of a set has found: images, and damaged ones.

  Attributes:
    images: uint8 [n, H, W, C], where they were asked for; zeros where one is damaged.
    damaged: what is wrong with each damaged image, by row.
    notes: what is to be reported, a line each.
  """

  images: np.ndarray | None
  damaged: dict[int, str]
  notes: list[str]


def read_all(
  reader: Reader,
  *,
  in_memory: bool,
  decoded: range = range(0),
  most_damaged: int = 0,
  threads: int | None = None,
  progress: Progress | None = None,
  what: str = "images",
) -> Read:
  """Reads every file of a set.

  Args:
    reader: the files.
    in_memory: whether all are decoded and kept; else only headers are read.
    decoded: rows that are decoded even so where damaged images are to be skipped, since they must
      be known before anything is evaluated on them.
    most_damaged: how many images may be damaged; 0 lets the first error end it.
    threads: how many read; None for one per core.
    progress: wraps the reading; called like tqdm.
    what: is read, for the title.

  Raises:
    DamagedError: for too many damaged images.
    ValueError: for an image whose values mean nothing, or another size, by name.
  """

  def one(row: int) -> tuple[np.ndarray | None, Depth | None] | DamagedError:
    try:
      if in_memory:
        return reader.load(row)
      if most_damaged and row in decoded:
        return None, reader.load(row)[1]
      return None, reader.check(row)
    except DamagedError as error:
      if not most_damaged:
        raise
      return error

  count = len(reader)
  images = np.zeros((count, *reader.image_shape), np.uint8) if in_memory else None
  damaged: dict[int, str] = {}
  deep: dict[str, Depth] = {}
  rows: dict[str, int] = {}
  title = f"{'decoding' if in_memory else 'checking'} {what}"
  for row, result in enumerate(in_threads(one, range(count), threads, progress, title)):
    if isinstance(result, DamagedError):
      damaged[row] = str(result)
      check_count(damaged.values(), most_damaged)
      continue
    pixels, depth = result
    if images is not None:
      images[row] = pixels
    if depth is not None:
      deep[reader.paths[row]], rows[reader.paths[row]] = depth, row

  def peak(path: str) -> float | None:
    try:
      depth = reader.load(rows[path])[1]
    except DamagedError:  # it is found when it is read
      return None
    return None if depth is None else depth.peak

  return Read(images, damaged, depths.survey(deep, peak, reader.full_scale))


def check_count(reasons: Iterable[str], most: int) -> None:
  """Refuses more damaged images than may be skipped.

  Raises:
    DamagedError: with what is wrong with the last of them.
  """
  reasons = list(reasons)
  if len(reasons) > most:
    raise DamagedError(
      f"{len(reasons)} images are damaged, and config.data.skip_damaged is {most}; the last of"
      f" them: {reasons[-1]}"
    )


def others_of_class(labels: np.ndarray, index: int) -> Iterator[int]:
  """Yields the other images of an image's class, from the next on and around.

  Which of them stands in for a damaged one is so a function of the set only, in whatever order it
  is read, by whichever process.
  """
  same = np.flatnonzero(labels == labels[index])
  place = int(np.searchsorted(same, index))
  yield from (int(other) for other in np.roll(same, -place)[1:])


def in_threads(
  function: Callable[[int], Any],
  items: Sequence[int],
  threads: int | None = None,
  progress: Progress | None = None,
  title: str = "",
) -> Iterator[Any]:
  """Yields function(item) in the order of the items; the first error ends it."""
  pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count())
  # A window at a time, since map() asks for everything at once: gigabytes of requests, for a
  # million files.
  windows = (items[start : start + 4096] for start in range(0, len(items), 4096))
  results: Iterable[Any] = itertools.chain.from_iterable(pool.map(function, w) for w in windows)
  if progress is not None:
    results = progress(results, total=len(items), desc=title)
  try:
    yield from results
  finally:
    pool.shutdown(cancel_futures=True)
