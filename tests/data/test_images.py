"""Image files: what is decoded from them, compared with Pillow, and what is refused."""

import io
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from bce_jax.data import images
from bce_jax.data.images import decode, header


def save(path, pixels, **options):
  Image.fromarray(np.asarray(pixels)).save(path, **options)
  return path


def plain(value, height=4, width=6, channels=3):
  return np.full((height, width, channels), value, np.uint8)


def assert_one_line(error, *parts):
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert str(part) in message


# Decoding


def test_decode_keeps_pixels(tmp_path):
  pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
  path = save(tmp_path / "a.png", pixels)
  np.testing.assert_array_equal(decode(str(path)), pixels)
  assert header(str(path))[:2] == (4, 6)


@pytest.mark.parametrize(("channels", "expected"), [(3, [255, 0, 0]), (1, [76])])
def test_decode_palette(tmp_path, channels, expected):
  image = Image.fromarray(plain([255, 0, 0])).convert("P")
  image.save(tmp_path / "a.png")
  decoded = decode(str(tmp_path / "a.png"), channels=channels)
  assert decoded.shape == (4, 6, channels)
  assert decoded[0, 0].tolist() == expected


def test_decode_gray_as_color(tmp_path):
  path = save(tmp_path / "a.png", plain(9)[..., 0])
  np.testing.assert_array_equal(decode(str(path)), plain(9))


def test_decode_bilevel(tmp_path):
  Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
  assert decode(str(tmp_path / "a.png"), channels=1).ravel().tolist() == [255, 0]


def test_decode_lays_transparency_on_white(tmp_path):
  # Black ink on a clear ground, whose hidden color is black too: dropping alpha leaves all black.
  pixels = np.zeros((1, 3, 4), np.uint8)
  pixels[0, :, 3] = [255, 0, 128]
  path = save(tmp_path / "rgba.png", pixels)
  assert decode(str(path), channels=1).ravel().tolist() == [0, 255, 127]
  gray = save(tmp_path / "la.png", pixels[..., 2:])
  assert decode(str(gray)).tolist() == decode(str(path)).tolist()


def test_decode_transparent_palette_entry(tmp_path):
  image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
  image.putpalette([10, 20, 30, 40, 50, 60])
  image.save(tmp_path / "a.gif", transparency=1)
  assert decode(str(tmp_path / "a.gif")).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_decode_sixteen_bits(tmp_path, name):
  path = save(tmp_path / name, np.array([[0, 256, 32768, 65535]], np.uint16))
  assert decode(str(path), channels=1).ravel().tolist() == [0, 1, 128, 255]
  assert decode(str(path)).shape == (1, 4, 3)


def test_decode_cmyk(tmp_path):
  Image.fromarray(plain([200, 30, 30], 16, 16)).convert("CMYK").save(tmp_path / "a.jpg")
  assert np.abs(decode(str(tmp_path / "a.jpg"))[8, 8].astype(int) - [200, 30, 30]).max() < 6


def test_decode_first_frame(tmp_path):
  frames = [Image.fromarray(plain(value)) for value in (0, 255)]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
  assert decode(str(tmp_path / "a.gif")).max() == 0


@pytest.mark.parametrize(("height", "width"), [(8, 13), (13, 8), (8, 8)])
def test_decode_cuts_the_center_square(tmp_path, height, width):
  pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
  path = save(tmp_path / "a.png", pixels)
  top, left = (height - 8) // 2, (width - 8) // 2
  expected = pixels[top : top + 8, left : left + 8]
  np.testing.assert_array_equal(decode(str(path), image_size=8), expected)


