"""Labelled images: scikit-learn's digits, or a folder of image files.

A `Source` gives uint8 images by index. Small sets are decoded once and held in memory
(`ArraySource`), large ones are decoded when asked (`FolderSource`). Every split made here is
fixed: the same files give the same split on every machine and in every run.
"""

import collections
import concurrent.futures
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from bce_jax.data import folders, splits
from bce_jax.data import pairs as pair_lists
from bce_jax.data.images import decode, header
from bce_jax.data.pairs import PairList

MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images up to which `folder` holds a set in memory


# (mean, standard deviation) of CIFAR-10's channels, as much published code has them.
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

Progress = Callable[..., Iterable[Any]]  # called like tqdm: progress(iterable, total=n, desc="…")


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
  """

  train: Source
  validation: Source | None
  test: Source
  class_names: tuple[str, ...]
  unseen: Source | None = None
  unseen_names: tuple[str, ...] = ()
  listed: PairList | None = None


class ArraySource:
  """Images held in memory.

  Args:
    images: uint8 [n, H, W, C].
    labels: integers ≥ 0, [n].

  Raises:
    ValueError: for another dtype or rank, or when the two lengths differ.
  """

  def __init__(self, images: np.ndarray, labels: np.ndarray):
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 [n, H, W, C]")
    self.labels = _checked_labels(labels, len(images))
    self.image_shape: tuple[int, int, int] = images.shape[1:]
    self._images = images

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C]."""
    return self._images[indices]

  def take(self, indices: Int[np.ndarray, "k"]) -> "ArraySource":
    """Returns a source of these images only, in this order."""
    return ArraySource(self._images[indices], self.labels[indices])


