"""bce-eval as people use it: with the files that others make, good and bad."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score

from bce_jax import metrics
from bce_jax.cli import evaluate
from bce_jax.evaluation import from_files
from bce_jax.evaluation.summary import NonFiniteError
from bce_jax.runs import test_outputs

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model():
  """Scores of somebody else's model: 600 digits, 10 classes."""
  images, labels = load_digits(return_X_y=True)
  fitted = RidgeClassifier(alpha=5.0).fit(images[:400] / 16, labels[:400])
  features = images[400:1000] / 16
  return {
    "logits": 4 * fitted.decision_function(features).astype(np.float32),
    "labels": labels[400:1000],
    "features": features,
    "weights": fitted.coef_,
    "train_counts": np.bincount(labels[:400]),
  }


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  """Rows are read in several blocks, the last of which is filled up."""
  monkeypatch.setattr(from_files, "_BLOCK", 2048)


def bce_eval(capsys, *argv):
  """(exit code, results, what went to stderr)."""
  code = evaluate.main([*map(str, argv), "--json"])
  out, err = capsys.readouterr()
  assert out.count("\n") <= 1  # one object and nothing else
  return code, json.loads(out) if out else None, err


def by_definition(logits, labels, bias):
  """Accuracies from all scores at once, by brute force."""
  z = logits.astype(np.float64) - bias
  own = np.eye(z.shape[1], dtype=bool)[labels]
  p, n = z[own], np.where(own, -np.inf, z).max(1)
  ends = np.unique(np.concatenate([p, n]))
  middles = (ends[:-1] + ends[1:]) / 2
  return {
    "sample_wise_accuracy": accuracy_score(labels, z.argmax(1)),
    "uniform_accuracy": max(np.mean((n < t) & (t < p)) for t in middles),
    "uniform_accuracy_at_bias": np.mean(((z > 0) == own).all(1)),
    "none_above_bias": np.mean((z <= 0).all(1)),
  }


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("diverse", [True, False])
def test_an_npz_by_definition(tmp_path, capsys, model, diverse, compressed):
  bias = np.linspace(-1, 1.5, 10) if diverse else np.array(0.75)
  save = np.savez_compressed if compressed else np.savez
  save(tmp_path / "a.npz", logits=model["logits"], labels=model["labels"], bias=bias)
  code, results, err = bce_eval(capsys, tmp_path / "a.npz", "--threshold", "1.25")
  assert (code, err) == (0, "")
  assert results["images"] == 600
  expected = by_definition(model["logits"], model["labels"], bias)
  assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-12)
  # The threshold is on the logits' own scale, whatever the bias.
  at = metrics.accuracy_at(model["logits"], model["labels"], 1.25)
  assert results["uniform_accuracy_at_threshold"] == at.accepted_right
  assert results["several_or_wrong_above_threshold"] == at.several_or_wrong
  raw = metrics.uniform_accuracy(model["logits"], model["labels"])
  assert results["threshold"] == pytest.approx(raw.threshold, rel=1e-5)
  assert results["bias"] == pytest.approx(bias.mean())
  if diverse:
    assert results["raw_uniform_accuracy"] == raw.uniform
    assert (results["bias_min"], results["bias_max"]) == (-1.0, 1.5)
  else:
    assert results["uniform_accuracy"] == raw.uniform


def test_two_npy_and_what_is_not_there_is_not_reported(tmp_path, capsys, model):
  np.save(tmp_path / "z.npy", np.asfortranarray(model["logits"].astype(np.float64)))
  np.save(tmp_path / "y.npy", model["labels"].astype(np.float32)[:, None])  # whole all the same
  code, results, _ = bce_eval(capsys, tmp_path / "z.npy", tmp_path / "y.npy")
  assert code == 0
  whole = metrics.uniform_accuracy(model["logits"].astype(np.float64), model["labels"])
  assert set(results) == {
    "images",
    *(f"{kind}_accuracy" for kind in ("sample_wise", "class_wise", "uniform")),
    *("threshold", "threshold_low", "threshold_high"),
  }
  assert results["class_wise_accuracy"] == whole.class_wise
  assert results["threshold"] == whole.threshold
  assert evaluate.main([str(tmp_path / "z.npy"), str(tmp_path / "y.npy")]) == 0
  table = capsys.readouterr().out
  assert "600 samples" in " ".join(table.split())  # the path before it may fill the line
  assert f"{100 * whole.uniform:.2f} %" in table
  assert "bias" not in table


