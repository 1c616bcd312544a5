"""Ctrl-C, SIGTERM and SIGHUP: a run saves and ends, and the same command goes on from there.

SIGTERM is what a scheduler sends before it takes a machine away, SIGHUP what a terminal sends when
it is closed. Imports nothing heavy, since it has to be ready before anything else is.
"""

import contextlib
import multiprocessing.util
import os
import pathlib
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from bce_jax import interrupts

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Who starts a program may pass Ctrl-C on that the terminal has sent to both: that is one, not two.
_ONE_CTRL_C_SECONDS = 0.2
# After which a main thread that is compiling, say, is not waited for where nothing is to be saved.
_STUCK_SECONDS = 2.0


class PreemptedError(KeyboardInterrupt):
  """The run has ended because a signal asked for it; the same command goes on.

  No Exception, so that nobody takes it for an error of what it came between.

  Attributes:
    number: of the signal.
    code: exit code, 128 more.
  """

  def __init__(self, number: int, saved: int | None = None):
    """Was saved just now: the checkpoint of step `saved`."""
    outcome = "" if saved is None else f": saved a checkpoint of step {saved}"
    super().__init__(f"{name_of(number)}{outcome}")
    self.number = number
    self.code = 128 + number


def name_of(number: int) -> str:
  """Returns the usual name of a signal."""
  return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def newest_step(workdir: pathlib.Path) -> int | None:
  """The step of the newest checkpoint in a run folder, without opening it; None for none."""
  names = (path.name for path in (workdir / "checkpoints").glob("[0-9]*"))
  return max((int(name) for name in names if name.isdigit()), default=None)


def how_to_go_on(workdir: pathlib.Path) -> str:
  """Returns what the same command would do next, for a message.

  >>> how_to_go_on(pathlib.Path("/no/such"))
  'nothing was saved yet: run the same command again to start at step 0'
  """
  if (workdir / "results.json").exists():
    return "the run is finished: run the same command again for its tables and its page"
  step = newest_step(workdir)
  if step is None:
    return "nothing was saved yet: run the same command again to start at step 0"
  return f"run the same command again to go on from step {step}"