class FolderSource:
  """Image files, decoded when asked; small to pickle, so that worker processes can be sent one.

  Args:
    paths: the files, n ≥ 1 of them.
    labels: integers ≥ 0, [n].
    image_size: side in pixels of the square every image becomes (see `decode`); None leaves them
      as they are, and they must all have the size of the first.
    channels: 3 for colour, 1 for gray.

  Raises:
    ValueError: for no files, not one label a file, or a first file that is no image.
  """

  def __init__(
    self,
    paths: Sequence[str | os.PathLike[str]],
    labels: np.ndarray,
    image_size: int | None = None,
    channels: int = 3,
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
    height, width = (image_size, image_size) if image_size else header(self._paths[0])
    self.image_shape: tuple[int, int, int] = (height, width, channels)

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Decodes the images at `indices`, uint8 [k, H, W, C]; a ValueError names a bad file."""
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    for row, index in enumerate(indices):
      images[row] = self.read(int(index))
    return images

  def take(self, indices: Int[np.ndarray, "k"]) -> "FolderSource":
    """Returns a source of these images only, in this order; there must be one."""
    height, _, channels = self.image_shape
    size = None if self._image_size is None else height
    paths = [self._paths[index] for index in indices]
    return FolderSource(paths, self.labels[indices], size, channels)

  def read(self, index: int) -> UInt8[np.ndarray, "h w c"]:
    """Decodes one image, uint8 [H, W, C]."""
    path = self._paths[index]
    image = decode(path, image_size=self._image_size, channels=self.image_shape[2])
    self._check_size(path, image.shape[0], image.shape[1])
    return image

  def check(self, index: int) -> None:
    """Refuses a file whose header is no image's, or gives another size, without decoding it."""
    height, width = header(self._paths[index])
    if self._image_size is None:
      self._check_size(self._paths[index], height, width)

  def _check_size(self, path: str, height: int, width: int) -> None:
    first = self.image_shape[:2]
    if (height, width) != first:
      raise ValueError(
        f"{path} is {height} x {width} (height x width) but the first image, {self._paths[0]}, is"
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
  in_memory: bool | None = None,
  validation_fraction: float = 0.0,
  test_fraction: float = 0.2,
  unseen_fraction: float = 0.0,
  threads: int | None = None,
  progress: Progress | None = None,
) -> Dataset:
  """Reads a folder of images, one folder a class.

  Three layouts: `path/train/<class>/…` with `path/test/<class>/…`; the same with `val` or
  `validation`, which is the test split where there is no `test` and the validation split where
  there is one; or `path/<class>/…`, of which `test_fraction` becomes the test split. Folders
  within a class are searched too; hidden files are passed over. Class ids follow the sorted names
  of the training classes, images their sorted names.

  Args:
    path: the folder.
    image_size: side in pixels of the square every image becomes (see `decode`); None when all
      have one size already.
    channels: 3 for colour, 1 for gray.
    in_memory: True decodes every image now; False checks every file's header now, and decodes
      when asked; None decides by `MEMORY_LIMIT`.
    validation_fraction: share of the training images to set apart, class by class, 0 ≤ f < 1;
      every class keeps an image for training.
    test_fraction: the same for the test split, 0 < f < 1, where the folder has none.
    unseen_fraction: share of the classes, 0 ≤ f < 1, that is in none of these splits: all of their
      images are `unseen`.
    threads: how many read files now; None for one a core.
    progress: wraps the reading; called like tqdm: `progress(iterable, total=n, desc="…")`.

  Returns:
    A `Dataset`.

  Raises:
    ValueError: for another layout; for a file that cannot be read or has another size, by name.
  """
  *files, class_names = folders.list_splits(pathlib.Path(path), validation_fraction, test_fraction)
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
  everything = FolderSource(paths, labels, image_size, channels)
  if in_memory is None:
    in_memory = len(paths) * math.prod(everything.image_shape) <= MEMORY_LIMIT

  sources: list[Any]
  rows = range(len(paths))
  if in_memory:
    images = np.empty((len(paths), *everything.image_shape), np.uint8)
    decoded = _in_threads(everything.read, rows, threads, progress, "decoding images")
    for row, image in enumerate(decoded):
      images[row] = image
    parts = np.split(images, np.cumsum([len(split.paths) for split in files])[:-1])
    sources = [ArraySource(part, split.labels) for part, split in zip(parts, files, strict=True)]
  else:
    checked = _in_threads(everything.check, rows, threads, progress, "checking images")
    collections.deque(checked, maxlen=0)
    sources = [
      FolderSource(split.paths, split.labels, image_size, channels) if split.paths else ()
      for split in files
    ]
  train, validation, test, others = (source if len(source) else None for source in sources)
  if train is None or test is None:
    raise ValueError(f"{path} leaves no training or no test images of the seen classes")
  return Dataset(train, validation, test, class_names, others, unseen_names)


def listed_pairs(
  file: str | os.PathLike[str],
  folder: str | os.PathLike[str],
  *,
  image_size: int | None = None,
  channels: int = 3,
  progress: Progress | None = None,
) -> tuple[Source, PairList]:
  """Reads the images that a list of pairs names, such as LFW's pairs.txt.

  Args:
    file: the list; see `pairs.read`.
    folder: of the images.
    image_size: as in `folder`.
    channels: as in `folder`.
    progress: as in `folder`.

  Returns:
    (the images, each once, in the order of the list's paths; the list).

  Raises:
    ValueError: for a list or an image that can't be read, by name.
  """
  listed = pair_lists.read(file, folder=folder)
  paths = [os.path.join(folder, path) for path in listed.paths]
  source = FolderSource(paths, np.zeros(len(paths), np.int32), image_size, channels)
  if len(paths) * math.prod(source.image_shape) > MEMORY_LIMIT:
    checked = _in_threads(source.check, range(len(paths)), None, progress, "checking pairs")
    collections.deque(checked, maxlen=0)
    return source, listed
  decoded = _in_threads(source.read, range(len(paths)), None, progress, "decoding pairs")
  images = np.empty((len(paths), *source.image_shape), np.uint8)
  for row, image in enumerate(decoded):
    images[row] = image
  return ArraySource(images, source.labels), listed


def _in_threads(
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


def channel_statistics(
  source: Source, *, limit: int = 10_000
) -> tuple[Float32[np.ndarray, "c"], Float32[np.ndarray, "c"]]:
  """Mean and standard deviation of each channel, of pixels on a scale of 0 … 1.

  Args:
    source: the training images.
    limit: how many of them to read at most, ≥ 1; a fixed random choice.

  Returns:
    (mean [C], std [C]), float32; a constant channel has std 1, so that it can be divided by.

  Raises:
    ValueError: for no images, or a limit below 1.
  """
  if limit < 1 or not len(source):
    raise ValueError(f"there are {len(source)} images and the limit is {limit}; expected 1 or more")
  chosen = np.sort(splits.permutation((splits.SPLIT_SEED,), len(source))[:limit])
  per_chunk = max(1, 2**22 // math.prod(source.image_shape))

  def histogram(start: int) -> np.ndarray:
    images = source.images(chosen[start : start + per_chunk])
    channels = images.reshape(-1, images.shape[-1]).T
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])

  # Integer counts are exact, in whatever chunks they are added up.
  counts = np.zeros((source.image_shape[-1], 256), np.int64)
  for part in _in_threads(histogram, range(0, len(chosen), per_chunk)):
    counts += part
  share = counts / counts.sum(axis=1, keepdims=True)
  values = np.arange(256) / 255
  mean = share @ values
  variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
  constant = (counts > 0).sum(axis=1) == 1
  std = np.where(constant, 1.0, np.sqrt(variance))
  return mean.astype(np.float32), std.astype(np.float32)
