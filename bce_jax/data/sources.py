"""Labelled images: scikit-learn's digits, or a folder of image files.

A `Source` gives uint8 images by index. Small sets are decoded once and held in memory
(`ArraySource`), large ones are decoded when asked (`FolderSource`). Every split made here is
fixed: the same files give the same split on every machine and in every run.
"""

import itertools
import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from bce_jax.data import folders, images, reading, splits
from bce_jax.data.depth import Depth
from bce_jax.data.images import DamagedError
from bce_jax.data.pairs import PairList
from bce_jax.data.reading import Progress, Skipped

MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images up to which `folder` holds a set in memory


# (mean, standard deviation) of CIFAR-10's channels, as much published code has them.
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@runtime_checkable
class Source(Protocol):
  """Labelled images of one shape, by index."""

  labels: Int32[np.ndarray, "n"]
  image_shape: tuple[int, int, int]  # height, width, channels

  def __len__(self) -> int: ...

  def images(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C]."""
    ...

  def take(self, indices: Int[np.ndarray, "k"]) -> "Source":
    """Returns a source of these images only, in this order."""
    ...


class Dataset(NamedTuple):
  """The splits of one set; a label is an index into `class_names`.

  Attributes:
    train: the training split.
    validation: the validation split, if there is one.
    test: the test split.
    class_names: of the labels of these three.
    unseen: images to be verified, of classes that are not trained on; None for none.
    unseen_names: of the labels of `unseen`; none where pairs are listed, which name no class.
    listed: which pairs of `unseen` are verified; None: all of them.
    notes: what was assumed or passed over, a line each.
    skipped: the damaged images that were found.
  """

  train: Source
  validation: Source | None
  test: Source
  class_names: tuple[str, ...]
  unseen: Source | None = None
  unseen_names: tuple[str, ...] = ()
  listed: PairList | None = None
  notes: tuple[str, ...] = ()
  skipped: tuple[Skipped, ...] = ()


class ArraySource:
  """Images held in memory.

  Args:
    images: uint8 [n, H, W, C].
    labels: integers ≥ 0, [n].
    damaged: which images are not known, [n]: another of the class stands in for each; see
      `reading.others_of_class`.

  Raises:
    ValueError: for another dtype or rank, or when the two lengths differ.
  """

  def __init__(
    self, images: np.ndarray, labels: np.ndarray, damaged: Bool[np.ndarray, "n"] | None = None
  ):
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 [n, H, W, C]")
    self.labels = _checked_labels(labels, len(images))
    self.image_shape: tuple[int, int, int] = images.shape[1:]
    self._images = images
    self._damaged = damaged if damaged is not None and damaged.any() else None
    # The files that they were read from, n of them; None where they were not.
    self.paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C]."""
    if self._damaged is not None:
      indices = np.array([self._stand_in(int(index)) for index in indices], np.int64)
    return self._images[indices]

  def take(self, indices: Int[np.ndarray, "k"]) -> "ArraySource":
    """Returns a source of these images only, in this order."""
    damaged = None if self._damaged is None else self._damaged[indices]
    taken = ArraySource(self._images[indices], self.labels[indices], damaged)
    if self.paths is not None:
      taken.paths = tuple(self.paths[index] for index in indices)
    return taken

  def _stand_in(self, index: int) -> int:
    damaged = self._damaged
    if damaged is None or not damaged[index]:
      return index
    for other in reading.others_of_class(self.labels, index):
      if not damaged[other]:
        return other
    raise DamagedError(f"every image of class {self.labels[index]} is damaged")


