"""Metrics from outside, from a config's key to results, records, table, page and sweep."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax.cli import evaluate, report, sweep, train
from bce_jax.config import metrics, names
from bce_jax.evaluation import own_metrics, predict, split_outputs
from bce_jax.runs import result_rows

pytestmark = pytest.mark.slow

MEASURES = """
import numpy as np
from bce_jax.results import Result

RESULTS = (
  Result("risk", "risk at full coverage", "share of misclassified images", symbol="R", unit="%",
         better="down", line=True, tile=True, column=True, curve=True),
)


def risk(split):
  assert split.features is None and split.scores is None
  return np.mean(split.hardest_negative >= split.positive)


def margins(split):
  gaps = split.positive - split.hardest_negative
  return {"gap": gaps.mean(), "least_gap": float(gaps.min())}


def broken(split):
  return split.nothing


def late(split):
  import pathlib
  if not pathlib.Path("mended").exists():
    raise KeyError("late")
  return {"risk": risk(split)}
"""
OF_SCORES = """
import numpy as np

NEEDS = ("scores", "features")


def compute(split):
  n = len(split.labels)
  assert split.scores.shape == (n, split.num_classes) and len(split.features) == n
  own = split.scores[np.arange(n), split.labels]
  assert np.array_equal(own, split.scaled_positive)
  return np.mean(np.argmax(split.scores - split.bias, 1) == split.labels)
"""
SMALL = (
  *("--config=digits", "--config.model=small_network"),
  *("--config.batch_size=64", "--config.steps=4"),
  *("--config.log_every_steps=2", "--config.eval_every_epochs=0.1"),
  "--config.report=false",
)
BEST = "--config.best_metric=risk"
NAMES = "measures_of_mine:risk, measures_of_mine:margins,of_scores_of_mine"


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A folder with modules that bce-train is called in."""
  (tmp_path / "measures_of_mine.py").write_text(MEASURES)
  (tmp_path / "of_scores_of_mine.py").write_text(OF_SCORES)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  return tmp_path


def test_it_is_in_results_records_table_and_page(package, capsys):
  """And in bce-eval, bce-report, a resumed run, and an evaluation with other metrics."""
  assert train.main([*SMALL, BEST, f"--config.metrics={NAMES}", "--workdir=run"]) == 0
  table = capsys.readouterr().out
  results = json.loads((package / "run" / "results.json").read_text())
  assert results["risk"] == pytest.approx(1 - results["sample_wise_accuracy"])
  assert results["of_scores_of_mine"] == pytest.approx(results["sample_wise_accuracy"])
  assert results["least_gap"] <= results["gap"]
  shown = f"{100 * results['risk']:.2f} %"
  assert re.search(rf"R +risk at full coverage +{shown}", table)
  assert re.search(r"\nleast_gap +-?\d", table)
  lines = (package / "run" / "metrics.jsonl").read_text().splitlines()
  records = [json.loads(line) for line in lines]
  evaluations = [record for record in records if record["split"] == "validation"]
  assert len(evaluations) > 1
  for record in evaluations:
    assert record["risk"] == pytest.approx(1 - record["sample_wise_accuracy"])
    assert "gap" in record
  # The least risk, and of equals the last.
  best = min(evaluations, key=lambda record: (record["risk"], -record["step"]))
  assert train.main(["--evaluate-only", "--checkpoint=best", "--workdir=run"]) == 0
  assert f"best checkpoint, step {best['step']}" in capsys.readouterr().out
  again_it_is_shown(capsys, results, shown)
  (package / "run" / "results.json").unlink()  # as if it had been killed in its last evaluation
  assert train.main([*SMALL, BEST, f"--config.metrics={NAMES}", "--workdir=run"]) == 0
  assert json.loads((package / "run" / "results.json").read_text())["risk"] == results["risk"]
  without_its_module(package, capsys)