def test_decode_resizes_as_resizing_first_would(tmp_path):
  rng = np.random.default_rng(0)
  pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 12), np.uint8)).resize((64, 48)))
  path = save(tmp_path / "a.png", pixels)
  whole = Image.fromarray(pixels).resize((32, 24), Image.Resampling.BILINEAR)
  expected = np.asarray(whole)[:, 4:28]
  decoded = decode(str(path), image_size=24, channels=1)[..., 0]
  # The two outermost columns see beyond the square in the one, and not in the other.
  np.testing.assert_array_equal(decoded[:, 1:-1], expected[:, 1:-1])


def test_decode_is_antialiased(tmp_path):
  stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
  path = save(tmp_path / "a.png", stripes)
  decoded = decode(str(path), image_size=8, channels=1)
  assert np.abs(decoded.astype(int) - 127).max() < 20


# Files that cannot be read


def truncated(path):
  rng = np.random.default_rng(0)
  save(path, rng.integers(0, 256, (64, 64, 3), np.uint8))
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def floating(path):
  Image.fromarray(np.zeros((4, 4), np.float32)).save(path, "TIFF")


def out_of_range(path):
  Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(path, "TIFF")


def postscript(path):
  Image.fromarray(plain(0)).save(path, "EPS")


@pytest.mark.parametrize(
  ("name", "write", "reason"),
  [
    ("empty.png", lambda path: path.write_bytes(b""), "none of PNG, JPEG"),
    ("text.jpg", lambda path: path.write_text("<html>404</html>"), "none of PNG, JPEG"),
    ("pickle.png", lambda path: path.write_bytes(pickle.dumps([1])), "none of PNG, JPEG"),
    ("ghostscript.png", postscript, "none of PNG, JPEG"),
    ("cut.png", truncated, "truncated"),
    ("cut.jpg", truncated, "truncated"),
    ("cut.bmp", truncated, "truncated"),
    ("float.tif", floating, "floating-point"),
    ("wide.tif", out_of_range, "70000"),
    ("missing.png", lambda path: None, "No such file"),
    ("folder.png", lambda path: path.mkdir(), "directory"),
    ("pipe.png", os.mkfifo, "a pipe"),  # nobody ever writes into it
  ],
)
def test_unreadable_file(tmp_path, name, write, reason):
  write(tmp_path / name)
  with pytest.raises(ValueError, match="cannot be read as an image") as error:
    decode(str(tmp_path / name))
  assert_one_line(error, tmp_path / name, reason)


def test_decompression_bomb(tmp_path, monkeypatch):
  path = save(tmp_path / "bomb.png", plain(0, 20, 20))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
  for read in (decode, header):
    with pytest.raises(
      ValueError, match=r"cannot be read as an image: .*decompression bomb"
    ) as error:
      read(str(path))
    assert_one_line(error, path)


@pytest.mark.parametrize("rule", ["default", "always", "error"])
def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch, rule):
  path = save(tmp_path / "large.png", plain(7, 20, 20))
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # an error from 600 on
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter(rule)
    assert decode(str(path)).min() == 7
    assert header(str(path))[:2] == (20, 20)
  assert not caught


# Orientation


