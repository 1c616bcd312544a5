"""bce-train as people use it: in its own process, killed, resumed, given nonsense."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

import bce_jax
from bce_jax.cli import train as cli
from bce_jax.data import sources
from bce_jax.runs import checkpoint
from bce_jax.runs import records as run_records
from bce_jax.training import config as config_lib
from bce_jax.training import experiment

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALL = (
  "--config=digits",
  "--config.model=small_network",
  "--config.batch_size=64",
  "--config.steps=24",
  "--config.log_every_steps=5",
  "--config.eval_every_epochs=0.5",
  "--config.checkpoint_every_steps=7",
  "--config.report=false",
)
RESULTS = (
  "sample_wise_accuracy",
  "class_wise_accuracy",
  "uniform_accuracy",
  "uniform_accuracy_at_bias",
  "threshold",
  "bias",
  "seconds",
  "images_per_second",
)


def records(workdir):
  """metrics.jsonl without what no repetition reproduces."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  lines = [line for line in lines if line["split"] != "session"]
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def results(workdir):
  values = json.loads((workdir / "results.json").read_text())
  return {
    k: v for k, v in values.items() if k not in ("seconds", "images_per_second", "provenance")
  }


def final_state(workdir):
  config = config_lib.from_dict(json.loads((workdir / "config.json").read_text()))
  built = experiment.build(config)
  store = checkpoint.Checkpoints(workdir, best_metric=config.best_metric, read_only=True)
  return store.restore(store.latest_step(), built.state_sharding.to_restore())[0]


