"""Augmentation against numpy, and the same on one device as on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bce_jax.data import augment

SHAPE = (16, 6, 5, 3)


@pytest.fixture
def images():
  # No zeros, so that the border can be told from the image.
  return np.random.default_rng(0).integers(1, 256, SHAPE, np.uint8)


@pytest.fixture
def sharded():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec("data"))


def windows(image, padding):
  """All places of an image's window, [(2 padding + 1)², H, W, C], by numpy."""
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  height, width = image.shape[:2]
  starts = range(2 * padding + 1)
  return np.stack(
    [padded[top : top + height, left : left + width] for top in starts for left in starts]
  )


def places(image, cropped, padding):
  """Which of its windows an image became."""
  matches = (windows(image, padding) == cropped).all(axis=(1, 2, 3))
  return np.flatnonzero(matches).tolist()


def test_normalize(images):
  mean, std = np.array([0.1, 0.2, 0.3], np.float32), np.array([0.5, 0.25, 1.0], np.float32)
  normalized = augment.normalize(images, mean, std)
  assert normalized.dtype == jnp.float32
  np.testing.assert_allclose(normalized, (images / 255.0 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [1, 2, 7])
def test_crop_is_a_window_of_the_padded_image(images, dtype, padding):
  images = images.astype(dtype)
  cropped = augment.random_crop(jax.random.key(0), images, padding=padding)
  assert (cropped.shape, cropped.dtype) == (SHAPE, dtype)
  # Beyond the image's size a window may hold the border alone, and so match several places.
  for image, crop in zip(images, np.asarray(cropped), strict=True):
    assert places(image, crop, padding)


def test_crop_takes_every_place_as_often(images):
  crop = jax.jit(lambda key: augment.random_crop(key, jnp.asarray(images), padding=1))
  found = []
  for step in range(60):
    cropped = np.asarray(crop(jax.random.key(step)))
    for image, result in zip(images, cropped, strict=True):
      (place,) = places(image, result, 1)
      found.append(place)
  counts = np.bincount(found, minlength=9)
  # 960 draws of 9 places: 106.7 each, deviation 9.7.
  assert counts.sum() == 960
  assert np.abs(counts - 960 / 9).max() < 45


def test_images_are_cropped_each_in_its_own_way():
  same = np.broadcast_to(np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1), (64, 5, 5, 1))
  cropped = np.asarray(augment.random_crop(jax.random.key(0), same, padding=2))
  assert len(np.unique(cropped.reshape(64, -1), axis=0)) > 15


def test_crop_without_padding(images):
  assert augment.random_crop(jax.random.key(0), images, padding=0) is images
  with pytest.raises(ValueError, match="padding is -1; expected 0 or more"):
    augment.random_crop(jax.random.key(0), images, padding=-1)


def test_flip_mirrors_left_to_right(images):
  flipped = np.asarray(augment.random_flip(jax.random.key(0), images))
  assert flipped.dtype == np.uint8
  mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
  kept = (flipped == images).all(axis=(1, 2, 3))
  assert (mirrored ^ kept).all()
  assert 0 < mirrored.sum() < len(images)


def test_flip_is_a_fair_coin_for_every_image():
  images = np.broadcast_to(np.array([1, 2], np.uint8).reshape(1, 1, 2, 1), (200, 1, 2, 1))
  flip = jax.jit(augment.random_flip)
  heads = np.stack([flip(jax.random.key(k), images)[:, 0, 0, 0] == 2 for k in range(50)])
  assert abs(heads.mean() - 0.5) < 0.02  # 10,000 tosses: deviation 0.005
  assert heads.mean(axis=0).min() > 0.1  # each image by itself: deviation 0.07
  assert heads.mean(axis=0).max() < 0.9


@pytest.mark.parametrize(
  "vary",
  [lambda key, x: augment.random_crop(key, x, padding=2), augment.random_flip],
  ids=["crop", "flip"],
)
def test_image_and_key_decide_alone(images, vary):
  key = jax.random.key(5)
  whole = np.asarray(vary(key, images))
  np.testing.assert_array_equal(vary(key, images[:5]), whole[:5])  # not the batch it is in
  np.testing.assert_array_equal(vary(jax.random.key(5), images), whole)
  assert (np.asarray(vary(jax.random.key(6), images)) != whole).any()
  np.testing.assert_array_equal(vary(jax.random.PRNGKey(5), images), whole)  # old keys too


def test_eight_devices_give_what_one_gives(images, sharded):
  mean, std = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.25, 1.0])

  def vary(key, images):
    crop_key, flip_key = jax.random.split(key)
    images = augment.random_crop(crop_key, images, padding=2)
    return augment.normalize(augment.random_flip(flip_key, images), mean, std)

  key = jax.random.key(1)
  one = jax.jit(vary)(key, jax.device_put(images, jax.devices()[0]))
  on_eight = jax.device_put(images, sharded)
  eight = jax.jit(vary, out_shardings=sharded)(key, on_eight)
  assert len(eight.sharding.device_set) == 8
  np.testing.assert_array_equal(eight, one)
  # Each device varies its own images: no image travels.
  program = jax.jit(vary, out_shardings=sharded).lower(key, on_eight).compile().as_text()
  for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert exchange not in program