def again_it_is_shown(capsys, results, shown):
  """A run that has ended, evaluated again."""
  capsys.readouterr()
  assert train.main([*SMALL, BEST, f"--config.metrics={NAMES}", "--workdir=run"]) == 0
  assert shown in capsys.readouterr().out
  argv = ["--evaluate-only", "--workdir=run", "--config.metrics=measures_of_mine:margins"]
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert f"{results['gap']:.6g}" in out
  assert shown not in out
  assert evaluate.main(["run"]) == 0
  assert shown in capsys.readouterr().out


def without_its_module(package, capsys):
  """A report needs none of it, its rows are kept; what evaluates says what is lacking."""
  shutil.copytree(package / "run", package / "other")
  other = package / "other" / "config.json"
  other.write_text(other.read_text().replace('"seed": 0', '"seed": 1'))
  provenance = package / "other" / "provenance.json"
  provenance.write_text(provenance.read_text().replace('"seed": 0', '"seed": 1'))
  (package / "measures_of_mine.py").unlink()
  for name in ("measures_of_mine", "of_scores_of_mine"):
    sys.modules.pop(name)
  assert report.main(["run", "--map", "pca"]) == 0
  page = (package / "run" / "report.html").read_text()
  assert "<span>R: risk at full coverage</span>" in page  # a tile
  assert "<h3>Risk at full coverage</h3>" in page  # a curve
  assert "<h3>least_gap</h3>" in page
  assert report.main(["run", "other", "--map", "pca", "--output", "both.html"]) == 0
  assert '<th scope="col">R, %</th>' in (package / "both.html").read_text()
  capsys.readouterr()
  assert predict.load(package / "run", which="best").class_names  # which evaluates nothing
  assert train.main(["--evaluate-only", "--workdir=run"]) == 2
  assert "no module 'measures_of_mine'" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("names", "said"),
  [
    ("measures_of_mine:rusk", "did you mean 'risk'"),
    ("no_such_module_of_mine:risk", "no module 'no_such_module_of_mine'"),
    ("measures_of_mine", "has no function 'compute'"),
    ("measures_of_mine:RESULTS", "expected a function or a module"),
    ("measures_of_mine:risk,measures_of_mine:risk", "named twice"),
    ("no name", "expected package.module"),
    ("bad_rows:f", "RESULTS holds 'uniform_accuracy', which is a result of bce_jax"),
    ("bad_needs:f", "NEEDS holds 'score'; did you mean 'scores'?"),
  ],
)
def test_what_is_no_metric_is_refused_before_training(package, capsys, names, said):
  row = "from bce_jax.results import Result\nRESULTS = (Result('uniform_accuracy', 'x'),)\n"
  (package / "bad_rows.py").write_text(f"{row}def f(split): return 1.0\n")
  (package / "bad_needs.py").write_text("NEEDS = 'score'\ndef f(split): return 1.0\n")
  assert train.main([*SMALL, f"--config.metrics={names}", "--workdir=run"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert said in line
  assert "config.metrics" in line
  assert not (package / "run").exists()
  argv = ["--config=digits", f"--config.metrics={names}", "--vary=seed=0,1", "--workdir=runs"]
  assert sweep.main(argv) == 2  # and before a sweep, too
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(
  ("best", "said"),
  [
    ("rusk", "unknown config.best_metric 'rusk'; did you mean 'risk'? expected one of sample_w"),
    ("gap", "'gap' is of config.metrics 'rows_of_mine:margins', which does not say which way"),
  ],
)
def test_a_best_metric_that_can_choose_nothing_is_refused(package, best, said):
  rows = "RESULTS = (*RESULTS, Result('gap', 'gap'))\n"
  (package / "rows_of_mine.py").write_text(MEASURES + rows)
  config = config_lib.default()
  config.metrics, config.best_metric = "rows_of_mine:margins", best
  with pytest.raises(ValueError, match=re.escape(said)):
    config_lib.check(config)
  config_lib.check(config, evaluate_only=True)  # which other metrics may do
  config.best_metric = "risk"
  config_lib.check(config)
  assert metrics.better(config) == "down"
  config.metrics = ""
  with pytest.raises(ValueError, match=r"unknown config.best_metric 'risk'"):
    config_lib.check(config)


def test_a_metric_that_fails_costs_nothing_that_was_trained(package, capsys):
  argv = [*SMALL, BEST, "--config.metrics=measures_of_mine:late", "--workdir=run"]
  assert train.main(argv) == 2
  *_, line = capsys.readouterr().err.splitlines()
  assert line.startswith("bce-train: config.metrics 'measures_of_mine:late': KeyError: 'late'")
  other = [*SMALL, BEST, "--config.metrics=measures_of_mine:margins", "--workdir=run"]
  assert train.main(other) == 2
  *_, line = capsys.readouterr().err.splitlines()
  assert line.startswith("bce-train: config.best_metric 'risk' is no result of the evaluation")
  (package / "mended").touch()
  assert train.main(argv) == 0
  assert "resumed from the checkpoint of step 2" in capsys.readouterr().err
  results = json.loads((package / "run" / "results.json").read_text())
  assert results["risk"] == pytest.approx(1 - results["sample_wise_accuracy"])


def split(**options):
  pairs = [np.array([2.0, -1.0]), np.array([1.0, 3.0])] * 2
  return split_outputs.SplitOutputs(
    np.array([0, 1]), 2, np.array([5, 5]), np.float32(0.5), *pairs, **options
  )


def metric(function, **options):
  given = {"rows": (), "needs": ()} | options
  return metrics.OwnMetric("mine:f", "f", function, **given)


def test_what_is_given_is_what_was_asked_for():
  given = split(features=np.ones((2, 3)), scores=np.zeros((2, 2)))
  out = own_metrics.measure(
    [
      metric(lambda s: float(s.features is None and s.scores is not None), needs=("scores",)),
      metric(lambda s: {"n": s.num_classes, "nan": np.float32("nan")}),
    ],
    given,
  )
  assert out["f"] == 1
  assert out["n"] == 2
  assert np.isnan(out["nan"])


@pytest.mark.parametrize(
  ("returned", "said"),
  [
    ("text", "returned 'text' for 'f': expected a number"),
    (np.ones(2), "expected a number"),
    (1j, "expected a number"),
    (None, "returned None for 'f': expected a number"),
    ({"bias": 1.0}, "called 'bias': there is such a result already"),
    ({"threshold_low": 1.0}, "there is such a result already"),
    ({"epoch": 1.0}, "there is such a result already"),
    ({3: 1.0}, "called 3: expected text"),
  ],
)
def test_what_is_no_number_is_refused(returned, said):
  with pytest.raises(ValueError, match="'mine:f'") as error:
    own_metrics.measure([metric(lambda s: returned)], split())
  assert said in str(error.value)


def test_an_error_within_is_one_line():
  with pytest.raises(ValueError, match=r"'mine:f': AttributeError: .*nothing") as error:
    own_metrics.measure([metric(lambda s: s.nothing)], split())
  assert "\n" not in str(error.value)


def test_rows_of_a_method_from_outside_are_kept_for_the_report(package):
  (package / "method_of_mine.py").write_text(MEASURES)
  config = ConfigDict({"metrics": "", "objective": {"name": "method_of_mine"}})
  kept = json.loads(json.dumps({"provenance": result_rows.to_keep(config, {})}))
  (row,) = result_rows.kept(kept)
  assert (row.key, row.symbol, row.better, row.curve) == ("risk", "R", "down", True)
  config.objective.name = "joint"
  assert result_rows.to_keep(config, {}) == {}


def test_rows_of_what_has_none():
  config = {"metrics": ""}
  assert metrics.rows(config, {"gap": 1.0}) == []
  assert names.listed({}, "metrics") == []
