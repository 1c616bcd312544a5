"""Images of more than 8 bits per channel: which value is white, and their conversion to 8 bits.

The scale is what the file's header says, or what the user says; never an image's own least and
largest values, which would make brightness mean another thing in every image.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _MAX, _SAMPLE_FORMAT, _SMAX = 258, 262, 281, 339, 341

_NOTHING_LEFT = 1 / 256  # of white: 8 bits leave 0 below it
_DARK = 1 / 8  # of white: so dark is hardly a whole set, unless its white is another value
_LOOKED_AT = 64  # images of a set that is not held in memory

_OPTION = "config.data.full_scale"


class DepthError(ValueError):
  """An image whose value of white is not known, or not what was given."""


class Depth(NamedTuple):
  """What is known of an image of more than 8 bits per channel: its bits, its white.

  Attributes:
    kind: in words.
    white: the value of white; None where nothing tells it.
    stated: whether that is an entry of the file, not the number of its bits.
    color: more than one channel, of which Pillow reads the high 8 bits.
    peak: the image's largest value as a share of white; None where only its header was read.
  """

  kind: str
  white: float | None
  stated: bool = False
  color: bool = False
  peak: float | None = None


def of(image: Image.Image, full_scale: float | None = None) -> Depth | None:
  """Returns the depth that an image's header gives; None for 8 bits or fewer.

  Args:
    image: opened, but not loaded.
    full_scale: the value of white that the user gives, in place of the file's.

  Raises:
    DepthError: for color of 16 bits with a scale of its own, which Pillow can't read.
  """
  if image.mode == "F" or image.mode.startswith("I"):
    white, stated = _white(image)
    kind = f"{'floating-point' if image.mode == 'F' else f'{_bits(image)}-bit'} {image.format}"
    return Depth(kind, white, stated) if full_scale is None else Depth(kind, full_scale)
  if not _is_high_color(image):
    return None
  if full_scale not in (None, 65535):
    raise DepthError(
      f"its color has 16 bits, of which Pillow reads the high 8, and {_OPTION} is {full_scale:g}:"
      " save it with 8 bits"
    )
  return Depth(f"16-bit color {image.format}", 65535, color=True)


def _white(image: Image.Image) -> tuple[float | None, bool]:
  """(the value of white, whether an entry of the file gives it)."""
  if image.format != "TIFF":
    # PNG has 16 bits; of PGM Pillow makes 16, by its largest value. PFM has no white.
    return (None if image.mode == "F" else 65535), False
  tags: Any = image.tag_v2  # type: ignore[attr-defined]
  bits, signed = _bits(image), tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
  widest = 2 ** (bits - signed) - 1
  for tag in (_MAX, _SMAX):
    value = np.ravel(tags.get(tag, 0))[0]
    # Only what a number of bits, or 1, gives: any other is the largest value of this one image.
    if 255 <= value < widest and math.log2(value + 1).is_integer():
      return float(value), True
    if image.mode == "F" and value == 1:
      return 1.0, True
  return (None, False) if image.mode == "F" or bits > 16 else (widest, False)


def _bits(image: Image.Image) -> int:
  if image.format != "TIFF":
    return 16
  return int(np.ravel(image.tag_v2.get(_BITS, 16))[0])  # type: ignore[attr-defined]


def _is_high_color(image: Image.Image) -> bool:
  """Whether Pillow is about to leave the low bits of a color image out."""
  if not image.tile:  # type: ignore[attr-defined]
    return False
  args = image.tile[0][3]  # type: ignore[attr-defined]
  args = args if isinstance(args, tuple) else (args,)
  if image.format == "PPM":
    return isinstance(args[-1], int) and args[-1] > 255
  return any(isinstance(arg, str) and ";16" in arg for arg in args)


def eight_bits(image: Image.Image, depth: Depth) -> tuple[Image.Image, Depth]:
  """Converts the values of a gray image to 8 bits.

    ⌊256 v / (white + 1)⌋ for integers, 255 v / white rounded for floats

  Args:
    image: of mode I…, or F.
    depth: of it.

  Returns:
    (mode L; the depth with the image's peak).

  Raises:
    DepthError: where white is not known, or is not white.
  """
  values = np.asarray(image)
  if image.mode == "I" and depth.kind.startswith("32-bit") and _is_unsigned(image):
    values = values.view(np.uint32)
  low, high = values.min(), values.max()
  digits = "g" if image.mode == "F" else "d"
  found = f"its pixels are {low:{digits}} … {high:{digits}}"
  if depth.white is None:
    raise DepthError(f"{found}; {_unknown(depth)}")
  white = depth.white
  if not (low >= 0 and high <= white):  # nan too
    raise DepthError(
      f"{found} ({depth.kind}), expected 0 … {white:g}: set {_OPTION} to the value of white, or"
      " save it with 8 or 16 bits"
    )
  peak = float(high) / white
  if values.dtype.kind == "f" or white != int(white):
    scaled = np.rint(values * (255 / white))
  else:
    scaled = values.astype(np.uint64) * 256 // (int(white) + 1)
  scaled = scaled.astype(np.uint8)
  if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
    scaled = 255 - scaled  # 0 is white: of 8 bits Pillow does this itself
    peak = 1.0  # a dark image has large values: nothing can be told from them
  clear = image.info.get("transparency")
  if isinstance(clear, int):
    scaled = np.where(values == clear, np.uint8(255), scaled)
  return Image.fromarray(scaled), depth._replace(peak=peak)


def _is_unsigned(image: Image.Image) -> bool:
  return image.format == "TIFF" and image.tag_v2.get(_SAMPLE_FORMAT, (1,))[0] == 1  # type: ignore[attr-defined]


def _unknown(depth: Depth) -> str:
  return (
    f"{depth.kind} says not which value is white: set {_OPTION} to it (such as"
    f" {'1' if depth.kind.startswith('floating') else '65535'}), or save it with 8 or 16 bits"
  )


def check(depth: Depth | None) -> None:
  """Refuses an image by its header where the value of white is not known.

  Raises:
    DepthError: saying what to do.
  """
  if depth is not None and depth.white is None:
    raise DepthError(f"its {_unknown(depth)}")


def is_dark(depth: Depth | None) -> bool:
  """Whether a decoded image is nearly black in 8 bits."""
  return depth is not None and depth.peak is not None and depth.peak < _NOTHING_LEFT


def survey(
  depths: Mapping[str, Depth], peak: Callable[[str], float | None], full_scale: float | None
) -> list[str]:
  """Checks over all images of more than 8 bits of a set that their white is what it seems.

  Args:
    depths: of these images, by path.
    peak: of an image whose depth holds none; None where it can't be read.
    full_scale: as the user gives it; who has said it is not asked again.

  Returns:
    What is to be reported, a line each.

  Raises:
    ValueError: where images of one kind have several whites, or 8 bits would leave nothing of all.
  """
  if not depths or full_scale is not None:
    return []
  stated = {depth.white: path for path, depth in depths.items() if depth.stated}
  others = {depth.white: path for path, depth in depths.items() if depth.kind.endswith("TIFF")}
  if stated and len(others) > 1:
    (first, path), (second, other) = sorted(others.items())[:2]
    raise ValueError(
      f"{path} says that {first:g} is white, and {other} {second:g}, so that brightness would mean"
      f" two things: set {_OPTION} to the value of white of all"
    )
  paths = sorted(depths)
  if depths[paths[0]].peak is None:
    paths = paths[:: -(-len(paths) // _LOOKED_AT)]
  peaks = {path: depths[path].peak or peak(path) for path in paths}
  known = {path: value for path, value in peaks.items() if value is not None}
  return _dark_notes(known, depths)


def _dark_notes(peaks: Mapping[str, float], depths: Mapping[str, Depth]) -> list[str]:
  dark = [path for path, value in peaks.items() if value < _NOTHING_LEFT]
  if not peaks:
    return []
  example = depths[dark[0] if dark else next(iter(peaks))]
  white = example.white or 0
  colored = all(depths[path].color for path in dark)
  remedy = "save them with 8 bits" if colored else f"set {_OPTION}=255, or save them with 8 bits"
  if len(dark) == len(peaks):
    raise ValueError(
      f"all of {len(peaks):,} images of more than 8 bits that were looked at ({example.kind}) hold"
      f" no value above {int(white * _NOTHING_LEFT)}, of {white:g}, and would become black, such as"
      f" {dark[0]}: {remedy}; or {_OPTION}={white:g}, if they are that dark"
    )
  if dark:
    return [
      f"{len(dark):,} of {len(peaks):,} images of more than 8 bits ({example.kind}) hold no value"
      f" above {int(white * _NOTHING_LEFT)}, of {white:g}, and become black, such as {dark[0]}:"
      " do they hold 8 bits in 16?"
    ]
  brightest = max(peaks, key=lambda path: peaks[path])
  if peaks[brightest] < _DARK:
    depth = depths[brightest]
    top = peaks[brightest] * (depth.white or 0)
    guess = 2 ** math.ceil(math.log2(top + 1)) - 1
    return [
      f"the largest value of {len(peaks):,} images of more than 8 bits that were looked at is"
      f" {top:g}, of {depth.white:g} ({depth.kind}): they become dark; set {_OPTION}={guess}, if"
      " that is their white"
    ]
  return []
