import io
import struct
import zipfile

import numpy as np
import pytest

from bce_jax.data import arrays

RNG = np.random.default_rng(0)
SAMPLES = {
  "float32": RNG.normal(size=(11, 3)).astype(np.float32),
  "float64": RNG.normal(size=(11, 2, 3)),
  "big-endian": RNG.normal(size=(11, 3)).astype(">f4"),
  "int8": RNG.integers(-9, 9, 11).astype(np.int8),
  "no rows": np.zeros((0, 4), np.float32),
  "no columns": np.zeros((5, 0)),
  "fortran": np.asfortranarray(RNG.normal(size=(11, 3))),
  "fortran big-endian": np.asfortranarray(RNG.normal(size=(11, 3)).astype(">f8")),
  "fortran empty": np.asfortranarray(np.zeros((4, 0))),
}


def same(stored, expected):
  assert stored.shape == expected.shape
  assert stored.dtype == expected.dtype.newbyteorder("=")
  assert len(stored) == len(expected)
  for array in (stored.load(), np.concatenate([*stored.chunks(4), expected[:0]])):
    assert array.dtype == stored.dtype
    np.testing.assert_array_equal(array, expected)
  assert [len(x) for x in stored.chunks(4)] == [
    len(expected[i : i + 4]) for i in range(0, len(expected), 4)
  ]


@pytest.mark.parametrize("name", SAMPLES)
def test_what_numpy_writes(tmp_path, name):
  expected = SAMPLES[name]
  np.save(tmp_path / "one.npy", expected)
  same(arrays.open_array(tmp_path / "one.npy"), expected)
  np.savez(tmp_path / "more.npz", first=np.arange(3), second=expected, third=np.arange(9.0))
  more = arrays.open_arrays(tmp_path / "more.npz")
  assert list(more) == ["first", "second", "third"]
  same(more["second"], expected)
  same(more["third"], np.arange(9.0))
  np.savez_compressed(tmp_path / "packed.npz", first=np.arange(3), second=expected)
  packed = arrays.open_arrays(tmp_path / "packed.npz")["second"]
  if "fortran" not in name:
    same(packed, expected)
    return
  loaded = packed.load()  # whole it can be read, only not by rows
  assert loaded.dtype == packed.dtype
  np.testing.assert_array_equal(loaded, expected)


def test_single_numbers(tmp_path):
  np.savez(tmp_path / "a.npz", bias=np.float32(2.5))
  np.savez_compressed(tmp_path / "b.npz", bias=np.float32(2.5))
  for name in ("a.npz", "b.npz"):
    stored = arrays.open_arrays(tmp_path / name)["bias"]
    assert stored.shape == ()
    assert stored.load() == np.float32(2.5)
    with pytest.raises(ValueError, match=r"'bias' is a single number: expected an array with rows"):
      next(stored.chunks(1))


def test_a_local_header_longer_than_the_directory_says(tmp_path):
  expected, data = np.arange(6.0), io.BytesIO()
  np.save(data, expected)
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    with archive.open(zipfile.ZipInfo("x.npy"), "w", force_zip64=True) as member:
      member.write(data.getvalue())
    archive.writestr("notes.txt", "not an array")
  stored = arrays.open_arrays(tmp_path / "a.npz")
  assert list(stored) == ["x"]
  same(stored["x"], expected)


def test_other_formats_of_a_header(tmp_path):
  expected = RNG.normal(size=(5, 2))
  with open(tmp_path / "a.npy", "wb") as file:
    np.lib.format.write_array(file, expected, version=(2, 0))
  same(arrays.open_array(tmp_path / "a.npy"), expected)
  with open(tmp_path / "b.npy", "wb") as file:
    np.lib.format.write_array(file, expected, version=(3, 0))
  with pytest.raises(ValueError, match=r"b\.npy is damaged: its format is version 3\.0"):
    arrays.open_array(tmp_path / "b.npy")


def test_no_more_is_read_than_asked_for(tmp_path):
  # 4 TiB that take no place on the disk: whoever loads them fails.
  header = {"descr": "<f4", "fortran_order": False, "shape": (2**30, 1024)}
  with open(tmp_path / "a.npy", "wb") as file:
    np.lib.format.write_array_header_1_0(file, header)
    file.write(np.arange(2048, dtype="<f4").tobytes())
    try:
      file.truncate(file.tell() - 8192 + 2**42)
    except OSError:
      pytest.skip("the file system has no files with holes")
  first = next(arrays.open_array(tmp_path / "a.npy").chunks(2))
  np.testing.assert_array_equal(first, np.arange(2048.0).reshape(2, 1024))


def test_an_array_that_nobody_asks_for_may_be_anything(tmp_path):
  np.savez(tmp_path / "a.npz", names=np.array([{"a": 1}], object), x=np.arange(3.0))
  stored = arrays.open_arrays(tmp_path / "a.npz")
  same(stored["x"], np.arange(3.0))
  assert "y" not in stored
  with pytest.raises(ValueError, match=r"a\.npz: 'names' holds Python objects .* never loaded"):
    stored["names"]


