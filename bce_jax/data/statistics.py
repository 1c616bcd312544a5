"""Mean and standard deviation of a set's pixels, and a check that they vary."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from bce_jax.data import reading, splits
from bce_jax.data.sources import Source


class Statistics(NamedTuple):
  """Mean and standard deviation of each channel, of pixels on a scale of 0 … 1.

  Attributes:
    mean: [C].
    std: [C]; a constant channel has 1, so that it can be divided by.
    constant: the value, 0 … 255, of each channel that has only one, by channel.
    images: how many were looked at.
  """

  mean: Float32[np.ndarray, " c"]
  std: Float32[np.ndarray, " c"]
  constant: dict[int, int]
  images: int


def notes(found: Statistics, count: int) -> list[str]:
  """Says which channels are constant.

  Args:
    found: of training images.
    count: how many of them there are.

  >>> nothing = Statistics(np.float32([0.3]), np.float32([1]), {0: 77}, 5)
  >>> notes(nothing, 5)
  ['all 5 training images have one color, 77 of 255: there is nothing to learn from']
  """
  channels = len(found.mean)
  which = f"all {count:,}" if found.images == count else f"{found.images:,} of {count:,}"
  if len(found.constant) == channels:
    values = ", ".join(str(found.constant[channel]) for channel in range(channels))
    return [
      f"{which} training images have one color, {values} of 255: there is nothing to learn from"
    ]
  names = ("red", "green", "blue") if channels == 3 else [str(k) for k in range(channels)]
  return [
    f"the {names[channel]} channel is constant, {value} of 255, in {which} training images"
    for channel, value in found.constant.items()
  ]


def channel_statistics(source: Source, *, limit: int = 10_000) -> Statistics:
  """Mean and standard deviation of each channel, of pixels on a scale of 0 … 1.

  Args:
    source: the training images.
    limit: how many of them to read at most, ≥ 1; a fixed random choice.

  Returns:
    `Statistics`.

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
  for part in reading.in_threads(histogram, range(0, len(chosen), per_chunk)):
    counts += part
  share = counts / counts.sum(axis=1, keepdims=True)
  values = np.arange(256) / 255
  mean = share @ values
  variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
  constant = (counts > 0).sum(axis=1) == 1
  std = np.where(constant, 1.0, np.sqrt(variance))
  only = {int(channel): int(counts[channel].argmax()) for channel in np.flatnonzero(constant)}
  return Statistics(mean.astype(np.float32), std.astype(np.float32), only, len(chosen))