class Preemption:
  """Listens for signals that ask the run to end, and decides after which step it stops.

  Once a step is trained, a first signal is kept for `reached`, so that the step is finished and
  saved; a second Ctrl-C ends at once. Before that, and after the last step, the first ends at once.

  On one host handlers of its own notice. On several JAX's notices SIGTERM, which `jax.distributed`
  starts, and agrees with all of them on the step to stop after; Ctrl-C and SIGHUP become a SIGTERM.
  """

  def __init__(self, workdir: pathlib.Path, *, owns_process: bool = True):
    """Nothing is noticed yet.

    Args:
      workdir: of the run.
      owns_process: False where others go on after it, as in a notebook: then nothing ends the
        process, and a second Ctrl-C raises wherever Python is.
    """
    self._owns_process = owns_process
    self.number: int | None = None  # of the first signal
    self._workdir = workdir
    self._training = self._trained = False
    self._handled = threading.Event()
    self._last: list[Callable[[], object]] = []

  def at_the_very_end(self, function: Callable[[], object]) -> None:
    """Registers a function to call where the process ends without unwinding its stack."""
    self._last.append(function)

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Context manager: signals are handled; in a thread that can't, its starter has to.

    A signal that is ignored, as SIGHUP under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    numbers = [n for n in _SIGNALS if not (n == signal.SIGTERM and _one_of_several())]
    before = {n: signal.getsignal(n) for n in numbers}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.ExitStack() as stack:
      stack.callback(os.close, reading)
      stack.callback(os.close, writing)
      watcher = threading.Thread(target=self._watch, args=(reading,), daemon=True)
      watcher.start()
      stack.callback(watcher.join)
      stack.callback(os.write, writing, b"\0")
      stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing))
      for number, handler in before.items():
        signal.signal(number, self._notice)
        stack.callback(signal.signal, number, handler)
      yield

  @contextlib.contextmanager
  def training(self) -> Iterator[None]:
    """Context manager: steps are trained, so that a signal waits for the end of one."""
    self._training = True
    try:
      yield
    finally:
      self._training = self._trained = False

  def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a train step that notes when it has first returned: there is something to save."""

    def counting(*args: Any) -> Any:
      out = step(*args)
      self._trained = True
      return out

    return counting

  def reached(self, step: int) -> bool:
    """Returns whether to stop after this step, the same on every host; asked at each step."""
    if not _one_of_several():
      return self.number is not None
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def ended(self, saved: int | None = None) -> PreemptedError:
    """Returns the exception to raise where the run has ended as it was asked."""
    return PreemptedError(self.number or signal.SIGTERM, saved)

  @property
  def _waits(self) -> bool:
    """Whether a step is finished and saved first."""
    return self._training and (self._trained or _one_of_several())

  def _notice(self, number: int, frame: types.FrameType | None) -> None:
    """Handles a signal, in the main thread, when that gets around to it."""
    # Where nothing ends the process, a second Ctrl-C is answered here.
    again = self._handled.is_set() and number == signal.SIGINT and not self._owns_process
    self.number = self.number or number
    self._handled.set()
    if not self._waits or again:
      interrupts.raise_from(frame, number, PreemptedError(self.number))
    elif _one_of_several():
      os.kill(os.getpid(), signal.SIGTERM)  # JAX's own handler, which tells the others

  def _watch(self, reading: int) -> None:
    """Notices signals at once, whatever the main thread is doing, in a thread of its own."""
    first: float | None = None
    ctrl_c, deadline = 0, None
    while True:
      left = None if deadline is None else max(deadline - time.monotonic(), 0)
      if not select.select([reading], [], [], left)[0]:
        deadline = None
        if self._owns_process and not self._handled.is_set() and not self._waits:
          self._end_at_once("")
        continue
      for number in os.read(reading, 64):
        if not number:  # nobody listens any more
          return
        if number not in _SIGNALS:
          continue
        ctrl_c += number == signal.SIGINT
        now = time.monotonic()
        if first is None:
          first = now
          self.number = self.number or number
          if not self._waits:
            deadline = now + _STUCK_SECONDS
          elif number == signal.SIGINT:
            _say("Ctrl-C: ends after this step, with a checkpoint; once more ends at once")
        elif (
          self._owns_process
          and number == signal.SIGINT
          and now > first + _ONE_CTRL_C_SECONDS
          and ctrl_c > interrupts.repeated  # those that this process has sent itself do not count
        ):
          self._end_at_once(" again: ended at once")

  def _end_at_once(self, what: str) -> NoReturn:
    """Ends the process, with what it has started; what was being written is not there."""
    number = signal.SIGINT if what else self.number or signal.SIGINT
    line = f"bce-train: {name_of(number)}{what}; {how_to_go_on(self._workdir)}"
    _end_children()
    with contextlib.suppress(OSError, ValueError):
      _say(line)
    for function in self._last:
      with contextlib.suppress(OSError):
        function()
    os._exit(128 + number)


def _end_children() -> None:
  """Ends processes that were started here, and gives back what was shared with them."""
  for child in multiprocessing.active_children():
    child.kill()
  # As Python does when it ends; else another process of its own warns of semaphores that are left.
  give_back = getattr(multiprocessing.util, "_run_finalizers", None)
  if give_back is not None:
    thread = threading.Thread(target=give_back, args=(0,), daemon=True)
    thread.start()
    thread.join(1.0)


def _one_of_several() -> bool:
  """Whether this process has joined others; without importing JAX to find out."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _say(line: str) -> None:
  """Prints a line, above the progress bar if there is one."""
  from tqdm import tqdm

  tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()
