"""Augmentation of a batch of images on the device: crop, flip, cut, mix, normalize.

Pure functions for the caller to jit, over a batch on one device or split along a mesh axis: how
image i is varied depends on the key and i alone, so it comes out the same on any number of devices,
and in a part of the batch, where `rows` says which images they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped, UInt8, UInt32

from bce_jax import checks

AnyArray = Array | np.ndarray
KeyLike = Key[Array, ""] | UInt32[Array, "2"]
Rows = Int32[AnyArray, " b"] | None


def normalize(
  images: UInt8[AnyArray, "b h w c"], mean: Float[AnyArray, " c"], std: Float[AnyArray, " c"]
) -> Float32[Array, "b h w c"]:
  """Scales images to mean 0 and std 1: (images / 255 − mean) / std.

  Args:
    images: uint8 [B, H, W, C].
    mean: [C], of pixels on a scale of 0 … 1.
    std: [C], on the same scale, > 0.

  Returns:
    float32 [B, H, W, C].

  >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), jnp.array([0.5]), jnp.array([0.25])).item()
  2.0
  """
  shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
  scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
  return (jnp.asarray(images, jnp.float32) / 255 - shift) / scale


def random_crop(
  key: KeyLike, images: Shaped[AnyArray, "b h w c"], *, padding: int, rows: Rows = None
) -> Shaped[AnyArray, "b h w c"]:
  """Moves each image by up to `padding` pixels up or down, and left or right.

  The recipe of CIFAR: add a border of zeros on each side (black, in images not yet normalized) and
  cut out a window of the original size, each of its (2 · padding + 1)² places being as likely.

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.
    padding: width of the border in pixels, ≥ 0; 0 leaves the images as they are.
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    [B, H, W, C], of the same dtype.

  Raises:
    ValueError: for a negative padding.
  """
  if padding < 0:
    raise ValueError(f"padding is {padding}; expected 0 or more pixels")
  if padding == 0:
    return images
  border = (padding, padding)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

  def cut(image_key, image):
    top, left = jax.random.randint(image_key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

  return jax.vmap(cut)(image_keys(key, _numbers(rows, len(images))), padded)


def random_flip(
  key: KeyLike, images: Shaped[AnyArray, "b h w c"], *, rows: Rows = None
) -> Shaped[AnyArray, "b h w c"]:
  """Flips each image left to right, with probability 1/2.

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    [B, H, W, C], of the same dtype.
  """
  flip = jax.vmap(jax.random.bernoulli)(image_keys(key, _numbers(rows, len(images))))
  return jnp.where(flip.reshape(-1, 1, 1, 1), images[:, :, ::-1], images)


def cutout(
  key: KeyLike, images: Shaped[AnyArray, "b h w c"], *, size: int, rows: Rows = None
) -> Shaped[AnyArray, "b h w c"]:
  """Covers one square of each image with zeros: black, in images not yet normalized.

  Its center is any pixel of the image, each as likely; what reaches over the border is clipped, so
  that of an image a square may cover as little as a corner (DeVries & Taylor, 2017).

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.
    size: side of the square in pixels, ≥ 0; 0 leaves the images as they are.
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    [B, H, W, C], of the same dtype.

  Raises:
    ValueError: for a negative size.
  """
  if size < 0:
    raise ValueError(f"size is {size}; expected 0 or more pixels")
  if size == 0:
    return images
  sides = jnp.full((len(images), 2), size, jnp.int32)
  keys = image_keys(key, _numbers(rows, len(images)))
  covered = _boxes(keys, sides, *images.shape[1:3])[..., None]
  return jnp.where(covered, jnp.zeros((), images.dtype), images)


def mixup(
  images: Float[AnyArray, "b h w c"],
  partners: Float[AnyArray, "b h w c"],
  share: float | Float[AnyArray, "*b"],
) -> Float[Array, "b h w c"]:
  """Mixes each image with a partner: share · images + (1 − share) · partners.

  The labels are to be mixed in the same shares (Zhang et al., ICLR 2018, who draw one share for a
  batch from Beta(α, α)).

  Args:
    images: floating [B, H, W, C].
    partners: [B, H, W, C] of the same dtype, such as the images in another order.
    share: of the image in the mixture, in [0, 1]: one for all, or one for each image, [B].

  Returns:
    [B, H, W, C], of the same dtype.

  Raises:
    ValueError: for images that are not floating, for partners of another shape or dtype, for a
      share of another shape, and for one that is known to lie outside [0, 1].

  >>> mixup(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1)), 0.25).item()
  0.25
  """
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images must be floating point to be mixed, got dtype {images.dtype}")
  _check_partners(images, partners)
  part = _shares(share, len(images), checks.computing_dtype(images.dtype)).reshape(-1, 1, 1, 1)
  return (part * images + (1 - part) * partners).astype(images.dtype)


def cutmix(
  key: KeyLike,
  images: Shaped[AnyArray, "b h w c"],
  partners: Shaped[AnyArray, "b h w c"],
  share: float | Float[AnyArray, "*b"],
  *,
  rows: Rows = None,
) -> tuple[Shaped[Array, "b h w c"], Float32[Array, " b"]]:
  """Pastes a box of its partner into each image, at the place where the partner has it.

  The box has sides ⌊H · √(1 − share)⌋ and ⌊W · √(1 − share)⌋, so an area of about 1 − share of the
  image; its center is any pixel, each as likely, and what reaches over the border is clipped. The
  labels are to be mixed by what then is left (Yun et al., ICCV 2019, who draw one share for a batch
  from Beta(1, 1)).

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.
    partners: [B, H, W, C] of the same dtype, such as the images in another order.
    share: of the image, before clipping, in [0, 1]: one for all, or one for each image, [B].
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    (images: [B, H, W, C], of the same dtype;
    kept: float32 [B], the share of its pixels that each image has kept, counted).

  Raises:
    ValueError: for partners of another shape or dtype, for a share of another shape, and for one
      that is known to lie outside [0, 1].
  """
  _check_partners(images, partners)
  height, width = images.shape[1:3]
  part = _shares(share, len(images), np.float32)
  lengths = jnp.sqrt(1 - part)[:, None] * np.array([height, width], np.float32)
  keys = image_keys(key, _numbers(rows, len(images)))
  pasted = _boxes(keys, jnp.floor(lengths).astype(jnp.int32), height, width)
  kept = height * width - jnp.sum(pasted, axis=(1, 2), dtype=jnp.int32)
  mixed = jnp.where(pasted[..., None], partners, images)
  return mixed, kept.astype(jnp.float32) / np.float32(height * width)


def image_keys(key: KeyLike, rows: Int32[AnyArray, " b"]) -> Shaped[Array, "b ..."]:
  """Returns a random key for each image, from the step's key and the image's number alone."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def _numbers(rows: Rows, count: int) -> Int32[AnyArray, " b"]:
  return jnp.arange(count) if rows is None else rows