def test_features_and_training_counts(tmp_path, capsys, model):
  np.savez(tmp_path / "a.npz", **model)
  _, results, _ = bce_eval(capsys, tmp_path / "a.npz")
  moments = metrics.class_moments(model["features"], model["labels"], num_classes=10)
  measured = metrics.geometry(moments, model["weights"])
  assert results["compactness"] == pytest.approx(measured.compactness.mean(), rel=1e-10)
  assert results["nc3"] == pytest.approx(measured.nc3, rel=1e-10)
  right = model["logits"].argmax(1) == model["labels"]
  assert "many_accuracy" not in results
  assert results["medium_accuracy"] == pytest.approx(right.mean())

  kept = ("logits", "labels", "features")
  np.savez(tmp_path / "b.npz", **{name: model[name] for name in kept})
  counts = [5, 5, 50, 50, 50, 50, 50, 500, 500, 500]
  run = tmp_path / "run"
  run.mkdir()
  (run / "dataset.json").write_text(json.dumps({"train_counts": counts}))
  (tmp_path / "list.json").write_text(json.dumps(counts))
  # With the mark that Windows puts before a text.
  (tmp_path / "list.txt").write_text("\n".join(f"{x:.3e}" for x in counts), "utf-8-sig")
  np.save(tmp_path / "list.npy", counts)
  expected = metrics.shot_accuracy(right, model["labels"], counts)
  given = (run, *(tmp_path / f"list.{kind}" for kind in ("json", "txt", "npy")))
  for option in (*given, ",".join(map(str, counts))):
    _, results, _ = bce_eval(capsys, tmp_path / "b.npz", "--train-counts", option)
    assert results["many_accuracy"] == expected.many
    assert results["few_accuracy"] == expected.few
  assert results["compactness"] == pytest.approx(measured.compactness.mean(), rel=1e-10)
  assert not {"nc3", "classifier_separability"} & set(results)


def test_dtypes(tmp_path, capsys, model):
  labels = model["labels"]

  def results(logits, *options):
    np.savez(tmp_path / "a.npz", logits=logits, labels=labels.astype(np.uint8))
    return bce_eval(capsys, tmp_path / "a.npz", *options)[1]

  whole = np.rint(model["logits"] * 8)
  for dtype in (np.int8, np.int64, np.float16, ">f4"):
    assert results(whole.astype(dtype)) == results(whole.astype(np.float64))
  # What float32 can't tell apart is told apart in float64.
  close = np.full((600, 10), 1.0)
  close[np.arange(600), labels] += 1e-12
  assert results(close)["uniform_accuracy"] == 1.0
  assert results(close.astype(np.float32))["uniform_accuracy"] == 0.0
  # A class that was masked.
  masked = np.where(np.arange(10) == 3, -np.inf, model["logits"])
  assert results(masked)["sample_wise_accuracy"] < results(model["logits"])["sample_wise_accuracy"]
  # There is no JSON for infinity: a single class has no upper negative.
  labels = labels * 0
  assert results(model["logits"][:, :1])["threshold_low"] is None


def test_options_go_before_what_the_file_holds(tmp_path, capsys, model):
  bias = np.linspace(-1, 1, 10)
  np.savez(tmp_path / "a.npz", logits=model["logits"], labels=model["labels"], bias=0.5)
  np.save(tmp_path / "bias.npy", bias)
  for option, value in (("-0.25", -0.25), (tmp_path / "bias.npy", bias)):
    _, results, _ = bce_eval(capsys, tmp_path / "a.npz", "--bias", option)
    expected = by_definition(model["logits"], model["labels"], value)
    assert results["uniform_accuracy_at_bias"] == pytest.approx(
      expected["uniform_accuracy_at_bias"], abs=1e-12
    )


@pytest.mark.parametrize("bias", ["1e6", "-1e6", "1e39", "-1e-3", "0.123456789012345"])
def test_one_bias_changes_nothing_but_its_own_results(tmp_path, capsys, model, bias):
  scores = model["logits"].copy()
  scores[0, :2] = -np.inf, np.inf
  np.savez(tmp_path / "a.npz", logits=scores, labels=model["labels"])
  without = bce_eval(capsys, tmp_path / "a.npz")[1]
  code, results, err = bce_eval(capsys, tmp_path / "a.npz", "--bias", bias, "--threshold", bias)
  assert (code, err.count("+infinity"), err.count("\n")) == (0, 1, 1)
  assert {name: results[name] for name in without} == without
  assert results["bias"] == float(bias)
  for kind in ("uniform_accuracy_at", "none_above", "several_or_wrong_above"):
    assert results[f"{kind}_bias"] == results[f"{kind}_threshold"]


