import csv
import io

import numpy as np
import pytest

from bce_jax import results
from bce_jax.report import comparison, studies
from bce_jax.report.comparison import Run


def runs():
  results = {"uniform_accuracy": 0.4, "compactness": 80.0, "seconds": 3.0, "many_accuracy": 0.8}
  return [
    Run({"config": "a", "seed": 0}, results | {"sample_wise_accuracy": 0.5, "few_accuracy": 0.1}),
    Run({"config": "a", "seed": 1}, results | {"sample_wise_accuracy": 0.7, "few_accuracy": 0.2}),
    Run({"config": "b", "seed": 0}, results | {"sample_wise_accuracy": 0.9}),
  ]


def rows(table):
  return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_seeds_are_put_together():
  head, _, first, second = rows(comparison.markdown(runs()).partition("\n\n")[0])
  assert head == ["config", "All (A_SW)", "Many", "Few", "A_Uni", "compactness", "runs"]
  std = np.std([50, 70], ddof=1)
  assert first[:2] == ["a", f"60.0 ± {std:.1f}"]
  assert first[2:] == ["80.0 ± 0.0", "15.0 ± 7.1", "40.0 ± 0.0", "80.00 ± 0.00", "2"]
  assert second == ["b", "90.0", "80.0", "–", "40.0", "80.00", "1"]  # one run: none is the best


def of(name, **values):
  """Runs of settings with a result each: of(name, a=[…], b=[…])."""
  return [
    Run({"config": config, "seed": seed}, {name: value}, f"{config}-{seed}")
    for config, found in values.items()
    for seed, value in enumerate(found)
  ]


@pytest.mark.parametrize(
  ("values", "best"),
  [
    ({"a": [0.50, 0.52, 0.51], "b": [0.60, 0.62, 0.61]}, "b"),
    ({"a": [0.50, 0.60, 0.70], "b": [0.60, 0.61, 0.62]}, None),  # within the spread
    ({"a": [0.50, 0.52], "b": [0.60, 0.62], "c": [0.60, 0.62]}, None),  # equals
    ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, None),
    ({"a": [0.5], "b": [0.9]}, None),  # one run each
    ({"a": [0.5, 0.5], "b": [0.9]}, None),
    ({"a": [0.5, 0.5]}, None),
    # √(0.01²/2 + 0.01²/2) · 2 = 0.02 with standard deviations of 0.01.
    ({"a": [0.5, 0.5 + 0.01 * 2**0.5], "b": [0.5195, 0.5195 + 0.01 * 2**0.5]}, None),
    ({"a": [0.5, 0.5 + 0.01 * 2**0.5], "b": [0.5205, 0.5205 + 0.01 * 2**0.5]}, "b"),
  ],
)
def test_bold_is_what_is_ahead_by_more_than_the_spread(values, best):
  name = "uniform_accuracy"
  text = comparison.markdown(of(name, **values))
  bold = [row[0] for row in rows(text.partition("\n\n")[0])[2:] if row[1].startswith("**")]
  assert bold == ([] if best is None else [best])
  assert ("twice the combined standard error" in text) == (
    len(values) > 1 and max(map(len, values.values())) > 1
  )
  assert ("One run each" in text) == (max(map(len, values.values())) == 1 and len(values) > 1)
  # Of an error rate the least is the best.
  wrong = {k: [1 - x for x in found] for k, found in values.items()}
  groups = comparison.grouped(of("verification_equal_error_rate", **wrong))
  found = comparison.clearly_best(results.row("verification_equal_error_rate"), groups)
  assert (found and found.label) == best


def test_a_run_of_the_same_config_and_seed_is_no_other_seed():
  """A folder copied, or a run made twice: it says nothing of the spread over seeds."""
  one, two = of("uniform_accuracy", a=[0.5, 0.7])
  again = two._replace(results={"uniform_accuracy": 0.9}, name="copy")
  text = comparison.markdown([one, two, again])
  assert rows(text)[2] == ["a", f"60.0 ± {np.std([50, 70], ddof=1):.1f}", "2"]
  assert "copy has the same config and the same seed, 1, as a-1: it is not counted" in text
  alone = comparison.markdown([one, one._replace(name="copy")])
  assert rows(alone)[2] == ["a", "50.0", "1"]
  assert "±" not in alone
  # The seed of a run that was not varied stands in its config.
  bare = Run({}, {"uniform_accuracy": 0.5}, "x", {"seed": 3})
  assert comparison.grouped([bare, bare._replace(name="y")])[0].counted == [bare]


def test_softmax_at_its_bias_is_said_to_be_untrained():
  told = "Softmax does not train the level of its bias"
  run = Run({}, {"uniform_accuracy_at_bias": 0.5}, "x", {"seed": 0, "loss": "bce-u"})
  assert told not in comparison.markdown([run])
  for loss in ("soft-nu", "soft-d"):
    assert told in comparison.markdown([run._replace(config={"loss": loss})])


def test_failed_runs_are_listed():
  text = comparison.markdown(runs(), {"x_seed=1": "bce-train: no such folder"})
  assert text.endswith("Failed:\n\n- x_seed=1: bce-train: no such folder")
  text = comparison.markdown([], {"x": "gone"})
  assert text == "No run has finished.\n\nFailed:\n\n- x: gone"
  failed = [({"config": "c", "seed": 7}, "c_seed=7", "it said nothing")]
  lines = list(csv.DictReader(io.StringIO(comparison.comma_separated(runs(), failed))))
  assert [line["failed"] for line in lines] == ["", "", "", "it said nothing"]
  assert lines[-1]["config"] == "c"
  assert lines[-1]["seed"] == "7"
  assert lines[-1]["folder"] == "c_seed=7"
  assert lines[-1]["uniform_accuracy"] == ""


def test_every_figure_of_every_run_is_in_the_csv():
  lines = list(csv.DictReader(io.StringIO(comparison.comma_separated(runs()))))
  assert len(lines) == 3
  assert lines[1]["sample_wise_accuracy"] == "0.7"
  assert lines[2]["few_accuracy"] == ""
  assert (lines[1]["seed"], lines[1]["config"], lines[1]["seconds"]) == ("1", "a", "3.0")


def test_configs_are_bars_and_numbers_are_curves():
  (bars,) = studies.picture(runs(), "title").axes
  heights = [patch.get_height() for patch in bars.patches]
  numbers = np.array(heights)
  np.testing.assert_allclose(numbers[np.isfinite(numbers)], [60, 80, 15, 40, 90, 80, 40])
  assert [text.get_text() for text in bars.get_xticklabels()] == [
    "All (A_SW)",
    "Many",
    "Few",
    "A_Uni",
  ]

  def run(key, value, seed, score):
    results = {"sample_wise_accuracy": score, "uniform_accuracy": score / 2}
    return Run({key: value, "seed": seed}, results)

  studied = [run("x.weight", w, s, w + s / 10) for w in (0.1, 0.5, 0.3) for s in (0, 1)]
  studied += [run("x.temperature", 1.0, 0, 0.5), run("x.temperature", 2.0, 0, 0.6)]
  weight, temperature = studies.picture(studied, "title").axes
  assert (weight.get_xlabel(), temperature.get_xlabel()) == ("x.weight", "x.temperature")
  line = weight.containers[0].lines[0]
  np.testing.assert_allclose(line.get_xydata(), [[0.1, 15], [0.3, 35], [0.5, 55]])
