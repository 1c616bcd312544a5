"""AutoAugment's policy for CIFAR-10 (Cubuk et al., CVPR 2019), on the device, as Pillow does it.

Under `vmap` a choice among 14 operations would run all of them. Here each one is an affine map, or
a table of 256 entries, or a blend with another image, and does nothing in the other two: a batch
goes through one gather, one lookup and one blend, with parameters chosen for each image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, UInt8

from bce_jax.data.augment import AnyArray, KeyLike, Rows, image_keys
from bce_jax.names import nearest

FILL = 128  # what comes into view from beyond the border is gray


def _even(first: float, last: float) -> tuple[float, ...]:
  return tuple(np.linspace(first, last, 10).tolist())


# Of each operation the ten magnitudes that a policy chooses from by number. Shears are in pixels a
# pixel, translations in sides of the image, the rotation in degrees; color, contrast, brightness
# and sharpness are blended by 1 + magnitude; `posterize` is in bits kept, and `solarize` inverts
# from its level on.
MAGNITUDES: dict[str, tuple[float, ...]] = {
  **dict.fromkeys(("shear_x", "shear_y"), _even(0, 0.3)),
  **dict.fromkeys(("translate_x", "translate_y"), _even(0, 150 / 331)),
  "rotate": _even(0, 30),
  **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), _even(0, 0.9)),
  "posterize": tuple(map(round, _even(8, 4))),
  "solarize": _even(256, 0),
  **dict.fromkeys(("autocontrast", "equalize", "invert"), _even(0, 0)),  # without one
}
# The operations that draw a sign for their magnitude.
SIGNED = frozenset(MAGNITUDES) - {"posterize", "solarize", "autocontrast", "equalize", "invert"}

# The 25 sub-policies: two operations, each with its probability and the number of its magnitude.
# Some copies have 0.8 for the 0.6 of the second `equalize` in the 17th.
POLICY = (
  (("invert", 0.1, 7), ("contrast", 0.2, 6)),
  (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
  (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
  (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
  (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
  (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
  (("color", 0.4, 3), ("brightness", 0.6, 7)),
  (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
  (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
  (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
  (("color", 0.7, 7), ("translate_x", 0.5, 8)),
  (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
  (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
  (("brightness", 0.9, 6), ("color", 0.2, 8)),
  (("solarize", 0.5, 2), ("invert", 0.0, 3)),
  (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
  (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
  (("color", 0.9, 9), ("equalize", 0.6, 6)),
  (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
  (("brightness", 0.1, 3), ("color", 0.7, 0)),
  (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
  (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
  (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
  (("equalize", 0.8, 8), ("invert", 0.1, 3)),
  (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


def _variants() -> tuple[tuple[tuple[str, float], ...], np.ndarray]:
  """All that an image can go through: nothing, first, and each operation with its signed magnitude.

  With it their numbers, [sub-policy, first or second, sign].
  """
  variants: dict[tuple[str, float], int] = {("nothing", 0.0): 0}
  numbers = np.zeros((len(POLICY), 2, 2), np.int32)
  for place in np.ndindex(numbers.shape):
    operation, _, level = POLICY[place[0]][place[1]]
    sign = -1 if place[2] and operation in SIGNED else 1
    variant = (operation, sign * MAGNITUDES[operation][level])
    numbers[place] = variants.setdefault(variant, len(variants))
  return tuple(variants), numbers


VARIANTS, _NUMBERS = _variants()
_PROBABILITIES = np.array([[op[1] for op in sub_policy] for sub_policy in POLICY], np.float32)

_AUTOCONTRAST, _EQUALIZE = 1, 2  # tables made from the image; 0: a fixed one
_BLACK, _MEAN, _GRAY, _SMOOTH = range(4)  # what is blended with


class _Parameters(NamedTuple):
  """Of each variant, or of each image, what the three steps do; as it stands at first, nothing."""

  affine: Int32[AnyArray, "n 6"]  # source x = (a₀ x + a₁ y + a₂) >> 16, source y likewise
  table: UInt8[AnyArray, "n 256"]
  adaptive: Int32[AnyArray, " n"]
  blended: Int32[AnyArray, " n"]
  factor: Float32[AnyArray, " n"]


def auto_augment(
  key: KeyLike, images: UInt8[AnyArray, "b h w c"], *, rows: Rows = None
) -> UInt8[Array, "b h w c"]:
  """Applies to each image one of AutoAugment's 25 sub-policies for CIFAR-10, each as likely.

  Each of its two operations is applied with its own probability, its magnitude positive or negative
  with probability 1/2 where the two differ (Cubuk et al., CVPR 2019; probabilities and magnitudes
  as in the PyTorch code that the papers use, whose ten magnitudes run evenly over each range).
  Geometric operations take the nearest pixel, and gray (128, 128, 128) from beyond the border.

  The result is that of Pillow but for one gray level where `autocontrast` or a blend should be a
  whole number: it is so here, where Pillow's floats may lie just below and are cut off. Copies of
  the policy differ from it and from each other: some shear bicubically, some rotate one way only.

  Args:
    key: of the step.
    images: uint8 [B, H, W, 3], not yet normalized, of up to four million pixels each.
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    uint8 [B, H, W, 3].

  Raises:
    ValueError: for images that are not uint8, or not of three channels.
  """
  parameters = _parameters(VARIANTS, *_size(images))
  numbers = draw(key, len(images), rows=rows)

  # A loop, so that the images are written out between the two: else XLA on CPU puts the end of the
  # first into the gather of the second, pixel by pixel, and takes a quarter longer.
  def turn(planes, numbers):
    chosen = _Parameters(*(jnp.asarray(values)[numbers] for values in parameters))
    return _transform(planes, chosen), None

  planes, _ = jax.lax.scan(turn, jnp.moveaxis(jnp.asarray(images), 3, 1), numbers.T)
  return jnp.moveaxis(planes, 1, 3)


def draw(key: KeyLike, count: int, *, rows: Rows = None) -> Int32[Array, "b 2"]:
  """Returns the two operations that `auto_augment` puts each image through.

  Args:
    key: of the step.
    count: B, the number of images.
    rows: [B], numbers of the images in the step's batch; none: 0, 1, 2, …

  Returns:
    int32 [B, 2], numbers in VARIANTS; 0 for an operation that is not applied.
  """

  def one(image_key):
    uniform = jax.random.uniform(image_key, (5,))  # at once: quicker to compile than three draws
    sub_policy = (uniform[0] * len(POLICY)).astype(jnp.int32)
    applied = uniform[1:3] < jnp.asarray(_PROBABILITIES)[sub_policy]
    signs = (uniform[3:] < 0.5).astype(jnp.int32)
    return jnp.where(applied, jnp.asarray(_NUMBERS)[sub_policy, jnp.arange(2), signs], 0)

  return jax.vmap(one)(image_keys(key, jnp.arange(count) if rows is None else rows))


def apply(
  image: UInt8[AnyArray, "h w c"], operation: str, magnitude: float = 0.0
) -> UInt8[Array, "h w c"]:
  """Puts one image through one operation, by the steps that `auto_augment` uses.

  Args:
    image: uint8 [H, W, 3].
    operation: one of MAGNITUDES.
    magnitude: a known number in the operation's unit, see MAGNITUDES, with its sign; not used by
      `autocontrast`, `equalize` and `invert`.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: for another operation, for a magnitude that is not finite or bits that are not 1, 2,
      … 8, for an image that is not uint8 or not of three channels, and for a map that leads 32,768
      pixels away or further.

  >>> apply(np.full((1, 1, 3), 10, np.uint8), "invert").tolist()
  [[[245, 245, 245]]]
  """
  if operation not in MAGNITUDES:
    raise ValueError(
      f"no operation is named {operation!r}; did you mean {nearest(operation, MAGNITUDES)!r}?"
    )
  if not math.isfinite(magnitude):
    raise ValueError(f"magnitude must be a finite number, got {magnitude}")
  parameters = _parameters([(operation, float(magnitude))], *_size(image))
  planes = _transform(jnp.moveaxis(jnp.asarray(image), 2, 0)[None], parameters)
  return jnp.moveaxis(planes[0], 0, 2)


def _size(images: UInt8[AnyArray, "*b h w c"]) -> tuple[int, int]:
  """The height and width of images that the operations can take; others are refused."""
  height, width, channels = images.shape[-3:]
  if channels != 3:
    raise ValueError(f"AutoAugment's operations need color images, got {channels} channels")
  if images.dtype != np.uint8:
    raise ValueError(f"AutoAugment's operations need uint8 images, got dtype {images.dtype}")
  return height, width


def _parameters(variants: Sequence[tuple[str, float]], height: int, width: int) -> _Parameters:
  """What the steps do in each variant: in numpy and before tracing, since it needs float64."""
  levels = np.arange(256)
  rows = []
  for operation, magnitude in variants:
    table, adaptive, blended, factor = levels, 0, _BLACK, 1.0
    match operation:
      case "posterize":
        if magnitude not in range(1, 9):
          raise ValueError(f"posterize keeps 1, 2, … or 8 bits, got {magnitude}")
        table = levels & -(2 ** (8 - int(magnitude)))
      case "solarize":
        table = np.where(levels < magnitude, levels, 255 - levels)
      case "invert":
        table = 255 - levels
      case "autocontrast":
        adaptive = _AUTOCONTRAST
      case "equalize":
        adaptive = _EQUALIZE
      case "brightness" | "contrast" | "color" | "sharpness":
        blended = {"brightness": _BLACK, "contrast": _MEAN, "color": _GRAY}.get(operation, _SMOOTH)
        factor = 1 + magnitude
    rows.append((_affine(operation, magnitude, height, width), table, adaptive, blended, factor))
  dtypes = (np.int32, np.uint8, np.int32, np.int32, np.float32)
  columns = zip(*rows, strict=True)
  return _Parameters(*(np.array(c, dtype) for c, dtype in zip(columns, dtypes, strict=True)))


def _affine(operation: str, magnitude: float, height: int, width: int) -> tuple[int, ...]:
  """The map from a pixel to its source in Pillow's 16.16 fixed point, rounded where Pillow does."""
  a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
  match operation:
    case "shear_x":
      b = magnitude
    case "shear_y":
      d = magnitude
    case "translate_x":  # a map that only moves is not in fixed point: floor(x + 0.5 + shift)
      c = math.floor(magnitude * width + 0.5)
    case "translate_y":
      f = math.floor(magnitude * height + 0.5)
    case "rotate":
      turn = -math.radians(magnitude % 360.0)
      a = e = round(math.cos(turn), 15)
      b, d = round(math.sin(turn), 15), round(-math.sin(turn), 15)
      c = a * (-width / 2) + b * (-height / 2) + width / 2
      f = d * (-width / 2) + e * (-height / 2) + height / 2
  corners = [(x, y) for x in (0, width) for y in (0, height)]
  if any(max(abs(a * x + b * y + c), abs(d * x + e * y + f)) >= 2**15 for x, y in corners):
    raise ValueError(
      f"{operation} by {magnitude} of an image of {height} × {width} pixels leads too far away:"
      " source coordinates must be below 32,768"
    )
  starts = (c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5)
  fixed = [math.floor(v * 65536 + 0.5) for v in (a, b, starts[0], d, e, starts[1])]
  return tuple(fixed)


