"""Image files, decoded when asked."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from bce_jax.data import images, reading
from bce_jax.data.array_source import ArraySource, checked_labels
from bce_jax.data.depth import Depth
from bce_jax.data.images import DamagedError
from bce_jax.data.source import Source


class FolderSource:
  """Image files, decoded when asked; small to pickle, so that worker processes can be sent one.

  Args:
    paths: the files, n ≥ 1 of them.
    labels: integers ≥ 0, [n].
    image_size: side in pixels of the square every image becomes (see `decode`); None leaves them
      as they are, and they must all have the size of the first.
    channels: 3 for color, 1 for gray.
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
      raise ValueError(f"data.channels is {channels}; expected 3 (color) or 1 (gray)")
    if image_size is not None and image_size < 1:
      raise ValueError(f"data.image_size is {image_size}; expected 1 or more pixels, or None")
    self.labels = checked_labels(labels, len(paths))
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

  def images(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Decodes the images at `indices`, uint8 [k, H, W, C]; a ValueError names a bad file."""
    pixels = np.empty((len(indices), *self.image_shape), np.uint8)
    for row, index in enumerate(indices):
      pixels[row] = self._read_or_replace(int(index))
    return pixels

  def take(self, indices: Int[np.ndarray, " k"]) -> "FolderSource":
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
    """The damaged images that this process has read: what is wrong with each, by index."""
    return dict(self._damaged)

  def damage_of(self, index: int) -> str:
    """Returns what is wrong with a damaged image, which another process may have read."""
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


def split_source(
  everything: FolderSource, read: reading.Read, rows: range, *, training: bool
) -> Source | None:
  """Returns a split without its damaged images; in training others of their class replace them."""
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
