"""SIGTERM, Ctrl-C, SIGHUP: a checkpoint of the step where it was, one line; then on from there."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bce_jax.training import preemption

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def interruptible():
  """The tests may run in the background, where a shell has SIGINT ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def pauses(ended, *steps, code=143):
  """One line told which step was saved, and is gone on from: one of `steps`."""
  line = ended.fails(code, "run the same command again to go on")
  again = "; run the same command again to go on from step"
  told = [line.endswith(f"saved a checkpoint of step {step}{again} {step}") for step in steps]
  assert any(told), line
  return steps[told.index(True)]


@pytest.mark.parametrize(
  ("point", "action", "steps"),
  [
    ("step 1", "term", (1,)),
    ("step 12", "term", (12,)),
    ("step 9", "term twice", (9,)),
    ("evaluate 10", "term", (10, 11)),  # in an evaluation: that is finished first
    ("save 14", "term", (14, 15)),  # with a save under way
    ("record 20", "term", (20, 21)),
  ],
)
def test_saves_where_it_was_and_goes_on(whole_here, lab, here, tmp_path, point, action, steps):
  workdir = tmp_path / "run"
  step = pauses(here(workdir, faults=[[point, 1, action]]), *steps)
  assert lab.steps(workdir)[-1] == step
  assert not (workdir / "lock").exists()
  assert not (workdir / "results.json").exists()
  ended = here(workdir)
  assert ended.code == 0
  assert ended.resumed() == step
  lab.same(workdir, whole_here)


def test_ctrl_c_and_a_closed_terminal_do_the_same(whole_here, lab, here, tmp_path):
  workdir = tmp_path / "run"
  for point, action, step, code in (("step 9", "int", 9, 130), ("step 12", "hup", 12, 129)):
    pauses(here(workdir, faults=[[point, 1, action]]), step, code=code)
  # In the last step all is saved, and only the last evaluation is left.
  pauses(here(workdir, faults=[["step 24", 1, "int"]]), 24, code=130)
  log = (workdir / "run.log").read_text()
  for word in ("Ctrl-C: ends after this step", "SIGHUP: saved a checkpoint", "resumed from the"):
    assert word in log
  assert log.splitlines()[-1].endswith("run the same command again to go on from step 24")
  assert here(workdir).resumed() == 24
  lab.same(workdir, whole_here)
  sessions = json.loads((workdir / "results.json").read_text())["provenance"]["sessions"]
  assert [one["from_step"] for one in sessions] == [0, 9, 12, 24]
  assert all(one["started"] <= one["ended"] for one in sessions)
  assert "Ctrl-C" in sessions[0]["outcome"]


def test_again_and_again(whole_here, lab, here, tmp_path):
  """A run that is given only a few steps each time gets to its end."""
  workdir = tmp_path / "run"
  for step in (3, 8, 23):
    assert pauses(here(workdir, faults=[[f"step {step}", 1, "term"]]), step) == step
  assert here(workdir).resumed() == 23
  lab.same(workdir, whole_here)


def test_before_the_first_step_nothing_is_saved(whole_here, lab, here, tmp_path):
  workdir = tmp_path / "run"
  for action, code in (("int", 130), ("term", 143)):
    line = here(workdir, faults=[["progress 0", 1, action]]).fails(code)
    assert line.endswith("nothing was saved yet: run the same command again to start at step 0")
  assert lab.steps(workdir) == []
  assert not list(workdir.rglob("*tmp*"))
  assert here(workdir).resumed() == 0
  lab.same(workdir, whole_here)


def test_at_the_end_it_ends(whole_here, lab, here, tmp_path):
  """After the last step all is saved: what is left is the last evaluation."""
  workdir = tmp_path / "run"
  ended = here(workdir, faults=[["step 24", 1, "term"]])
  assert ended.code == 0, ended
  lab.same(workdir, whole_here)


def test_in_the_last_evaluation(whole_here, lab, here, tmp_path):
  workdir = tmp_path / "run"
  here(workdir, faults=[["results 24", 2, "term"]]).fails(143, "run the same command again")
  assert lab.steps(workdir)[-1] == 24
  assert not (workdir / "results.json").exists()
  assert here(workdir).resumed() == 24
  lab.same(workdir, whole_here)


def test_the_handler_of_before_is_back_afterwards(here, tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  here(tmp_path / "run", faults=[["step 2", 1, "term"]]).fails(143)
  assert signal.getsignal(signal.SIGTERM) is before
  assert before is not preemption.Preemption._notice


def test_from_outside(whole, lab, tmp_path):
  """As a scheduler sends it, to a process of its own."""
  workdir = tmp_path / "run"
  go = tmp_path / "go"
  process = lab.begin(workdir, faults=[["step 12", 1, f"wait {go}"]])
  lab.wait_for(pathlib.Path(f"{go}.reached"))
  process.send_signal(signal.SIGTERM)
  go.touch()
  pauses(process.wait(), 12, 13)
  assert lab.command(workdir).code == 0
  lab.same(workdir, whole)


def test_while_it_starts(lab, tmp_path):
  """Before there is anything to save it ends like any program; the shell says 143 of both."""
  workdir = tmp_path / "run"
  argv = [sys.executable, "-m", "bce_jax.cli.train", *lab.SMALL, "--workdir", str(workdir)]
  process = subprocess.Popen(argv, env=lab.environment(1), stderr=subprocess.PIPE, text=True)
  time.sleep(0.3)
  process.send_signal(signal.SIGTERM)
  _, error = process.communicate(timeout=lab.LIMIT)
  assert process.returncode in (143, -signal.SIGTERM)
  assert "Traceback" not in error
  assert not workdir.exists() or not os.listdir(workdir)
