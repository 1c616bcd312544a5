"""bce-predict as people use it: on a run folder whose training data are elsewhere."""

import csv
import io
import json
import os
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from bce_jax import metrics, sharding, terminal
from bce_jax.cli import predict as cli
from bce_jax.data import images as image_files
from bce_jax.data import sources
from bce_jax.evaluation import predict
from bce_jax.runs import files
from bce_jax.training import config as config_lib
from bce_jax.training import experiment, loop


@pytest.fixture(scope="module")
def test_split():
  return sources.digits().test


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run folder with a diverse bias, trained on one device for a second or two."""
  config = config_lib.default()
  config.model = "small_network"
  config.loss = "bce-nd"
  config.scale = 16.0
  config.batch_size = 128
  config.eval_batch_size = 128
  config.steps = 20
  config.optimizer.learning_rate = 0.1
  config.data.crop_padding = 0
  config.data.flip = False
  config.eval_every_epochs = 100.0
  config.eval_geometry = False
  config.report = False
  workdir = tmp_path_factory.mktemp("runs") / "digits"
  mesh = jax.make_mesh(
    (1, 1), ("data", "class"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1]
  )
  loop.train(experiment.build(config)._replace(mesh=mesh), workdir)
  return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_split):
  """The run's own test images as FOLDER/<class>/<number>.png."""
  root = tmp_path_factory.mktemp("images")
  images = test_split.images(np.arange(len(test_split)))
  for number, (image, label) in enumerate(zip(images, test_split.labels, strict=True)):
    (root / str(label)).mkdir(exist_ok=True)
    Image.fromarray(image[..., 0]).save(root / str(label) / f"{number:03d}.png")
  return root


def save(path, pixels):
  Image.fromarray(pixels).save(path)


def rows_of(text):
  return list(csv.DictReader(io.StringIO(text)))


def with_config(run, tmp_path, **changes):
  """A copy of the run folder under another config."""
  copy = tmp_path / "copy"
  shutil.copytree(run, copy)
  config = json.loads((copy / "config.json").read_text())
  for key, value in changes.items():
    group, _, name = key.rpartition("__")
    (config[group] if group else config)[name] = value
  (copy / "config.json").write_text(json.dumps(config))
  return copy


@pytest.mark.slow
def test_labels_are_those_of_the_run_s_evaluation(run, folder, capsys):
  assert cli.main([str(run), str(folder)]) == 0
  out, err = capsys.readouterr()
  rows = rows_of(out)
  assert [row["file"] for row in rows] == sorted(str(path) for path in folder.glob("*/*.png"))
  results = json.loads((run / "results.json").read_text())
  classes = [row["file"].split("/")[-2] for row in rows]

  def share(found):
    return sum(found) / len(rows)

  right = share(
    row["label"] == name and row["above"] == "1" for row, name in zip(rows, classes, strict=True)
  )
  assert 0.2 < right < 1
  assert right == pytest.approx(results["uniform_accuracy_at_bias"], abs=1e-9)
  rejected = share(row["label"] == "none" for row in rows)
  assert rejected == share(row["above"] == "0" for row in rows)
  assert rejected == pytest.approx(results["none_above_bias"], abs=1e-9)
  best = share(row["best"] == name for row, name in zip(rows, classes, strict=True))
  assert best == pytest.approx(results["sample_wise_accuracy"], abs=1e-9)
  assert len({row["threshold"] for row in rows}) > 1  # one per class
  ambiguous = sum(int(row["above"]) > 1 for row in rows)
  assert f"360 images, {round(360 * rejected)} rejected, {ambiguous} ambiguous; " in err


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal_in_columns(run, folder, capsys, monkeypatch, columns):
  monkeypatch.setattr(terminal, "columns", lambda stream: columns)
  long = folder.parent / ("a folder whose name is long " * 3) / "数字"
  long.mkdir(parents=True, exist_ok=True)
  for number, path in enumerate(sorted((folder / "3").iterdir())[:3]):
    shutil.copy(path, long / f"{number}.png")
  assert cli.main([str(run), str(long)]) == 0
  head, *lines = capsys.readouterr().out.splitlines()
  assert head.split() == list(cli.COLUMNS)
  assert [line.split("  ")[0].endswith(f"/{k}.png") for k, line in enumerate(lines)] == [True] * 3
  assert max(map(terminal.width, [head, *lines])) < columns
  monkeypatch.undo()
  assert cli.main([str(run), str(long)]) == 0
  for line, row in zip(lines, rows_of(capsys.readouterr().out), strict=True):
    label, score, threshold, above, best = line.split()[-5:]
    assert (label, above, best) == (row["label"], row["above"], row["best"])
    assert float(score) == pytest.approx(float(row["score"]), rel=1e-3)
    assert float(threshold) == pytest.approx(float(row["threshold"]), rel=1e-3)


