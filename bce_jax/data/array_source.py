"""Images held in memory."""

import numpy as np
from jaxtyping import Bool, Int, UInt8

from bce_jax.data import reading
from bce_jax.data.images import DamagedError


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
    self, images: np.ndarray, labels: np.ndarray, damaged: Bool[np.ndarray, " n"] | None = None
  ):
    if images.dtype != np.uint8 or images.ndim != 4:
      raise ValueError(f"images are {images.dtype} {images.shape}; expected uint8 [n, H, W, C]")
    self.labels = checked_labels(labels, len(images))
    self.image_shape: tuple[int, int, int] = images.shape[1:]
    self._images = images
    self._damaged = damaged if damaged is not None and damaged.any() else None
    # The files that they were read from, n of them; None where they were not.
    self.paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C]."""
    if self._damaged is not None:
      indices = np.array([self._stand_in(int(index)) for index in indices], np.int64)
    return self._images[indices]

  def take(self, indices: Int[np.ndarray, " k"]) -> "ArraySource":
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


def checked_labels(labels: np.ndarray, count: int) -> np.ndarray:
  """Returns labels as int32 [count]; others than `count` integers ≥ 0 are refused."""
  labels = np.asarray(labels)
  if labels.dtype.kind not in "iu" or labels.shape != (count,):
    raise ValueError(f"labels are {labels.dtype} {labels.shape}; expected {count} integers")
  if count and labels.min() < 0:
    raise ValueError(f"a label is {labels.min()}; expected 0 or more")
  return labels.astype(np.int32)
