"""An image that is damaged after the start, found only when it is read."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bce_jax.data import statistics

pytestmark = pytest.mark.slow


def options(folder, *more):
  return (
    "--config=folder",
    f"--config.data.folder={folder}",
    "--config.model=small_network",
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    "--config.steps=16",
    "--config.log_every_steps=5",
    "--config.eval_every_epochs=1.5",
    "--config.checkpoint_every_steps=3",
    "--config.data.image_size=8",
    "--config.data.crop_padding=1",
    "--config.data.in_memory=false",
    "--config.data.workers=0",
    "--config.report=false",
    *more,
  )


@pytest.fixture(scope="module")
def whole(here_once, image_folder):
  return here_once(*options(image_folder))


@pytest.fixture(scope="module")
def here_once(tmp_path_factory, lab):
  def run(*argv):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert lab.cli.main([*argv, "--workdir", str(workdir)]) == 0
    return workdir

  return run


@pytest.fixture
def images(image_folder, tmp_path):
  """A copy of the folder, to be damaged."""
  shutil.copytree(image_folder, tmp_path / "images")
  return tmp_path / "images"


@pytest.mark.parametrize("workers", [0, 1])
def test_in_the_middle_of_an_epoch(whole, lab, here, images, tmp_path, workers):
  workdir = tmp_path / "run"
  # Every image of a class, so that the next batches hold one, whatever is read ahead.
  spoilt = sorted((images / "train" / "digit1").iterdir())
  before = {path: path.read_bytes() for path in spoilt}
  argv = options(images, f"--config.data.workers={workers}")
  ended = here(workdir, *argv, faults=[["save 6", 1, f"spoil {path}"] for path in spoilt])
  line = ended.fails(2, "cannot be read as an image")
  assert any(str(path) in line for path in spoilt)
  assert lab.steps(workdir)[-1] >= 6
  # Not repaired, the same line again, and nothing is lost.
  here(workdir, *argv).fails(2, "digit1")
  assert lab.steps(workdir)[-1] >= 6
  for path, content in before.items():
    path.write_bytes(content)
  # It goes on elsewhere, read in another way: what may be changed when a run goes on.
  moved = tmp_path / "moved"
  images.rename(moved)
  again = here(workdir, *options(moved, f"--config.data.workers={1 - workers}"))
  assert again.code == 0, again
  assert again.resumed() >= 6
  lab.same(workdir, whole)


@pytest.mark.parametrize("split", ["train", "test"])
def test_found_by_an_evaluation(whole, lab, here, images, tmp_path, split):
  """The images held out are of the training folder; the test split is read at the very end."""
  workdir = tmp_path / "run"
  spoilt = sorted((images / split).rglob("*.png"))
  before = {path: path.read_bytes() for path in spoilt}
  at = ["evaluate 6", 1] if split == "train" else ["evaluate 16", 2]
  ended = here(workdir, *options(images), faults=[[*at, f"spoil {path}"] for path in spoilt])
  assert any(str(path) in ended.fails(2, "cannot be read as an image") for path in spoilt)
  assert lab.steps(workdir)[-1] == (6 if split == "train" else 16)
  for path, content in before.items():
    path.write_bytes(content)
  again = here(workdir, *options(images, "--config.data.in_memory=true"))
  assert again.code == 0, again
  lab.same(workdir, whole)


def test_missing_when_it_is_read(whole, lab, here, images, tmp_path, monkeypatch):
  """A file that is there, but can't be opened any more, as on a network that is gone."""
  workdir = tmp_path / "run"
  read = pathlib.Path(images / "train" / "digit2")
  hidden = tmp_path / "hidden"
  monkeypatch.setitem(here.driver.ACTIONS, "hide", lambda rest: read.rename(hidden))
  line = here(workdir, *options(images), faults=[["save 6", 1, "hide"]]).fails(2, "digit2")
  assert "No such file" in line
  hidden.rename(read)
  assert here(workdir, *options(images)).code == 0
  lab.same(workdir, whole)


def cut(path):
  """Leaves the header whole: that it is damaged is found when it is decoded."""
  path.write_bytes(path.read_bytes()[:-30])


def named(workdir, lab):
  return [(r["step"], r["file"]) for r in lab.records(workdir) if r["split"] == "skipped"]


def test_before_the_first_evaluation(lab, here, images, tmp_path):
  """What was trained until then is kept; what stays damaged is skipped when the run goes on."""
  workdir = tmp_path / "run"
  spoilt = sorted((images / "train" / "digit1").iterdir())
  before = {path: path.read_bytes() for path in spoilt}
  argv = options(images, "--config.checkpoint_every_steps=16")
  ended = here(workdir, *argv, faults=[["step 2", 1, f"spoil {path}"] for path in spoilt])
  ended.fails(2, "cannot be read as an image", "digit1")
  [kept] = lab.steps(workdir)
  assert 2 <= kept < 6
  for path, content in list(before.items())[1:]:
    path.write_bytes(content)
  again = here(workdir, *argv, "--config.data.skip_damaged=1")
  assert again.code == 0, again
  assert again.resumed() == kept
  assert [file for _, file in named(workdir, lab)] == [f"train/digit1/{spoilt[0].name}"]


def test_damaged_images_are_skipped(whole, lab, here, images, tmp_path, monkeypatch):
  """In memory or not, in one go or in two: the same network, and each is named once."""
  # As if there were more images than are looked at for them: they find nothing damaged.
  told = json.loads((whole / "dataset.json").read_text())
  mean, std = (np.float32(told[key]) for key in ("mean", "std"))
  known = statistics.Statistics(mean, std, {}, 36)
  monkeypatch.setattr(statistics, "channel_statistics", lambda *_, **__: known)
  for name in ("train/digit0/03", "train/digit2/05", "test/digit1/13"):
    cut(images / f"{name}.png")
  argv = options(images, "--config.data.skip_damaged=3")
  ended = here(tmp_path / "lazy", *argv)
  assert ended.code == 0, ended
  assert ended.err.count("skipped, ") == 3
  assert "skipped, 3 of at most 3: " in ended.err
  found = named(tmp_path / "lazy", lab)
  assert found[0] == (0, "test/digit1/13.png")
  assert sorted(file for _, file in found[1:]) == ["train/digit0/03.png", "train/digit2/05.png"]
  assert all(step > 0 for step, _ in found[1:])
  assert lab.results(tmp_path / "lazy")["images"] == 11
  assert here(tmp_path / "two", *argv, faults=[["step 7", 1, "term"]]).code == 143
  again = here(tmp_path / "two", *argv, "--config.data.in_memory=true")
  assert again.code == 0, again
  assert "skipped, " not in again.err
  lab.same(tmp_path / "two", tmp_path / "lazy")


def test_more_are_damaged_than_may_be_skipped(lab, here, images, tmp_path):
  for name in ("train/digit0/03", "test/digit1/13"):
    cut(images / f"{name}.png")
  ended = here(tmp_path / "few", *options(images, "--config.data.skip_damaged=1"))
  line = ended.fails(2, "2 images are damaged, and config.data.skip_damaged is 1; the last of them")
  assert "digit0/03.png cannot be read" in line