class FolderSource:
  """Image files, decoded when asked; small to pickle, so that worker processes can be sent one.

  Args:
    paths: the files, n ≥ 1 of them.
    labels: integers ≥ 0, [n].
    image_size: side in pixels of the square every image becomes (see `decode`); None leaves them
      as they are, and they must all have the size of the first.
    channels: 3 for colour, 1 for gray.
    full_scale: value of white in images of more than 8 bits; None: as each file says.
    skip_damaged: whether another image of its class stands in for a damaged one; see
      `reading.others_of_class`.

  Raises:
    ValueError: for no files, not one label a file, or a first file that is no image.
  """

  def __init__(
    self,
    paths: Sequence[str | os.PathLike[str]],
    labels: np.ndarray,
    image_size: int | None = None,
    channels: int = 3,
    full_scale: float | None = None,
    skip_damaged: bool = False,
  ):
    if not paths:
      raise ValueError("there are no image files; expected 1 or more")
    if channels not in (1, 3):
      raise ValueError(f"data.channels is {channels}; expected 3 (colour) or 1 (gray)")
    if image_size is not None and image_size < 1:
      raise ValueError(f"data.image_size is {image_size}; expected 1 or more pixels, or None")
    self.labels = _checked_labels(labels, len(paths))
    self._paths = tuple(os.fspath(path) for path in paths)
    self._image_size = image_size
    self.full_scale = full_scale
    self.skips_damaged = skip_damaged
    self._damaged: dict[int, str] = {}  # those that were read
    self._first = 0
    height, width = (image_size, image_size) if image_size else self._first_size()
    self.image_shape: tuple[int, int, int] = (height, width, channels)

  @property
  def paths(self) -> tuple[str, ...]:
    """The files."""
    return self._paths

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Decodes the images at `indices`, uint8 [k, H, W, C]; a ValueError names a bad file."""
    pixels = np.empty((len(indices), *self.image_shape), np.uint8)
    for row, index in enumerate(indices):
      pixels[row] = self._read_or_replace(int(index))
    return pixels

  def take(self, indices: Int[np.ndarray, "k"]) -> "FolderSource":
    """Returns a source of these images only, in this order; there must be one."""
    paths = [self._paths[index] for index in indices]
    return self.like(paths, self.labels[indices])

  def like(self, paths: Sequence[str], labels: np.ndarray) -> "FolderSource":
    """Returns a source of other files, read in the same way."""
    return FolderSource(
      paths, labels, self._image_size, self.image_shape[2], self.full_scale, self.skips_damaged
    )

  def load(self, index: int) -> tuple[UInt8[np.ndarray, "h w c"], Depth | None]:
    """Decodes one image, uint8 [H, W, C], and returns what is known of its depth too."""
    path = self._paths[index]
    image, depth = images.read(
      path,
      image_size=self._image_size,
      channels=self.image_shape[2],
      full_scale=self.full_scale,
    )
    self._check_size(path, image.shape[0], image.shape[1])
    return image, depth

  def check(self, index: int) -> Depth | None:
    """Refuses a file whose header is no image's, or gives another size, without decoding it."""
    found = images.header(
      self._paths[index], upright=self._image_size is None, full_scale=self.full_scale
    )
    if self._image_size is None:
      self._check_size(self._paths[index], found.height, found.width)
    return found.depth

  def found_damaged(self) -> dict[int, str]:
    """What is wrong with each damaged image that was read here, by index."""
    return dict(self._damaged)

  def damage_of(self, index: int) -> str:
    """What is wrong with a damaged image, which another process may have read."""
    try:
      self.load(index)
    except DamagedError as error:
      return str(error)
    return f"{self._paths[index]} could not be read once"

  def _read_or_replace(self, index: int) -> np.ndarray:
    try:
      return self.load(index)[0]
    except DamagedError as error:
      if not self.skips_damaged:
        raise
      self._damaged[index] = str(error)
    for other in reading.others_of_class(self.labels, index):
      try:
        return self.load(other)[0]
      except DamagedError:
        continue
    raise DamagedError(f"every image of the class is damaged: {self._damaged[index]}")

  def _first_size(self) -> tuple[int, int]:
    """Of the first image; where damaged ones are skipped, of the first that is not."""
    while True:
      try:
        return images.header(self._paths[self._first], full_scale=self.full_scale)[:2]
      except DamagedError:
        if not self.skips_damaged or self._first + 1 == len(self._paths):
          raise
        self._first += 1

  def _check_size(self, path: str, height: int, width: int) -> None:
    first = self.image_shape[:2]
    if (height, width) != first:
      raise ValueError(
        f"{path} is {height} x {width} (height x width) but the first image,"
        f" {self._paths[self._first]}, is"
        f" {first[0]} x {first[1]}; set data.image_size to bring all images to one size"
      )


def _checked_labels(labels: np.ndarray, count: int) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.dtype.kind not in "iu" or labels.shape != (count,):
    raise ValueError(f"labels are {labels.dtype} {labels.shape}; expected {count} integers")
  if count and labels.min() < 0:
    raise ValueError(f"a label is {labels.min()}; expected 0 or more")
  return labels.astype(np.int32)


