"""Interfaces of data: a `Source` of labeled images by index, and a `Dataset` of splits."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from bce_jax.data.pairs import PairList
from bce_jax.data.reading import Skipped


@runtime_checkable
class Source(Protocol):
  """Protocol: labeled images of one shape, by index."""

  labels: Int32[np.ndarray, " n"]
  image_shape: tuple[int, int, int]  # height, width, channels

  def __len__(self) -> int: ...

  def images(self, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w c"]:
    """Returns the images at `indices`, uint8 [k, H, W, C]."""
    ...

  def take(self, indices: Int[np.ndarray, " k"]) -> "Source":
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


def images_at(source: Source, indices: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w c"]:
  """Returns the images at `indices`, which may be none."""
  if not len(indices):
    return np.zeros((0, *source.image_shape), np.uint8)
  return source.images(indices)