def start(*argv):
  return subprocess.Popen(
    [sys.executable, "-m", "bce_jax.cli.train", *argv],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  process = start(*SMALL, "--config.report=true", "--workdir", str(workdir))
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 0, out
  return workdir, out


@pytest.mark.core
def test_a_run_folder_holds_what_it_should(uninterrupted):
  workdir, out = uninterrupted
  assert json.loads((workdir / "config.json").read_text())["loss"] == "bce-nu"
  values = json.loads((workdir / "results.json").read_text())
  assert set(RESULTS) <= set(values)
  assert 0 < values["uniform_accuracy"] <= values["class_wise_accuracy"]
  assert values["uniform_accuracy_at_bias"] <= values["uniform_accuracy"]
  assert values["threshold_low"] < values["threshold"] < values["threshold_high"]
  lines = records(workdir)
  assert [r["step"] for r in lines if r["split"] == "train"] == [5, 10, 15, 20, 24]
  assert [r["step"] for r in lines if r["split"] == "validation"] == [10, 20, 24]
  assert (workdir / "checkpoints" / "24").is_dir()
  [session] = values["provenance"]["sessions"]
  assert session["jax"] == jax.__version__
  assert session["outcome"] == "finished at step 24"
  assert "--config.report=true" in session["command"]
  assert session["command"] in (workdir / "metrics.jsonl").read_text().splitlines()[0]
  assert f"<td class='text'>{jax.__version__}</td>" in (workdir / "report.html").read_text()
  log = (workdir / "run.log").read_text()
  printed = [line for line in out.splitlines() if line.strip()]
  assert [line.partition(" ")[2] for line in log.splitlines()][1:-1] == printed
  for text in ("A_SW", "A_CW", "A_Uni", "at the learned bias", "t*", "left"):
    assert text in out


def test_the_console_shows_the_recorded_images_per_second(uninterrupted):
  """Those of the steps since the last line; the first line's are not those of compiling."""
  workdir, out = uninterrupted
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  recorded = {r["step"]: r["images_per_second"] for r in lines if r["split"] == "train"}
  found = re.findall(r"^step +(\d+)/24 .*?  ([\d,.]+) images/s", out, re.MULTILINE)
  assert [int(step) for step, _ in found] == list(recorded)
  for step, rate in found:
    assert float(rate.replace(",", "")) == pytest.approx(recorded[int(step)], abs=0.5, rel=5e-3)
  assert out.index("compiling the training step …") < out.index("step  5/24")
  assert out.index("compiling the evaluation …") < out.index("step 10 validation")
  assert all(len(line) <= 80 for line in out.splitlines() if "validation  " in line or "─" in line)


def test_tensorboard_reads_the_events(uninterrupted):
  from tensorboard.backend.event_processing import event_accumulator

  workdir, _ = uninterrupted
  events = event_accumulator.EventAccumulator(str(workdir))
  events.Reload()
  [path] = workdir.glob("events.out.tfevents.*")
  assert path.stat().st_size > 0
  tags = {tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags}
  assert {"train/loss", "validation/uniform_accuracy", "validation/threshold"} <= tags


def test_a_finished_folder_trains_nothing_twice(uninterrupted, capsys):
  workdir, _ = uninterrupted
  before = (workdir / "results.json").read_text()
  assert cli.main([*SMALL, "--workdir", str(workdir)]) == 0
  assert "nothing is trained twice" in capsys.readouterr().out
  assert (workdir / "results.json").read_text() == before


def test_another_config_on_the_same_folder_is_refused(uninterrupted, capsys):
  workdir, _ = uninterrupted
  assert cli.main([*SMALL, "--config.seed=5", "--workdir", str(workdir)]) == 2
  error = capsys.readouterr().err
  assert "seed was 0 and is 5" in error
  assert error.count("\n") == 1
  assert (workdir / "run.log").read_text().endswith(f" {error}")


def test_evaluate_only_gives_the_figures_of_the_run(uninterrupted, capsys):
  workdir, out = uninterrupted
  files = sorted(str(p) for p in workdir.rglob("*"))
  assert cli.main(["--evaluate-only", "--workdir", str(workdir)]) == 0
  printed = capsys.readouterr().out
  table = printed.split("\n", 1)[1].strip()
  assert table in out
  assert sorted(str(p) for p in workdir.rglob("*")) == files  # it writes nothing
  assert cli.main(["--evaluate-only", "--checkpoint=best", "--workdir", str(workdir)]) == 0
  assert "best checkpoint, step" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, tmp_path):
  """On eight devices; tests/faults kills runs at every moment."""
  whole, _ = uninterrupted
  workdir = tmp_path / "killed"
  argv = (*SMALL, "--workdir", str(workdir))
  process = start(*argv)
  deadline = time.monotonic() + 300
  while process.poll() is None and time.monotonic() < deadline:
    path = workdir / "metrics.jsonl"
    if path.exists() and '"step": 10,' in path.read_text():
      break
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (workdir / "results.json").exists()
  # A line cut off by the kill.
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 1')
  process = start(*argv)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 0, out
  assert records(workdir) == records(whole)
  assert results(workdir) == results(whole)
  leaves = zip(
    jax.tree.leaves(final_state(workdir)), jax.tree.leaves(final_state(whole)), strict=True
  )
  for a, b in leaves:
    np.testing.assert_array_equal(a, b)


def test_other_labels_are_refused_by_the_first_image_that_differs(copy, capsys, monkeypatch):
  digits = sources.digits

  def swapped(**options):
    dataset = digits(**options)
    dataset.train.labels[[4, 7]] = (dataset.train.labels[[4, 7]] + 1) % 10
    return dataset

  (copy / "results.json").unlink()
  monkeypatch.setattr(sources, "digits", swapped)
  line = fails(capsys, [*SMALL, "--config.report=true", "--workdir", str(copy)])
  assert "holds a run on other data: image 4 of train was of class" in line
  assert line.endswith("(2 files differ)")