def test_one_threshold_for_all_classes(run, folder, test_split, tmp_path, capsys):
  network = predict.load(run)
  scores = np.concatenate(
    [
      predict.run_batch(network, part, len(part))
      for part in np.split(test_split.images(np.arange(360)), 9)
    ]
  )
  threshold = round(float(np.quantile(np.sort(scores)[:, -2:], 0.5)), 3)
  file = tmp_path / "labels.csv"
  argv = [str(run), str(folder), "--threshold", str(threshold), "--reject", "no idea"]
  assert cli.main([*argv, "--output", str(file)]) == 0
  assert capsys.readouterr().out == ""
  assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]
  rows = rows_of(file.read_text())
  assert {float(row["threshold"]) for row in rows} == {threshold}

  by_file = {int(row["file"][-7:-4]): row for row in rows}
  above = (scores > threshold).sum(1)
  assert [int(by_file[i]["above"]) for i in range(360)] == above.tolist()
  expected = np.where(above > 0, scores.argmax(1), -1)
  named = [by_file[i]["label"] for i in range(360)]
  assert named == ["no idea" if k < 0 else str(k) for k in expected]
  written = np.array([by_file[i]["score"] for i in range(360)], np.float32)
  np.testing.assert_allclose(written, scores.max(1), rtol=1e-5, atol=1e-5)
  at = metrics.accuracy_at(scores, test_split.labels, threshold)
  right = np.mean((expected == test_split.labels) & (above == 1))
  assert right == pytest.approx(float(at.accepted_right), abs=1e-6)
  assert np.mean(above == 0) == pytest.approx(float(at.none_above), abs=1e-6)
  assert 0 < np.mean(above > 1) < 1


