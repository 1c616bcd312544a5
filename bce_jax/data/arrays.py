"""Arrays in .npy and .npz files, read some rows at a time.

A file may be larger than memory: nothing but the rows asked for is read. Of an .npy file, and of
an .npz file as `numpy.savez` writes it, they are read from their place; what `savez_compressed`
wrote is unpacked from the beginning as it goes. Files come from anybody: no pickle is ever loaded,
and whatever is wrong with a file is a ValueError of one line that begins with its name.
"""

import contextlib
import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

_NPY, _ZIP = b"\x93NUMPY", b"PK"
_LOCAL_HEADER = 30  # bytes before a member's name in a zip file


class _Layout(NamedTuple):
  """What the header of an .npy file says."""

  shape: tuple[int, ...]
  dtype: np.dtype
  fortran: bool
  offset: int  # bytes until the values

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


class StoredArray:
  """An array in a file: its shape and dtype, and its rows when asked for.

  Attributes:
    name: file and array, for messages.
    shape: of the array.
    dtype: in this machine's byte order.
  """

  def __init__(self, name: str, layout: _Layout, source: "_InPlace | _Packed"):
    """Is made by `open_array` and `open_arrays`."""
    self.name = name
    self.shape = layout.shape
    self.dtype = layout.dtype.newbyteorder("=")
    self._layout = layout
    self._source = source

  def __len__(self) -> int:
    return self.shape[0] if self.shape else 0

  def chunks(self, rows: int) -> Iterator[np.ndarray]:
    """Reads the array from its first row to its last, `rows` at a time; the last may be fewer.

    Args:
      rows: ≥ 1.

    Yields:
      [rows, …], each an array of its own, not to be written to.

    Raises:
      ValueError: for an array without rows, or when the file is damaged.
    """
    if not self.shape:
      raise ValueError(f"{self.name} is a single number: expected an array with rows")
    if self._layout.fortran and len(self.shape) > 1:
      yield from self._transposed(rows)
      return
    row_bytes = self._layout.nbytes // max(self.shape[0], 1)
    with self._source.reading(self._layout.offset) as file:
      for start in range(0, self.shape[0], rows):
        count = min(rows, self.shape[0] - start)
        with _naming(self.name):
          data = file.read(count * row_bytes)
          if len(data) != count * row_bytes:
            raise ValueError("it is truncated")
        yield self._values(data, (count, *self.shape[1:]))

  def load(self) -> np.ndarray:
    """Reads the whole array.

    Raises:
      ValueError: when the file is damaged.
    """
    if self._layout.fortran and len(self.shape) > 1 and isinstance(self._source, _Packed):
      with self._source.reading(self._layout.offset) as file, _naming(self.name):
        columns = self._values(file.read(self._layout.nbytes), self.shape[::-1])
        return np.ascontiguousarray(columns.T)
    if self.shape:
      chunks = list(self.chunks(max(self.shape[0], 1)))
      return chunks[0] if chunks else np.zeros(self.shape, self.dtype)
    with self._source.reading(self._layout.offset) as file, _naming(self.name):
      return self._values(file.read(self._layout.nbytes), ())

  def _values(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, self._layout.dtype).reshape(shape).astype(self.dtype, copy=False)

  def _transposed(self, rows: int) -> Iterator[np.ndarray]:
    """Rows of an array that is stored column by column; the system pages it in."""
    if isinstance(self._source, _Packed):
      raise ValueError(
        f"{self.name} is stored column by column (Fortran order) and compressed, so that its rows"
        " can't be read one after the other: expected np.ascontiguousarray(array) or np.savez"
      )
    if 0 in self.shape:
      mapped: np.ndarray = np.zeros(self.shape, self._layout.dtype)
    else:
      with _naming(self.name):
        self._source.check()
        place = self._source.offset + self._layout.offset
        mapped = np.memmap(self._source.path, self._layout.dtype, "r", place, self.shape, order="F")
    for start in range(0, self.shape[0], rows):
      yield np.array(mapped[start : start + rows], self.dtype, order="C")


class _InPlace(NamedTuple):
  """An .npy file, or a member of a zip file that is not compressed."""

  path: pathlib.Path
  offset: int  # where the .npy begins
  size: int
  crc: int | None = None  # of all its bytes, where a zip file tells

  @contextlib.contextmanager
  def reading(self, skip: int) -> Iterator[Any]:
    with open(self.path, "rb") as file:
      file.seek(self.offset)
      checked = _Checked(file, self.size, self.crc)
      checked.read(skip)
      yield checked

  def check(self) -> None:
    """Reads all of it, where there is a sum to compare with; chunks read in order need not."""
    if self.crc is not None:
      with self.reading(0) as file:
        while file.read(2**22):
          pass


class _Checked:
  """Reads `size` bytes of a file and compares their sum, when the last is read."""

  def __init__(self, file: IO[bytes], size: int, crc: int | None):
    self._file, self._left, self._expected, self._crc = file, size, crc, 0

  def read(self, count: int) -> bytes:
    data = self._file.read(min(count, self._left))
    self._left -= len(data)
    if self._expected is not None:
      self._crc = zlib.crc32(data, self._crc)
      if not self._left and self._crc != self._expected:
        raise ValueError("Bad CRC-32")
    return data


