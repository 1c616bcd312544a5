"""bce-eval of one score per sample: one threshold, against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from bce_jax import metrics
from bce_jax.cli import evaluate


def drawn(seed, n=300, digits=None, dtype=np.float32):
  rng = np.random.default_rng(seed)
  positive = rng.random(n) < 0.3
  scores = rng.normal(size=n) + 1.2 * positive
  return (scores if digits is None else scores.round(digits)).astype(dtype), positive


SCORES, POSITIVE = drawn(0, digits=1)


@pytest.fixture
def bce_eval(tmp_path, capsys):
  def bce_eval(*argv, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    code = evaluate.main([str(tmp_path / "a.npz"), *argv, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err

  return bce_eval


def by_brute_force(scores, positive):
  """The best accuracy and its widest, lowest interval between neighbors, infinite ends included."""
  values = np.unique(scores[np.isfinite(scores)]).astype(np.float64)
  ends = np.concatenate([[-np.inf], values, [np.inf]])
  # At t = v just those > v are above; below all, those that are no −infinity.
  at = np.concatenate([[np.finfo(np.float64).min], values])
  accuracy = np.array([((scores > t) == positive).mean() for t in at])
  widths = np.where(accuracy == accuracy.max(), np.diff(ends), -1)
  k = int(np.argmax(widths))
  return accuracy.max(), ends[k], ends[k + 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("digits", [None, 1, 0])
def test_against_scikit_learn(bce_eval, digits, dtype):
  scores, positive = drawn(1, digits=digits, dtype=dtype)
  code, found, err = bce_eval("--threshold=0.5", logits=scores, labels=positive.astype(int))
  assert (code, err) == (0, "")
  assert found["auc"] == pytest.approx(roc_auc_score(positive, scores), rel=1e-13)
  fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
  k = np.argmax(fpr >= 1 - tpr)
  a, b = fpr[k - 1] + tpr[k - 1] - 1, fpr[k] + tpr[k] - 1
  assert found["equal_error_rate"] == pytest.approx(
    fpr[k - 1] - a / (b - a) * (fpr[k] - fpr[k - 1])
  )
  (tn, fp), (fn, tp) = confusion_matrix(positive, scores.astype(np.float64) > 0.5)
  names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
  assert [found[f"{name}_at_threshold"] for name in names] == [tn, fp, fn, tp]
  assert found["true_positive_rate_at_threshold"] == tp / (tp + fn)
  assert found["false_positive_rate_at_threshold"] == fp / (fp + tn)
  assert found["accuracy_at_threshold"] == (tp + tn) / 300
  assert found["precision_at_threshold"] == tp / (tp + fp)
  best, low, high = by_brute_force(scores, positive)
  assert (found["best_accuracy"], found["threshold_low"], found["threshold_high"]) == (
    best,
    *(None if np.isinf(x) else x for x in (low, high)),
  )
  assert ((scores.astype(np.float64) > found["threshold"]) == positive).mean() == best


def test_binary_accuracy_by_brute_force():
  rng = np.random.default_rng(3)
  for trial in range(60):
    n = (1, 4, 7)[trial % 3]  # few shapes to compile for
    scores, positive = rng.integers(0, 5, n) / 4 - 0.5, rng.random(n) < 0.5
    if trial > 20:
      scores = np.where(rng.random(n) < 0.2, rng.choice([-np.inf, np.inf], n), scores)
    found = metrics.binary_accuracy(scores, positive)
    best, low, high = by_brute_force(scores, positive)
    assert found.accuracy == pytest.approx(best)
    if best:
      assert (found.threshold_low, found.threshold_high) == (low, high)
      assert low < found.threshold < high
      counts = metrics.confusion_at(scores, positive, found.threshold)
      assert counts.accuracy == pytest.approx(best)
      assert sum(counts) == n
  assert np.isnan(metrics.confusion_at(np.ones(2), np.zeros(2, bool), 0.0).true_positive_rate)
  with pytest.raises(ValueError, match="scores must not be nan: 1 are"):
    metrics.binary_accuracy(np.array([0.5, np.nan]), np.array([True, False]))


@pytest.mark.parametrize(
  ("arrays", "names"),
  [
    ({"labels": 2 * POSITIVE - 1}, {}),
    ({"labels": POSITIVE}, {}),
    ({"labels": POSITIVE[:, None] + 0.0}, {}),
    ({"labels": np.where(POSITIVE, 1.0000001, -1e-8)}, {}),
    ({"labels": np.where(POSITIVE, "same", "different")}, {}),
    ({"labels": np.where(POSITIVE, "True", "False").astype("S")}, {}),
    ({"labels": np.where(POSITIVE, "cat", "dog"), "class_names": ["dog", "cat"]}, {}),
    ({"issame": POSITIVE}, {}),
  ],
)
def test_labels_of_two_kinds(bce_eval, arrays, names):
  expected = bce_eval(logits=SCORES, labels=POSITIVE.astype(int))[1]
  for scores in (SCORES, SCORES[:, None]):
    code, found, _ = bce_eval(logits=scores, **arrays)
    assert (code, found) == (0, expected)


def test_infinite_scores_and_a_bias(bce_eval):
  scores = np.where(SCORES < -1, -np.inf, np.where(SCORES > 2, np.inf, SCORES))
  ranks = np.unique(scores, return_inverse=True)[1]
  code, found, err = bce_eval("--bias=0", logits=scores, labels=POSITIVE)
  assert code == 0
  assert found["auc"] == pytest.approx(roc_auc_score(POSITIVE, ranks), rel=1e-13)
  assert found["accuracy_at_bias"] == ((scores > 0) == POSITIVE).mean()
  assert found["bias"] == 0.0
  infinite = int(np.isposinf(scores).sum())
  assert found["plus_infinity_scores"] == infinite
  assert f"{infinite} of its scores, in {infinite} of 300 samples, are +infinity" in err


def test_scores_that_hardly_differ(bce_eval):
  scores, positive = drawn(5, dtype=np.float64)
  expected = bce_eval(logits=scores, labels=positive)[1]
  for small in (1 + 1e-9 * scores, 1e-12 * scores):
    found = bce_eval(logits=small, labels=positive)[1]
    for name in ("auc", "equal_error_rate", "best_accuracy"):
      assert found[name] == pytest.approx(expected[name], abs=1e-12)


def test_the_table_is_what_a_threshold_gives_back(tmp_path, capsys):
  np.savez(tmp_path / "a.npz", logits=SCORES * np.float32(1e-4) + 1, labels=POSITIVE)
  file, picture = str(tmp_path / "a.npz"), tmp_path / "a.svg"
  assert evaluate.main([file, "--threshold=1.00005", f"--plot={picture}"]) == 0
  table = capsys.readouterr().out
  best = next(x for x in table.splitlines() if x.startswith("t*")).split("interval)")[1].split()[0]
  accuracy = next(x for x in table.splitlines() if x.startswith("accuracy, best")).split()[-2]
  assert "positive" in picture.read_text()
  assert "given, t = 1" in picture.read_text()
  assert evaluate.main([file, "--threshold", best]) == 0
  again = capsys.readouterr().out
  given = next(x for x in again.splitlines() if x.startswith("at the given threshold"))
  assert given.split()[-2] == accuracy
  assert max(len(x) for x in table.splitlines() if str(tmp_path) not in x) <= 80


@pytest.mark.parametrize(
  ("arrays", "argv", "message"),
  [
    (
      {"labels": np.arange(300) % 3},
      [],
      "expected 0 and 1 (or -1 and 1) for one score per sample,",
    ),
    ({"labels": POSITIVE + 1}, [], "got 1, 2; scores of several classes have the shape [samples,"),
    ({"labels": POSITIVE - 1}, [], "for one score per sample, got -1, 0"),
    ({"labels": POSITIVE * 0 + 1}, [], "all 300 labels are positive: expected some of both kinds"),
    ({"labels": POSITIVE * 0.9 + 0.05}, [], "expected whole numbers, got 0.05"),
    ({"labels": np.where(POSITIVE, "cat", "dog")}, [], "two class_names (the second one positive)"),
    (
      {"labels": POSITIVE[1:]},
      [],
      "has shape (299,): expected (300,), one label for each of the 3",
    ),
    ({"labels": POSITIVE, "logits": SCORES * np.nan}, [], "300 of 300 scores are nan"),
    ({"labels": POSITIVE, "logits": SCORES[:0]}, [], "has shape (0,): expected some scores"),
    ({"labels": POSITIVE, "bias": np.zeros(2)}, [], "has shape (2,): expected one number"),
    ({"labels": POSITIVE}, ["--train-counts=1,2"], "--train-counts: "),
    ({"labels": POSITIVE}, ["--pairs=x"], "--pairs: "),
    ({}, [], "has no 'labels': it holds logits (float32 [300])"),
  ],
)
def test_what_is_wrong(bce_eval, arrays, argv, message):
  code, _, err = bce_eval(*argv, **({"logits": SCORES} | arrays))
  assert (code, err.count("\n")) == (2, 1)
  assert message in err