def test_training_data_and_devices_may_be_others(run, test_split, tmp_path, capsys):
  images = test_split.images(np.arange(3))[..., 0]
  (tmp_path / "wide").mkdir()
  for number, image in enumerate(images):  # what training would cut away at the sides
    save(tmp_path / "wide" / f"{number}.png", np.pad(image, ((0, 0), (2, 2))))
  changes = {"name": "folder", "folder": "/gone", "image_size": 8, "channels": 1}
  changes = {f"data__{key}": value for key, value in changes.items()}
  copy = with_config(run, tmp_path, class_devices=4, eval_batch_size=100, **changes)
  assert jax.device_count() == 8  # of which four share ten classes, two to two have the batch
  assert cli.main([str(copy), str(tmp_path / "wide")]) == 0
  rows = rows_of(capsys.readouterr().out)
  padded = np.concatenate([images[..., None], np.zeros((5, 8, 8, 1), np.uint8)])
  network = predict.load(run)
  decided = [
    predict.decide(row, network.bias) for row in predict.run_batch(network, padded, len(padded))[:3]
  ]
  assert [row["best"] for row in rows] == [str(found.best) for found in decided]
  scores = [float(row["score"]) for row in rows]
  np.testing.assert_allclose(scores, [found.score for found in decided], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_used_costs_only_itself(run, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  gray = np.full((8, 8), 99, np.uint8)
  for name in ("b", "b/deep", "b/.hidden", "empty"):
    os.mkdir(name)
  for name in ('b/é, "猫".png', "b/deep/x.PNG", "b/.hidden/x.png", "b/.x.png", "lone"):
    Image.fromarray(gray).save(name, format="PNG")
  save("b/tall.png", np.zeros((9, 8), np.uint8))
  (tmp_path / "b" / "text.png").write_text("no image")
  (tmp_path / "b" / "notes.txt").write_text("no image either")
  argv = [str(run), "lone", "./b/", "empty", "./b/tall.png", "--output", "labels.csv"]
  assert cli.main(argv) == 1
  out, err = capsys.readouterr()
  assert out == ""
  rows = rows_of((tmp_path / "labels.csv").read_text())
  assert [row["file"] for row in rows] == ["lone", "./b/deep/x.PNG", './b/é, "猫".png']
  lines = err.splitlines()
  assert all(line.startswith("bce-predict: ") for line in lines)
  assert "./b/: passed over 2 hidden or of the system, 1 .txt" in lines[0]
  assert "no images in empty" in lines[1]
  assert "./b/tall.png is 9 x 8 (height x width)" in lines[2]
  assert "./b/text.png cannot be read as an image" in lines[3]
  assert "3 images" in lines[4]
  assert "2 of 5 files can't be used" in lines[5]
  assert not (tmp_path / "labels.csv.tmp").exists()


def test_images_of_cameras_that_people_have(run, tmp_path, capsys):
  """Turned, of 16 bits, in a linked folder, without an ending: as the plain image is labeled."""
  pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
  (tmp_path / "real").mkdir()
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "linked").symlink_to("../real", target_is_directory=True)
  exif = Image.Exif()
  exif[0x0112] = 6  # a viewer turns it to the right
  Image.fromarray(np.rot90(pixels)).save(tmp_path / "real" / "turned.png", exif=exif)
  save(tmp_path / "in" / "plain.png", pixels)
  save(tmp_path / "in" / "deep.png", pixels.astype(np.uint16) * 257)
  Image.fromarray(pixels).save(tmp_path / "in" / "unnamed", "PNG")
  save(tmp_path / "in" / "small.png", pixels.astype(np.uint16))
  save(tmp_path / "in" / "scan.tif", pixels.astype(np.float32))
  config = json.loads((run / "config.json").read_text())
  assert config["data"]["full_scale"] is None
  assert cli.main([str(run), str(tmp_path / "in")]) == 1
  out, err = capsys.readouterr()
  rows = {os.path.basename(row["file"]): row for row in rows_of(out)}
  scores = {name: row["score"] for name, row in rows.items() if name != "small.png"}
  assert set(scores) == {"plain.png", "deep.png", "unnamed", "turned.png"}
  assert set(scores.values()) == {scores["plain.png"]}
  assert "1 images of more than 8 bits are all but black, such as " in err
  assert "scan.tif cannot be read as an image: its pixels are 0 … 252; floating-point" in err
  changes = {"name": "folder", "folder": "/gone", "channels": 1, "full_scale": 255.0}
  copy = with_config(run, tmp_path, **{f"data__{key}": value for key, value in changes.items()})
  assert cli.main([str(copy), *(str(tmp_path / "in" / x) for x in ("small.png", "scan.tif"))]) == 0
  assert [row["score"] for row in rows_of(capsys.readouterr().out)] == [scores["plain.png"]] * 2


def test_softmax_learns_no_threshold(run, tmp_path, capsys):
  save(tmp_path / "x.png", np.zeros((8, 8), np.uint8))
  argv = [str(with_config(run, tmp_path, loss="soft-nd")), str(tmp_path / "x.png")]
  assert cli.main(argv) == 0
  assert "'soft-nd', and softmax learns no threshold" in capsys.readouterr().err
  assert cli.main([*argv, "--threshold", "1"]) == 0
  assert "softmax" not in capsys.readouterr().err


def test_file_names_that_are_no_text(run, tmp_path, capsysbinary):
  name = os.fsencode(tmp_path) + b"/\xff.png"
  try:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(name)
  except OSError:
    pytest.skip("this file system refuses such names")
  file = tmp_path / "labels.csv"
  assert cli.main([str(run), str(tmp_path), "--output", str(file)]) == 0
  assert file.read_bytes().splitlines()[1].startswith(name + b",")


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (("RUN", "text.png", "--output", "labels.csv"), "none of 1 files can be used"),
    (("RUN", "empty"), "no images in empty: expected files .png"),
    (("RUN", "missing"), "missing does not exist"),
    (("RUN",), "required: FOLDER"),
    (("empty", "text.png"), "empty is not a run folder: it has no config.json"),
    (("missing", "text.png"), "missing is not a folder"),
    (("RUN", "text.png", "--threshold", "nan"), "--threshold nan: expected a finite number"),
    (("RUN", "text.png", "--threshold", "-1e-3", "--output", "x/y"), "there is no folder x"),
    (("RUN", "text.png", "--output", "/dev/stdout"), "--output /dev/stdout is a device or a pipe"),
    (("RUN", "text.png", "--threshold", "high"), "--threshold: invalid float value: 'high'"),
    (("RUN", "text.png", "--reject", "3"), "--reject '3': it is a class"),
    (("RUN", "text.png", "--reject="), "--reject '': it is empty"),
    (("RUN", "text.png", "--output", "empty"), "--output empty is a folder"),
    (("RUN", "text.png", "--output", "x/y.csv"), "there is no folder x"),
    (("RUN", "text.png", "--output", "/dev/null"), "is a device or a pipe"),
    (("RUN", "text.png", "--checkpoint", "best"), "no best checkpoint; one is chosen on"),
    (("RUN", "text.png", "--frobnicate"), "unrecognized arguments: --frobnicate"),
  ],
)
def test_what_is_given_wrong(argv, message, run, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "text.png").write_text("no image")
  assert cli.main([str(run) if word == "RUN" else word for word in argv]) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert message in err.splitlines()[-1]
  assert {path.name for path in tmp_path.iterdir()} == {"empty", "text.png"}


