"""Files as others name their arrays: taken where one thing can be meant, else what to rename."""

import json
import warnings

import numpy as np
import pytest

from bce_jax.cli import evaluate, labels
from bce_jax.data import arrays

RNG = np.random.default_rng(0)
Y = np.arange(12) % 3
Z = (RNG.normal(size=(12, 3)) + np.eye(3)[Y]).astype(np.float32)
F = RNG.normal(size=(12, 5)).astype(np.float32)
NAMES = np.array(["cat", "dog", "eel"])


@pytest.fixture
def bce_eval(tmp_path, capsys):
  """(exit code, results, what went to stderr) of the arrays of a file."""

  def bce_eval(*argv, **held):
    np.savez(tmp_path / "a.npz", **held)
    code = evaluate.main([str(tmp_path / "a.npz"), *argv, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err.replace(str(tmp_path / "a.npz"), "FILE")

  return bce_eval


@pytest.mark.parametrize(
  "names",
  [
    *[("scores", "targets"), ("predictions", "y"), ("probs", "y_true"), ("outputs", "label")],
    *[("preds", "labels"), ("logits", "target"), ("Logits", "Labels"), ("y_score", "gt")],
  ],
)
def test_scores_by_another_name(bce_eval, names):
  expected = bce_eval(logits=Z, labels=Y)[1]
  code, results, err = bce_eval(**dict(zip(names, (Z, Y), strict=True)))
  assert (code, results) == (0, expected)
  for name, what in zip(names, ("logits", "labels"), strict=True):
    assert (f"taking {name!r} as {what}" in err) == (name != what)
  assert err.count("\n") == 1


@pytest.mark.parametrize(
  "names", [("embeddings", "labels"), ("features", "targets"), ("emb", "y"), ("feats", "identity")]
)
def test_embeddings_by_another_name(bce_eval, names):
  expected = bce_eval(features=F, labels=Y)[1]
  code, results, err = bce_eval(**dict(zip(names, (F, Y), strict=True)))
  assert (code, results, err.count("\n")) == (0, expected, 1)


def test_its_own_name_goes_first_and_what_is_not_used_is_said(bce_eval):
  code, results, err = bce_eval(
    logits=Z, labels=Y, probs=Z * 0, targets=Y * 0, train_count=[1, 2, 3]
  )
  assert (code, results) == (0, bce_eval(logits=Z, labels=Y)[1])
  assert "'probs' is not used" in err
  assert "'targets' is not used" in err
  assert "'train_count' is not used (did you mean 'train_counts'?)" in err
  # Predicted classes beside scores are no scores.
  code, results, err = bce_eval(y_score=Z, y_pred=Z.argmax(1), y_true=Y)
  assert (code, results) == (0, bce_eval(logits=Z, labels=Y)[1])
  # Scores of one number per sample beside embeddings are none of a classifier.
  code, results, err = bce_eval(embeddings=F, scores=F[:, 0], labels=Y)
  assert (code, results) == (0, bce_eval(features=F, labels=Y)[1])


@pytest.mark.parametrize(
  ("held", "message"),
  [
    ({"scores": Z, "probs": Z, "labels": Y}, "no 'logits', but 'scores' and 'probs', each of"),
    ({"logits": Z, "y": Y, "target": Y}, "no 'labels', but 'y' and 'target', each of which"),
    ({"embs": F, "feats": F, "labels": Y}, "no 'features', but 'embs' and 'feats'"),
    (
      {"arr_0": Z, "arr_1": Y},
      "no 'logits' and no 'labels': it holds arr_0 (float32 [12, 3]), arr_1 (int64 [12]); if"
      " 'arr_0' holds the logits, save it as 'logits'; if 'arr_1' holds the labels, save it as",
    ),
    ({"x": F, "y": Y}, "no 'logits': it holds x (float32 [12, 5]), y (int64 [12]); if 'x' holds"),
    ({"preds": Y, "targets": Y}, "'preds' holds one whole number per sample, predicted classes"),
    ({"logits": Z}, "no 'labels': it holds logits (float32 [12, 3])\n"),
    ({"logits": Z, "classes": Y}, "if 'classes' holds the labels, save it as 'labels'"),
    ({"logits": Z, "a": Y, "b": Y, "c": Y[1:]}, "as 'labels': 'a' or 'b'?\n"),
    ({"logits": Z, "targets": Y.astype(object)}, "'targets' holds Python objects (a pickle), whi"),
    ({"logits": Z.T, "labels": Y}, "if the rows of logits are classes, save logits.T"),
    (
      {"logits": Z, "labels": Y, "features": F, "weights": np.zeros((5, 3))},
      "save it transposed, weights.T",
    ),
  ],
)
def test_what_to_rename(bce_eval, held, message):
  code, _, err = bce_eval(**held)
  assert code == 2
  assert message in err
  assert all(line.startswith("bce-eval: FILE") for line in err.splitlines())


def test_what_nobody_needs_may_be_anything(bce_eval):
  assert bce_eval(logits=Z, labels=Y, class_names=NAMES[[0, 0]])[0] == 0
  names = NAMES.astype(object)
  assert bce_eval(logits=Z, labels=Y, class_names=names)[0] == 0
  code, _, err = bce_eval(logits=Z, labels=NAMES[Y], class_names=names)
  assert (code, "'class_names' holds Python objects" in err) == (2, True)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (1, 3, 1)])
