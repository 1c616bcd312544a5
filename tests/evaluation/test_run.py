"""A trained run from Python: what `bce_jax.load` gives is what bce-predict and bce-eval say."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, log_softmax

import bce_jax
from bce_jax.training import experiment, loop


@pytest.fixture(scope="module")
def trained(make_tiny, tmp_path_factory):
  """A run of a few steps, and the images of its test split."""
  config = make_tiny()
  workdir = tmp_path_factory.mktemp("load") / "run"
  built = experiment.build(config)
  loop.train(built, workdir)
  test = built.dataset.test
  return workdir, test.images(np.arange(len(test))), test.labels


@pytest.fixture(scope="module")
def run(trained):
  return bce_jax.load(str(trained[0]))


@pytest.mark.slow
def test_predictions_are_those_that_the_run_was_evaluated_by(trained, run):
  workdir, images, labels = trained
  found = run.predict(images, top_k=3)
  results = json.loads((workdir / "results.json").read_text())
  z = found.scores.astype(np.float64) - results["bias"]
  right = np.mean(z.argmax(1) == labels)
  assert right == pytest.approx(results["sample_wise_accuracy"])
  np.testing.assert_array_equal(found.reject, (z <= 0).all(1))
  assert np.mean(found.reject) == pytest.approx(results["none_above_bias"])
  expected = [
    "none" if no else run.class_names[k] for k, no in zip(z.argmax(1), found.reject, strict=True)
  ]
  assert list(found.labels) == expected
  np.testing.assert_allclose(found.probability, expit(z), atol=1e-6)
  for row, ranked in zip(found.scores, found.top_k, strict=True):
    order = np.argsort(-row, kind="stable")[:3]
    assert [name for name, _ in ranked] == [run.class_names[k] for k in order]
    assert [score for _, score in ranked] == [float(row[k]) for k in order]
  assert run.threshold == np.float32(results["bias"])
  assert run.results["uniform_accuracy"] == results["uniform_accuracy"]
  assert run.config.loss == "bce-nu"


def test_another_threshold_rejects_by_it(trained, run):
  _, images, _ = trained
  top = run.predict(images).scores.max(1)
  middle = float(np.median(top))
  found = run.predict(images, threshold=middle, reject="nothing")
  np.testing.assert_array_equal(found.reject, top <= middle)
  assert found.labels.count("nothing") == found.reject.sum()
  per_class = np.where(np.arange(10) == 3, -1e9, 1e9)
  assert set(run.predict(images[:5], threshold=per_class).labels) == {"3"}


def test_a_folder_and_a_list_of_files_are_read_as_in_training(trained, run, tmp_path):
  _, images, _ = trained
  for k in range(40):
    Image.fromarray(images[k, :, :, 0]).save(tmp_path / f"{k:02d}.png")
  (tmp_path / "broken.png").write_bytes(b"no image")
  found = run.predict(tmp_path)
  np.testing.assert_allclose(found.scores, run.predict(images[:40]).scores, rtol=1e-5, atol=1e-5)
  assert [name[-6:] for name in found.files] == [f"{k:02d}.png" for k in range(40)]
  assert list(found.errors) == [str(tmp_path / "broken.png")]
  two = run.predict([tmp_path / "03.png", tmp_path / "01.png"])
  np.testing.assert_allclose(two.scores, found.scores[[3, 1]], rtol=1e-5, atol=1e-5)
  with pytest.raises(ValueError, match=r"broken\.png"):
    run.features(tmp_path)


def test_features_give_the_scores(trained, run):
  """γ · cos of features and weights, by numpy."""
  _, images, _ = trained
  features = run.features(jnp.asarray(images[:300]))
  assert features.dtype == np.float32
  scores = run.predict(images[:300]).scores
  x = features / np.linalg.norm(features, axis=1, keepdims=True)
  # The weights that give these scores, by least squares, are the same for other images.
  w, *_ = np.linalg.lstsq(x[:200], scores[:200], rcond=None)
  np.testing.assert_allclose(x[200:] @ w, scores[200:], atol=2e-2)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda x: x / 255, r"images are float64 .*in 0 … 1: np\.rint\(255 \* images\)"),
    (lambda x: x.astype(np.float32), "images are float32 .*expected uint8"),
    (lambda x: x.astype(np.int64), r"images are int64 .*expected uint8 \[n, 8, 8, 1\] with values"),
    (lambda x: (x > 99).astype(np.uint8), "no value but 0 and 1"),
    (lambda x: x[..., 0], r"images are uint8 \(4, 8, 8\): expected uint8 \[n, 8, 8, 1\]"),
    (lambda x: x[:, :7], r"images are uint8 \(4, 7, 8, 1\): expected"),
    (lambda x: x[0], r"images are uint8 \(8, 8, 1\): expected .*a single one is images\[None\]"),
    (lambda x: np.moveaxis(x, 3, 1), r"\(4, 1, 8, 8\): .*images\.transpose\(0, 2, 3, 1\)"),
    (lambda x: [1, 2], "images are a list: expected an array"),
    (
      lambda x: [Image.fromarray(y[..., 0]) for y in x],
      r"images are a list: .*np\.stack\(images\)",
    ),
    (lambda x: Image.fromarray(x[0, ..., 0]), "images are a Image: expected an array"),
    (lambda x: None, "images are a NoneType: expected an array"),
    (lambda x: "/no/such", "/no/such does not exist"),
    (lambda x: [], "no images in an empty list"),
  ],
)
def test_what_is_no_such_image_is_refused(trained, run, change, message):
  with pytest.raises(ValueError, match=message):
    run.predict(change(trained[1][:4]))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"top_k": 11}, r"top_k is 11: expected 1 … 10"),
    ({"top_k": 2.0}, r"top_k is 2.0: expected 1 … 10"),
    ({"threshold": "high"}, "threshold is 'high': expected a number, or one per class"),
    ({"reject": "3"}, "which is a class"),
    ({"threshold": float("nan")}, "threshold is nan: expected finite numbers"),
    ({"threshold": np.zeros(3)}, r"threshold has shape \(3,\): expected a number or \(10,\)"),
  ],
)
def test_options_that_can_not_be(trained, run, options, message):
  with pytest.raises(ValueError, match=message):
    run.predict(trained[1][:4], **options)


def test_of_a_softmax_loss_probabilities_sum_to_one(trained, run, monkeypatch):
  config = run.config.copy_and_resolve_references()
  config.loss = "soft-nu"
  monkeypatch.setattr(run, "config", config)
  found = run.predict(trained[1][:20])
  z = found.scores - run.threshold
  np.testing.assert_allclose(found.probability, np.exp(log_softmax(z, axis=1)), rtol=1e-4)


def test_a_run_that_has_not_ended_has_no_results(trained, tmp_path):
  import shutil

  shutil.copytree(trained[0], tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()
  loaded = bce_jax.load(tmp_path / "run")
  assert loaded.results is None
  assert "not ended" in repr(loaded)


@pytest.mark.parametrize(("name", "message"), [("gone", "not a folder"), ("", "no config.json")])
def test_what_is_no_run_folder_is_refused(tmp_path, name, message):
  with pytest.raises(ValueError, match=message):
    bce_jax.load(tmp_path / name)
  with pytest.raises(ValueError, match="workdir is None: expected a run folder"):
    bce_jax.load(None)
  with pytest.raises(ValueError, match="expected 'latest' or 'best'"):
    bce_jax.load(tmp_path, checkpoint="last")
