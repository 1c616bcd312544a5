"""Two processes as one run: what becomes of one when the other ends, and how they go on."""

import shutil
import signal
import socket

import pytest

pytestmark = pytest.mark.slow

FOLDER = (
  "--config=folder",
  "--config.model=small_network",
  "--config.batch_size=8",
  "--config.eval_batch_size=8",
  "--config.steps=16",
  "--config.checkpoint_every_steps=3",
  "--config.data.image_size=8",
  "--config.data.crop_padding=1",
  "--config.data.in_memory=false",
  "--config.report=false",
)


@pytest.fixture
def pair(lab):
  """Runs two processes with a device each to their ends; returns how both ended."""

  def run(workdir, *argv, faults=((), ())):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    processes = [
      lab.begin(
        workdir,
        *(argv or lab.SMALL),
        f"--coordinator={address}",
        "--num-processes=2",
        f"--process-id={number}",
        faults=faults[number],
      )
      for number in range(2)
    ]
    return [process.wait() for process in processes]

  return run


@pytest.fixture(scope="session")
def whole_two(tmp_path_factory, lab):
  """One process with two devices."""

  def make(workdir):
    ended = lab.run(workdir, devices=2)
    assert ended.code == 0, ended

  return lab.shared(tmp_path_factory, "whole_two", make)


def test_left_alone_they_are_one(whole_two, lab, pair, tmp_path):
  workdir = tmp_path / "run"
  first, second = pair(workdir)
  assert first.code == second.code == 0, (first, second)
  assert "A_Uni" in first.out
  assert "A_Uni" not in second.out
  assert "2 cpu device(s) of 2 processes" in first.err
  lab.same(workdir, whole_two)


def test_a_worker_is_killed_then_both_get_sigterm_then_one_goes_on_alone(
  whole_two, lab, pair, tmp_path
):
  workdir = tmp_path / "run"
  first, second = pair(workdir, faults=[(), [["step 12", 1, "kill"]]])
  assert second.code == -signal.SIGKILL
  line = first.fails(1, "process 0 of 2 can't reach another", "start all of them again")
  assert "newest checkpoint" in line
  newest = lab.steps(workdir)[-1]
  assert newest in (7, 10)
  # Again, both; one of them is asked to end.
  first, second = pair(workdir, faults=[(), [["step 15", 1, "term"]]])
  assert first.resumed() == newest
  saved = [ended.fails(143, "SIGTERM: saved a checkpoint of step") for ended in (first, second)]
  assert saved[0] == saved[1]
  newest = lab.steps(workdir)[-1]
  assert newest >= 15
  assert f"of step {newest};" in saved[0]
  # Now one process with as many devices.
  alone = lab.run(workdir, devices=2)
  assert alone.code == 0, alone
  assert alone.resumed() == newest
  lab.same(workdir, whole_two)


def test_the_first_is_killed_in_a_save_then_they_go_on(whole_two, lab, pair, tmp_path):
  """It holds the coordination service: without it JAX ends the other, after a while at most."""
  workdir = tmp_path / "run"
  last = [r"rename checkpoints/14\.orbax-checkpoint-tmp .*", 1, "kill"]
  first, second = pair(workdir, faults=[[last], ()])
  assert first.code == -signal.SIGKILL
  assert second.code in (1, -signal.SIGABRT), second
  assert not (workdir / "results.json").exists()
  assert lab.steps(workdir)[-1] == 10
  first, second = pair(workdir)
  assert first.code == second.code == 0, (first, second)
  assert first.resumed() == 10
  lab.same(workdir, whole_two)


def test_a_damaged_image_ends_both(lab, pair, image_folder, tmp_path):
  """Found by one of them; neither waits for the other. Under pmap, which saves its state too."""
  images, workdir = tmp_path / "images", tmp_path / "run"
  shutil.copytree(image_folder, images)
  spoilt = sorted((images / "train").rglob("*.png"))
  faults = [[["save 6", 1, f"spoil {path}"] for path in spoilt], ()]
  argv = (*FOLDER, "--config.parallel=pmap", f"--config.data.folder={images}")
  ends = pair(workdir, *argv, faults=faults)
  assert all(ended.code in (1, 2, -signal.SIGABRT) for ended in ends), ends
  named = [ended for ended in ends if ended.code == 2]
  assert named
  for ended in named:
    assert str(images) in ended.fails(2, "cannot be read as an image")
  assert lab.steps(workdir)[-1] >= 3
