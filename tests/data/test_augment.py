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


def box(start, sides, shape):
  """Pixel by pixel, which of an image's lie in a box."""
  inside = np.zeros(shape, bool)
  for y in range(shape[0]):
    for x in range(shape[1]):
      inside[y, x] = 0 <= y - start[0] < sides[0] and 0 <= x - start[1] < sides[1]
  return inside


def boxes(sides, shape):
  """The box about each pixel: those before its center are as many as those after, or one more."""
  centers = np.ndindex(shape)
  return [box((y - sides[0] // 2, x - sides[1] // 2), sides, shape) for y, x in centers]


def center(inside, sides):
  """About which pixels the box may be that was found."""
  shape = inside.shape
  found = [(inside == candidate).all() for candidate in boxes(sides, shape)]
  return np.flatnonzero(found).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 30])
def test_cutout_covers_a_clipped_square(images, dtype, size):
  images = images.astype(dtype)
  cut = np.asarray(augment.cutout(jax.random.key(0), images, size=size))
  assert (cut.shape, cut.dtype) == (SHAPE, dtype)
  covered = (cut == 0).all(axis=3)
  np.testing.assert_array_equal(cut, np.where(covered[..., None], 0, images))
  for inside in covered:
    assert center(inside, (size, size))


def test_cutout_takes_every_pixel_for_its_center_as_often(images):
  cut = jax.jit(lambda key: augment.cutout(key, jnp.asarray(images), size=1))
  covered = [(np.asarray(cut(jax.random.key(k))) == 0).all(axis=3) for k in range(60)]
  assert (np.sum(covered, axis=(2, 3)) == 1).all()
  counts = np.sum(covered, axis=(0, 1))
  assert np.abs(counts - 960 / 30).max() < 25  # 960 draws of 30 places: 32 each, deviation 5.6


def test_cutout_of_nothing(images):
  assert augment.cutout(jax.random.key(0), images, size=0) is images
  with pytest.raises(ValueError, match="size is -1; expected 0 or more"):
    augment.cutout(jax.random.key(0), images, size=-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_mixup(images, dtype):
  images = images.astype(np.float32) / 255
  images, partners = images.astype(dtype), images[::-1].astype(dtype)
  shares = np.linspace(0, 1, len(images), dtype=np.float32)
  # Of numbers below 1; 16 bits are rounded once, after the mixing in 32 bits.
  error = float(jnp.finfo(dtype).eps) * (1 if dtype == np.float32 else 0.251)
  mixed = augment.mixup(images, partners, shares)
  assert (mixed.shape, mixed.dtype) == (SHAPE, dtype)
  for one, image, partner, share in zip(mixed, images, partners, shares, strict=True):
    expected = np.float64(share) * image.astype(float) + (1 - np.float64(share)) * partner
    np.testing.assert_allclose(np.asarray(one, float), expected, rtol=0, atol=error)
  np.testing.assert_array_equal(mixed[0], partners[0])
  np.testing.assert_array_equal(mixed[-1], images[-1])
  for share in (0.25, np.float32(0.25), jnp.float32(0.25), np.full(16, 0.25)):
    one_share = augment.mixup(images, partners, share)
    np.testing.assert_array_equal(one_share, augment.mixup(images, partners, np.full(16, 0.25)))
  traced = jax.jit(augment.mixup)(images, partners, shares)
  np.testing.assert_allclose(
    np.asarray(traced, float), np.asarray(mixed, float), atol=jnp.finfo(dtype).eps
  )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.31, 0.75, 0.97, 1.0])
def test_cutmix_pastes_a_clipped_box(images, dtype, share):
  images = images.astype(dtype)
  partners = 255 - images[::-1]  # nowhere equal to the images, or this would find other boxes
  partners = np.where(partners == images, partners + 1, partners).astype(dtype)
  mixed, kept = augment.cutmix(jax.random.key(0), images, partners, share)
  assert (mixed.shape, mixed.dtype) == (SHAPE, dtype)
  assert (kept.shape, kept.dtype) == (SHAPE[:1], np.float32)
  pasted = (np.asarray(mixed) == partners).all(axis=3)
  np.testing.assert_array_equal(mixed, np.where(pasted[..., None], partners, images))
  sides = [int(length * np.sqrt(1 - share)) for length in SHAPE[1:3]]
  for inside, left in zip(pasted, np.asarray(kept), strict=True):
    assert center(inside, sides)
    assert left == pytest.approx((~inside).sum() / inside.size, rel=2e-7, abs=0)
  if share == 0:  # as large as the image, but about any pixel: clipped
    assert pasted.mean() < 0.9
  if share == 1:
    assert not pasted.any()
    assert (np.asarray(kept) == 1).all()


