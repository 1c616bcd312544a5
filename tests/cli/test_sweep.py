"""bce-sweep as people use it."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

from bce_jax.cli import configs, sweep
from bce_jax.runs import files, lock, records

FAST = (
  "--config.model=small_network",
  *("--config.steps=3", "--config.epochs=1", "--config.log_every_steps=3"),
  "--config.report=false",
)


@pytest.mark.slow
def test_configs_side_by_side_and_again(tmp_path, capfd, monkeypatch):
  one_device = re.sub(r"(?<=device_count=)\d+", "1", os.environ["XLA_FLAGS"])
  monkeypatch.setenv("XLA_FLAGS", one_device)  # of the runs; how many is not the point
  folder = tmp_path / "runs"
  broken = tmp_path / "broken.py"  # whose run fails
  broken.write_text(
    "from bce_jax.training import config\n"
    "def get_config():\n"
    "  made = config.default()\n"
    "  made.data.name, made.data.folder = 'folder', '/nowhere'\n"
    "  return made\n"
  )
  argv = ["--config", "digits_lt:ce", "--config", str(broken), "--config", "digits_lt:bce3s"]
  argv += [*FAST, "--jobs", "2", "--workdir", str(folder)]
  assert sweep.main(argv) == 1
  out, err = capfd.readouterr()
  assert "[3/3] digits_lt_bce3s" in err
  assert "broken failed: bce-train: data.folder /nowhere is not" in err
  assert "bce3s" in out
  table = (folder / "table.md").read_text()
  assert table.strip() in out
  lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
  assert [line["config"] for line in lines] == ["digits_lt:ce", "digits_lt:bce3s", str(broken)]
  why = "bce-train: data.folder /nowhere is not"
  assert lines[2]["failed"].startswith(why)
  assert lines[2]["uniform_accuracy"] == ""
  assert f"- broken: {why}" in table
  report = (folder / "report.html").read_text()
  assert f"<li>broken: {why}" in report
  results = json.loads((folder / "digits_lt_bce3s" / "results.json").read_text())
  assert float(lines[1]["uniform_accuracy"]) == results["uniform_accuracy"]
  assert -1 <= float(lines[1]["negative_cosine"]) <= 1
  assert lines[0]["negative_cosine"] == ""
  with Image.open(folder / "plot.png") as picture:
    assert min(picture.size) > 400
  assert "step 3/3" in (folder / "logs" / "digits_lt_ce.log").read_text()
  before = (folder / "digits_lt_ce" / "results.json").stat().st_mtime_ns
  (folder / "digits_lt_bce3s" / "test_outputs.npz").write_bytes(b"PK")  # the other is still told of
  assert sweep.main(argv) == 1  # trains nothing twice
  assert (folder / "digits_lt_ce" / "results.json").stat().st_mtime_ns == before
  out, err = capfd.readouterr()
  assert "[1/3] digits_lt_ce is finished" in err
  assert "| digits_lt:ce |" in out
  assert "| digits_lt:bce3s |" not in out
  assert "digits_lt_bce3s failed: " in err
  assert "test_outputs.npz is damaged" in err


@pytest.mark.parametrize("lacking", [True, False])
def test_a_finished_run_whose_page_was_not_made_gets_it(tmp_path, monkeypatch, lacking):
  (plan,) = sweep.plans(["digits"], [], [], one_at_a_time=False)
  folder, started = tmp_path / plan.name, []
  folder.mkdir()
  (tmp_path / "logs").mkdir()
  records.write_json(folder / files.CONFIG, plan.config.to_dict())
  results = ("images", "uniform_accuracy", "threshold", "seconds")
  records.write_json(folder / files.RESULTS, dict.fromkeys(results, 1.0))
  if not lacking:
    (folder / "report.html").write_text("a page")

  class Process(contextlib.nullcontext):
    stdout, returncode = (), 0

    def __init__(self, command, **options):
      super().__init__(self)
      started.append(command)

  monkeypatch.setattr(subprocess, "Popen", Process)
  assert sweep._train(plan, tmp_path, "", sweep.Running()) == 0
  assert len(started) == lacking  # bce-train, which makes it and trains nothing twice


def test_where_all_runs_fail_the_table_says_so(tmp_path, monkeypatch, capsys):
  def train(plan, workdir, prefix, running):
    lines = f"{plan.name} begins\n\n" if plan.name == "digits_seed=0" else "bce-train:  no\n \n"
    (workdir / "logs" / f"{plan.name}.log").write_text(lines)
    return -signal.SIGKILL if plan.name == "digits_seed=0" else 1

  monkeypatch.setattr(sweep, "_train", train)
  (tmp_path / "table.md").write_text("of an earlier time")
  assert sweep.main(["--config=digits", "--vary=seed=0,1", "--workdir", str(tmp_path)]) == 1
  assert (tmp_path / "table.md").read_text() == (
    "No run has finished.\n\nFailed:\n\n"
    "- digits_seed=0: ended by SIGKILL; it said last: digits_seed=0 begins\n"
    "- digits_seed=1: bce-train: no\n"
  )
  lines = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
  assert [(line["seed"], line["failed"]) for line in lines][1] == ("1", "bce-train: no")
  assert not (tmp_path / "report.html").exists()


def test_two_sweeps_in_one_folder_are_refused(tmp_path, capsys):
  argv = ["--config", "digits", *FAST, "--workdir", str(tmp_path)]
  with lock.locked(tmp_path):
    assert sweep.main(argv) == 2
  assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
  assert not list(tmp_path.glob("digits*"))


def names(*argv):
  args, overrides = sweep._parse([*argv, "--workdir", "x"])
  varied = sweep._varied(args.vary)
  return [
    (plan.name, plan.settings)
    for plan in sweep.plans(args.config, varied, overrides, one_at_a_time=args.one_at_a_time)
  ]


STUDY = (
  "--config=digits_lt:bce3s",
  "--vary=objective.contrast_weight=0,0.1",
  "--vary=config.objective.temperature=0.5,1,2",
  "--vary=seed=0,1",
)


def test_all_combinations():
  planned = names(*STUDY)
  assert len(planned) == len({name for name, _ in planned}) == 12
  assert planned[0] == (
    "digits_lt_bce3s_objective.contrast_weight=0_objective.temperature=0.5_seed=0",
    {"objective.contrast_weight": 0.0, "objective.temperature": 0.5, "seed": 0},
  )


def test_one_at_a_time_with_all_seeds():
  planned = names(*STUDY, "--one-at-a-time")
  assert len(planned) == 2 * (2 + 3)
  assert planned[0][1] == {"objective.contrast_weight": 0.0, "seed": 0}
  assert planned[-1][1] == {"objective.temperature": 2.0, "seed": 1}
  assert len(names("--config=digits", "--vary=seed=0,1", "--one-at-a-time")) == 2


def test_the_method_comes_before_its_options_wherever_it_stands():
  planned = names(
    "--config=digits_lt:bce",
    "--vary=objective.temperature=0.5,2",
    "--vary=objective.name=tripartite",
  )
  assert [settings["objective.temperature"] for _, settings in planned] == [0.5, 2.0]
  with pytest.raises(ValueError, match=r"unknown config key 'objective.temperature'"):
    names("--config=digits_lt:bce", "--vary=objective.temperature=1", "--vary=objective.name=joint")


def test_the_same_value_written_twice_is_one_run_and_other_values_are_others():
  planned = names("--config=digits", "--vary=optimizer.learning_rate=0.1,0.10, 1e-1")
  assert [settings["optimizer.learning_rate"] for _, settings in planned] == [0.1]
  planned = names("--config=digits_lt", "--vary=objective.partner_exponent=-1, 1,1.0")
  assert [name for name, _ in planned] == [
    "digits_lt_objective.partner_exponent=-1",
    "digits_lt_objective.partner_exponent=1",
  ]


def test_files_of_one_name_get_folders_of_their_own(tmp_path):
  text = (configs.config_path("digits")).read_text()
  files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
  for file in files:
    file.parent.mkdir()
    file.write_text(text)
  assert [name for name, _ in names(*(f"--config={file}" for file in files))] == ["mine", "mine-2"]


def test_long_names_are_shortened_and_stay_apart():
  keys = ["weight_decay", "norm_weight_decay", "head_weight_decay", "bias_weight_decay", "momentum"]
  vary = [f"--vary=optimizer.{key}=0.1,0.2" for key in keys]
  planned = [name for name, _ in names("--config=digits", *vary)]
  assert len(set(planned)) == 32
  assert max(map(len, planned)) <= 160


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sweep_and_its_run_which_go_on_later(tmp_path, how):
  argv = ["--config=digits", "--config.steps=4000", "--config.log_every_steps=1"]
  argv += ["--config.checkpoint_every_steps=1", "--workdir", str(tmp_path)]
  one_device = re.sub(r"(?<=device_count=)\d+", "1", os.environ["XLA_FLAGS"])
  process = subprocess.Popen(
    [sys.executable, "-m", "bce_jax.cli.sweep", *argv],
    env=os.environ | {"XLA_FLAGS": one_device},
    stderr=subprocess.PIPE,
    text=True,
    # The tests may run in the background, where a shell has SIGINT ignored.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  for line in process.stderr:
    if "step    3/" in line:
      break
  process.send_signal(how)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "interrupted; run the same command again to go on: 0 of 1 runs are finished" in err
  assert "bce-train: SIGTERM: saved a checkpoint of step" in err
  assert "Traceback" not in err
  steps = [int(p.name) for p in (tmp_path / "digits" / "checkpoints").iterdir() if p.name.isdigit()]
  assert 0 < max(steps) < 4000
  assert not (tmp_path / "digits" / "results.json").exists()
  with pytest.raises(subprocess.CalledProcessError):  # nobody trains on
    subprocess.run(["pgrep", "-f", f"workdir {tmp_path}"], check=True)


def test_several_configs_are_told_apart():
  planned = names("--config=digits:bce-u", "--config=digits:soft-u", "--config.scale=3")
  assert [settings for _, settings in planned] == [
    {"config": "bce-u"},
    {"config": "soft-u"},
  ]


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "--config is needed"),
    (["--config=digitz"], "did you mean 'digits'"),
    (["--config=digits", "--vary=seed"], "--vary seed: expected KEY=V1,V2"),
    (["--config=digits", "--vary=seed=0,x"], "--config.seed=x: expected a whole number"),
    (["--config=digits", "--vary=sead=0"], "did you mean 'seed'"),
    (["--config=digits", "--vary=seed=0", "--vary=seed=1"], "--vary seed is given twice"),
    (["--config=digits", "--vary=scale=0"], "config.scale must be a finite number > 0"),
    (["--config=digits", "--jobs=0"], "--jobs must be at least 1, got 0"),
    (["--config=digits", "--job=2"], "unrecognized arguments"),
  ],
)
def test_mistakes_are_reported_in_one_line_and_leave_nothing(tmp_path, capsys, argv, message):
  folder = tmp_path / "runs"
  assert sweep.main([*argv, "--workdir", str(folder)]) == 2
  err = capsys.readouterr().err
  assert err.startswith("bce-sweep: ")
  assert message in err
  assert len(err.splitlines()) == 1
  assert not folder.exists()


def test_help_tells_how(capsys):
  with pytest.raises(SystemExit) as done:
    sweep.main(["--help"])
  assert done.value.code == 0
  assert "--one-at-a-time" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("cores", "plugins", "platforms", "expected"),
  [(1, [], "", 1), (16, [], "", 8), (16, ["cuda"], "", 1), (16, ["cuda"], "cpu", 8)],
)
def test_runs_at_the_same_time_where_cores_allow(monkeypatch, cores, plugins, platforms, expected):
  monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
  monkeypatch.setattr(sweep.importlib.metadata, "entry_points", lambda **_: plugins)
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  assert sweep._jobs() == expected