@jax.jit
def _transform(planes: UInt8[Array, "b 3 h w"], chosen: _Parameters) -> UInt8[Array, "b 3 h w"]:
  planes = _move(planes, chosen.affine)
  planes = _look_up(planes, chosen.table, chosen.adaptive)
  return _blend(planes, chosen.blended, chosen.factor)


def _move(
  planes: UInt8[Array, "b 3 h w"], affine: Int32[AnyArray, "b 6"]
) -> UInt8[Array, "b 3 h w"]:
  batch, _, height, width = planes.shape
  y, x = jnp.mgrid[:height, :width].astype(jnp.int32)
  a, b, c, d, e, f = affine.T[:, :, None, None]
  column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
  inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  index = jnp.where(inside, row * width + column, 0).reshape(batch, -1)
  # The three channels of a pixel as one integer: a third of the lookups.
  red, green, blue = jnp.moveaxis(planes, 1, 0).reshape(3, batch, -1).astype(jnp.int32)
  packed = red | green << 8 | blue << 16
  taken = jnp.take_along_axis(packed, index, axis=1, mode="promise_in_bounds")
  pixels = jnp.where(inside, taken.reshape(inside.shape), FILL * 0x010101)
  return jnp.stack([pixels >> shift & 255 for shift in (0, 8, 16)], axis=1).astype(jnp.uint8)


