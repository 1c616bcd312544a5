"""A run of which everything is from outside: trained, killed, resumed, evaluated, shown, swept."""

import hashlib
import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from bce_jax import extensions
from bce_jax.cli import configs
from bce_jax.cli import evaluate as eval_cli
from bce_jax.cli import predict as predict_cli
from bce_jax.cli import report as report_cli
from bce_jax.cli import sweep as sweep_cli
from bce_jax.cli import train as cli
from bce_jax.runs import checkpoint
from bce_jax.training import experiment, loop, preemption

pytestmark = pytest.mark.slow

PARTS = {
  "model": "house.net:Tiny",
  "model_options.width": "6",
  "data.name": "house.data",
  "data_options.images": "24",
  "data.augmentation": "house.augmentation:brighter",
  "augmentation_options.by": "3",
  "optimizer.name": "house.update:lion",
  "optimizer_options.b1": "0.8",
  "optimizer.schedule": "house.update:linear",
  "schedule_options.end": "0.01",
  "loss": "house.loss:focal",
  "loss_options.power": "1.5",
  "objective.name": "house.method",
  "objective.weight": "3",
  "batch_size": "8",
  "eval_batch_size": "8",
  "steps": "3",
  "log_every_steps": "1",
  "data.validation_fraction": "0.3",
  "report": "false",
  "writers": "house.writers:Lines, house.writers:Failing",
}
# Options before the names that bring them: their order does not matter.
ARGS = [f"--config.{key}={value}" for key, value in reversed(PARTS.items())]
DOORS = ("objective.name", "model", "data.name", "data.augmentation", "optimizer.name")


def chosen(**changes):
  config = configs.load_config("digits")
  configs.apply_overrides(config, list((PARTS | changes).items()))
  return config


@pytest.fixture(scope="module")
def whole(place):
  assert cli.main([*ARGS, "--workdir", "whole"]) == 0
  return place / "whole"


@pytest.fixture(scope="module")
def parted(place, whole, stops_after):
  """Killed after a step; not yet gone on with."""
  folder = place / "parted"
  with pytest.raises(preemption.PreemptedError):
    loop.train(experiment.build(chosen()), folder, stops_after(folder, 1))
  return folder


@pytest.fixture
def copy(parted, tmp_path):
  shutil.copytree(parted, tmp_path / "copy")
  return tmp_path / "copy"


def state_of(folder):
  built = experiment.build(chosen())
  store = checkpoint.Checkpoints(folder, best_metric="uniform_accuracy", read_only=True)
  return store.restore(store.latest_step(), built.state_sharding.to_restore())[0]


def records(folder):
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  lines = [line for line in lines if line["split"] != "session"]
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_what_is_trained_is_what_was_named(whole):
  kept = json.loads((whole / "config.json").read_text())
  assert kept["model_options"] == {"width": 6}
  assert kept["data_options"] == {"grays": 100, "images": 24}
  assert kept["objective"] == {"name": "house.method", "weight": 3.0}
  assert kept["loss_options"] == {"bias": "unified", "normalized": False, "power": 1.5}
  state = state_of(whole)
  assert state.params["head"]["weights"].shape == (2, 6)
  assert state.memory == 3.0
  lines = [line for line in records(whole) if line["split"] == "train"]
  # A step of warming up, then from 0.1 to 0.01 in two.
  assert [line["learning_rate"] for line in lines] == pytest.approx([0.1, 0.1, 0.055])
  assert all(line["loss"] == pytest.approx(3 * line["hinge"]) for line in lines)
  data = json.loads((whole / "dataset.json").read_text())
  assert data["train_counts"] == [8, 8]  # of 12 each 4 are held out: the nearest to 0.3
  assert data["class_names"] == ["plain", "striped"]


def test_it_is_recorded_where_all_of_it_is_from(place, whole):
  [session] = json.loads((whole / "results.json").read_text())["provenance"]["sessions"]
  assert set(DOORS) < set(session["outside"])
  assert session["outside"]["model"] == {
    "name": "house.net:Tiny",
    "module": "house.net",
    "file": str(place / "house" / "net.py"),
    "sha256": digest(place / "house" / "net.py"),
  }


def digest(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_killed_and_resumed_it_is_the_same_bit_for_bit(whole, copy):
  assert cli.main([*ARGS, "--workdir", str(copy)]) == 0
  assert records(copy) == records(whole)
  for a, b in zip(jax.tree.leaves(state_of(copy)), jax.tree.leaves(state_of(whole)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_writer_has_every_record_of_both_sessions(parted, whole):
  first, *lines, last = (whole / "lines.txt").read_text().splitlines()
  assert (first, last) == ("3 steps", "closed")
  kept = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
  # metrics.jsonl has null where a number is not finite: the speed of a first step is not known.
  found = [json.loads(x, parse_constant=lambda _: None) for x in lines]
  assert found == [line for line in kept if line["split"] != "session"]
  assert len((parted / "lines.txt").read_text().splitlines()) == 3  # of its one step
  session = json.loads((whole / "provenance.json").read_text())["sessions"][0]
  assert session["outside"]["writers house.writers:Lines"]["module"] == "house.writers"
  said = (whole / "run.log").read_text()
  assert said.count("'house.writers:Failing' failed and gets no more records: OSError: no") == 1


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("house.writers:Line", "house.writers has no 'Line'; did you mean 'Lines'?"),
    ("house.writers", "the module house.writers has no function 'create'"),
    ("house.writers:Lines,house.writers:Lines", "'house.writers:Lines' is named twice"),
    ("house.writers:nothing", "returned 3: expected an object with write(record)"),
  ],
)
def test_a_writer_that_is_none_is_refused(place, tmp_path, capsys, name, message):
  argv = [*ARGS, f"--config.writers={name}", "--workdir", str(tmp_path / "run")]
  assert cli.main(argv) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


def test_evaluated_predicted_and_shown(whole, tmp_path, capsys):
  assert cli.main(["--evaluate-only", "--workdir", str(whole)]) == 0
  assert "test: 24 images" in capsys.readouterr().out
  assert eval_cli.main([str(whole)]) == 0
  Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "one.png")
  capsys.readouterr()
  assert predict_cli.main([str(whole), str(tmp_path / "one.png")]) == 0
  out, err = capsys.readouterr()
  assert out.splitlines()[1].split(",")[1] in ("plain", "striped", "none")
  assert "has changed" not in err
  assert report_cli.main([str(whole), "--output", str(tmp_path / "page.html")]) == 0
  assert "hinge" in (tmp_path / "page.html").read_text()


