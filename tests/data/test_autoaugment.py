"""AutoAugment against Pillow, what it draws, and the same on one device as on eight."""

import collections

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from bce_jax.data import autoaugment

GRAY = (128, 128, 128)
SIGNED = ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]
SIGNED += ["color", "contrast", "brightness", "sharpness"]
UNSIGNED = ["posterize", "solarize", "autocontrast", "equalize", "invert"]
SIZES = [(32, 32), (5, 8), (33, 21), (2, 9), (1, 1)]  # even and odd sides, in all ways


def by_pillow(pixels, operation, magnitude):
  """One operation by Pillow: [H, W, 3] to the same."""
  image = Image.fromarray(pixels)

  def affine(*coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=GRAY)

  match operation:
    case "shear_x":
      image = affine(1, magnitude, 0, 0, 1, 0)
    case "shear_y":
      image = affine(1, 0, 0, magnitude, 1, 0)
    case "translate_x":
      image = affine(1, 0, magnitude * image.width, 0, 1, 0)
    case "translate_y":
      image = affine(1, 0, 0, 0, 1, magnitude * image.height)
    case "rotate":
      image = image.rotate(magnitude, fillcolor=GRAY)
    case "color" | "contrast" | "brightness" | "sharpness":
      image = getattr(ImageEnhance, operation.capitalize())(image).enhance(1 + magnitude)
    case "posterize":
      image = ImageOps.posterize(image, int(magnitude))
    case "solarize":
      image = ImageOps.solarize(image, magnitude)
    case _:
      image = getattr(ImageOps, operation)(image)
  return np.asarray(image)


def magnitudes(operation):
  """All that a policy can choose, with its sign where it draws one: both for what is in POLICY."""
  values = autoaugment.MAGNITUDES[operation]
  if operation not in SIGNED:
    return sorted(set(values))
  chosen = {m for name, m in autoaugment.VARIANTS if name == operation}
  return sorted(chosen | {(-1) ** k * m for k, m in enumerate(values)} | {values[-1], -values[-1]})


@pytest.fixture(scope="module")
def pictures():
  """Of each size a photograph, noise, one gray, two grays apart and two together."""
  rng = np.random.default_rng(0)
  photograph = Image.fromarray(load_sample_images().images[1])
  found = []
  for height, width in SIZES:
    shape = (height, width, 3)
    found.append(np.asarray(photograph.resize((width, height))))
    found.append(rng.integers(0, 256, shape, np.uint8))
    found.append(np.clip(rng.normal(120, 40, shape), 0, 255).astype(np.uint8))
    found.append(np.full(shape, 77, np.uint8))
    found.append(rng.choice(np.array([3, 200], np.uint8), shape))
    found.append(rng.choice(np.array([76, 77], np.uint8), shape))
  return found


@pytest.fixture(scope="module")
def photographs():
  """40 pieces of photographs, 16 × 12."""
  rng = np.random.default_rng(1)
  whole = load_sample_images().images[1]
  corners = rng.integers(0, np.array(whole.shape[:2]) - 96, (40, 2))
  return np.stack([whole[y : y + 96 : 6, x : x + 96 : 8] for y, x in corners])


@pytest.fixture(scope="module")
def vary():
  return jax.jit(autoaugment.auto_augment)


def differences(operation, magnitude, pictures):
  """From Pillow, in levels, of every number in the pictures."""
  found = []
  for picture in pictures:
    ours = np.asarray(autoaugment.apply(picture, operation, magnitude))
    theirs = by_pillow(picture, operation, magnitude)
    assert (ours.shape, ours.dtype) == (picture.shape, np.uint8)
    found.append(np.abs(ours.astype(int) - theirs.astype(int)).ravel())
  return np.concatenate(found)


def farthest(operation, magnitude, pictures):
  return differences(operation, magnitude, pictures).max()


