import numpy as np
import pytest

from bce_jax import metrics
from bce_jax.evaluation import summary

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 200)
SCORES = RNG.normal(size=(200, 4)).astype(np.float32)
SCORES[np.arange(200), LABELS] += 1.5
COUNTS = np.array([500, 50, 50, 5])


def outputs(bias=0.0):
  raw, on_z = (metrics.score_pairs(x, LABELS) for x in (SCORES, SCORES - np.float32(bias)))
  return summary.EvalOutputs(*map(np.asarray, (*on_z, *raw)))


def test_without_a_bias_there_is_nothing_at_the_bias():
  bare = summary.summarize(outputs(), LABELS, None, num_classes=4)
  at_zero = summary.summarize(outputs(), LABELS, np.float32(0), train_counts=COUNTS)
  assert bare == {name: at_zero[name] for name in bare}
  missing = set(at_zero) - set(bare)
  assert missing == {
    *("bias", "uniform_accuracy_at_bias", "none_above_bias", "several_or_wrong_above_bias"),
    *(f"{shot}_accuracy" for shot in ("many", "medium", "few")),
  }
  # On z the bias is 0, on scale · c it is its own value.
  shifted = summary.summarize(outputs(0.5), LABELS, np.float32(0.5), num_classes=4)
  assert shifted["uniform_accuracy"] == bare["uniform_accuracy"]
  assert shifted["threshold"] == pytest.approx(bare["threshold"], rel=1e-6)
  at = metrics.accuracy_at(SCORES, LABELS, 0.5)
  assert shifted["uniform_accuracy_at_bias"] == at.accepted_right


@pytest.mark.parametrize("bias", [None, np.float32(0.5), np.array([0.0, 1.0, 0.5, -0.5])])
def test_a_given_threshold_is_on_the_scores_own_scale(bias):
  values = summary.summarize(
    outputs(0.0 if bias is None else bias), LABELS, bias, num_classes=4, threshold=0.75
  )
  at = metrics.accuracy_at(SCORES, LABELS, 0.75)
  names = ("uniform_accuracy_at", "none_above", "several_or_wrong_above")
  assert tuple(values[f"{name}_threshold"] for name in names) == at
  table = summary.table("mine", values, unit="samples")
  assert table.startswith("mine: 200 samples\n")
  for share in at:
    assert f"{100 * share:.2f} %" in table
  assert ("bias" in table) == (bias is not None)


def test_geometry_without_a_classifier():
  features = RNG.normal(size=(200, 3))
  moments = metrics.class_moments(features, LABELS, num_classes=4)
  weights = RNG.normal(size=(4, 3))
  bare, whole = (
    summary.summarize(outputs(), LABELS, None, num_classes=4, moments=moments, weights=w)
    for w in (None, weights)
  )
  needs = {"nc3", "classifier_separability", "classifier_separability_std"}
  assert set(whole) - set(bare) == needs
  assert bare == {name: whole[name] for name in bare}
  assert "NC1, NC2 " in summary.table("mine", bare)
  assert "NC1, NC2, NC3 " in summary.table("mine", whole)


def test_the_number_of_classes_has_to_be_known():
  with pytest.raises(ValueError, match="expected train_counts or num_classes, got neither"):
    summary.summarize(outputs(), LABELS, None)
  with pytest.raises(ValueError, match="num_classes is 5, but train_counts has 4"):
    summary.summarize(outputs(), LABELS, None, num_classes=5, train_counts=COUNTS)