class Bomb:
  def __reduce__(self):
    return (pytest.fail, ("a pickle was loaded",))


def truncated(path):
  np.save(path, np.arange(100.0))
  path.write_bytes(path.read_bytes()[:-9])


def pickled(path):
  np.save(path, np.array([Bomb()], object), allow_pickle=True)


def zipped(path):
  with open(path, "wb") as file:
    np.savez(file, x=np.arange(3))


def single(path):
  with open(path, "wb") as file:
    np.save(file, np.arange(3))


def headed(text):
  def write(path):
    padded = text.encode().ljust(118 - 1) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(64))

  return write


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (lambda path: None, "can't be read: No such file"),
    (lambda path: path.mkdir(), "can't be read: Is a directory"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.write_text("1,2,3"), "is not an .npy or .npz file: it begins with b'1,2,3'"),
    (lambda path: path.write_bytes(b"\x93NUMPY"), "is damaged"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff"), "header is damaged"),
    (truncated, "is truncated: float64 of shape (100,) takes 928 bytes, got 919"),
    (pickled, "holds Python objects"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,)}"), "(shape (-4,))"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (4.5,)}"), "header is damaged"),
    (headed("{'descr': 'nonsense', 'fortran_order': False, 'shape': (4,)}"), "header is damaged"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"), "header is damaged"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,)}"), "is truncated"),
    (headed("{'descr': '<U0', 'fortran_order': False, 'shape': (4,)}"), "has dtype <U0"),
    (headed("[" * 110), "header is damaged"),
    (zipped, "is an .npz file: expected an .npy"),
  ],
)
def test_a_bad_npy_is_refused(tmp_path, write, message):
  path = tmp_path / "a.npy"
  write(path)
  with pytest.raises(ValueError, match=r".") as caught:
    arrays.open_array(path).load()
  told = str(caught.value)
  assert told.startswith(str(path))
  assert message in told
  assert "\n" not in told


def cut_zip(path, packed):
  (np.savez_compressed if packed else np.savez)(path, x=np.arange(1000.0), y=np.arange(9.0))
  path.write_bytes(path.read_bytes()[:600])


def broken_values(path):
  np.savez_compressed(path, x=RNG.normal(size=1000), y=np.arange(9.0))
  data = bytearray(path.read_bytes())
  data[3000:3100] = bytes(100)
  path.write_bytes(data)


def wrong_sum(path):
  """Every value can be unpacked, but they are not those that were written."""
  np.savez_compressed(path, x=np.zeros(100_000))
  data = path.read_bytes()
  with zipfile.ZipFile(path) as archive:
    crc = struct.pack("<I", archive.getinfo("x.npy").CRC)
  path.write_bytes(data.replace(crc, b"abcd"))


def not_an_array(path):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("x.npy", b"nothing of the kind")


def moved(path):
  """The directory at the end names a place where the member is not."""
  np.savez(path, x=np.arange(9.0))
  data = path.read_bytes()
  path.write_bytes(b"??" + data[2:])


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (lambda path: path.write_bytes(b"PK"), "is damaged: File is not a zip file"),
    (lambda path: cut_zip(path, packed=True), "is damaged"),
    (lambda path: cut_zip(path, packed=False), "is damaged"),
    (broken_values, "is damaged"),
    (wrong_sum, "is damaged: Bad CRC-32"),
    (not_an_array, "it is not an .npy array"),
    (moved, "is not an .npy or .npz file"),
    (lambda path: zipfile.ZipFile(path, "w").close(), "is a zip file without arrays"),
    (single, "expected an .npz file"),
  ],
)
def test_a_bad_npz_is_refused(tmp_path, write, message):
  path = tmp_path / "a.npz"
  write(path)
  with pytest.raises(ValueError, match=r".") as caught:
    arrays.open_arrays(path)["x"].load()
  told = str(caught.value)
  assert told.startswith(str(path))
  assert message in told
  assert "\n" not in told


@pytest.mark.parametrize("size", [12, 9_000])  # within what a header is looked for in, and not
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("read", [lambda x: x.load(), lambda x: list(x.chunks(3))])
def test_a_flipped_bit_of_what_is_not_compressed_is_found(tmp_path, order, read, size):
  path, x = tmp_path / "a.npz", np.asarray(np.arange(float(size)).reshape(-1, 3), order=order)
  np.savez(path, x=x)
  found = arrays.open_arrays(path)["x"]
  np.testing.assert_array_equal(np.concatenate(list(found.chunks(3))), x)
  data = bytearray(path.read_bytes())
  data[data.index(np.float64(size - 1).tobytes()) + 7] ^= 0x80  # its sign
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"'x' is damaged: Bad CRC-32"):
    read(arrays.open_arrays(path)["x"])


def test_compressed_columns_have_no_rows(tmp_path):
  path = tmp_path / "a.npz"
  np.savez_compressed(path, x=np.asfortranarray(np.eye(3)))
  with pytest.raises(ValueError, match=r"a.npz: 'x' is stored .*order\) and compressed"):
    list(arrays.open_arrays(path)["x"].chunks(2))
