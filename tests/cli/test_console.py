"""What the console scripts do with pipes that break and terminals of ASCII."""

import gc
import os
import sys
import time

import pytest

from bce_jax.cli import console


@pytest.fixture(autouse=True)
def hook(monkeypatch):
  """What a console script sets is that of its own process."""
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def test_a_reader_who_has_had_enough(monkeypatch):
  reading, writing = os.pipe()
  os.close(reading)
  with open(writing, "w", encoding="ascii") as broken:
    monkeypatch.setattr(sys, "stdout", broken)
    assert console.run_as("bce-x", lambda argv: print("a table") or 0, []) == 141
    print("into nothing", flush=True)


def test_a_pipe_that_breaks_elsewhere_is_an_error(capsys):
  def run(argv):
    raise BrokenPipeError(32, "Broken pipe")

  assert console.run_as("bce-x", run, []) == 2
  assert "Broken pipe" in capsys.readouterr().err


def test_a_terminal_of_ascii(monkeypatch, tmp_path):
  with open(tmp_path / "out", "w", encoding="ascii") as plain:
    monkeypatch.setattr(sys, "stdout", plain)
    assert console.run_as("bce-x", lambda argv: print("t* – 3") or 0, []) == 0
  assert (tmp_path / "out").read_text() == "t* ? 3\n"


def test_ctrl_c_within_a_callback_that_cannot_raise(capsys):
  """As JAX has one of the garbage collector: Python prints what it raises, and goes on."""

  def once(phase, info):
    gc.callbacks.remove(once)
    raise KeyboardInterrupt

  def run(argv):
    gc.callbacks.append(once)
    gc.collect()
    time.sleep(30)
    return 0

  start = time.monotonic()
  assert console.run_as("bce-x", run, []) == 130
  assert time.monotonic() - start < 20
  assert capsys.readouterr().err == "bce-x: interrupted; run the same command again to go on\n"
