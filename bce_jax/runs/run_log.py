"""run.log: what bce-train printed, line by line with the time, over all sessions of a run.

Of a progress bar its plain lines are kept, as they are printed where there is no terminal, not what
it draws. What C++ prints, past Python, is not in it. Lines are held until it is known that the run
folder is this run's; where it never is, say for a mistyped option, nothing is written.
"""

import contextlib
import datetime
import errno
import os
import pathlib
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from bce_jax.runs import files

_BAR = re.compile(r"\s*\d+%[ |]")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class RunLog:
  """The log of one call of bce-train."""

  def __init__(self) -> None:
    """Lines are held."""
    self._lock = threading.RLock()
    self._held: list[str] = []
    self._file: int | None = None

  @property
  def opened(self) -> bool:
    """Whether lines are written already, not held back."""
    return self._file is not None

  def note(self, line: str) -> None:
    """Adds a line to the log only, which is not printed."""
    line = _ESCAPES.sub("", line).rstrip()
    if not line:
      return
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with self._lock:
      self._held.append(f"{time} {line}\n")
      self._write()

  def open(self, workdir: pathlib.Path) -> None:
    """Opens the file; what was held back is written first.

    Raises:
      OSError: with the file's name.
    """
    with self._lock:
      if self._file is None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(workdir / files.LOG, flags, 0o644)
      self._write()

  def close(self) -> None:
    """Closes the file; later lines are dropped."""
    with self._lock:
      if self._file is not None:
        os.close(self._file)
      self._file = None

  def _write(self) -> None:
    if self._file is None:
      return
    data = "".join(self._held).encode(errors="replace")
    self._held.clear()
    # A disk that is full is reported by what needs it: a checkpoint, or a record.
    with contextlib.suppress(OSError):
      while data:
        data = data[os.write(self._file, data) :]


_current: RunLog | None = None


@contextlib.contextmanager
def kept() -> Iterator[RunLog]:
  """Context manager: what is printed on stdout and stderr goes into a log too."""
  global _current
  log, before = RunLog(), _current
  streams = sys.stdout, sys.stderr
  _current = log
  sys.stdout, sys.stderr = (None if s is None else _Tee(s, log) for s in streams)
  try:
    yield log
  finally:
    sys.stdout, sys.stderr = streams
    _current = before
    log.close()


def open_in(workdir: pathlib.Path) -> None:
  """Opens the log of the running bce-train, if there is one, in its run folder.

  Raises:
    OSError: with the file's name.
  """
  if _current is not None:
    _current.open(workdir)


def note(line: str) -> None:
  """Adds a line to the log only, where a progress bar shows it on the terminal."""
  if _current is not None:
    _current.note(line)


class _Tee:
  """A stream whose lines go into a log too."""

  def __init__(self, stream: TextIO, log: RunLog):
    self._stream, self._log = stream, log
    self._line = ""
    self._gone = False

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes to both; a terminal that was closed is written to no more."""
    self._on_terminal(lambda: self._stream.write(text))
    self._line += text.replace("\r\n", "\n")
    *lines, self._line = self._line.split("\n")
    for line in lines:
      shown = line.rpartition("\r")[2]  # what came before was drawn over
      if not _BAR.match(shown):
        self._log.note(shown)
    if "\r" in self._line:
      self._line = self._line[self._line.rindex("\r") :]
    return len(text)

  def flush(self) -> None:
    """Flushes the stream; the log holds nothing back."""
    self._on_terminal(self._stream.flush)

  def writelines(self, lines: Any) -> None:
    """Writes each of them."""
    for line in lines:
      self.write(line)

  def _on_terminal(self, function: Any) -> None:
    if self._gone:
      return
    try:
      function()
    except OSError as error:
      if error.errno != errno.EIO:
        raise
      self._gone = True  # its window was closed, and the run goes on, to save what it has