def digits(*, validation_fraction: float = 0.0) -> Dataset:
  """scikit-learn's handwritten digits: 1,797 gray images of 8 x 8 pixels, 10 classes.

  Args:
    validation_fraction: share of the training images to set apart, class by class, 0 ≤ f < 1.

  Returns:
    A `Dataset` with 360 test images, the same in every run; grays 0 … 16 become 0 … 255.

  Raises:
    ValueError: for a fraction out of range.
  """
  # Not at the top: scikit-learn takes a second to import, and worker processes don't need it.
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  grays, labels = load_digits(return_X_y=True)
  images = np.rint(grays * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  train, test = train_test_split(
    np.arange(len(labels)), test_size=0.2, random_state=splits.SPLIT_SEED, stratify=labels
  )
  train, test = np.sort(train), np.sort(test)
  kept, taken = splits.held_out(labels[train], validation_fraction, "data.validation_fraction")

  def source(indices: np.ndarray) -> ArraySource:
    return ArraySource(images[indices], labels[indices])

  validation = source(train[taken]) if len(taken) else None
  return Dataset(source(train[kept]), validation, source(test), tuple("0123456789"))


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
  """Reads a folder of images, one folder a class.

  Three layouts: `path/train/<class>/…` with `path/test/<class>/…`; the same with `val`, `valid`,
  `validation` or `dev`, which is the test split where there is no `test` and the validation split
  where there is one; or `path/<class>/…`, of which `test_fraction` becomes the test split. Folders
  within a class are searched too, linked ones as well; hidden files are passed over. Class ids
  follow the sorted names of the training classes, images their sorted names.

  Args:
    path: the folder.
    image_size: side in pixels of the square every image becomes (see `images.decode`); None when
      all have one size already.
    channels: 3 for colour, 1 for gray.
    full_scale: value of white in images of more than 8 bits; None: as each file says.
    in_memory: True decodes every image now; False checks every file's header now, and decodes
      when asked; None decides by `MEMORY_LIMIT`.
    validation_fraction: share of the training images to set apart, class by class, 0 ≤ f < 1;
      every class keeps an image for training. A folder that has a validation split keeps it.
    test_fraction: the same for the test split, 0 < f < 1, where the folder has none.
    unseen_fraction: share of the classes, 0 ≤ f < 1, that is in none of these splits: all of their
      images are `unseen`.
    layout: auto, flat (classes) or splits (train, test, …).
    empty_classes: what becomes of a class without training images: refuse, drop or keep.
    skip_damaged: how many damaged images may be skipped: in training another of the class stands
      in, the other splits are without them.
    threads: how many read files now; None for one a core.
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
    in_memory = len(paths) * math.prod(everything.image_shape) <= MEMORY_LIMIT
  read = reading.read_all(
    everything,
    in_memory=in_memory,
    decoded=range(len(files[0].paths), len(paths)),
    most_damaged=skip_damaged,
    threads=threads,
    progress=progress,
  )
  starts = np.cumsum([0, *(len(split.paths) for split in files)])
  sources = [
    split_source(everything, read, range(start, stop), training=number == 0)
    for number, (start, stop) in enumerate(itertools.pairwise(starts))
  ]
  train, validation, test, others = sources
  if train is None or test is None:
    raise ValueError(f"{path} leaves no training or no test images of the seen classes")
  skipped = tuple(
    Skipped(os.path.relpath(paths[row], path), reason) for row, reason in read.damaged.items()
  )
  notes = (*listing.notes, *read.notes)
  return Dataset(
    train, validation, test, class_names, others, unseen_names, notes=notes, skipped=skipped
  )


def split_source(
  everything: FolderSource, read: reading.Read, rows: range, *, training: bool
) -> Source | None:
  """A split of a set that was read: damaged images are replaced in training, else left out."""
  damaged = np.array([row in read.damaged for row in rows], bool)
  kept = np.asarray(rows, np.int64)
  if not training:
    kept = kept[~damaged]
  if not len(kept):
    return None
  labels, paths = everything.labels[kept], tuple(everything.paths[row] for row in kept)
  if read.images is None:
    return everything.like(paths, labels)
  if len(kept) == len(rows):  # a view, not a copy
    held = ArraySource(read.images[rows.start : rows.stop], labels, damaged if training else None)
  else:
    held = ArraySource(read.images[kept], labels)
  held.paths = paths
  return held
