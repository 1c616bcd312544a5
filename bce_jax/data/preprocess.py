"""Augmentation and normalization of a batch of images, on the device."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bce_jax import extensions
from bce_jax.data import augment, autoaugment

Augmentation = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


class Preprocess(NamedTuple):
  """What happens to a batch of uint8 images before the network sees it.

  Attributes:
    mean: of each channel, on 0 … 1.
    std: of each channel, on 0 … 1.
    crop_padding: random shifts by up to so many pixels, in training.
    flip: flip half of the images left to right, in training.
    auto_augment: apply AutoAugment's CIFAR-10 policy, in training.
    cutout: side of the square that is blacked out, in training; 0 for none.
    augmentation: (key, images, rows) → images, in training in place of these four; none: they do.
  """

  mean: Any
  std: Any
  crop_padding: int
  flip: bool
  auto_augment: bool = False
  cutout: int = 0
  augmentation: Augmentation | None = None

  def train(self, key: jax.Array, images: jax.Array, rows: jax.Array | None = None) -> jax.Array:
    """Augments and normalizes; `rows` are the images' numbers in the step's batch, if a part."""
    if self.augmentation is not None:
      return augment.normalize(self._augmented(key, images, rows), self.mean, self.std)
    crop_key, flip_key, policy_key, cutout_key = jax.random.split(key, 4)
    varied: Any = augment.random_crop(crop_key, images, padding=self.crop_padding, rows=rows)
    if self.flip:
      varied = augment.random_flip(flip_key, varied, rows=rows)
    if self.auto_augment:
      varied = autoaugment.auto_augment(policy_key, varied, rows=rows)
    varied = augment.cutout(cutout_key, varied, size=self.cutout, rows=rows)
    return augment.normalize(varied, self.mean, self.std)

  def _augmented(self, key: jax.Array, images: jax.Array, rows: jax.Array | None) -> jax.Array:
    assert self.augmentation is not None
    found = self.augmentation(key, images, rows)
    dtype, shape = getattr(found, "dtype", type(found).__name__), getattr(found, "shape", "")
    if dtype != images.dtype or shape != images.shape:
      raise ValueError(
        f"config.data.augmentation returned images {dtype} {shape}: expected {images.dtype}"
        f" {images.shape}, as it was given"
      )
    return found

  def evaluate(self, images: jax.Array) -> jax.Array:
    """Normalizes."""
    return augment.normalize(images, self.mean, self.std)


def augmentation(name: str) -> extensions.Plugin:
  """Returns an augmentation: "standard", that of `Preprocess`, or one from outside.

  A module has `create(config)`, which returns a function (key, images, rows) → images: uint8
  [b, height, width, channels] in and out, jitted. Image i is varied by the key and rows[i] alone
  (where rows is None: i), so that no cut of the batch changes it; `augment.image_keys` makes such
  keys. "package.module:function" names such a function itself; it gets its options by keyword.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a module that is missing.
  """
  return extensions.find(
    "data.augmentation",
    name,
    ("standard",),
    lambda own: extensions.own(own, lambda config: None),
    positional=3,
  )


def create_preprocess(config: Any, mean: Any, std: Any) -> Preprocess:
  """Returns the preprocessing that a config asks for.

  Args:
    config: checked.
    mean: of each channel, on 0 … 1.
    std: of each channel, on 0 … 1.

  Raises:
    ValueError: for an augmentation from outside that is none.
  """
  data, options = config.data, config.augmentation_options
  found = augmentation(data.augmentation)
  chosen: Any = None
  if found.outside and found.is_module:
    chosen = extensions.make("data.augmentation", found, config, given={}, options=options)
    if not callable(chosen):
      raise ValueError(
        f"config.data.augmentation {found.name!r} made {chosen!r}: expected a function of key,"
        " images and rows"
      )
  elif found.outside:
    chosen = functools.partial(found.create, **options)
  return Preprocess(mean, std, data.crop_padding, data.flip, data.auto_augment, data.cutout, chosen)
