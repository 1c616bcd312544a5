"""Augmentation and normalization of a batch of images, on the device."""

from typing import Any, NamedTuple

import jax

from bce_jax.data import augment, autoaugment


class Preprocess(NamedTuple):
  """What happens to a batch of uint8 images before the network sees it.

  Attributes:
    mean: of each channel, on 0 … 1.
    std: of each channel, on 0 … 1.
    crop_padding: random shifts by up to so many pixels, in training.
    flip: mirror half of the images, in training.
    auto_augment: apply AutoAugment's CIFAR-10 policy, in training.
    cutout: side of the square that is blacked out, in training; 0 for none.
  """

  mean: Any
  std: Any
  crop_padding: int
  flip: bool
  auto_augment: bool = False
  cutout: int = 0

  def train(self, key: jax.Array, images: jax.Array, rows: jax.Array | None = None) -> jax.Array:
    """Augments and normalizes; `rows` are the images' numbers in the step's batch, if a part."""
    crop_key, flip_key, policy_key, cutout_key = jax.random.split(key, 4)
    varied: Any = augment.random_crop(crop_key, images, padding=self.crop_padding, rows=rows)
    if self.flip:
      varied = augment.random_flip(flip_key, varied, rows=rows)
    if self.auto_augment:
      varied = autoaugment.auto_augment(policy_key, varied, rows=rows)
    varied = augment.cutout(cutout_key, varied, size=self.cutout, rows=rows)
    return augment.normalize(varied, self.mean, self.std)

  def evaluate(self, images: jax.Array) -> jax.Array:
    """Normalizes."""
    return augment.normalize(images, self.mean, self.std)