class _Packed(NamedTuple):
  """A compressed member of a zip file."""

  path: pathlib.Path
  member: zipfile.ZipInfo
  size: int

  @contextlib.contextmanager
  def reading(self, skip: int) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
      with _naming(str(self.path)):
        archive = stack.enter_context(zipfile.ZipFile(self.path))
        file = stack.enter_context(archive.open(self.member))
        file.read(skip)
      yield file


class ArrayFile(Mapping[str, StoredArray]):
  """The arrays of an .npz file by name; one that nobody asks for may be anything.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: pathlib.Path, members: Mapping[str, zipfile.ZipInfo]):
    """Is made by `open_arrays`."""
    self.path = path
    self._members = members

  def __getitem__(self, name: str) -> StoredArray:
    """Opens an array.

    Raises:
      KeyError: when there is none of that name.
      ValueError: when it is damaged, or holds objects.
    """
    return _open(f"{self.path}: {name!r}", _source(self.path, self._members[name]))

  def __contains__(self, name: object) -> bool:
    return name in self._members  # without opening it

  def __iter__(self) -> Iterator[str]:
    return iter(self._members)

  def __len__(self) -> int:
    return len(self._members)


def is_npy(path: pathlib.Path) -> bool:
  """Whether a file is a single array (.npy), by its first bytes; else it may be an .npz.

  Raises:
    ValueError: when it can't be read, is empty, or is neither.
  """
  try:
    with open(path, "rb") as file:
      start = file.read(len(_NPY))
  except OSError as error:
    raise ValueError(f"{path} can't be read: {error.strerror}") from None
  if not start:
    raise ValueError(f"{path} is empty: expected an .npy or .npz file")
  if start != _NPY and not start.startswith(_ZIP):
    raise ValueError(f"{path} is not an .npy or .npz file: it begins with {start!r}")
  return start == _NPY


def open_array(path: pathlib.Path) -> StoredArray:
  """Opens an .npy file.

  Raises:
    ValueError: when it is not one, is damaged, or holds objects.
  """
  if not is_npy(path):
    raise ValueError(f"{path} is an .npz file: expected an .npy file, with one array")
  return _open(str(path), _InPlace(path, 0, path.stat().st_size))


def open_arrays(path: pathlib.Path) -> ArrayFile:
  """Opens an .npz file: a mapping of names to `StoredArray`.

  Raises:
    ValueError: when it is not one, or is damaged.
  """
  if is_npy(path):
    raise ValueError(f"{path} is an .npy file, with one array: expected an .npz file")
  with _naming(str(path)), zipfile.ZipFile(path) as archive:
    members = {
      info.filename.removesuffix(".npy"): info
      for info in archive.infolist()
      if info.filename.endswith(".npy")
    }
  if not members:
    raise ValueError(f"{path} is a zip file without arrays: expected an .npz file")
  return ArrayFile(path, members)


def _source(path: pathlib.Path, member: zipfile.ZipInfo) -> _InPlace | _Packed:
  if member.flag_bits & 1:
    raise ValueError(f"{path}: {member.filename!r} is encrypted")
  if member.compress_type != zipfile.ZIP_STORED:
    return _Packed(path, member, member.file_size)
  # The name and the extra field may be longer here than in the directory at the file's end.
  with _naming(str(path)), open(path, "rb") as file:
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(_ZIP):
      raise ValueError(f"there is no {member.filename!r} where its directory says")
    name, extra = struct.unpack("<HH", header[26:])
    start = member.header_offset + _LOCAL_HEADER + name + extra
    if start + member.file_size > path.stat().st_size:
      raise ValueError("it is truncated")
  return _InPlace(path, start, member.file_size, member.CRC)


def _open(name: str, source: _InPlace | _Packed) -> StoredArray:
  with source.reading(0) as file, _naming(name):
    layout = _layout(file)
  if layout.dtype.hasobject:
    raise ValueError(
      f"{name} holds Python objects (a pickle), which are never loaded: save numbers or text"
    )
  if not layout.dtype.itemsize:
    raise ValueError(f"{name} has dtype {layout.dtype.str}, whose values take no place")
  if source.size < layout.offset + layout.nbytes:
    raise ValueError(
      f"{name} is truncated: {layout.dtype} of shape {layout.shape} takes"
      f" {layout.offset + layout.nbytes:,} bytes, got {source.size:,}"
    )
  return StoredArray(name, layout, source)


def _layout(file: IO[bytes]) -> _Layout:
  """Reads a header; the values come next.

  Raises:
    ValueError: when it is not one.
  """
  # A header is read from a copy: the file may be one that can't tell where it is.
  start = io.BytesIO(file.read(2**14))
  if not start.getvalue().startswith(_NPY):
    raise ValueError("it is not an .npy array")
  version = npy.read_magic(start)
  readers: Mapping[tuple[int, int], Any] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f"its format is version {version[0]}.{version[1]}: expected 1.0 or 2.0")
  try:
    shape, fortran, dtype = readers[version](start)
  except Exception as error:  # the header is Python text of anybody's making
    reason = " ".join(str(error).split())[:120]
    raise ValueError(f"its header is damaged ({reason})") from None
  if any(n < 0 for n in shape):
    raise ValueError(f"its header is damaged (shape {shape})")
  return _Layout(shape, dtype, fortran, start.tell())


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
  """Errors of reading as a ValueError that begins with the name."""
  try:
    yield
  except OSError as error:
    raise ValueError(f"{name} can't be read: {error.strerror or error}") from None
  except (
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise ValueError(f"{name} is damaged: {error or type(error).__name__}") from None
