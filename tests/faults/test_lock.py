"""One run folder, one run."""

import os
import pathlib
import signal

import pytest

pytestmark = pytest.mark.slow


def test_a_second_run_is_refused_and_the_first_is_not_disturbed(whole, lab, here, tmp_path):
  workdir, go = tmp_path / "run", tmp_path / "go"
  first = lab.begin(workdir, faults=[["step 12", 1, f"wait {go}"]])
  lab.wait_for(pathlib.Path(f"{go}.reached"))
  before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
  pid = (first.folder / "pid").read_text()
  # With the same config, and with another one, which would be refused later.
  for argv in ((), (*lab.SMALL, "--config.seed=3")):
    line = here(workdir, *argv).fails(2)
    told = f"in use by process {pid} on {os.uname().nodename}: wait for its end"
    assert (told in line) or (argv and "seed was 0 and is 3" in line)
  assert {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()} == before
  go.touch()
  assert first.wait().code == 0
  lab.same(workdir, whole)


def test_of_two_that_start_at_once_one_runs(whole, lab, tmp_path):
  workdir = tmp_path / "run"
  runs = [lab.begin(workdir), lab.begin(workdir)]
  one, other = sorted((run.wait() for run in runs), key=lambda ended: ended.code)
  assert one.code == 0, one
  if other.code:  # else it came when the first had ended
    other.fails(2, "in use by process")
  lab.same(workdir, whole)


def test_a_killed_run_leaves_no_lock_in_the_way(lab, tmp_path):
  workdir = tmp_path / "run"
  lab.killed(workdir, at="step 3")
  assert (workdir / "lock").exists()
  ended = lab.run(workdir, faults=[["step 3", 1, "term"]])
  ended.fails(143)
  assert not (workdir / "lock").exists()


def test_a_stopped_run_holds_its_folder(lab, here, tmp_path):
  """SIGSTOP: it may go on at any time."""
  workdir, go = tmp_path / "run", tmp_path / "go"
  first = lab.begin(workdir, faults=[["step 3", 1, f"wait {go}"]])
  lab.wait_for(pathlib.Path(f"{go}.reached"))
  first.send_signal(signal.SIGSTOP)
  here(workdir).fails(2, "in use by process")
  first.send_signal(signal.SIGKILL)
  assert first.wait().code == -signal.SIGKILL
