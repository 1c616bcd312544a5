"""Image files as arrays: whatever people's files hold becomes 8 bits of colour or gray."""

import os
import stat
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image

# What a file holds is told by its first bytes, and only these decoders may open it: Pillow's others
# are not meant for strangers' files (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def header(path: str) -> tuple[int, int]:
  """Returns (height, width) in pixels as the file's header gives them.

  Raises:
    ValueError: when the file is missing or its header is no image's.
  """
  return _read_image(path, lambda image: (image.height, image.width))


def decode(
  path: str, *, image_size: int | None = None, channels: int = 3
) -> UInt8[np.ndarray, "h w c"]:
  """Decodes one image file.

  Palette, bilevel and CMYK images become plain colour or gray; what is transparent is laid on
  white; of 16 bits the high 8 are kept; of an animation, the first frame. With `image_size`, the
  centred square as wide as the short side is cut out and resized (bilinear, antialiased): that is
  resizing the short side and cutting then, without making the long side first.

  Args:
    path: the file.
    image_size: side of the square in pixels, or None for the image as it is.
    channels: 3 for colour, 1 for gray.

  Returns:
    uint8 [H, W, channels], 0 … 255.

  Raises:
    ValueError: naming the file and Pillow's reason, when it cannot be read as an image.
  """

  def pixels(image: Image.Image) -> np.ndarray:
    plain = _eight_bits(image, "RGB" if channels == 3 else "L")
    if image_size:
      plain = _centre_square(plain, image_size)
    return np.array(plain).reshape(plain.height, plain.width, channels)

  return _read_image(path, pixels)


def _read_image(path: str, function: Callable[[Image.Image], Any]) -> Any:
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
      raise ValueError("it is a directory, a pipe or a device: expected a file")
    with Image.open(path, formats=_FORMATS) as image:
      return function(image)
  except PIL.UnidentifiedImageError as error:
    raise ValueError(
      f"{path} cannot be read as an image: its content is none of {', '.join(_FORMATS)}"
    ) from error
  # By format and damage Pillow raises OSError, SyntaxError, ValueError, EOFError, struct.error,
  # zlib.error, IndexError, DecompressionBombError, …: the reader of the message needs none of it.
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(f"{path} cannot be read as an image: {reason}") from error


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
  if image.mode == "F":
    raise ValueError("its pixels are floating-point, of unknown range; save it with 8 or 16 bits")
  if image.mode.startswith("I"):  # convert() would clip 16 bits at 255: a white image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
      raise ValueError(f"its pixels are {low} … {high}; save it with 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
  if image.has_transparency_data:
    # The colour under a transparent pixel is arbitrary, mostly black: to drop alpha would blacken
    # a drawing on a clear ground.
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image)
  return image.convert(mode)


def _centre_square(image: Image.Image, size: int) -> Image.Image:
  short = min(image.size)
  left, top = (image.width - short) // 2, (image.height - short) // 2
  box = (left, top, left + short, top + short)
  return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
