"""The one table of results: every key has a row, and what a row says is what is shown."""

import math
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

from bce_jax import metrics, objectives, results
from bce_jax.evaluation import binary, measures, summary, verification
from bce_jax.report import comparison, page
from bce_jax.results import Curve, Result
from bce_jax.runs import result_rows

DOCS = pathlib.Path(__file__).parent.parent / "docs"
OWN = Result(
  "mine", "my measure", "how much", symbol="M", unit="%", better="down", line=True, tile=True,
  column=True, curve=True,
)  # fmt: skip


def test_each_key_has_one_row():
  keys = [row.key for row in results.RESULTS]
  assert len(keys) == len(set(keys))
  for name in objectives.names():
    brought = [row.key for row in result_rows.of_objective(name)]
    assert not set(brought) & set(keys), name


def test_families_of_keys_have_rows():
  assert results.row("flip_sample_wise_accuracy").column == "All, flip"
  assert results.row("adjusted_uniform_accuracy").words("line") == "A_Uni  after logit adjustment"
  assert results.row("verification_tar_at_far_0.005").unit == "%"
  assert results.row("verification_tar_at_far_0.001").words("column") == "TAR @ 1e-3"
  assert results.row("what").heading == "what"
  assert results.row("mine", [OWN]) == OWN


def test_a_single_part_would_repeat_the_whole():
  values = {"sample_wise_accuracy": 0.5, "many_accuracy": 0.5, "uniform_accuracy": 0.4}

  def keys(values):
    return [row.key for row in results.with_columns(results.known(values))]

  assert keys(values) == ["sample_wise_accuracy", "uniform_accuracy"]
  assert keys(values | {"few_accuracy": 0.1}) == [
    *("sample_wise_accuracy", "many_accuracy", "few_accuracy", "uniform_accuracy")
  ]


def test_of_a_bias_per_class_the_mean_is_said():
  one = {"bias": 1.0, "threshold": 2.0}
  (bias, threshold) = results.known(one | {"bias_min": 0.0, "bias_max": 3.0})
  assert "mean" in bias.words("line")
  assert "without the bias" in threshold.words("tile")
  assert "mean" not in results.known(one)[0].words("line")


def test_rows_survive_a_run_folder():
  rows = [OWN, OWN._replace(key="x", curve=Curve("a chart", "x"), suffixes=("_std",))]
  kept = [{**values, "of_a_newer_version": 3} for values in result_rows.to_json(rows)]
  kept = [{k: list(v) if isinstance(v, tuple) else v for k, v in x.items()} for x in kept]  # JSON
  assert result_rows.from_json(kept) == rows


@pytest.fixture
def own_run(make_run):
  """A run with a result of its own, and a scalar that no row knows."""
  run = make_run(points=60, config={"loss": "bce-u"})._replace(outputs=None, rows=[OWN])
  records = [
    r | ({"nobody_knows": r["epoch"] / 7} if r["split"] == "train" else {"mine": r["epoch"] / 8})
    for r in run.records
  ]
  return run._replace(results={**run.results, "mine": 0.1234}, records=records)


def test_an_own_result_is_a_tile_a_curve_and_a_column(own_run):
  text = page.build([own_run], title="x", map_method="pca")
  assert "<b>12.3\u00a0%</b><span>M: my measure</span>" in text
  assert "<h3>My measure</h3>" in text
  assert "How much. At the end: 37.5." in text
  assert "<h3>nobody_knows</h3>" in text  # a curve by its key
  assert "At the end: 0.4286." in text
  other = own_run._replace(config={**own_run.config, "loss": "soft-u"}, rows=[], results={})
  table = comparison.cells([own_run, other._replace(settings={"loss": "soft-u"})])
  assert table[0][-2:] == ["M", "runs"]
  assert [row[-2] for row in table[1:]] == ["12.3", "–"]


@pytest.mark.parametrize(("better", "ahead"), [("up", 1), ("down", 0), (None, None)])
def test_which_way_is_better_is_the_rows(better, ahead):
  row = OWN._replace(better=better)
  runs = [
    comparison.Run({"config": name, "seed": seed}, {"mine": value + seed / 1000}, name, rows=[row])
    for name, value in (("a", 0.2), ("b", 0.6))
    for seed in (0, 1)
  ]
  bold = [cells[1].startswith("**") for cells in comparison.cells(runs)[1:]]
  assert bold == [k == ahead for k in (0, 1)]


def test_a_value_that_is_not_known_is_no_tile(own_run):
  run = own_run._replace(results={**own_run.results, "mine": None, "threshold": math.nan})
  text = page.build([run], title="x", map_method="pca")
  assert "M: my measure" not in text


def test_the_lists_in_the_docs_are_those_of_the_table():
  made = runpy.run_path(str(DOCS / "make_results.py"))
  for file in made["FILES"]:
    text = (DOCS / file).read_text()
    assert made["filled"](text) == text, "run python docs/make_results.py"
  told = "".join((DOCS / file).read_text() for file in made["FILES"])
  assert all(f"`{row.key}`" in told for row in results.RESULTS)


@pytest.fixture
def added(tmp_path, monkeypatch):
  """A measure added to this package: its file, and its row."""
  (tmp_path / "a_new_one.py").write_text(
    "def compute(split): return {'mine': split.positive.mean()}"
  )
  monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
  monkeypatch.setattr(results, "RESULTS", (*results.RESULTS, OWN))
  monkeypatch.setattr(results, "_BY_KEY", results._BY_KEY | {OWN.key: OWN})
  measures._all.cache_clear()
  yield
  measures._all.cache_clear()
  sys.modules.pop(f"{measures.__name__}.a_new_one")


@pytest.mark.usefixtures("added")
def test_a_new_measure_is_its_file_and_its_row(make_run):
  pairs = [np.array([0.25, 0.75]), np.array([0.5, 0.5])] * 2
  values = summary.summarize(summary.EvalOutputs(*pairs), np.array([0, 1]), None, num_classes=2)
  assert values["mine"] == 0.5
  assert re.search(r"\nM +my measure +50\.00 %\n", summary.table("test", values))
  run = make_run(points=60)._replace(outputs=None, results=values, records=[])
  assert "<b>50.0\u00a0%</b><span>M: my measure</span>" in page.build(
    [run], title="x", map_method="pca"
  )
  assert comparison.cells([run])[0][-2] == "M"


def test_what_a_run_writes_has_a_row():
  """All keys that summarize, the verification and the train step write are in the table."""
  rng = np.random.default_rng(0)
  labels, counts = np.arange(40) % 4, np.array([500, 50, 50, 5])
  scores = rng.normal(size=(40, 4)).astype(np.float32)
  pairs = [np.asarray(x) for x in metrics.score_pairs(scores, labels)]
  outputs = summary.EvalOutputs(*pairs, *pairs, flipped=pairs, adjusted=pairs)
  features, weights = rng.normal(size=(40, 5)), rng.normal(size=(4, 5))
  moments = metrics.class_moments(features, labels, num_classes=4)
  values = summary.summarize(
    outputs, labels, rng.normal(size=4), train_counts=counts, threshold=0.1, moments=moments,
    weights=weights,
  )  # fmt: skip
  values |= verification.verify_all_pairs(features, labels, threshold=0.3)[0]
  values |= binary.summarize(scores[:, 0], labels == 0, bias=0.1, threshold=0.2)
  assert len(values) > 60
  assert [key for key in values if not results.is_ours(key)] == []