# A blend, or an autocontrast, may differ by a level where Pillow's floats are just below a whole
# number; everything else is integers in Pillow, too.
@pytest.mark.parametrize(("operation", "levels"), [
  *[(operation, 0) for operation in ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"]],
  *[(operation, 1) for operation in ["color", "contrast", "brightness", "sharpness"]],
  *[(operation, 0) for operation in ["posterize", "solarize", "equalize", "invert"]],
  ("autocontrast", 1),
])  # fmt: skip
def test_operation_is_pillows(pictures, operation, levels):
  for magnitude in magnitudes(operation):
    off = differences(operation, magnitude, pictures)
    assert off.max() <= levels, magnitude
    # Within a level would let a rounding pass where Pillow cuts off: half of all pixels.
    assert operation == "autocontrast" or (off > 0).mean() < 0.03, magnitude


@pytest.mark.parametrize(
  ("operation", "magnitude"),
  [("rotate", turn) for turn in (45, 90, -90, 180, 270, 359.9, 133.7, 720)]
  + [("shear_x", 1.7), ("shear_y", -2.3), ("translate_x", 0.5), ("translate_y", -1.2)]
  + [("translate_x", 1e2), ("posterize", 1), ("solarize", 127.5), ("solarize", -1)],
)
def test_magnitudes_of_no_policy(pictures, operation, magnitude):
  assert farthest(operation, magnitude, pictures) == 0


@pytest.mark.parametrize("magnitude", [-1.5, -1.0, -0.937, 0.123, 2.6])
def test_factors_of_no_policy(pictures, magnitude):
  for operation in ["color", "contrast", "brightness", "sharpness"]:
    assert farthest(operation, magnitude, pictures) <= 1


def test_what_should_be_whole_is_whole():
  """Cut off after products of floats, 10 · 0.7 could become 6."""
  ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
  levels = ramp.astype(int)
  for tenths in range(1, 20):
    blended = autoaugment.apply(ramp, "brightness", tenths / 10 - 1)
    np.testing.assert_array_equal(blended, np.minimum(levels * tenths // 10, 255))
  for low, high in [(0, high) for high in range(1, 256)] + [(100, 207), (37, 38)]:
    stretched = autoaugment.apply(np.clip(ramp, low, high), "autocontrast")
    expected = 255 * (np.clip(levels, low, high) - low) // (high - low)
    np.testing.assert_array_equal(stretched, expected)


def test_histogram_of_a_large_image():
  """More pixels than 16 bits count, and a step of thousands."""
  rng = np.random.default_rng(0)
  picture = np.clip(rng.normal(90, 20, (700, 900, 3)), 0, 255).astype(np.uint8)
  for operation in ["equalize", "autocontrast", "contrast"]:
    assert farthest(operation, 0.5, [picture]) <= 1


def test_policy_is_the_published_one():
  """By the sums of the published numbers: a slip in one of them shows."""
  assert len(autoaugment.POLICY) == 25
  operations = [op for sub_policy in autoaugment.POLICY for op in sub_policy]
  counts = collections.Counter(name for name, _, _ in operations)
  assert [counts[name] for name in SIGNED] == [0, 2, 2, 5, 1, 5, 2, 4, 5]
  assert [counts[name] for name in UNSIGNED] == [1, 4, 7, 9, 3]
  assert sum(probability for _, probability, _ in operations) == pytest.approx(26.5)
  assert sum(level for _, _, level in operations) == 267
  assert autoaugment.POLICY[7] == (("sharpness", 0.3, 9), ("brightness", 0.7, 9))
  tops = [autoaugment.MAGNITUDES[name][9] for name in SIGNED]
  assert tops == [0.3, 0.3, 150 / 331, 150 / 331, 30, 0.9, 0.9, 0.9, 0.9]
  assert autoaugment.MAGNITUDES["posterize"] == (8, 8, 7, 7, 6, 6, 5, 5, 4, 4)
  assert autoaugment.MAGNITUDES["solarize"][::9] == (256, 0)
  assert sorted(autoaugment.SIGNED) == sorted(SIGNED)
  assert sorted([*SIGNED, *UNSIGNED]) == sorted(autoaugment.MAGNITUDES)


def test_each_sub_policy_and_sign_is_drawn_as_often_as_it_should_be():
  draws = 50_000
  numbers = np.asarray(jax.jit(autoaugment.draw, static_argnums=1)(jax.random.key(3), draws))
  pairs, counts = np.unique(numbers, axis=0, return_counts=True)
  drawn = {
    tuple(autoaugment.VARIANTS[n] for n in pair): count
    for pair, count in zip(pairs, counts, strict=True)
  }
  expected = {}
  for sub_policy in autoaugment.POLICY:
    sides = []
    for operation, probability, level in sub_policy:
      magnitude = autoaugment.MAGNITUDES[operation][level]
      signs = (1, -1) if operation in SIGNED else (1,)
      sides.append([(("nothing", 0.0), 1 - probability)])
      sides[-1] += [((operation, sign * magnitude), probability / len(signs)) for sign in signs]
    for first, share in sides[0]:
      for second, other in sides[1]:
        if share * other:
          expected[first, second] = expected.get((first, second), 0) + share * other / 25
  assert sum(expected.values()) == pytest.approx(1)
  assert set(drawn) <= set(expected)
  for pair, share in expected.items():
    deviation = np.sqrt(draws * share * (1 - share))
    assert abs(drawn.get(pair, 0) - draws * share) < 4.5 * deviation + 1, pair


def test_images_go_through_what_is_drawn(vary, photographs):
  """The first of the two first: an `autocontrast` before a translation would leave the fill."""
  key = jax.random.key(11)
  numbers = np.asarray(jax.jit(autoaugment.draw, static_argnums=1)(key, len(photographs)))
  assert (numbers > 0).all(axis=1).sum() > 10
  varied = np.asarray(vary(key, photographs))
  assert (varied.shape, varied.dtype) == (photographs.shape, np.uint8)
  for picture, result, pair in zip(photographs, varied, numbers, strict=True):
    ours = theirs = picture
    for operation, magnitude in (autoaugment.VARIANTS[n] for n in pair if n):
      ours = np.asarray(autoaugment.apply(ours, operation, magnitude))
      theirs = by_pillow(theirs, operation, magnitude)
    np.testing.assert_array_equal(result, ours)
    # A level of the first can become many in the second, but of few pixels.
    assert (np.abs(result.astype(int) - theirs.astype(int)) <= 1).mean() > 0.95


def test_image_and_key_decide_alone(vary, photographs):
  whole = np.asarray(vary(jax.random.key(5), photographs))
  rows = np.arange(1, len(photographs), 3)  # in a part of a batch, its number in the whole
  part = vary(jax.random.key(5), photographs[rows], rows=rows)
  np.testing.assert_array_equal(part, whole[rows])
  assert (np.asarray(vary(jax.random.key(6), photographs)) != whole).any()
  draw = jax.jit(autoaugment.draw, static_argnums=1)
  old_key = jax.random.PRNGKey(5)
  np.testing.assert_array_equal(draw(old_key, 9), draw(jax.random.key(5), 9))


def test_eight_devices_give_what_one_gives(vary, photographs):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  sharded = NamedSharding(mesh, PartitionSpec("data"))
  key = jax.random.key(1)
  on_eight = jax.device_put(photographs, sharded)
  split = jax.jit(autoaugment.auto_augment, out_shardings=sharded).lower(key, on_eight).compile()
  eight = split(key, on_eight)
  assert len(eight.sharding.device_set) == 8
  np.testing.assert_array_equal(eight, vary(key, photographs))
  for exchange in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert exchange not in split.as_text()


def test_refusals():
  key, gray = jax.random.key(0), np.zeros((2, 4, 4, 1), np.uint8)
  with pytest.raises(ValueError, match="need color images, got 1 channels"):
    autoaugment.auto_augment(key, gray)
  with pytest.raises(ValueError, match="need color images, got 1 channels"):
    autoaugment.apply(gray[0], "invert")
  with pytest.raises(ValueError, match="need uint8 images, got dtype float32"):
    autoaugment.auto_augment(key, np.zeros((2, 4, 4, 3), np.float32))
  image = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match="'posterise'; did you mean 'posterize'"):
    autoaugment.apply(image, "posterise", 4)
  for bits in (0, 9, 4.5):
    with pytest.raises(ValueError, match="posterize keeps 1, 2, … or 8 bits"):
      autoaugment.apply(image, "posterize", bits)
  with pytest.raises(ValueError, match="finite number, got nan"):
    autoaugment.apply(image, "rotate", float("nan"))
  with pytest.raises(ValueError, match="4 × 4 pixels leads too far away"):
    autoaugment.apply(image, "shear_x", 1e4)