def test_cutmix_shares_of_each_image(images):
  shares = np.linspace(0, 1, len(images), dtype=np.float32)
  key, partners = jax.random.key(2), images[::-1]
  mixed, kept = jax.jit(augment.cutmix)(key, images, partners, shares)
  for i, share in enumerate(shares):
    alone, left = augment.cutmix(key, images, partners, float(share))
    np.testing.assert_array_equal(mixed[i], alone[i])
    assert float(kept[i]) == pytest.approx(float(left[i]), rel=2e-7, abs=0)
  assert len(np.unique(kept)) > 5


def test_cutmix_takes_every_pixel_for_its_center_as_often(images):
  share = 1 - 1 / 20  # sides ⌊6 · 0.22⌋ and ⌊5 · 0.22⌋: one pixel
  partners = np.zeros_like(images)
  mix = jax.jit(lambda key: augment.cutmix(key, images, partners, share)[0])
  pasted = [(np.asarray(mix(jax.random.key(k))) == 0).all(axis=3) for k in range(60)]
  assert (np.sum(pasted, axis=(2, 3)) == 1).all()
  assert np.abs(np.sum(pasted, axis=(0, 1)) - 960 / 30).max() < 25


def test_mixing_refusals(images):
  key, floats = jax.random.key(0), images.astype(np.float32)
  with pytest.raises(ValueError, match="must be floating point to be mixed, got dtype uint8"):
    augment.mixup(images, images, 0.5)
  for mix in (augment.mixup, lambda *args: augment.cutmix(key, *args)):
    with pytest.raises(ValueError, match=r"like the images, float32\[16, 6, 5, 3\], got float16"):
      mix(floats, floats.astype(np.float16), 0.5)
    with pytest.raises(ValueError, match=r"got float32\[8, 6, 5, 3\]"):
      mix(floats, floats[:8], 0.5)
    with pytest.raises(ValueError, match=r"one for each of 16 images, got shape \(3,\)"):
      mix(floats, floats, np.full(3, 0.5))
    with pytest.raises(ValueError, match="share must be real, got dtype bool"):
      mix(floats, floats, True)
    for share in (-0.1, 1.1, float("nan"), np.linspace(0, 1.5, 16)):
      with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]"):
        mix(floats, floats, share)


@pytest.mark.parametrize(
  "vary",
  [
    lambda key, x, **rows: augment.random_crop(key, x, padding=2, **rows),
    augment.random_flip,
    lambda key, x, **rows: augment.cutout(key, x, size=3, **rows),
    lambda key, x, **rows: augment.cutmix(key, x, 255 - x, 0.5, **rows)[0],
  ],
  ids=["crop", "flip", "cutout", "cutmix"],
)
def test_image_and_key_decide_alone(images, vary):
  key = jax.random.key(5)
  whole = np.asarray(vary(key, images))
  np.testing.assert_array_equal(vary(key, images[:5]), whole[:5])  # not the batch it is in
  rows = np.arange(1, len(images), 3)  # in a part of a batch, its number in the whole
  np.testing.assert_array_equal(vary(key, images[rows], rows=rows), whole[rows])
  np.testing.assert_array_equal(vary(jax.random.key(5), images), whole)
  assert (np.asarray(vary(jax.random.key(6), images)) != whole).any()
  np.testing.assert_array_equal(vary(jax.random.PRNGKey(5), images), whole)  # old keys too


def test_eight_devices_give_what_one_gives(images, sharded):
  mean, std = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.25, 1.0])

  def vary(key, images):
    crop_key, flip_key, cut_key, mix_key = jax.random.split(key, 4)
    images = augment.random_crop(crop_key, images, padding=2)
    images = augment.cutout(cut_key, augment.random_flip(flip_key, images), size=3)
    share = jnp.arange(len(images)) / len(images)
    images, kept = augment.cutmix(mix_key, images, 255 - images, share)
    images = augment.normalize(images, mean, std)
    return augment.mixup(images, -images[:, ::-1], share), kept

  key = jax.random.key(1)
  one = jax.jit(vary)(key, jax.device_put(images, jax.devices()[0]))
  on_eight = jax.device_put(images, sharded)
  eight = jax.jit(vary, out_shardings=sharded)(key, on_eight)
  for split, whole in zip(eight, one, strict=True):
    assert len(split.sharding.device_set) == 8
    np.testing.assert_array_equal(split, whole)
  # Each device varies its own images: no image travels.
  program = jax.jit(vary, out_shardings=sharded).lower(key, on_eight).compile().as_text()
  for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert exchange not in program
