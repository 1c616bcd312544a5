"""What a run keeps of itself: its sessions, its log, and the config that it was trained by."""

import contextlib
import json
import sys

import pytest
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util import tensor_util
from tqdm import tqdm

from bce_jax.runs import files, provenance, records, run_config, run_log
from bce_jax.training import config as config_lib


def shown_by_tensorboard(folder):
  """The loss as its files are read for people, and by its server; the text of the last session."""
  events = event_accumulator.EventAccumulator(str(folder))
  server = plugin_event_accumulator.EventAccumulator(str(folder))
  for reader in (events, server):
    reader.Reload()
  tensors = [
    (e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in server.Tensors("train/loss")
  ]
  text = server.Tensors("provenance")[-1].tensor_proto.string_val[0].decode()
  return [(e.step, e.value) for e in events.Scalars("train/loss")], tensors, text


def test_tensorboard_drops_what_lies_after_the_step_gone_on_from(tmp_path):
  lines = None
  for session, (first, last) in enumerate(((0, 9), (5, 8), (0, 3), (3, 6))):
    sessions = [{"from_step": first, "command": f"session {session}"}]
    lines = [line for line in lines or () if json.loads(line)["step"] <= first]
    writer = records.RecordWriter(tmp_path, lines, step=first, sessions=sessions)
    for step in range(first + 1, last + 1):
      writer.write({"step": step, "epoch": 1.0, "split": "train", "loss": float(session)})
    lines = writer.lines
    writer.close()
  shown, tensors, text = shown_by_tensorboard(tmp_path)
  assert shown == tensors == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 3.0), (5, 3.0), (6, 3.0)]
  assert "session 3" in text
  # And those who read metrics.jsonl see records only.
  assert [r["loss"] for r in records.read_metrics(tmp_path)] == [2.0] * 3 + [3.0] * 3
  assert len(records.lines_until(tmp_path, 4)) == 4


def test_sessions_are_added_up_and_say_how_they_ended(tmp_path):
  with contextlib.suppress(KeyError), provenance.recorded(tmp_path, {"seed": 1}, 0):
    begun = json.loads((tmp_path / files.PROVENANCE).read_text())["sessions"]
    assert "ended" not in begun[0]
    raise KeyError("what went wrong")
  with provenance.recorded(tmp_path, {"seed": 1}, 7) as sessions:
    provenance.finish(sessions, 9)
  first, second = provenance.read(tmp_path)["sessions"]
  assert first["outcome"] == "KeyError: 'what went wrong'"
  assert (second["from_step"], second["outcome"]) == (7, "finished at step 9")
  assert first["started"] <= first["ended"] <= second["started"] <= second["ended"]
  assert second["devices"] == {"cpu": 8}
  (tmp_path / files.PROVENANCE).write_text("{")
  assert provenance.read(tmp_path) == {}


def test_git_says_which_code_it_was_and_its_absence_nothing(tmp_path, monkeypatch):
  import subprocess

  def git(*words):
    identity = ("-c", "user.name=a", "-c", "user.email=b")
    return subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

  assert provenance.git_state(str(tmp_path)) is None
  provenance.git_state.cache_clear()
  git("init")
  (tmp_path / "mine.py").write_text("1")
  git("add", "mine.py")
  git("commit", "-m", "one")
  commit = git("rev-parse", "HEAD").stdout.decode().strip()
  assert provenance.git_state(str(tmp_path), "mine.py") == {"commit": commit, "dirty": False}
  assert provenance.git_state(str(tmp_path), "not_tracked.py") is None
  (tmp_path / "mine.py").write_text("2")
  provenance.git_state.cache_clear()
  assert provenance.git_state(str(tmp_path), "mine.py") == {"commit": commit, "dirty": True}
  monkeypatch.setenv("PATH", "")
  provenance.git_state.cache_clear()
  assert provenance.git_state(str(tmp_path), "mine.py") is None