def _look_up(
  planes: UInt8[Array, "b 3 h w"], table: UInt8[AnyArray, "b 256"], adaptive: Int32[AnyArray, " b"]
) -> UInt8[Array, "b 3 h w"]:
  flat = planes.reshape(*planes.shape[:2], -1)
  # The extremes of bytes, then as integers: on CPU 15 times as quick as of integers.
  low, high = (end(flat, 2, keepdims=True).astype(jnp.int32) for end in (jnp.min, jnp.max))
  values, levels = flat.astype(jnp.int32), jnp.arange(256)

  stretched = _divide(255 * jnp.clip(levels - low, 0, high - low), high - low)
  stretched = jnp.where(high > low, stretched, levels)

  count = jax.vmap(_histograms)(values)
  below = jnp.cumsum(count, axis=2) - count
  # All but the pixels of the highest level, shared out over 255 steps.
  step = jnp.take_along_axis(below, high, axis=2) // 255
  spread = jnp.where(step > 0, jnp.minimum(_divide(step // 2 + below, step), 255), levels)

  kind = adaptive[:, None, None]
  tables = jnp.where(kind == _EQUALIZE, spread, table[:, None].astype(jnp.int32))
  tables = jnp.where(kind == _AUTOCONTRAST, stretched, tables).astype(jnp.uint8)
  found = jnp.take_along_axis(tables, values, axis=2, mode="promise_in_bounds")
  return found.reshape(planes.shape)


def _divide(a: Int32[Array, "..."], b: Int32[Array, "..."]) -> Int32[Array, "..."]:
  """⌊a / b⌋ for a ≥ 0, or of 1 for a b of 0, by a product: several times as quick.

  The half keeps the product 0.5 / b off whole numbers, further than floats can be wrong for the
  levels of an image: (a / b) · 2⁻²² at most.
  """
  inverse = 1 / jnp.maximum(b, 1).astype(jnp.float32)
  return ((a.astype(jnp.float32) + 0.5) * inverse).astype(jnp.int32)


def _histograms(values: Int32[Array, "3 n"]) -> Int32[Array, "3 256"]:
  places = (values + jnp.array([[0], [256], [512]])).reshape(-1)
  counts = jnp.zeros(3 * 256, jnp.int32).at[places].add(1, mode="promise_in_bounds")
  return counts.reshape(3, 256)


def _blend(
  planes: UInt8[Array, "b 3 h w"], blended: Int32[AnyArray, " b"], factor: Float32[AnyArray, " b"]
) -> UInt8[Array, "b 3 h w"]:
  values = planes.astype(jnp.int32)
  height, width = values.shape[2:]
  red, green, blue = values[:, 0], values[:, 1], values[:, 2]
  gray = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
  total = jnp.sum(gray, axis=(1, 2), keepdims=True)
  mean = (2 * total + height * width) // (2 * height * width)
  kind = blended[:, None, None]
  plain = jnp.where(kind == _GRAY, gray, jnp.where(kind == _MEAN, mean, 0))

  lines = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
  total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * values[:, :, 1:-1, 1:-1]
  # The border of one pixel stays as it is.
  smooth = values.at[:, :, 1:-1, 1:-1].set((2 * total + 13) // 26)
  other = jnp.where(kind[..., None] == _SMOOTH, smooth, plain[:, None])
  mixed = other + factor[:, None, None, None] * (values - other)
  # To be cut off, as Pillow does. The little more is far below a tenth, what a factor of the policy
  # can leave, and far above what a compiler can make of a product that should be whole.
  return jnp.clip(mixed + 2.0**-10, 0, 255).astype(jnp.uint8)