def _boxes(
  keys: Shaped[Array, "b ..."], sides: Int32[Array, "b 2"], height: int, width: int
) -> Bool[Array, "b h w"]:
  """Which pixels lie in a box of the given sides, its center uniform over the pixels."""

  def reach(image_key, side):
    start = jax.random.randint(image_key, (2,), 0, jnp.array([height, width])) - side // 2
    y, x = jnp.arange(height), jnp.arange(width)
    rows = (y >= start[0]) & (y < start[0] + side[0])
    columns = (x >= start[1]) & (x < start[1] + side[1])
    return rows[:, None] & columns

  return jax.vmap(reach)(keys, sides)


def _check_partners(images: Shaped[AnyArray, "..."], partners: Shaped[AnyArray, "..."]) -> None:
  if partners.shape != images.shape or partners.dtype != images.dtype:
    raise ValueError(
      f"partners must be like the images, {images.dtype}{list(images.shape)},"
      f" got {partners.dtype}{list(partners.shape)}"
    )


def _shares(share: float | Float[AnyArray, "*b"], count: int, dtype: np.dtype | type) -> Array:
  """The share of each image as [B]; 0 ≤ share ≤ 1 is checked where known."""
  if np.shape(share) not in ((), (count,)):
    raise ValueError(
      f"share must be one number or one for each of {count} images, got shape {np.shape(share)}"
    )
  if not checks.is_real(checks.dtype_of(share)):
    raise ValueError(f"share must be real, got dtype {checks.dtype_of(share)}")
  value = checks.known(share)
  if value is not None and not ((value >= 0) & (value <= 1)).all():  # a nan is neither
    raise ValueError(f"share must lie in [0, 1], got {share}")
  return jnp.broadcast_to(jnp.asarray(share, dtype), (count,))