def oriented(path, pixels, orientation):
  """Saves an image as a camera held in another way does; returns what it shows, by Pillow."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.fromarray(pixels)
  if path.suffix == ".tif":
    image.save(path, tiffinfo={0x0112: orientation})
  else:
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
  buffer = io.BytesIO()
  image.save(buffer, "PNG", exif=exif)
  return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, ending, orientation):
  pixels = np.zeros((16, 24, 3), np.uint8)
  pixels[:8, :8] = 255  # one corner
  pixels[:8, 16:] = 100
  path = tmp_path / f"a.{ending}"
  upright = oriented(path, pixels, orientation).astype(int)
  assert header(str(path))[:2] == upright.shape[:2]
  assert np.abs(decode(str(path)) - upright).max() <= (8 if ending == "jpg" else 0)
  square = decode(str(path), image_size=16, channels=1)[..., 0]
  cut = upright[:, 4:20] if upright.shape[1] == 24 else upright[4:20]
  assert np.abs(square - cut[..., 0]).max() <= (8 if ending == "jpg" else 0)


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
  path = tmp_path / "a.png"
  upright = oriented(path, np.arange(72, dtype=np.uint8).reshape(4, 6, 3), 6)
  data = path.read_bytes()
  start = data.index(b"eXIf") - 4
  end = start + 12 + int.from_bytes(data[start : start + 4])
  last = data.index(b"IEND") - 4
  path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
  assert header(str(path))[:2] == (6, 4)
  np.testing.assert_array_equal(decode(str(path)), upright)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
  "exif",
  [
    b"Exif\0\0II*\0\xff\xff\xff\x7f",
    b"Exif\0\0garbage",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",  # 9
  ],
)
def test_damaged_exif_does_not_cost_the_image(tmp_path, ending, exif):
  path = save(tmp_path / f"a.{ending}", plain(9), exif=exif)
  with warnings.catch_warnings(record=True) as caught:
    assert decode(str(path)).shape == (4, 6, 3)
    assert header(str(path))[:2] == (4, 6)
  assert not caught


# More than 8 bits


def tiff(path, values, *, bits, sample_format=1, order="<", tags=()):
  """Writes one row of values as an uncompressed TIFF, tag by tag."""
  data = np.asarray(values).tobytes()
  width = len(values) if bits != 12 else len(values) * 8 // 12
  shape = [(256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
  rest = [(277, 3, 1), (278, 3, 1), (279, 4, len(data)), (339, 3, sample_format)]
  entries = sorted({entry[0]: entry for entry in (*shape, *rest, *tags)}.values())
  head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
  body = struct.pack(f"{order}H", len(entries))
  for tag, kind, value in entries:
    code = {3: "HH", 4: "I", 11: "f"}[kind]
    number = struct.pack(f"{order}{code}", *((value, 0) if kind == 3 else (value,)))
    body += struct.pack(f"{order}HHI", tag, kind, 1) + number
  path.write_bytes(head + data + body + b"\0\0\0\0")
  return str(path)


def png16(path, values, color_type):
  """Writes one row of 16-bit values, [width, channels], which Pillow can't for color."""

  def chunk(name, content):
    return (
      struct.pack(">I", len(content))
      + name
      + content
      + struct.pack(">I", zlib.crc32(name + content))
    )

  values = np.asarray(values, ">u2")
  shape = struct.pack(">IIBBBBB", len(values), 1, 16, color_type, 0, 0, 0)
  pixels = chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes()))
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + pixels + chunk(b"IEND", b""))
  return str(path)


def gray(path, **options):
  return decode(path, channels=1, **options).ravel().tolist()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [4095, 65535])
