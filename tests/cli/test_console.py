"""What the console scripts do with pipes that break and terminals of ASCII."""

import ast
import gc
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import bce_jax
from bce_jax import interrupts, objectives
from bce_jax.cli import configs, console, train
from bce_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent.parent


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


def interrupted_in_a_callback(argv):
  """A program that Ctrl-C reaches where Python prints what is raised, and goes on."""

  def once(phase, info):
    gc.callbacks.remove(once)
    raise KeyboardInterrupt

  gc.callbacks.append(once)
  gc.collect()
  time.sleep(30)
  return 0


@pytest.mark.core
def test_ctrl_c_while_another_is_sent_again(monkeypatch, capsys):
  """It would be lost in the hook, which sends the first again."""
  original, calls = interrupts.send_again, []

  def send_again(number):
    calls.append(number)
    if len(calls) == 1:
      signal.raise_signal(signal.SIGINT)
    else:
      original(number)

  monkeypatch.setattr(interrupts, "send_again", send_again)
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    assert console.run_as("bce-x", interrupted_in_a_callback, []) == 130
  finally:
    signal.signal(signal.SIGINT, before)
  assert len(calls) >= 2
  assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.core
def test_ctrl_c_within_a_callback_that_cannot_raise(capsys):
  """As JAX has one of the garbage collector: Python prints what it raises, and goes on."""

  start = time.monotonic()
  assert console.run_as("bce-x", interrupted_in_a_callback, []) == 130
  assert time.monotonic() - start < 20
  assert capsys.readouterr().err == "bce-x: interrupted; run the same command again to go on\n"


def test_help_version_and_mistyped_options_wait_for_nothing():
  """Every program of pyproject's [project.scripts]; none imports what takes seconds."""
  script = """
    import contextlib, importlib, io, pathlib, sys, tomllib

    programs = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["scripts"]
    assert len(programs) >= 5
    for name, place in programs.items():
      module, _, function = place.partition(":")
      main = getattr(importlib.import_module(module), function)
      for words, expected in (["--help"], 0), (["--version"], 0), (["--zebra"], 2), (["-z"], 2):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
          try:
            code = main(words)
          except SystemExit as end:
            code = end.code or 0
        assert code == expected, (name, words, err.getvalue())
        if words == ["--version"]:
          assert out.getvalue() == VERSION, out.getvalue()
        if code:
          assert err.getvalue().count("\\n") == 1
          assert err.getvalue().startswith(f"{name}: ")
        if words == ["--help"]:
          assert max(map(len, out.getvalue().splitlines())) <= 80, out.getvalue()
        for heavy in ("jax", "flax", "matplotlib", "sklearn", "orbax", "tensorboard"):
          assert heavy not in sys.modules, (name, words, heavy)
  """.replace("VERSION", repr(f"bce_jax {bce_jax.__version__}\n"))
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("word", "hint"),
  [
    ("--workdri=x", "did you mean --workdir?"),
    ("--evaluate_only", "did you mean --evaluate-only?"),
    ("--lr=1", "did you mean --config.optimizer.learning_rate?"),
    ("--batch-size", "did you mean --config.batch_size?"),
    ("--num_epochs", "did you mean --config.epochs?"),
    ("--zebra", "bce-train --help shows the options"),
    ("zebra", "unrecognized arguments: zebra"),
  ],
)
def test_a_mistyped_option_gets_the_nearest_name(capsys, word, hint):
  assert train.main(["--workdir", "x", word]) == 2
  line = capsys.readouterr().err
  assert hint in line
  assert line.count("\n") == 1


def test_the_configs_are_listed_with_words_that_they_take(capsys):
  with pytest.raises(SystemExit) as done:
    train.main(["--list"])
  assert not done.value.code
  text = capsys.readouterr().out
  assert all(len(line) <= 80 for line in text.splitlines())
  assert configs.LOSSES == objectives.LOSSES
  for name, path in configs._shipped().items():
    [line] = [x for x in text.splitlines() if x.startswith(f"{name} ")]
    assert "…" not in line
    kinds = configs._words(ast.parse(path.read_text()))
    assert kinds
    words = [*itertools.chain(*kinds)]
    assert all(re.search(rf"\b{re.escape(word)}\b", text) for word in words)
    for word in words:  # each is taken
      assert refusal(f"{name}:{objectives.LOSSES[0] if word == 'LOSS' else word}") == ""
    assert "zebra" in refusal(f"{name}:zebra")


def refusal(reference):
  """Why a config can't be used, were its data and what it starts from there."""
  try:
    config = configs.load_config(reference)
    config.start_from = "a run"
    config.data.folder = "images" if config.data.name == "folder" else ""
    config_lib.check(config)
  except ValueError as error:
    return str(error)
  return ""