def test_a_run_folder_without_its_parts(run, tmp_path, capsys):
  save(tmp_path / "x.png", np.zeros((8, 8), np.uint8))
  copy = with_config(run, tmp_path, embedding=8)
  argv = [str(copy), str(tmp_path / "x.png")]
  for spoil, message in (
    (lambda: None, "holds another network than config.json and dataset.json tell of"),
    (lambda: shutil.rmtree(copy / files.CHECKPOINTS), "no latest checkpoint"),
    (lambda: (copy / "dataset.json").unlink(), "dataset.json can't be read"),
  ):
    spoil()
    assert cli.main(argv) == 2
    _, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1


def fake_network(score, batch_size):
  def outputs(batch):
    return score(batch), None

  return predict.TrainedNetwork(
    ("a", "b"), (8, 8, 1), None, np.float32(0), "bce-u", batch_size, sharding.make_mesh(), outputs
  )


def test_a_large_folder_streams_in_batches_of_one_size(monkeypatch):
  decoded, shapes = [], []

  def decode(path, **options):
    decoded.append(path)
    return np.full((8, 8, 1), int(path), np.uint8), None

  def score(batch):
    shapes.append(batch.shape)
    first = batch[:, 0, 0].astype(np.float32)
    return np.concatenate([first, np.zeros_like(first)], axis=1)

  monkeypatch.setattr(image_files, "read", decode)
  paths = [str(number) for number in range(100)]
  most_ahead = 0
  for number, (path, scores) in enumerate(predict.scored(fake_network(score, 16), paths)):
    assert path == paths[number]
    assert scores[0] == number
    most_ahead = max(most_ahead, len(decoded) - number)
  assert number == 99
  assert shapes == [(16, 8, 8, 1)] * 7
  assert most_ahead <= 2 * 16 + 1
  shapes.clear()
  assert len(list(predict.scored(fake_network(score, 100), paths[:3]))) == 3
  assert shapes == [(8, 8, 8, 1)]  # a few don't wait for a large batch; the devices share it


def test_a_score_that_is_nan(monkeypatch):
  pixels = np.zeros((8, 8, 1), np.uint8)
  monkeypatch.setattr(image_files, "read", lambda path, **_: (pixels, None))
  network = fake_network(lambda batch: np.array([[1, np.nan], [2, 1]] + [[0, 0]] * 6), 8)
  [(_, bad), (_, good)] = predict.scored(network, ["x.png", "y.png"])
  assert str(bad) == "x.png has a score that is nan"
  assert good.tolist() == [2, 1]


def test_above_is_strictly_above():
  scores = np.float32([2, 5, 4, 4])
  assert predict.decide(scores, np.float32(5)) == (1, 5, 5, 0)
  assert predict.decide(scores, np.float32(4)) == (1, 5, 4, 1)
  assert predict.decide(scores, np.float32([1, 5, 2, 3])) == (2, 4, 2, 3)
  # A threshold of more digits than a float32 has is not rounded to a score.
  assert predict.decide(scores, np.float64(5 - 1e-12)).above == 1
