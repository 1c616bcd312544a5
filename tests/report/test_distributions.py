import numpy as np
import pytest
from matplotlib.figure import Figure

from bce_jax import metrics
from bce_jax.report import distributions


@pytest.fixture
def scores():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 20, 900)
  logits = rng.normal(size=(900, 20))
  logits[np.arange(900), labels] += 4
  return logits, labels


def test_each_set_is_a_share_of_its_own(scores):
  logits, labels = scores
  axis = Figure().subplots()
  found = metrics.score_distributions(logits, labels)
  distributions.draw_distributions(axis, found, bias=2.5, threshold=2.0, interval=(1.9, 2.1))
  words = [text.get_text() for text in axis.get_legend().get_texts()]
  assert words[:3] == ["all negatives", "hardest negative of a sample", "positive"]
  assert words[3:] == ["b = 2.5", "t* = 2  (1.9 … 2.1)"]
  lines = [patch.get_data() for patch in axis.patches if patch.get_label() in words]
  assert [x.values.sum() for x in lines] == pytest.approx([100, 100, 100])
  own = np.eye(20, dtype=bool)[labels]
  sets = (logits[~own], np.where(own, -np.inf, logits).max(1), logits[own])
  for drawn, values in zip(lines, sets, strict=True):
    counted, _ = np.histogram(values, drawn.edges)
    np.testing.assert_allclose(drawn.values, 100 * counted / len(values))
    assert len(drawn.edges) < 130
  widths = {float(w) for x in lines for w in np.diff(x.edges)}
  assert len(widths) == 1


def test_the_top_of_the_curve_is_uniform_accuracy(scores):
  logits, labels = scores
  pairs = tuple(map(np.asarray, metrics.score_pairs(logits, labels)))
  best = metrics.uniform_accuracy(logits, labels)
  axis = Figure().subplots()
  distributions.draw_uniform_curve(axis, *pairs, bias=2.5, threshold=best.threshold)
  curve, mark, bias = axis.lines
  assert curve.get_ydata().max() == pytest.approx(100 * best.uniform)
  assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx(
    (best.threshold, 100 * best.uniform)
  )
  at = 100 * metrics.accuracy_at(logits, labels, 2.5).accepted_right
  assert bias.get_label() == f"at b = 2.5: {at:.2f} %"
  # Of several curves each is named, and the marks are not.
  axis = Figure().subplots()
  for name in ("one", "two"):
    distributions.draw_uniform_curve(axis, *pairs, bias=2.5, threshold=2.0, label=name)
  assert axis.get_legend_handles_labels()[1] == ["one", "two"]


def test_a_second_curve_is_not_cut_off():
  axis = Figure().subplots()
  low, high = np.linspace(0, 1, 9), np.linspace(2, 3, 9)
  distributions.draw_uniform_curve(axis, low, high, label="never right")
  distributions.draw_uniform_curve(axis, high, low, label="always right")
  bottom, top = axis.get_ylim()
  assert bottom == 0
  assert top >= 100


def test_nothing_to_draw():
  found = metrics.score_distributions(np.zeros((0, 3)), np.zeros(0, int))
  none = np.zeros(0)
  figure = distributions.picture(found, none, none, title="none", threshold=np.nan)
  assert [len(axis.patches) for axis in figure.axes] == [0, 0]
  one = metrics.score_distributions(np.zeros((2, 1)), np.zeros(2, int))  # no negatives
  axis = Figure().subplots()
  distributions.draw_distributions(axis, one, bias=np.array([1.0]))
  words = [text.get_text() for text in axis.get_legend().get_texts()]
  assert words == ["positive", "mean b = 1, and all b"]