def test_the_log_holds_lines_with_the_time_and_no_bars(tmp_path, capfd):
  with run_log.kept():
    print("a line")
    bar = tqdm(total=3, file=sys.stderr, mininterval=0)
    bar.update(2)
    bar.write("above the bar", file=sys.stderr)
    run_log.open_in(tmp_path)
    bar.close()
    run_log.note("what the bar stands for")
    print("\x1b[1mbold\x1b[0m and the", end=" ")
    print("rest\r\n", end="", file=sys.stdout)
  with run_log.kept() as log:
    log.open(tmp_path)
    print("the second time", file=sys.stderr)
  with run_log.kept():
    print("of no run")
  stamps, lines = zip(
    *(line.split(" ", 1) for line in (tmp_path / "run.log").read_text().splitlines()), strict=True
  )
  assert list(lines) == [
    "a line", "above the bar", "what the bar stands for", "bold and the rest", "the second time",
  ]  # fmt: skip
  assert all(stamp.endswith("+00:00") for stamp in stamps)
  out, err = capfd.readouterr()
  assert "\x1b[1mbold" in out
  assert "67%" in err


@pytest.fixture
def run(tmp_path):
  """A run folder with a config as a run has written it, and results."""

  def make(**values):
    config = config_lib.default()
    for key, value in values.items():
      config_lib.set_value(config, key.replace("__", "."), value)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    kept = config_lib.with_absolute_paths(config).to_dict()
    records.write_json(folder / files.CONFIG, kept)
    with provenance.recorded(folder, kept, 0):
      pass
    results = dict.fromkeys(("images", "uniform_accuracy", "threshold", "seconds"), 1.0)
    records.write_json(folder / files.RESULTS, results)
    return folder, config

  return make


def edit(folder, **values):
  path = folder / files.CONFIG
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_config_that_was_changed_by_hand_is_reported_and_not_believed(run):
  folder, config = run(scale=8.0)
  assert run_config.edited(folder) == ""
  edit(folder, scale=3.0, eval_flip=True)
  told = run_config.edited(folder)
  assert "config.json was changed after the run: eval_flip was False and is True" in told
  assert "scale was 8.0 and is 3.0 there" in told
  assert run_config.config_of(folder).scale == 8.0
  assert run_config.config_of(folder).eval_flip  # how it is evaluated anybody may choose
  run_config.refuse_other_config(folder, config)
  with pytest.raises(ValueError, match=r"scale was 8.0 and is 3.0"):
    run_config.refuse_other_config(folder, run_config.written_config(folder))
  (folder / files.PROVENANCE).unlink()  # as of an older run
  assert run_config.edited(folder) == ""
  assert run_config.config_of(folder).scale == 3.0


def test_paths_are_kept_absolute_and_found_from_elsewhere(run, tmp_path, monkeypatch):
  for folder in ("here/images", "here/runs/first", "there"):
    (tmp_path / folder).mkdir(parents=True)
  monkeypatch.chdir(tmp_path / "here")
  folder, config = run(data__name="folder", data__folder="images", start_from="runs/first")
  kept = json.loads((folder / files.CONFIG).read_text())
  assert kept["data"]["folder"] == str(tmp_path / "here" / "images")
  assert kept["start_from"] == str(tmp_path / "here" / "runs" / "first")
  again = config_lib.from_dict(config.to_dict())
  run_config.refuse_other_config(folder, again)
  assert run_config.find_paths(folder, again) == []
  assert again.data.folder == str(tmp_path / "here" / "images")
  monkeypatch.chdir(tmp_path / "there")
  said = run_config.find_paths(folder, config)
  assert config.data.folder == str(tmp_path / "here" / "images")
  assert f"config.data.folder 'images' is not in {tmp_path / 'there'}" in "\n".join(said)
  run_config.refuse_other_config(folder, config)


def test_a_relative_path_of_an_older_version_is_the_same(run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder, config = run(start_from="runs/first")
  (folder / files.PROVENANCE).unlink()
  edit(folder, start_from="runs/first")
  run_config.refuse_other_config(folder, config)
  config.start_from = "runs/second"
  with pytest.raises(ValueError, match=r"start_from was 'runs/first' and is '.*second'"):
    run_config.refuse_other_config(folder, config)
