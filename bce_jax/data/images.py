"""Decodes image files of many kinds to 8 bits of color or gray, upright."""

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image

from bce_jax.data import depth as depths
from bce_jax.data.depth import Depth

with contextlib.suppress(ImportError):  # who has it, wants its images read
  import pillow_heif

  pillow_heif.register_heif_opener()

# What a file holds is told by its first bytes, and only these decoders may open it: Pillow's others
# are not meant for strangers' files (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")
HEIF = "HEIF" in Image.OPEN
FORMATS = (*_FORMATS, "HEIF") if HEIF else _FORMATS

_ORIENTATION = 0x0112
_TRANSPOSE = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

# Of Pillow: large images and damaged metadata. What can't be read raises.
_NO_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


class DamagedError(ValueError):
  """A file that cannot be read as an image."""


class Header(NamedTuple):
  """What the header of an image file says.

  Attributes:
    height: in pixels, of the upright image.
    width: as well.
    depth: None for 8 bits a channel or fewer.
  """

  height: int
  width: int
  depth: Depth | None


def header(path: str, *, upright: bool = True, full_scale: float | None = None) -> Header:
  """Reads a file's header.

  Args:
    path: the file.
    upright: False gives height and width as they are stored, which costs less for PNG.
    full_scale: as in `decode`.

  Raises:
    DamagedError: when the file is missing or its header is no image's.
    ValueError: when nothing tells which of its values is white.
  """

  def read(image: Image.Image) -> Header:
    depth = depths.of(image, full_scale)
    depths.check(depth)
    width, height = image.size
    if image.format == "TIFF":  # Pillow's size is that of the upright image, by version
      width, height = (image.tag_v2[tag] for tag in (256, 257))  # type: ignore[attr-defined]
    if upright and _orientation(image, decoded=False) in (5, 6, 7, 8):
      width, height = height, width
    return Header(height, width, depth)

  return _read_image(path, read)


def decode(
  path: str, *, image_size: int | None = None, channels: int = 3, full_scale: float | None = None
) -> UInt8[np.ndarray, "h w c"]:
  """Decodes one image file.

  Palette, bilevel and CMYK images become plain color or gray; what is transparent is laid on
  white; more than 8 bits are scaled by what the file's header says of them; of an animation, the
  first frame. The image is turned as its EXIF orientation says. With `image_size`, the centered
  square as wide as the short side is cut out and resized (bilinear, antialiased): that is resizing
  the short side and cutting then, without making the long side first.

  Args:
    path: the file.
    image_size: side of the square in pixels, or None for the image as it is.
    channels: 3 for color, 1 for gray.
    full_scale: value of white in images of more than 8 bits; None: as the file says.

  Returns:
    uint8 [H, W, channels], 0 … 255.

  Raises:
    DamagedError: naming the file and Pillow's reason, when it cannot be read as an image.
    ValueError: when nothing tells which of its values is white, or that one is not.
  """
  return read(path, image_size=image_size, channels=channels, full_scale=full_scale)[0]


def read(
  path: str, *, image_size: int | None = None, channels: int = 3, full_scale: float | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], Depth | None]:
  """Decodes one image file, as `decode` does, and returns what is known of its depth too."""
  mode = "RGB" if channels == 3 else "L"

  def pixels(image: Image.Image) -> tuple[np.ndarray, Depth | None]:
    depth = depths.of(image, full_scale)
    image.load()
    turned = _TRANSPOSE.get(_orientation(image, decoded=True))
    if depth is None or depth.color:
      plain = _plain(image, mode)
      if depth is not None:
        depth = depth._replace(peak=float(np.asarray(plain).max()) / 255)
    else:
      plain, depth = depths.eight_bits(image, depth)
      plain = plain.convert(mode)
    if turned is not None:
      plain = plain.transpose(turned)
    if image_size:
      plain = _center_square(plain, image_size)
    return np.array(plain).reshape(plain.height, plain.width, channels), depth

  return _read_image(path, pixels)


def _read_image(path: str, function: Callable[[Image.Image], Any]) -> Any:
  if warnings.filters[:1] != [_NO_WARNINGS]:
    warnings.filterwarnings("ignore", module=r"PIL\.")
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
      raise ValueError("it is a directory, a pipe or a device: expected a file")
    with Image.open(path, formats=FORMATS) as image:
      return function(image)
  except depths.DepthError as error:
    raise ValueError(f"{path} cannot be read as an image: {error}") from error
  except PIL.UnidentifiedImageError as error:
    raise DamagedError(
      f"{path} cannot be read as an image: its content is none of {', '.join(FORMATS)}"
    ) from error
  # By format and damage Pillow raises OSError, SyntaxError, ValueError, EOFError, struct.error,
  # zlib.error, IndexError, DecompressionBombError, …: the reader of the message needs none of it.
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise DamagedError(f"{path} cannot be read as an image: {reason}") from error


def _orientation(image: Image.Image, *, decoded: bool) -> int:
  """EXIF's orientation, 1 … 8: 1, upright, where there is none, or what there is is damaged."""
  try:
    if image.format == "PNG" and not decoded and not _exif_is_late(image):
      # PNG's own would decode the image, to find what may stand behind it.
      exif = Image.Image.getexif(image)
    else:
      exif = image.getexif()
    value = exif.get(_ORIENTATION, 1)
    return value if value in _TRANSPOSE else 1
  except Exception:  # as much as for an image, and nothing is wrong with the image
    return 1


def _exif_is_late(image: Image.Image) -> bool:
  """Whether metadata stand behind the pixels of a PNG file."""
  file: IO[bytes] = image.fp  # type: ignore[attr-defined]
  place = file.tell()
  try:
    file.seek(8)
    behind = False
    while len(chunk := file.read(8)) == 8:
      behind |= chunk[4:] == b"IDAT"
      if behind and chunk[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
        return True
      file.seek(int.from_bytes(chunk[:4]) + 4, os.SEEK_CUR)
    return False
  finally:
    file.seek(place)


def _plain(image: Image.Image, mode: str) -> Image.Image:
  if image.has_transparency_data:
    # The color under a transparent pixel is arbitrary, mostly black: to drop alpha would blacken
    # a drawing on a clear ground.
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image)
  return image.convert(mode)


def _center_square(image: Image.Image, size: int) -> Image.Image:
  short = min(image.size)
  left, top = (image.width - short) // 2, (image.height - short) // 2
  box = (left, top, left + short, top + short)
  return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
