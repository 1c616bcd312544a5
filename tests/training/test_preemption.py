"""Ctrl-C where the main thread is in C++, as when it compiles, and can't answer it."""

import signal
import subprocess
import sys
import time

import pytest

from bce_jax.runs import files
from bce_jax.training import preemption

# Waits for a lock that nobody gives back, outside of Python, where no handler of a signal runs.
STUCK = """
import ctypes, os, pathlib, signal, sys, threading, time
from bce_jax.training import preemption

# The tests may run in the background, where a shell has SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)
stop = preemption.Preemption(pathlib.Path(sys.argv[1]))
stop.at_the_very_end(lambda: print("cleaned up", flush=True))

def ctrl_c():
  for _ in range(int(sys.argv[3])):
    time.sleep(0.4)
    os.kill(os.getpid(), signal.SIGINT)

with stop.listening(), stop.training():
  if sys.argv[2] == "trained":
    stop.counted(lambda: None)()
  threading.Thread(target=ctrl_c, daemon=True).start()
  libc.pthread_mutex_lock(lock)
  libc.pthread_mutex_lock(lock)
"""


@pytest.mark.core
@pytest.mark.parametrize(
  ("trained", "count", "told"),
  [
    ("trained", 2, "Ctrl-C again: ended at once; run the same command again to go on from step 20"),
    ("compiling", 1, "Ctrl-C; run the same command again to go on from step 20"),
  ],
)
def test_a_main_thread_that_does_not_answer(tmp_path, trained, count, told):
  for step in ("7", "20", "24.orbax-checkpoint-tmp"):
    (tmp_path / "checkpoints" / step).mkdir(parents=True)
  start = time.monotonic()
  out = subprocess.run(
    [sys.executable, "-c", STUCK, str(tmp_path), trained, str(count)],
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert out.returncode == 130, out
  assert out.stderr.splitlines()[-1] == f"bce-train: {told}"
  assert out.stdout == "cleaned up\n"
  assert time.monotonic() - start < 30


def test_what_is_ignored_stays_so(tmp_path, monkeypatch):
  """As SIGHUP under nohup."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with preemption.Preemption(tmp_path).listening():
      assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
      assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
  finally:
    signal.signal(signal.SIGHUP, before)


def test_nobody_takes_it_for_an_error_of_what_it_came_between():
  assert not issubclass(preemption.PreemptedError, Exception)


def test_a_finished_run_is_not_to_be_gone_on_with(tmp_path):
  (tmp_path / "results.json").write_text("{}")
  assert preemption.how_to_go_on(tmp_path).startswith("the run is finished")


def test_the_folder_of_the_checkpoints_is_theirs(tmp_path):
  (tmp_path / files.CHECKPOINTS / "12").mkdir(parents=True)
  assert preemption.newest_step(tmp_path) == 12


def test_in_a_notebook_a_second_ctrl_c_raises(tmp_path, capsys):
  """It must not end the process, which is not the run's own."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  stop = preemption.Preemption(tmp_path, owns_process=False)
  try:
    with stop.listening(), stop.training():
      stop.counted(lambda: None)()
      signal.raise_signal(signal.SIGINT)
      assert stop.reached(3)
      time.sleep(0.3)
      with pytest.raises(preemption.PreemptedError):
        signal.raise_signal(signal.SIGINT)
      time.sleep(0.1)
  finally:
    signal.signal(signal.SIGINT, before)
  assert "once more ends at once" in capsys.readouterr().err
