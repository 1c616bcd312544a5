"""SIGTERM: what a scheduler sends before it takes a machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptedError(RuntimeError):
  """The run was told to end, and has; the same command goes on."""


class Preemption:
  """Whether the run has been told to end.

  On one host a handler of its own notices. On several JAX's does, which `jax.distributed` starts,
  and agrees with all of them on the step to stop after.
  """

  def __init__(self) -> None:
    """Nothing is noticed yet."""
    self._noticed = self._training = False

  def _notice(self, number: int, frame: Any) -> None:
    del number, frame  # of every handler
    self._noticed = True
    if not self._training:  # nothing is there to be saved: at once
      raise PreemptedError("SIGTERM")

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Listens; in a thread that can't, whoever started it has to."""
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
      yield
      return
    before = signal.signal(signal.SIGTERM, self._notice)
    try:
      yield
    finally:
      signal.signal(signal.SIGTERM, before)

  @contextlib.contextmanager
  def training(self) -> Iterator[None]:
    """Within, a notice is kept for `reached`, so that the step is finished and saved."""
    self._training = True
    try:
      yield
    finally:
      self._training = False

  def reached(self, step: int) -> bool:
    """Whether to stop after this step: the same answer on every host, asked at every step."""
    if jax.process_count() == 1:
      return self._noticed
    return multihost_utils.reached_preemption_sync_point(step)