@pytest.mark.filterwarnings("error")
def test_a_diverse_bias_that_float32_cannot_hold(tmp_path, capsys, model):
  scores = model["logits"].copy()
  scores[0, :2] = -np.inf, np.inf
  bias = np.where(np.arange(10) == 1, 1e39, 0.0)
  np.savez(tmp_path / "a.npz", logits=scores, labels=model["labels"], bias=bias)
  code, results, err = bce_eval(capsys, tmp_path / "a.npz")
  assert (code, err.count("+infinity"), err.count("\n")) == (0, 1, 1)
  expected = by_definition(scores, model["labels"], bias)["sample_wise_accuracy"]
  assert results["sample_wise_accuracy"] == pytest.approx(expected)


def test_pictures(tmp_path, capsys, model):
  bias = np.linspace(-1, 2, 10)
  np.savez(tmp_path / "a.npz", logits=model["logits"], labels=model["labels"], bias=bias)
  code, results, _ = bce_eval(
    capsys, tmp_path / "a.npz", "--plot", tmp_path / "a.svg", "--threshold=-0.75"
  )
  assert code == 0
  text = (tmp_path / "a.svg").read_text()
  best = f"t* = {results['threshold']:.4g}"
  for words in ("hardest negative", "positive", best, "mean b = 0.5", "given, t = -0.75"):
    assert words in text
  assert evaluate.main([str(tmp_path / "a.npz")]) == 0  # which t* is of which accuracy
  told = capsys.readouterr().out
  assert re.search(rf"on scale · c − b +{results['threshold_on_decision']:.6g}\n", told)
  assert re.search(rf"on scale · c, without .* {results['threshold']:.6g} ", told)
  np.savez(tmp_path / "b.npz", logits=model["logits"] * 0, labels=model["labels"])
  assert evaluate.main([str(tmp_path / "b.npz"), "--plot", str(tmp_path / "b.png")]) == 0
  assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
  assert f"picture in {tmp_path / 'b.png'}" in capsys.readouterr().out


@pytest.mark.parametrize("diverse", [True, False])
def test_a_run_folder_that_holds_its_test_outputs(tmp_path, capsys, model, diverse):
  logits, labels = model["logits"], model["labels"]
  bias = np.linspace(-1, 2, 10, dtype=np.float32) if diverse else np.float32(0.5)
  raw, on_z = metrics.score_pairs(logits, labels), metrics.score_pairs(logits - bias, labels)
  empty = dict.fromkeys(test_outputs.TestOutputs._fields)
  kept = {
    "class_names": tuple("0123456789"),
    "train_counts": model["train_counts"],
    "labels": labels,
    "positive": np.asarray(on_z[0]),
    "hardest_negative": np.asarray(on_z[1]),
    "scaled_positive": np.asarray(raw[0]),
    "scaled_hardest_negative": np.asarray(raw[1]),
    "bias": np.asarray(bias),
    "scores": metrics.score_distributions(logits, labels),
    "map_features": np.zeros((0, 1), np.float32),
    "map_labels": labels[:0],
    "example_images": np.zeros((0, 8, 8, 1), np.uint8),
    "example_rows": labels[:0],
  }
  test_outputs.write(tmp_path, test_outputs.TestOutputs(**(empty | kept)))
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "results.json").write_text(json.dumps({"seconds": 3.5, "nc1": 0.25}))
  options = ("--threshold", "1.25", "--plot", tmp_path / "a.svg")
  code, results, err = bce_eval(capsys, tmp_path, *options)
  assert (code, err) == (0, "")
  assert (results["seconds"], results["nc1"]) == (3.5, 0.25)
  assert "positive" in (tmp_path / "a.svg").read_text()
  np.savez(tmp_path / "a.npz", logits=logits, labels=labels, bias=bias)
  expected = bce_eval(capsys, tmp_path / "a.npz", *options[:2])[1]
  found = {name: results[name] for name in expected}
  # The run has subtracted its bias in float32; a file is evaluated without that.
  assert found == (expected if diverse else pytest.approx(expected, rel=1e-6))


