"""A source from outside, whose every batch is looked at before it is used."""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from bce_jax import extensions
from bce_jax.data.source import Source


class CheckedSource:
  """A source from outside: what it can't do, or gives of another kind, is said in one line.

  Args:
    source: of others.
    what: it is, for messages.

  Raises:
    ValueError: for labels or a shape of images that no source has.
  """

  def __init__(self, source: Source, what: str):
    self._source, self._what = source, what
    count, labels = len(source), np.asarray(source.labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,) or not count:
      raise ValueError(
        f"{what} has labels {labels.dtype} {labels.shape}: expected one integer for each of its"
        f" {count} images, of which there must be one"
      )
    shape: tuple[Any, ...] = tuple(source.image_shape)
    if len(shape) != 3:
      raise ValueError(f"{what} has images of {shape}: expected (height, width, channels)")
    self.labels = labels.astype(np.int32)
    self.image_shape: tuple[int, int, int] = shape
    self.paths = getattr(source, "paths", None)

  def __len__(self) -> int:
    return len(self.labels)

  def images(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C].

    Raises:
      ValueError: for other ones, and for whatever the source raises.
    """
    found = extensions.calling(self._what, lambda: np.asarray(self._source.images(indices)))
    expected = (len(indices), *self.image_shape)
    if found.dtype != np.uint8 or found.shape != expected:
      raise ValueError(
        f"{self._what} gives images {found.dtype} {found.shape}: expected uint8 {expected}"
      )
    return found

  def take(self, indices: Int[np.ndarray, " k"]) -> "CheckedSource":
    """Returns a source of these images only, in this order."""
    return CheckedSource(extensions.calling(self._what, self._source.take, indices), self._what)
