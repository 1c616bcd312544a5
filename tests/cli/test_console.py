"""What the console scripts do with pipes that break and terminals of ASCII."""

import os
import sys

from bce_jax.cli import console


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