def test_sixteen_bits_of_a_tiff_are_scaled_by_its_largest_sample_value(tmp_path, order, top):
  values = np.array([0, top // 16 + 1, top // 2 + 1, top], f"{order}u2")
  path = tiff(tmp_path / "a.tif", values, bits=16, order=order, tags=[(281, 3, top)])
  assert gray(path) == [0, 16, 128, 255]


def test_a_largest_value_that_is_no_depth_is_the_images_own(tmp_path):
  # Two images of one set with the same gray keep it, whatever the brightest pixel of each is.
  for number, top in enumerate((30000, 60000)):
    path = tmp_path / f"{number}.tif"
    tiff(path, np.array([25600, top], "<u2"), bits=16, tags=[(281, 3, top)])
    assert gray(str(path)) == [100, top >> 8]


def test_twelve_bits(tmp_path):
  values = [0, 2048, 4095, 16]
  packed = int("".join(f"{value:012b}" for value in values), 2).to_bytes(6, "big")
  path = tiff(tmp_path / "a.tif", np.frombuffer(packed, np.uint8), bits=12)
  assert gray(path) == [0, 128, 255, 1]


def test_zero_is_white(tmp_path):
  path = tiff(tmp_path / "a.tif", np.array([0, 32768, 65535], "<u2"), bits=16, tags=[(262, 3, 0)])
  assert gray(path) == [255, 127, 0]


def test_signed_and_wide_integers(tmp_path):
  path = tiff(tmp_path / "a.tif", np.array([0, 16384, 32767], "<i2"), bits=16, sample_format=2)
  assert gray(path) == [0, 128, 255]
  wide = tiff(tmp_path / "b.tif", np.array([0, 2**31, 2**32 - 1], "<u4"), bits=32)
  with pytest.raises(ValueError, match=r"0 … 4294967295; .*set config\.data\.full_scale") as error:
    decode(wide)
  assert_one_line(error, wide)
  with pytest.raises(ValueError, match=r"32-bit TIFF says not .*set config\.data\.full_scale"):
    header(wide)
  assert gray(wide, full_scale=2**32 - 1) == [0, 128, 255]
  below = tiff(tmp_path / "c.tif", np.array([0, -5], "<i2"), bits=16, sample_format=2)
  with pytest.raises(ValueError, match=r"its pixels are -5 … 0 .*expected 0 … 32767"):
    decode(below)


def test_floats(tmp_path):
  values = np.array([0, 0.2, 0.5, 1], "<f4")
  path = tiff(tmp_path / "a.tif", values, bits=32, sample_format=3)
  with pytest.raises(ValueError, match=r"floating-point TIFF says not"):
    decode(path)
  assert gray(path, full_scale=1.0) == [0, 51, 128, 255]
  with pytest.raises(ValueError, match=r"its pixels are 0 … 1 .*expected 0 … 0.5"):
    decode(path, full_scale=0.5)
  told = tiff(tmp_path / "b.tif", values, bits=32, sample_format=3, tags=[(341, 11, 1.0)])
  assert gray(told) == [0, 51, 128, 255]
  nan = tiff(tmp_path / "c.tif", np.array([0, np.nan], "<f4"), bits=32, sample_format=3)
  with pytest.raises(ValueError, match="nan"):
    decode(nan, full_scale=1.0)


def test_sixteen_bits_of_color(tmp_path):
  path = png16(tmp_path / "a.png", [[0, 32768, 65535], [256, 511, 512]], 2)
  assert decode(path).tolist() == [[[0, 128, 255], [1, 1, 2]]]
  assert images.read(path)[1] == ("16-bit color PNG", 65535, False, True, 1.0)
  with pytest.raises(ValueError, match="Pillow reads the high 8"):
    decode(path, full_scale=255)
  clear = png16(tmp_path / "b.png", [[0, 0, 0, 0], [65535, 0, 0, 65535]], 6)
  assert decode(clear).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_full_scale_of_gray(tmp_path):
  path = png16(tmp_path / "a.png", [0, 100, 255], 0)
  assert gray(path) == [0, 0, 0]
  assert gray(path, full_scale=255) == [0, 100, 255]
  assert gray(path, full_scale=65535) == [0, 0, 0]


def test_a_transparent_gray_of_sixteen_bits_is_white(tmp_path):
  image = Image.fromarray(np.array([[0, 32768]], np.uint16))
  image.save(tmp_path / "a.png", transparency=0)
  assert gray(str(tmp_path / "a.png")) == [255, 128]


def test_eight_bits_have_their_scale(tmp_path):
  path = save(tmp_path / "a.png", plain(9))
  np.testing.assert_array_equal(decode(str(path), full_scale=4095), plain(9))


@pytest.mark.parametrize("ending", ["jfif", "jpe", "apng", "pbm", "pnm"])
def test_other_endings(tmp_path, ending):
  name = {"jfif": "JPEG", "jpe": "JPEG", "apng": "PNG"}.get(ending, "PPM")
  path = save(tmp_path / f"a.{ending}", plain(255, 8, 8), format=name)
  assert decode(str(path)).min() == 255
