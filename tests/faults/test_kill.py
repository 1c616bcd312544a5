"""kill -9, at any moment: the same command goes on, and ends as if nothing had been."""

import copy
import random

import pytest

from bce_jax.runs import checkpoint

pytestmark = pytest.mark.slow


def goes_on(lab, workdir, whole):
  ended = lab.run(workdir)
  assert ended.code == 0, ended
  assert "Traceback" not in ended.err
  lab.same(workdir, whole)
  return ended


def test_killed_again_and_again_at_any_event(lab, whole, tmp_path):
  """What a run does to its folder, and its steps, are some 170 events: one of them each time."""
  random_ = random.Random(1)
  workdir = tmp_path / "run"
  kills = 0
  for _ in range(3):
    ended = lab.run(workdir, faults=[[".*", random_.randint(10, 120), "kill"]])
    assert ended.code in (-9, 0), ended
    kills += ended.code == -9
    if ended.code == 0:
      break
  assert kills
  goes_on(lab, workdir, whole)


def test_killed_again_and_again_by_the_clock(lab, whole, tmp_path):
  random_ = random.Random(2)
  workdir = tmp_path / "run"
  for first in ("step 1", r"step \d+"):
    delay = random_.uniform(0, 0.4)
    ended = lab.run(workdir, faults=[[first, 1, f"kill in {delay}"]])
    assert ended.code in (-9, 0), ended
    if ended.code == 0:
      break
  goes_on(lab, workdir, whole)


def test_killed_at_every_start(lab, whole, tmp_path):
  """Before each file that a run begins with; nothing is there yet to go on from."""
  workdir = tmp_path / "run"
  for point in ("open config.json.tmp w", "rename dataset.json.*", "rename metrics.jsonl.*"):
    lab.killed(workdir, at=point)
    assert not lab.steps(workdir)
  assert goes_on(lab, workdir, whole).resumed() == 0


def kills(lab, workdir, *points):
  """Runs until each point; each time it goes on from the newest checkpoint there is."""
  for point, count in points:
    newest = max(lab.steps(workdir), default=0) if workdir.exists() else 0
    assert lab.killed(workdir, at=point, count=count).resumed() == newest
  return lab.steps(workdir)


def test_killed_in_an_evaluation_and_right_after_a_record(lab, whole, tmp_path):
  """The steps since the last record are in the checkpoint; the records after it are made anew."""
  workdir = tmp_path / "run"
  kills(lab, workdir, ("evaluate 10", 1), ("record 15", 1), ("record 24", 2))
  # In the last evaluation, when all is trained and the last checkpoint is there.
  assert kills(lab, workdir, ("results 24", 2))[-1] == 24
  assert goes_on(lab, workdir, whole).resumed() == 24


SAVING = r"checkpoints/{}\.orbax-checkpoint-tmp"
STATE = SAVING + r"/state\.orbax-checkpoint-tmp"


def test_killed_in_the_middle_of_a_save(lab, whole, tmp_path):
  """Whatever of a checkpoint is written by then, the one before it is the newest."""
  workdir = tmp_path / "run"
  # The first one, with its arrays written: nothing is there to go on from.
  assert kills(lab, workdir, (rf"open {STATE.format(7)}/_METADATA w", 1)) == []
  # The loop's record; then all the arrays; then all but the last file; then the last rename.
  assert kills(lab, workdir, (rf"open {SAVING.format(10)}/loop.*/metadata w", 1)) == [7]
  assert kills(lab, workdir, (rf"rename {STATE.format(10)} .*", 1)) == [7]
  assert kills(lab, workdir, (rf"open {SAVING.format(14)}/commit_success.txt w", 1)) == [7, 10]
  assert kills(lab, workdir, (rf"rename {SAVING.format(14)} .*", 1)) == [7, 10]
  goes_on(lab, workdir, whole)


def test_killed_while_an_old_checkpoint_is_deleted(lab, whole, tmp_path):
  workdir = tmp_path / "run"
  # All is renamed, the old one still whole; then half of it gone; then only its folder is left.
  assert kills(lab, workdir, ("rmtree checkpoints/7", 1)) == [7, 10, 14]
  kills(lab, workdir, ("deleting .*", 3), ("rmdir checkpoints/14.*", 1))
  goes_on(lab, workdir, whole)


def test_what_is_being_saved_does_not_change(here, tmp_path, monkeypatch):
  """Written in the background, while the run goes on and empties what the next record took."""
  saved = []
  original = checkpoint.Checkpoints.save

  def save(self, state, loop, validation, **options):
    saved.append((loop, copy.deepcopy(loop)))
    return original(self, state, loop, validation, **options)

  monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
  assert here(tmp_path / "run").code == 0
  assert [len(loop["pending"].get("loss", [])) for loop, _ in saved] == [2, 0, 4, 0, 1, 0]
  assert all(now == then for now, then in saved)