def test_a_bias_for_each_class_in_any_shape(bce_eval, shape):
  bias = np.array([0.5, -0.25, 0.125])
  results = bce_eval(logits=Z, labels=Y, bias=bias.reshape(shape))[1]
  z = Z - bias
  above = (z > 0) == (np.arange(3) == Y[:, None])
  assert results["uniform_accuracy_at_bias"] == pytest.approx(above.all(1).mean())
  assert results["bias_max"] == 0.5


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_bias_in_any_shape(bce_eval, shape):
  results = bce_eval(logits=Z, labels=Y, bias=np.full(shape, 0.5))[1]
  assert results["bias"] == 0.5
  assert "bias_max" not in results
  # And where there is but one class, too.
  code, results, _ = bce_eval(logits=Z[:, :1], labels=Y * 0, bias=np.full(shape, 0.5))
  assert (code, results["uniform_accuracy_at_bias"]) == (0, (Z[:, 0] > 0.5).mean())


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (0,), (4,), (3, 2)])
def test_a_bias_of_another_shape(bce_eval, shape):
  code, _, err = bce_eval(logits=Z, labels=Y, bias=np.zeros(shape))
  assert (code, err) == (
    2,
    f"bce-eval: FILE: 'bias' has shape {shape}: expected one number or (3,)\n",
  )


@pytest.mark.parametrize(
  ("names", "classes"),
  [
    (NAMES[Y], {"class_names": NAMES}),
    (NAMES[Y].astype("S"), {"classes": NAMES}),
    (NAMES[Y], {"class_names": NAMES.astype("S")}),
    (
      np.array(["ä", "日本", "c"])[Y],
      {"class_names": np.array(["ä".encode(), "日本".encode(), b"c"])},
    ),
    (np.array([30, 10, 20])[Y], {"classes": [30, 10, 20]}),  # scikit-learn's classes_
    (np.array(["30", "10", "2"])[Y], {"classes": [30, 10, 2]}),
  ],
)
def test_labels_by_the_name_of_the_class(bce_eval, names, classes):
  code, results, _ = bce_eval(logits=Z, labels=names, **classes)
  assert (code, results) == (0, bce_eval(logits=Z, labels=Y)[1])


@pytest.mark.parametrize(
  ("given", "names", "message"),
  [
    (np.array(["cat", "dgo", "eel"])[Y], NAMES, "dgo is not among the 3 class names (4 of 12 lab"),
    (np.array(["cat", "dgo", "eel"])[Y], NAMES, "the nearest is dog\n"),
    (NAMES[Y], NAMES[:2], "'class_names' has shape (2,): expected (3,), the name of each column"),
    (NAMES[Y], NAMES[[0, 1, 1]], "'class_names' holds dog twice"),
    (np.array([b"\xff", b"a", b"b"])[Y], NAMES, "'labels' holds bytes that are no UTF-8 text"),
  ],
)
def test_labels_that_are_no_class(bce_eval, given, names, message):
  code, _, err = bce_eval(logits=Z, labels=given, class_names=names)
  assert (code, err.count("\n")) == (2, 1)
  assert message in err


