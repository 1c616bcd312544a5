import csv
import io

import numpy as np

from bce_jax.report import comparison, studies
from bce_jax.report.comparison import Run


def runs():
  figures = {"uniform_accuracy": 0.4, "compactness": 80.0, "seconds": 3.0, "many_accuracy": 0.8}
  return [
    Run({"config": "a", "seed": 0}, figures | {"sample_wise_accuracy": 0.5, "few_accuracy": 0.1}),
    Run({"config": "a", "seed": 1}, figures | {"sample_wise_accuracy": 0.7, "few_accuracy": 0.2}),
    Run({"config": "b", "seed": 0}, figures | {"sample_wise_accuracy": 0.9}),
  ]


def rows(table):
  return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_seeds_are_put_together_and_the_best_is_bold():
  head, _, first, second = rows(comparison.markdown(runs()))
  assert head == ["config", "All (A_SW)", "Many", "Few", "A_Uni", "compactness", "runs"]
  deviation = np.std([50, 70], ddof=1)
  assert first == [
    "a",
    f"60.0 ± {deviation:.1f}",
    "**80.0 ± 0.0**",
    "**15.0 ± 7.1**",
    "**40.0 ± 0.0**",
    "80.00 ± 0.00",
    "2",
  ]
  assert second == ["b", "**90.0**", "**80.0**", "–", "**40.0**", "80.00", "1"]


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
    figures = {"sample_wise_accuracy": score, "uniform_accuracy": score / 2}
    return Run({key: value, "seed": seed}, figures)

  studied = [run("x.weight", w, s, w + s / 10) for w in (0.1, 0.5, 0.3) for s in (0, 1)]
  studied += [run("x.temperature", 1.0, 0, 0.5), run("x.temperature", 2.0, 0, 0.6)]
  weight, temperature = studies.picture(studied, "title").axes
  assert (weight.get_xlabel(), temperature.get_xlabel()) == ("x.weight", "x.temperature")
  line = weight.containers[0].lines[0]
  np.testing.assert_allclose(line.get_xydata(), [[0.1, 15], [0.3, 35], [0.5, 55]])
