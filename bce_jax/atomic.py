"""Atomic writing of files: they appear complete or not at all, whatever ends the writing."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def opened(path: pathlib.Path, mode: str = "w", **options: Any) -> Iterator[Any]:
  """Opens a file to write beside `path`, which takes its place when it is on the disk.

  Args:
    path: the file, whose folder is there; what was there stays until then, or if writing fails.
      Of a symbolic link what it names is written, and the link stays.
    mode: "w" or "wb".
    **options: of `open`; text is UTF-8 unless they say otherwise.

  Yields:
    The file object.

  Raises:
    OSError: with `path` as its file.

  Example:
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with opened(path) as file:
    ...   _ = file.write("all of it")
    ...   path.exists()
    False
    >>> path.read_text()
    'all of it'
  """
  if "b" not in mode:
    options.setdefault("encoding", "utf-8")
  target = path.resolve() if path.is_symlink() else path
  beside = target.with_name(target.name + ".tmp")
  try:
    with open(beside, mode, **options) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, target)
  except BaseException as error:
    with contextlib.suppress(OSError):
      beside.unlink()
    # One of another file, raised by what was being written, tells of that.
    if isinstance(error, OSError) and str(error.filename or beside) == str(beside):
      raise OSError(error.errno, error.strerror, str(path)) from error
    raise