def test_swept(place, whole, tmp_path, capsys):
  (tmp_path / "mine.py").write_text(
    "from bce_jax.training import config as base\n"
    "def get_config():\n"
    "  config = base.default()\n"
    "  config.model = 'house.net:Tiny'\n"
    "  config.data.name = 'house.data'\n"
    "  config.model_options.width = 5\n"
    "  config.loss = 'house.loss:focal'\n"
    "  return config\n"
  )
  argv = ["--config", str(tmp_path / "mine.py"), "--vary", "loss_options.power=1", "--jobs", "1"]
  keys = ("batch_size", "eval_batch_size", "steps", "report", "data.augmentation")
  argv += [f"--config.{key}={PARTS[key]}" for key in keys]
  assert sweep_cli.main([*argv, "--workdir", str(tmp_path / "sweep")]) == 0, capsys.readouterr()
  kept = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/config.json")]
  assert [x["loss_options"]["power"] for x in kept] == [1.0]
  assert [x["model_options"] for x in kept] == [{"width": 5}]


@pytest.mark.parametrize("argv", [["--evaluate-only"], ARGS])
def test_without_the_package_its_name_is_said(copy, moved, capsys, argv):
  assert cli.main([*argv, "--workdir", str(copy)]) == 2
  err = capsys.readouterr().err
  assert "there is no module 'house', neither in " in err
  assert err.count("\n") == 1
  Image.fromarray(np.full((8, 8), 99, np.uint8)).save(copy / "one.png")
  assert predict_cli.main([str(copy), str(copy / "one.png")]) == 2
  assert "config.objective.name 'house.method': there is no module 'house'" in (
    capsys.readouterr().err
  )
  # What is drawn needs no code of the run's.
  assert report_cli.main([str(moved / "whole"), "--output", str(copy / "page.html")]) == 0


def test_with_a_changed_file_it_goes_on_and_says_so(copy, moved, monkeypatch, capsys, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(moved / "house", other / "house")
  with open(other / "house" / "net.py", "a") as file:
    file.write("# changed\n")
  monkeypatch.chdir(other)
  Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "one.png")
  said = "config.model: since {} has used it, the file of house.net has changed: its sha256 was"
  for run in (
    lambda: predict_cli.main([str(copy), str(tmp_path / "one.png")]),
    lambda: cli.main(["--evaluate-only", "--workdir", str(copy)]),
    lambda: cli.main([*ARGS, "--workdir", str(copy)]),
  ):
    assert run() == 0
    err = capsys.readouterr().err
    assert said.format(copy) in err
    assert err.count("has changed") == 1
  assert cli.main(["--evaluate-only", "--workdir", str(copy)]) == 0
  assert "has changed" not in capsys.readouterr().err


@pytest.mark.parametrize(
  ("before", "after", "said"),
  [
    ("nn.Conv(self.width", "nn.Conv(2 * self.width", "can't be restored: .*house.net has changed"),
    ("width: int = 4", "breadth: int = 4", "unknown config key 'model_options.width'; did you"),
    ("import flax.linen", "import flax,linen", "importing house.net failed: .* named 'linen'"),
  ],
)
def test_with_a_file_that_fits_no_more_nothing_is_damaged(
  copy, moved, monkeypatch, capsys, tmp_path, before, after, said
):
  other = tmp_path / "other"
  shutil.copytree(moved / "house", other / "house")
  net = other / "house" / "net.py"
  net.write_text(net.read_text().replace(before, after))
  monkeypatch.chdir(other)
  kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
  assert cli.main([*ARGS, "--workdir", str(copy)]) == 2
  *_, line = capsys.readouterr().err.splitlines()
  assert re.search(said, line)
  now = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
  assert {k for k in kept.keys() | now.keys() if kept.get(k) != now.get(k)} <= {copy / "run.log"}


def test_an_installed_one_is_recorded_by_its_version(copy, moved, monkeypatch, tmp_path):
  site = tmp_path / "site"
  shutil.copytree(moved / "house", site / "house")
  for version in ("1.2", "1.3"):
    info = site / "house_of_labs.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
      f"Metadata-Version: 2.1\nName: house-of-labs\nVersion: {version}\n"
    )
    (info / "top_level.txt").write_text("house\n")
    monkeypatch.syspath_prepend(str(site))
    built = experiment.build(chosen(), evaluate_only=True)
    assert built.outside["model"]["version"] == version
    assert built.outside["model"]["distribution"] == "house-of-labs"
  before = built.outside["model"] | {"version": "1.2"}
  assert extensions.changed(before, built.outside["model"]) == "house.net was 1.2 and is 1.3"
