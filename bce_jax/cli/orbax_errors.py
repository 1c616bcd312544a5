"""Silences what orbax prints beside the errors that it raises; for console scripts only.

The level of absl's logger and a private module of orbax are changed, for the whole process: so by
programs only, never where a checkpoint is opened from Python.
"""

import asyncio
import contextlib
import logging
import types


class _PatientLoop(asyncio.SelectorEventLoop):
  """Ends what was begun in it before it closes.

  orbax closes its loops at the first array that can't be read or written, and raises that error.
  For every other array tensorstore would print a traceback, "Event loop is closed".
  """

  def __init__(self) -> None:
    super().__init__()
    # Of several arrays that fail one is raised: asyncio would print the others.
    self.set_exception_handler(lambda loop, context: None)

  def close(self) -> None:
    """Waits for the tasks that are left."""
    if not self.is_closed() and not self.is_running():
      tasks = asyncio.all_tasks(self)
      if tasks:
        self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()


def one_error_for_all() -> None:
  """Lets orbax raise an error without printing a traceback for each array besides."""
  # Below ERROR it prints every save, and warns of what it chooses itself.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  with contextlib.suppress(ImportError):  # its own module: a later version may have another one
    from orbax.checkpoint._src import asyncio_utils

    with_patience = {**vars(asyncio), "new_event_loop": _PatientLoop}
    asyncio_utils.asyncio = types.SimpleNamespace(**with_patience)