def test_a_run_folder_tells_of_its_verification(tmp_path, capsys, monkeypatch):
  verified = {
    "verification_images": 9,
    "verification_genuine_pairs": 4,
    "verification_impostor_pairs": 8,
    "verification_auc": 0.75,
    "verification_equal_error_rate": 0.25,
    "verification_equal_error_threshold": 0.5,
  }
  accuracies = dict.fromkeys(("sample_wise", "class_wise", "uniform"), 0.5)
  results = {
    "images": 6,
    **{f"{name}_accuracy": x for name, x in accuracies.items()},
    **dict.fromkeys(("threshold", "threshold_low", "threshold_high"), 0.0),
  }
  (tmp_path / "config.json").write_text("{}")

  def latest(path):
    return evaluate.Outcome("run", "images", results | verified, None, None, None)

  monkeypatch.setattr(evaluate, "_latest_checkpoint", latest)
  assert evaluate.main([str(tmp_path)]) == 0
  assert "verification: 9 images, 4 pairs" in capsys.readouterr().out

  def broken(path):
    raise NonFiniteError("3 of 6 images have a score that is nan")

  monkeypatch.setattr(evaluate, "_latest_checkpoint", broken)
  assert evaluate.main([str(tmp_path)]) == 2
  assert capsys.readouterr().err == "bce-eval: 3 of 6 images have a score that is nan\n"


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path, model):
  """It starts without what trains networks."""
  np.save(tmp_path / "z.npy", model["logits"])
  np.save(tmp_path / "y.npy", model["labels"])
  script = (
    "import sys; from bce_jax.cli import evaluate; code = evaluate.main(sys.argv[1:]);"
    " heavy = ('flax', 'orbax', 'grain', 'clu', 'optax', 'matplotlib', 'tensorflow');"
    " print(code, [m for m in heavy if m in sys.modules])"
  )
  command = [sys.executable, "-c", script, str(tmp_path / "z.npy"), str(tmp_path / "y.npy")]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == "0 []"
  assert done.stderr == ""


ROWS, LABELS = np.zeros((6, 3), np.float32), np.array([0, 1, 2, 0, 1, 2])
NAN = np.where(np.arange(6)[:, None] > 3, np.nan, ROWS)


