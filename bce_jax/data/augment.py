"""What is done to a batch of images on the device: crop, flip, normalise.

Pure functions for the caller to jit, over a batch on one device or split along a mesh axis: how
image i is varied depends on the key and i alone, so it comes out the same on any number of devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Key, Shaped, UInt8, UInt32

AnyArray = Array | np.ndarray
KeyLike = Key[Array, ""] | UInt32[Array, "2"]


def normalize(
  images: UInt8[AnyArray, "b h w c"], mean: Float[AnyArray, "c"], std: Float[AnyArray, "c"]
) -> Float32[Array, "b h w c"]:
  """Scales images to mean 0 and deviation 1: (images / 255 − mean) / std.

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
  key: KeyLike, images: Shaped[AnyArray, "b h w c"], *, padding: int
) -> Shaped[AnyArray, "b h w c"]:
  """Moves each image by up to `padding` pixels up or down, and left or right.

  The recipe of CIFAR: add a border of zeros on each side (black, in images not yet normalised) and
  cut out a window of the original size, each of its (2 · padding + 1)² places being as likely.

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.
    padding: width of the border in pixels, ≥ 0; 0 leaves the images as they are.

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

  return jax.vmap(cut)(_image_keys(key, jnp.arange(len(images))), padded)


def random_flip(key: KeyLike, images: Shaped[AnyArray, "b h w c"]) -> Shaped[AnyArray, "b h w c"]:
  """Mirrors each image left to right, with probability 1/2.

  Args:
    key: of the step.
    images: [B, H, W, C], of any dtype.

  Returns:
    [B, H, W, C], of the same dtype.
  """
  flip = jax.vmap(jax.random.bernoulli)(_image_keys(key, jnp.arange(len(images))))
  return jnp.where(flip.reshape(-1, 1, 1, 1), images[:, :, ::-1], images)


def _image_keys(key: KeyLike, rows: Int32[Array, "b"]) -> Shaped[Array, "b ..."]:
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