def test_labels_of_a_rounding(bce_eval):
  expected = bce_eval(logits=Z, labels=Y)[1]
  assert bce_eval(logits=Z, labels=Y * 1.0000001)[1] == expected
  assert bce_eval(logits=Z, labels=Y - 1e-8)[1] == expected
  for one_hot in (np.eye(3)[Y], np.eye(3)[Y] * 1.0000001 - 1e-8, np.eye(3, dtype=bool)[Y]):
    code, results, err = bce_eval(logits=Z, labels=one_hot)
    assert (code, results, "'labels' is one-hot" in err) == (0, expected, True)
  code, _, err = bce_eval(logits=Z, labels=np.eye(3)[Y] * 0.9 + 0.03)
  assert (code, "row 0: expected class ids, or one-hot rows" in err, "0.93" in err) == (
    2,
    True,
    True,
  )
  code, _, err = bce_eval(logits=Z[:, :2], labels=2 * (Y % 2) - 1)
  assert (code, "the first is -1: expected 0 … 1; save (labels + 1) // 2" in err) == (2, True)
  code, _, err = bce_eval(logits=Z, labels=Y + 1e-3)
  assert (code, "expected whole numbers, got 0.001" in err) == (2, True)


def test_labels_that_their_dtype_cannot_hold(tmp_path, capsys):
  def ids(values):
    np.save(tmp_path / "y.npy", values)
    return labels.class_ids(arrays.open_array(tmp_path / "y.npy"), 12, 300)

  ids(Y.astype(np.uint8))
  err = capsys.readouterr().err
  assert "dtype uint8, which holds no more than 255, but there are 300 classes" in err
  with pytest.raises(ValueError, match=r"first is -56: .* int8 can't hold more than 127"):
    ids((Y * 100).astype(np.int8))
  capsys.readouterr()
  ids(Y.astype(np.int16))
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_at_the_end_of_their_dtype(bce_eval, dtype):
  largest = np.finfo(dtype).max
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    overflown = np.where(Z > 0.5, 2 * largest, Z).astype(dtype)
  infinite = np.isposinf(overflown)
  assert infinite.any()
  code, results, err = bce_eval(logits=overflown, labels=Y)
  assert code == 0
  assert results["plus_infinity_scores"] == infinite.sum()
  assert results["plus_infinity_samples"] == infinite.any(1).sum()
  said = f"{infinite.sum()} of its scores, in {infinite.any(1).sum()} of 12 samples, are +infinity"
  assert (said in err, err.count("\n")) == (True, 1)
  cut = np.where(infinite, largest, overflown)
  code, results, err = bce_eval(logits=cut, labels=Y)
  assert results["largest_number_scores"] == infinite.sum()
  assert (f"the largest number of {np.dtype(dtype)}" in err, err.count("\n")) == (True, 1)
  # Classes that were masked, or have a probability of 0: nothing is amiss.
  code, results, err = bce_eval(logits=np.where(Z < -0.5, -np.inf, Z).astype(dtype), labels=Y)
  assert (code, err) == (0, "")
  assert not [name for name in results if "infinity" in name or "largest" in name]
  nothing = np.where(Y[:, None] == 1, -np.inf, Z).astype(dtype)
  code, results, err = bce_eval(logits=nothing, labels=Y)
  assert results["samples_without_finite_score"] == 4
  assert "4 of 12 samples have no score but -infinity" in err


def test_embeddings_at_the_end_of_their_dtype(bce_eval):
  expected = bce_eval(features=F, labels=Y)[1]
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # a warning of numpy would be the user's
    for long in (F * np.float32(2.0**100), F.astype(np.float64) * 2.0**700):
      assert bce_eval(features=long, labels=Y) == (0, expected, "")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    code, _, err = bce_eval(features=(F * 1e5).astype(np.float16), labels=Y)
  assert code == 2
  assert "12 of 12 rows hold nan or infinity, as in float16 is all beyond ±65504" in err
  code, _, err = bce_eval(features=np.clip(F * 1e5, -65504, 65504).astype(np.float16), labels=Y)
  assert (code, "rows hold ±65504, the largest number of float16" in err) == (0, True)