@pytest.mark.parametrize(
  ("held", "message"),
  [
    ({"labels": LABELS}, "has no 'logits': it holds labels (int64 [6])\n"),
    ({"logits": ROWS[None], "labels": LABELS}, "(1, 6, 3): expected logits of shape [samples, cl"),
    ({"logits": ROWS[:0], "labels": LABELS[:0]}, "has shape (0, 3)"),
    ({"logits": ROWS, "labels": LABELS[:5]}, "has shape (5,): expected (6,), one label for each"),
    ({"logits": ROWS, "labels": LABELS + 1}, "2 of 6 labels are out of range, the first is 3: exp"),
    ({"logits": ROWS, "labels": LABELS + 1}, "they seem to begin at 1"),
    ({"logits": ROWS, "labels": LABELS - 1}, "the first is -1: expected 0 … 2"),
    ({"logits": ROWS, "labels": LABELS + 0.5}, "'labels': expected whole numbers, got 0.5"),
    ({"logits": ROWS, "labels": np.full(6, np.nan)}, "expected whole numbers, got nan"),
    ({"logits": ROWS, "labels": np.full(6, 2**64 - 1, np.uint64)}, "expected whole numbers, got 1"),
    ({"logits": ROWS, "labels": np.full(6, "cat")}, "'labels' has dtype <U3: expected whole"),
    ({"logits": ROWS, "labels": LABELS > 0}, "has dtype bool: expected whole numbers"),
    ({"logits": ROWS.astype(object), "labels": LABELS}, "holds Python objects (a pickle)"),
    ({"logits": ROWS.astype(complex), "labels": LABELS}, "has dtype complex128: expected float16"),
    ({"logits": ROWS.view("V2").reshape(6, 6), "labels": LABELS}, "(numpy keeps bfloat16 so)"),
    ({"logits": ROWS > 0, "labels": LABELS}, "has dtype bool: expected float16, float32"),
    ({"logits": np.full((6, 3), 2**60), "labels": LABELS}, "holds integers beyond 2^53"),
    ({"logits": NAN, "labels": LABELS}, "'logits': 2 of 6 samples have a score that is nan"),
    ({"logits": ROWS, "labels": LABELS, "bias": np.zeros(4)}, "has shape (4,): expected one numb"),
    (
      {"logits": ROWS, "labels": LABELS, "bias": np.nan},
      "'bias': expected finite numbers, got nan",
    ),
    ({"logits": ROWS, "labels": LABELS, "bias": "0"}, "'bias' has dtype <U1: expected real numb"),
    ({"logits": ROWS, "labels": LABELS, "train_counts": LABELS}, "'train_counts': expected 3 numb"),
    ({"logits": ROWS, "labels": LABELS, "train_counts": [1, -1, 1]}, "each at least 0, got -1"),
    ({"logits": ROWS, "labels": LABELS, "train_counts": [1, 0.5, 1]}, "whole numbers, got 0.5"),
    ({"logits": ROWS, "labels": LABELS, "features": ROWS[1:]}, "has shape (5, 3): expected (6, D)"),
    ({"logits": ROWS, "labels": LABELS, "features": NAN}, "'features', rows 0 … 6: features must"),
    ({"logits": ROWS, "labels": LABELS, "features": np.zeros((6, 20_000))}, "20,000 numbers per"),
    (
      {"logits": ROWS, "labels": LABELS, "features": ROWS, "weights": ROWS},
      "'weights' has shape (6, 3): expected (3, 3)",
    ),
  ],
)
def test_bad_contents(tmp_path, capsys, held, message):
  np.savez(tmp_path / "a.npz", **held)
  code, results, err = bce_eval(capsys, tmp_path / "a.npz")
  assert (code, results) == (2, None)
  assert re.fullmatch(rf"bce-eval: {re.escape(str(tmp_path))}[^\n]*\n", err), err
  assert message in err


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "the following arguments are required: FILE"),
    (["nothing.npz"], "nothing.npz can't be read: No such file or directory"),
    (["empty.npz"], "empty.npz is empty"),
    (["text.npz"], "text.npz is not an .npy or .npz file"),
    (["cut.npz"], "cut.npz is damaged"),
    (["z.npy"], "z.npy holds one array: give logits and labels, LOGITS.npy LABELS.npy"),
    (["good.npz", "z.npy"], "good.npz is an .npz file: expected an .npy file"),
    (["z.npy", "y.npy", "y.npy"], "expected an .npz, LOGITS.npy LABELS.npy or a run folder, got 3"),
    (["y.npy", "z.npy"], "[samples, classes] first, bce-eval z.npy y.npy"),
    (["folder"], "folder is not a run folder: it has no config.json"),
    (["folder", "y.npy"], "folder is a run folder"),
    (["folder", "--pairs", "pairs.csv"], "folder is a run folder"),
    (["z.npy", "y.npy", "--pairs", "x"], "--pairs is of features without logits: expected an .npz"),
    (["good.npz", "--bias", "much"], "--bias much: expected a number or an .npy file"),
    (["good.npz", "--bias", "nan"], "--bias nan: expected finite numbers, got nan"),
    (["good.npz", "--bias", "y.npy"], "--bias y.npy has shape (6,): expected one number or (3,)"),
    (["good.npz", "--threshold", "nan"], "--threshold: expected a finite number, got 'nan'"),
    (["good.npz", "--threshold", "-inf"], "--threshold: expected a finite number, got '-inf'"),
    (["good.npz", "--threshold", "x"], "--threshold: expected a finite number, got 'x'"),
    (["good.npz", "--train-counts", "1,2"], "--train-counts: expected 3 numbers of training imag"),
    (["good.npz", "--train-counts", "1,2,x"], "--train-counts 1,2,x: expected a file, a run fold"),
    (["good.npz", "--train-counts", "1,2,2.5"], "expected whole numbers, got 2.5"),
    (["good.npz", "--train-counts", "text.npz"], "--train-counts text.npz: expected whole numbers"),
    (["good.npz", "--train-counts", "folder"], "--train-counts folder: expected a file"),
    (
      ["good.npz", "--plot", "a.gif"],
      "--plot a.gif: expected a name that ends in .png, .svg, .pdf",
    ),
    (["good.npz", "--plot", "no/a.png"], "--plot no/a.png: there is no folder no"),
    (["good.npz", "--treshold", "1"], "unrecognized arguments: --treshold"),
  ],
)
def test_bad_arguments(tmp_path, capsys, monkeypatch, argv, message):
  monkeypatch.chdir(tmp_path)
  np.savez("good.npz", logits=ROWS, labels=LABELS)
  np.save("z.npy", ROWS)
  np.save("y.npy", LABELS)
  pathlib.Path("folder").mkdir()
  pathlib.Path("empty.npz").touch()
  pathlib.Path("text.npz").write_text("no numbers at all")
  pathlib.Path("cut.npz").write_bytes(pathlib.Path("good.npz").read_bytes()[:200])
  code, results, err = bce_eval(capsys, *argv)
  assert (code, results) == (2, None)
  assert re.fullmatch(r"bce-eval: [^\n]*\n", err), err
  assert message in err
  assert not list(pathlib.Path().glob("*.png"))
