"""bce-report on run folders made up from files: no network is trained."""

import json

import numpy as np
import pytest

from bce_jax.cli import report
from bce_jax.runs import files, records, test_outputs
from bce_jax.training import config as config_lib


@pytest.fixture(scope="module")
def make_folder(make_run):
  """Writes what bce-train leaves of a finished run."""

  def made(folder, *, seed=0, loss="bce-nu", scale=16.0):
    run = make_run(seed=seed)
    config = config_lib.default()
    config.seed, config.loss, config.scale = seed, loss, scale
    folder.mkdir(parents=True)
    records.write_json(folder / files.CONFIG, config.to_dict())
    records.write_json(folder / files.RESULTS, dict(run.results))
    lines = "".join(json.dumps(record) + "\n" for record in run.records)
    (folder / files.METRICS).write_text(lines)
    test_outputs.write(folder, run.outputs)
    return folder

  return made


@pytest.fixture
def build(monkeypatch):
  """Stands in for the page's building, which takes a second; collects what it is called with."""
  calls = []

  def built(runs, *, title, map_method, missing):
    title += "".join(f"; {name}: {why}" for name, why in missing.items())
    calls.append((list(runs), title, map_method))
    return f"<title>{title}</title>"

  monkeypatch.setattr("bce_jax.report.page.build", built)
  return calls


def fails(capsys, argv, *words):
  """Exit code 2 and one line on stderr that has the words; returns the line."""
  assert report.main([str(x) for x in argv]) == 2
  out, line = capsys.readouterr()
  assert out == ""
  assert line.startswith("bce-report: ")
  assert line.count("\n") == 1
  assert line.endswith("\n")
  for word in words:
    assert word in line, line
  return line


def test_the_page_of_one_run_goes_into_its_folder(make_folder, tmp_path, capsys):
  folder = make_folder(tmp_path / "digits")
  assert report.main([str(folder), "--map", "pca"]) == 0
  path = folder / "report.html"
  assert capsys.readouterr().out == f"{path}\n"
  text = path.read_text()
  assert "<title>digits</title>" in text
  assert "PCA, " in text
  assert "t-SNE" not in text
  assert "What the worst classes are taken for" in text  # of test_outputs.npz
  assert "Training loss" in text  # of metrics.jsonl
  assert not list(folder.glob("*.tmp"))


def test_several_runs_go_to_the_given_output(make_folder, tmp_path, capsys, build):
  folders = [make_folder(tmp_path / loss / "run", seed=k, loss=loss) for k, loss in enumerate("ab")]
  path = tmp_path / "both.html"
  # The first one twice, once with a slash at its end.
  argv = [folders[0], folders[1], f"{folders[0]}/", "--output", path, "--title", "a & b"]
  assert report.main([str(x) for x in argv]) == 0
  assert capsys.readouterr().out == f"{path}\n"
  ((runs, title, map_method),) = build
  assert (title, map_method) == ("a & b", "tsne")
  assert [run.name for run in runs] == ["a/run", "b/run"]  # their own names are the same
  settings = [dict(run.settings) for run in runs]
  assert settings == [{"loss": "a", "seed": 0}, {"loss": "b", "seed": 1}]
  assert all(run.outputs is not None for run in runs)
  assert not (folders[0] / "report.html").exists()


def test_of_several_runs_the_page_goes_here(make_folder, tmp_path, monkeypatch, build):
  for name in "ab":
    make_folder(tmp_path / "runs" / name)
  monkeypatch.chdir(tmp_path)
  assert report.main(["runs/a", "runs/b"]) == 0
  assert (tmp_path / "report.html").read_text() == "<title>2 runs side by side</title>"
  # By two ways to one folder a run is still one.
  assert report.main(["runs/a", f"{tmp_path}/runs/a", "runs/../runs/a"]) == 0
  assert [run.name for run in build[-1][0]] == ["a"]
  assert (tmp_path / "runs" / "a" / "report.html").exists()


def test_a_run_of_an_older_version_has_a_page_too(make_folder, tmp_path, build):
  folder = make_folder(tmp_path / "old")
  (folder / "test_outputs.npz").unlink()
  assert report.main([str(folder)]) == 0
  assert build[0][0][0].outputs is None


def test_configs_of_two_versions_are_compared_key_by_key(make_folder, tmp_path, build):
  folders = [make_folder(tmp_path / name, seed=k) for k, name in enumerate("ab")]
  path = folders[0] / files.CONFIG
  config = json.loads(path.read_text())
  for key in ("report", "embedding", "verification"):  # as before there were such
    del config[key]
  path.write_text(json.dumps(config))
  assert report.main([*map(str, folders), "--output", str(tmp_path / "x.html")]) == 0
  assert [dict(run.settings) for run in build[-1][0]] == [{"seed": 0}, {"seed": 1}]
  config["of_a_later_version"] = 3
  path.write_text(json.dumps(config))
  assert report.main([*map(str, folders), "--output", str(tmp_path / "x.html")]) == 0
  told = {run.name: run.settings.get("of_a_later_version") for run in build[-1][0]}
  assert told == {"a": 3, "b": None}