def test_horizontal_flip_and_logit_adjustment_are_evaluated_too(uninterrupted, capsys):
  workdir, _ = uninterrupted
  argv = ["--evaluate-only", "--workdir", str(workdir)]
  assert cli.main(argv) == 0
  plain = capsys.readouterr().out
  assert cli.main([*argv, "--config.eval_flip=true", "--config.eval_logit_adjustment=1"]) == 0
  more = capsys.readouterr().out
  # The plain results are there as they were.
  words = {" ".join(line.split()) for line in plain.splitlines() if "%" in line}
  assert words
  assert words <= {" ".join(line.split()) for line in more.splitlines()}
  assert "with horizontal flip" in more
  assert "after logit adjustment" in more


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_one_does_not(uninterrupted, tmp_path):
  whole, _ = uninterrupted
  for seed, same in ((0, True), (1, False)):
    workdir = tmp_path / str(seed)
    assert cli.main([*SMALL, f"--config.seed={seed}", "--workdir", str(workdir)]) == 0
    assert (results(workdir) == results(whole)) == same
    assert (records(workdir) == records(whole)) == same


@pytest.mark.slow
@pytest.mark.parametrize(
  ("loss", "options"),
  [
    ("bce-nu", []),
    ("bce-nu", ["--config.checkpoint_every_steps=1"]),  # diverges with a save under way
    ("bce-nu", ["--config.steps=2"]),  # seen first by the evaluation at the end
    ("soft-u", ["--config.eval_every_epochs=0.05", "--config.data.validation_fraction=0"]),
  ],
)
def test_a_run_that_diverges_stops_and_keeps_only_what_can_be_used(tmp_path, capsys, loss, options):
  workdir = tmp_path / "run"
  argv = [*SMALL, f"--config.loss={loss}", "--config.optimizer.learning_rate=1e30", *options]
  assert cli.main([*argv, "--workdir", str(workdir)]) == 1
  error = capsys.readouterr().err
  assert "training stops" in error
  assert "Traceback" not in error
  assert not (workdir / "results.json").exists()
  assert "nan" not in (workdir / "metrics.jsonl").read_text().lower()
  kept = sorted(p.name for p in (workdir / "checkpoints").iterdir())
  assert all(name.isdigit() for name in kept)
  assert ("is kept" in error) == bool(kept)
  for name in kept:
    assert f"Checkpoint {name} is kept" in error
    leaves = jax.tree.leaves(final_state(workdir).params)
    assert all(np.isfinite(x).all() for x in leaves)


@pytest.mark.slow
def test_an_interrupt_right_after_a_save_keeps_it(uninterrupted, tmp_path, capsys, monkeypatch):
  workdir = tmp_path / "run"
  save = checkpoint.Checkpoints.save

  def save_and_interrupt(self, *args, **options):
    save(self, *args, **options)
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_interrupt)
  assert cli.main([*SMALL, "--workdir", str(workdir)]) == 130
  assert "run the same command again" in capsys.readouterr().err
  assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["7"]
  monkeypatch.undo()
  assert cli.main([*SMALL, "--workdir", str(workdir)]) == 0
  assert "resumed from the checkpoint of step 7" in capsys.readouterr().err
  # Step 7 lies between two records: the next one counts steps from before the interrupt too.
  assert records(workdir) == records(uninterrupted[0])


