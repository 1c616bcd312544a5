"""Handling of Ctrl-C so that none is lost: it is raised, or sent again where Python drops it.

What is raised inside a callback, of the garbage collector or of a weak reference, say, Python hands
to `sys.unraisablehook` and goes on.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator

_AGAIN_SECONDS = 0.05
_timers: list[threading.Timer] = []

repeated = 0
"""How many signals this process has sent itself, in place of one that got lost."""


@contextlib.contextmanager
def raising() -> Iterator[None]:
  """Context manager: Ctrl-C raises KeyboardInterrupt, wherever it is noticed.

  Where SIGINT is ignored, as in a job in the background, or somebody else handles it, it is left
  so, as in threads that can't handle signals.
  """
  with contextlib.ExitStack() as stack:
    stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
    sys.unraisablehook = _repeat
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
      stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
      signal.signal(signal.SIGINT, _interrupt)
    stack.callback(_stop_sending)
    yield


def ends() -> None:
  """Lets further Ctrl-C change nothing while Python ends.

  Ctrl-C once more, while Python ends, then changes neither that nor what was printed.
  """
  atexit.unregister(_ignore)
  atexit.register(_ignore)


def _ignore() -> None:
  with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def raise_from(frame: types.FrameType | None, number: int, error: KeyboardInterrupt) -> None:
  """Raises an error from a signal's handler, or sends the signal again where it would be lost.

  Args:
    frame: as the handler was given it.
    number: of the signal.
    error: to be raised.
  """
  while frame is not None:
    if frame.f_code is _repeat.__code__:
      send_again(number)
      return
    frame = frame.f_back
  raise error


def send_again(number: int) -> None:
  """Sends a signal to this process, a little later."""
  timer = threading.Timer(_AGAIN_SECONDS, _send, (number,))
  timer.daemon = True
  _timers.append(timer)
  timer.start()


def _stop_sending() -> None:
  while _timers:
    _timers.pop().cancel()


def _send(number: int) -> None:
  global repeated
  repeated += 1
  os.kill(os.getpid(), number)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
  raise_from(frame, number, KeyboardInterrupt())


def _repeat(unraisable: "sys.UnraisableHookArgs") -> None:
  """What Python calls where nothing can be raised."""
  if issubclass(unraisable.exc_type, KeyboardInterrupt):
    send_again(getattr(unraisable.exc_value, "number", signal.SIGINT))
  else:
    sys.__unraisablehook__(unraisable)