def test_what_a_sweep_keeps_beside_its_runs_is_skipped(make_folder, tmp_path, capsys, build):
  make_folder(tmp_path / "run")
  (tmp_path / "logs").mkdir()
  assert report.main([str(tmp_path / "logs"), str(tmp_path / "run")]) == 0
  out, err = capsys.readouterr()
  assert out == f"{tmp_path / 'run' / 'report.html'}\n"
  assert err == f"{tmp_path / 'logs'} is skipped: it has no config.json\n"
  (make_folder(tmp_path / "going") / "results.json").unlink()
  assert report.main([str(tmp_path / "going"), str(tmp_path / "run")]) == 0
  assert capsys.readouterr().err == f"{tmp_path / 'going'} is skipped: its run has not ended\n"
  assert [title for _, title, _ in build] == [
    "run",
    f"run; {tmp_path / 'going'}: its run has not ended",
  ]


def test_a_record_cut_off_by_a_kill_is_left_out(make_folder, tmp_path, build):
  folder = make_folder(tmp_path / "run")
  path = folder / "metrics.jsonl"
  whole = path.read_text().splitlines()
  path.write_text(path.read_text()[:-20])
  assert report.main([str(folder)]) == 0
  assert [json.dumps(r) for r in build[0][0][0].records] == whole[:-1]


def test_what_is_no_finished_run_is_reported_in_a_line(make_folder, tmp_path, capsys, build):
  good = make_folder(tmp_path / "good")
  (tmp_path / "empty").mkdir()
  (tmp_path / "file").write_text("")
  (make_folder(tmp_path / "unfinished") / "results.json").unlink()
  fails(capsys, [tmp_path / "missing"], "missing", "not a folder")
  fails(capsys, [tmp_path / "file"], "file", "not a folder")
  fails(capsys, [tmp_path / "empty"], "empty", "not a run folder", "config.json")
  fails(capsys, [tmp_path / "unfinished"], "unfinished", "its run has not ended")
  fails(capsys, [], "RUN")
  fails(capsys, [good, "--map", "umap"], "umap", "tsne", "pca")
  fails(capsys, [good, "--maps", "pca"], "--maps")
  assert not build


@pytest.mark.parametrize(
  "damage",
  [
    pytest.param(("test_outputs.npz", lambda data: data[: len(data) // 2]), id="npz-cut"),
    pytest.param(("test_outputs.npz", lambda data: b""), id="npz-empty"),
    pytest.param(("test_outputs.npz", lambda data: b"no archive"), id="npz-other"),
    pytest.param(("results.json", lambda data: data[: len(data) // 2]), id="results-cut"),
    pytest.param(("results.json", lambda data: b"[]"), id="results-list"),
    pytest.param(("results.json", lambda data: b'{"bias": 1.0}'), id="results-lacking"),
    pytest.param(("results.json", lambda data: b"\xff\xfe"), id="results-bytes"),
    pytest.param(("metrics.jsonl", lambda data: data + b'{"step": 99}\n'), id="metrics-lacking"),
    pytest.param(("config.json", lambda data: data[:10]), id="config-cut"),
    pytest.param(("config.json", lambda data: b"3"), id="config-number"),
  ],
)
def test_a_damaged_file_is_reported_and_the_page_stays(
  make_folder, tmp_path, capsys, build, damage
):
  name, change = damage
  folder = make_folder(tmp_path / "run")
  (folder / "report.html").write_text("old")
  path = folder / name
  path.write_bytes(change(path.read_bytes()))
  fails(capsys, [folder], str(path), "damaged")
  assert (folder / "report.html").read_text() == "old"
  assert not list(folder.glob("*.tmp"))
  assert not build


def test_evidence_of_other_classes_than_it_says_is_damaged(make_folder, tmp_path, capsys, build):
  folder = make_folder(tmp_path / "run")
  with np.load(folder / "test_outputs.npz") as archive:
    arrays = dict(archive)
  arrays["class_names"] = arrays["class_names"][:-1]
  np.savez(folder / "test_outputs.npz", **arrays)
  fails(capsys, [folder], "test_outputs.npz", "damaged")


def test_where_the_page_cannot_go(make_folder, tmp_path, capsys, build):
  folder = make_folder(tmp_path / "run")
  fails(capsys, [folder, "--output", tmp_path], str(tmp_path), "is a folder")
  fails(capsys, [folder, "--output", tmp_path / "missing" / "x.html"], "x.html", "is not a folder")
  fails(
    capsys, [folder, "--output", folder / "config.json" / "x.html"], "x.html", "is not a folder"
  )
  (folder / "report.html").mkdir()
  fails(capsys, [folder], "report.html", "is a folder")


def test_a_full_disk_leaves_the_old_page(make_folder, tmp_path, capsys, build, monkeypatch):
  folder = make_folder(tmp_path / "run")
  (folder / "report.html").write_text("old")
  # Of a disk that is always full: opening works, writing does not.
  (folder / "report.html.tmp").symlink_to("/dev/full")
  fails(capsys, [folder], "report.html", "No space left on device")
  assert (folder / "report.html").read_text() == "old"
  assert not list(folder.glob("*.tmp"))