def fails(capsys, argv, started=False):
  """Runs bce-train, which must refuse with one line, and returns that line."""
  code = cli.main(argv)
  captured = capsys.readouterr()
  assert code == 2, captured
  assert captured.out == ""
  *progress, line = captured.err.splitlines()
  assert bool(progress) == started
  assert line.startswith("bce-train: ")
  assert "Traceback" not in line
  return line


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config.lerning_rate=1"], "unknown config key 'lerning_rate'; did you mean"),
    (["--config.optimizer.lerning_rate=1"], "did you mean 'optimizer.learning_rate'"),
    (["--config.data=1"], "unknown config key 'data'"),
    (["--config.loss=bce-x"], "unknown config.loss 'bce-x'; did you mean 'bce-"),
    (["--config=digits:bce-x"], "unknown config.loss 'bce-x'"),
    (["--config.model=resnet21"], "unknown config.model 'resnet21'; did you mean 'resnet20'"),
    (["--config.batch_size=big"], "--config.batch_size=big: expected a whole number"),
    (["--config.batch_size=1.5"], "--config.batch_size=1.5: expected a whole number"),
    (["--config.batch_size=True"], "--config.batch_size=True: expected a whole number"),
    (["--config.epochs=many"], "--config.epochs=many: expected a number"),
    (["--config.steps=1.5"], "--config.steps=1.5: expected a whole number or none"),
    (["--config.bias_learnable=2"], "--config.bias_learnable=2: expected true or false"),
    (["--config.batch_size=100000"], "is more than the"),
    (["--config.batch_size=7"], "7, which 8 devices can't split; 8 fits"),
    (["--config.batch_size"], "--config.batch_size needs a value"),
    (["--config=nosuch"], "no config file 'nosuch'; did you mean"),
    (["--config=digit"], "no config file 'digit'; did you mean 'digits'"),
    (["--confg=digits"], "unrecognized arguments: --confg=digits"),
    (["--checkpoint=newest"], "invalid choice: 'newest'"),
    (["--checkpoint=best"], "--checkpoint goes with --evaluate-only"),
    (["--config="], "can't be empty"),
    (["--config.data.image_size=32"], "config.data.image_size is 32, but config.data.name is"),
    (["--config=folder"], "set --config.data.folder=FOLDER"),
    (["--config=folder", "--config.data.folder=/no/such"], "/no/such is not a folder"),
    (["--evaluate-only"], "does not exist: expected a run folder"),
  ],
)
def test_mistakes_are_reported_in_one_line_and_leave_nothing(tmp_path, capsys, argv, message):
  workdir = tmp_path / "run"
  assert message in fails(capsys, [*argv, "--workdir", str(workdir)])
  assert not workdir.exists()


def test_workdir_is_needed_and_must_be_a_folder(tmp_path, capsys):
  assert "--workdir" in fails(capsys, [])
  (tmp_path / "file").write_text("")
  assert "can't be empty" in fails(capsys, ["--workdir", ""])
  assert "is a file" in fails(capsys, ["--workdir", str(tmp_path / "file")])
  assert "no config.json" in fails(capsys, ["--evaluate-only", "--workdir", str(tmp_path)])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("x = 1\n", "get_config"),
    ("def get_config(): return {}\n", "must return a ConfigDict"),
    ("def get_config(:\n", "SyntaxError"),
    (
      "from bce_jax.training import config\n"
      "def get_config():\n  c = config.default()\n  c.lerning_rate = 1.0\n  return c\n",
      "lerning_rate",
    ),
    (
      "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'sed': 1})\n",
      "unknown config key 'sed'; did you mean 'seed'",
    ),
    (
      "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})\n",
      "config lacks the key",
    ),
  ],
)
def test_a_config_file_with_a_mistake(tmp_path, capsys, text, message):
  path = tmp_path / "mine.py"
  path.write_text(text)
  workdir = tmp_path / "run"
  assert message in fails(capsys, ["--config", str(path), "--workdir", str(workdir)])
  assert not workdir.exists()


@pytest.fixture
def copy(uninterrupted, tmp_path):
  """A copy of the finished run, to be damaged."""
  workdir = tmp_path / "copy"
  shutil.copytree(uninterrupted[0], workdir)
  return workdir


