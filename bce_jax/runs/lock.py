"""Keeps two processes from training in one run folder."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from bce_jax.runs import files


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a run folder; the lock ends with the process, however it ends.

  Raises:
    ValueError: when a run is using it, saying which.
  """
  path = workdir / files.LOCK
  with contextlib.ExitStack() as stack:
    while True:
      file = stack.enter_context(open(path, "a+"))
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        raise ValueError(
          f"{workdir} is in use by {file.read().strip() or 'another run'}: wait for its end, or"
          " take another --workdir"
        ) from None
      except OSError as error:
        raise ValueError(
          f"{workdir} can't be locked against a second run ({error.strerror}): expected a file"
          " system with locks"
        ) from None
      if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
        break  # else it was removed by a run that ended in between: another may lock a new one
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    try:
      yield
    finally:
      path.unlink(missing_ok=True)
