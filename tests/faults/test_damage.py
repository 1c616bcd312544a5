"""A checkpoint or a metrics.jsonl that was damaged where it lay."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

from bce_jax.cli import orbax_errors
from bce_jax.runs import checkpoint
from bce_jax.training import config as config_lib
from bce_jax.training import experiment

pytestmark = pytest.mark.slow


def empty(path):
  path.write_bytes(b"")


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
  """Some bits in several places."""
  data = bytearray(path.read_bytes())
  for share in (0.1, 0.5, 0.9):
    data[int(share * len(data))] ^= 0x10
  path.write_bytes(data)


def flip_one(path):
  """The lowest bit of one byte: in text, perhaps a digit that is another one."""
  data = bytearray(path.read_bytes())
  digits = [k for k, byte in enumerate(data) if chr(byte).isdigit()]
  data[digits[len(digits) // 2] if digits else len(data) // 2] ^= 1
  path.write_bytes(data)


def zero(path):
  """As a file system may leave what was not written down when the power went."""
  path.write_bytes(bytes(path.stat().st_size))


def remove(path):
  path.unlink()


def other_record(path):
  """Text that is as whole as before, but not the same."""
  path.write_bytes(path.read_bytes().replace(b"accuracy", b"accurate").replace(b"1", b"2", 1))


DAMAGES = (other_record, empty, truncate, flip, flip_one, zero, remove)


@pytest.fixture(scope="module")
def like(stopped_here):
  """What its checkpoints are restored into."""
  config = config_lib.from_dict(json.loads((stopped_here / "config.json").read_text()))
  return experiment.build(config).state_sharding.to_restore()


def restored(workdir, like):
  store = checkpoint.Checkpoints(workdir, best_metric="uniform_accuracy")
  try:
    state, loop, said = store.restore_newest(like)
    return [np.asarray(x) for x in jax.tree.leaves(state)], loop, said
  finally:
    store.close()


def equal(a, b):
  return a[1] == b[1] and all(x.tobytes() == y.tobytes() for x, y in zip(a[0], b[0], strict=True))


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_any_file_of_the_newest_checkpoint(
  stopped_here, lab, like, tmp_path, capfd, monkeypatch, damage
):
  """It is restored as it was, or the one before is; never something else, and nothing is lost."""
  orbax_errors.one_error_for_all()  # as the programs do
  behind = []  # what C++ threads raise and nobody catches: Python would print it
  monkeypatch.setattr(sys, "unraisablehook", behind.append)
  plain = tmp_path / "plain"
  shutil.copytree(stopped_here, plain)
  newest = restored(plain, like)
  shutil.rmtree(plain / "checkpoints" / "16")
  before = restored(plain, like)
  assert int(before[0][-1]) != int(newest[0][-1]) or not equal(before, newest)
  folder = stopped_here / "checkpoints" / "16"
  files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
  assert len(files) > 10
  noticed = []
  for number, name in enumerate(files):
    workdir = tmp_path / str(number)
    shutil.copytree(stopped_here, workdir)
    damage(workdir / "checkpoints" / "16" / name)
    damaged = contents(workdir / "checkpoints" / "16")
    again = restored(workdir, like)
    if not again[2]:
      assert equal(again, newest), f"{name} was damaged, and that was not noticed"
      assert lab.steps(workdir) == [10, 14, 16]
      continue
    assert equal(again, before), name
    noticed.append(str(name))
    [reason] = again[2]
    assert f"{workdir}/checkpoints/16 can't be restored: " in reason
    assert lab.steps(workdir) == [10, 14]
    assert contents(workdir / "damaged_checkpoints" / "16.0") == damaged
    shutil.rmtree(workdir)
  assert "loop/metadata" in noticed
  # A small binary file may hold no text that `other_record` could change.
  assert damage is other_record or "state/manifest.ocdbt" in noticed
  arrays = max(files, key=lambda name: (folder / name).stat().st_size)
  assert str(arrays) in noticed
  assert not behind
  assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("instead", ["nothing", "a folder", "a file"])
def test_whole_folders_of_the_newest_checkpoint(stopped_here, lab, like, tmp_path, instead):
  for what in ("state", "loop", "."):
    workdir = tmp_path / what.replace(".", "all")
    shutil.copytree(stopped_here, workdir)
    folder = workdir / "checkpoints" / "16" / what
    shutil.rmtree(folder)
    if instead == "a folder":
      folder.mkdir()
    if instead == "a file":
      folder.write_text("")
    state, loop, _ = restored(workdir, like)
    before = json.loads((stopped_here / "checkpoints" / "14" / "loop" / "metadata").read_text())
    assert loop["records"] == before["records"], what
    assert 14 in [int(x) for x in state if x.shape == ()], what
    assert {10, 14} <= set(lab.steps(workdir))


def test_the_one_before_is_taken_and_reported(stopped, lab, whole, tmp_path):
  """In a process of its own, where C++ prints what it likes."""
  workdir = tmp_path / "run"
  lab.run(workdir, faults=[["step 16", 1, "term"]]).fails(143)
  for path in (workdir / "checkpoints" / "16" / "state" / "d").iterdir():
    empty(path)
  ended = lab.run(workdir)
  assert ended.code == 0, ended
  lines = ended.err.splitlines()
  assert len(lines) < 12, ended.err
  [line] = [line for line in lines if "can't be restored" in line]
  assert line.endswith("it was moved to damaged_checkpoints/")
  assert ended.resumed() == 14
  lab.same(workdir, whole)


def test_damaged_again(stopped, lab, here, whole_here):
  """A second one of the same step does not take the place of the first."""
  for number in range(2):
    truncate(max((stopped / "checkpoints" / "16").rglob("*"), key=lambda p: p.stat().st_size))
    assert here(stopped, faults=[["step 16", 1, "term"]]).resumed() == 14
    names = sorted(p.name for p in (stopped / "damaged_checkpoints").iterdir())
    assert names == [f"16.{k}" for k in range(number + 1)]
  assert here(stopped).resumed() == 16
  lab.same(stopped, whole_here)


def test_two_are_damaged(stopped, lab, here, whole_here):
  for step in (14, 16):
    (stopped / "checkpoints" / str(step) / "state" / "manifest.ocdbt").unlink()
  ended = here(stopped)
  assert ended.code == 0
  assert ended.resumed() == 10
  assert {p.name for p in (stopped / "damaged_checkpoints").iterdir()} == {"14.0", "16.0"}
  lab.same(stopped, whole_here)


def test_all_are_damaged(stopped, lab, here):
  for step in (10, 14, 16):
    flip(max((stopped / "checkpoints" / str(step)).rglob("*"), key=lambda p: p.stat().st_size))
  before = contents(stopped / "checkpoints")
  here(stopped).fails(2, "checkpoints/16 can't be restored")
  assert contents(stopped / "checkpoints") == before
  assert not (stopped / "damaged_checkpoints").exists()


def lines_missing(path):
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:1] + lines[2:]))


def garbage(path):
  path.write_bytes(path.read_bytes() + bytes(range(256)))


def nul(path):
  path.write_bytes(path.read_bytes() + bytes(4096))


def cut(path):
  path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [cut, garbage, nul, remove, lines_missing])
def test_metrics(stopped, lab, here, whole_here, damage):
  damage(stopped / "metrics.jsonl")
  ended = here(stopped)
  assert ended.code == 0, ended
  assert ended.resumed() == 16
  lab.same(stopped, whole_here)


def test_a_loss_that_is_nan_once(whole_here, lab, here, tmp_path, monkeypatch):
  """The step is named, the last good checkpoint kept, and the run goes on from there."""
  from bce_jax.training import parallel

  workdir = tmp_path / "run"
  compiled, calls = parallel.jit_train_step, []

  def spoilt(*args, **kwargs):
    step = compiled(*args, **kwargs)

    def spoilt_step(state, batch):
      calls.append(1)
      state, logs = step(state, batch)
      return state, logs | ({"loss": logs["loss"] * np.nan} if len(calls) == 13 else {})

    return spoilt_step

  with monkeypatch.context() as patch:
    patch.setattr(parallel, "jit_train_step", spoilt)
    line = here(workdir).fails(1, "the loss of step 13 is nan", "Checkpoint 10 is kept")
  assert "training stops" in line
  assert lab.steps(workdir) == [7, 10]
  assert here(workdir).resumed() == 10
  lab.same(workdir, whole_here)