@pytest.mark.slow
def test_a_page_that_cannot_be_made_does_not_fail_the_run(copy, capsys):
  argv = [*SMALL, "--config.report=true", "--workdir", str(copy)]
  kept, page = copy / "test_outputs.npz", copy / "report.html"
  assert "shows it" not in outcome(capsys, argv)  # it is there
  page.unlink()
  whole = kept.read_bytes()
  kept.write_bytes(whole[: len(whole) // 2])
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  assert "A_Uni  uniform accuracy" in out
  assert "its page could not be made (ValueError:" in err
  assert f"bce-report {copy} tries again" in err
  assert not page.exists()
  kept.write_bytes(whole)
  assert f"{page} shows it" in outcome(capsys, argv)
  assert "A_Uni over the threshold" in page.read_text()


def outcome(capsys, argv):
  assert cli.main(argv) == 0
  return capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_not_evaluated_as_what_it_is_not(copy, capsys):
  evaluate = ["--evaluate-only", "--workdir", str(copy)]
  assert "scale was 16.0 and is 3.0" in fails(capsys, [*evaluate, "--config.scale=3"])
  table = outcome(capsys, evaluate)
  config = (copy / "config.json").read_text()
  (copy / "config.json").write_text(config.replace('"scale": 16.0', '"scale": 3.0'))
  assert cli.main(evaluate) == 0
  printed = capsys.readouterr()
  assert "config.json was changed after the run: scale was 16.0 and is 3.0 there" in printed.err
  assert printed.out == table
  (copy / "config.json").write_text(config)
  line = fails(capsys, [*evaluate, "--config=digits:bce-nd"])
  assert "loss was 'bce-nu' and is 'bce-nd'" in line
  assert cli.main([*evaluate, "--config.eval_batch_size=64"]) == 0


@pytest.mark.slow
def test_damaged_run_folders_are_reported_in_one_line(copy, capsys):
  again = [*SMALL, "--workdir", str(copy)]
  evaluate = ["--evaluate-only", "--workdir", str(copy)]
  config = (copy / "config.json").read_text()
  for text, message in (
    ("[1]", "config.json is damaged: it lacks an object"),
    ("{", "config.json is damaged"),
    ('{"loss": {"x": 1}}', "unknown config key 'loss.x'"),
    ('{"batch_size": "many"}', "config key 'batch_size' can't be 'many'"),
  ):
    (copy / "config.json").write_text(text)
    assert message in fails(capsys, evaluate)
  (copy / "config.json").write_text(config)
  (copy / "results.json").write_text("{}")
  assert "results.json is damaged" in fails(capsys, again)
  (copy / "results.json").unlink()
  dataset = json.loads((copy / "dataset.json").read_text())
  (copy / "dataset.json").write_text(json.dumps(dataset | {"train_images": 5}))
  assert "holds a run on other data: train_images differ" in fails(capsys, again)
  (copy / "dataset.json").write_text(json.dumps(dataset | {"class_names": ["a", "b"]}))
  assert "was trained with class_names ['a', 'b']" in fails(capsys, evaluate)
  (copy / "dataset.json").write_text(json.dumps(dataset))
  for damage in (lambda p: p.write_bytes(b""), lambda p: p.unlink()):
    for folder in (copy / "checkpoints").iterdir():
      damage(folder / "state" / "_METADATA")
    for argv in (again, evaluate):
      code = cli.main(argv)
      error = capsys.readouterr().err
      assert code == 2
      assert "can't be restored" in error
      assert "Traceback" not in error


def test_records_after_a_cut_in_the_middle_of_a_character(copy):
  path = copy / "metrics.jsonl"
  whole = path.read_text()
  path.write_bytes(path.read_bytes() + b'{"step": 1, "split": "\xff')
  records = [line for line in whole.splitlines() if '"split": "session"' not in line]
  assert run_records.lines_until(copy, 24) == records


@pytest.mark.slow
def test_other_images_are_evaluated_with_the_statistics_of_the_run(tmp_path, image_folder, capsys):
  workdir, other = tmp_path / "run", tmp_path / "other"
  shutil.copytree(image_folder, other)
  for path in (other / "train").rglob("*.png"):  # the training images are not evaluated
    Image.new("L", (8, 8), 200).save(path)
  argv = ["--config=folder", f"--config.data.folder={image_folder}", "--config.model=small_network"]
  argv += [
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    "--config.steps=2",
    "--config.report=false",
  ]
  argv += ["--config.data.image_size=8", "--config.data.crop_padding=1", "--config.data.workers=0"]
  argv += ["--config.data.validation_fraction=0", "--workdir", str(workdir)]
  assert cli.main(argv) == 0
  table = capsys.readouterr().out.rsplit("\n", 2)[0]  # without what took how long
  evaluate = ["--evaluate-only", "--workdir", str(workdir), f"--config.data.folder={other}"]
  assert cli.main(evaluate) == 0
  assert table in capsys.readouterr().out


@pytest.mark.slow
def test_bad_folders_of_images(tmp_path, capsys, image_folder):
  folder, workdir = tmp_path / "images", tmp_path / "run"
  shutil.copytree(image_folder, folder)
  argv = ["--config=folder", f"--config.data.folder={folder}", "--config.batch_size=8"]
  argv += ["--workdir", str(workdir)]
  bad = folder / "train" / "digit1" / "03.png"
  bad.write_bytes(bad.read_bytes()[:60])
  assert "03.png" in fails(capsys, argv)
  bad.write_text("no image")
  line = fails(capsys, argv)
  assert "03.png" in line
  assert "cannot be read as an image" in line
  # A test image whose header is whole: only evaluating it finds the damage.
  rows = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  for path in folder.rglob("*.png"):
    Image.fromarray(rows).save(path)
  bad = folder / "test" / "digit1" / "13.png"
  bad.write_bytes(bad.read_bytes()[:6000])
  short = [
    "--config.model=small_network",
    "--config.steps=1",
    "--config.report=false",
    "--config.eval_batch_size=8",
  ]
  short += ["--config.data.validation_fraction=0"]
  line = fails(capsys, [*argv, *short, "--config.data.in_memory=false"], started=True)
  assert "13.png" in line
  assert (workdir / "checkpoints" / "1").exists()  # what was trained is kept
  empty = tmp_path / "empty"
  empty.mkdir()
  argv[1:] = [f"--config.data.folder={empty}", "--workdir", str(tmp_path / "none")]
  assert "empty" in fails(capsys, argv)
  assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_folder_of_images_trains(tmp_path, capsys, image_folder):
  workdir = tmp_path / "run"
  argv = ["--config=folder", f"--config.data.folder={image_folder}", "--config.model=small_network"]
  argv += [
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    "--config.steps=2",
    "--config.report=false",
  ]
  argv += ["--config.data.image_size=8", "--config.data.crop_padding=1"]
  argv += ["--config.data.in_memory=false"]
  assert cli.main([*argv, "--workdir", str(workdir)]) == 0
  captured = capsys.readouterr()
  assert "test: 12 images" in captured.out
  assert json.loads((workdir / "results.json").read_text())["images"] == 12
  in_memory = tmp_path / "in_memory"
  argv[-1:] = ["--config.data.in_memory=true", "--config.data.workers=0"]
  assert cli.main([*argv, "--workdir", str(in_memory)]) == 0
  assert results(in_memory) == results(workdir)


@pytest.mark.slow
def test_works_from_a_wheel_in_any_folder(tmp_path):
  pytest.importorskip("hatchling", reason="building the wheel needs the extra [test]")
  build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
  subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
  [wheel] = tmp_path.glob("*.whl")
  shutil.unpack_archive(wheel, tmp_path / "site", "zip")
  assert (tmp_path / "site" / "bce_jax" / "py.typed").exists()
  assert f"-{bce_jax.__version__}-" in wheel.name
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  argv = ["--config=digits:soft-nu", "--config.steps=1", "--config.model=small_network"]
  path = os.pathsep.join((str(tmp_path / "site"), os.environ["PYTHONPATH"]))
  process = subprocess.run(
    [sys.executable, "-m", "bce_jax.cli.train", *argv, "--workdir=run"],
    cwd=elsewhere,
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr
  assert (elsewhere / "run" / "results.json").exists()
  where = "import bce_jax; print(bce_jax.__file__)"
  out = subprocess.run(
    [sys.executable, "-c", where],
    cwd=elsewhere,
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=True,
  )
  assert out.stdout.startswith(str(tmp_path))


def test_help_is_quick_and_complete(capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(["--help"])
  assert ended.value.code == 0
  text = capsys.readouterr().out
  for option in ("--config", "--workdir", "--evaluate-only", "--checkpoint"):
    assert option in text
