"""Verification inside a run: of classes never trained on, as scikit-learn and the papers do it."""

import contextlib
import csv
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from bce_jax import config as config_lib
from bce_jax import metrics
from bce_jax.data import sources
from bce_jax.evaluation import embeddings, inference, verification
from bce_jax.runs import checkpoint, files, records, run_config
from bce_jax.training import experiment, loop


@pytest.fixture(scope="module")
def people(tmp_path_factory):
  """Six digits as if they were people: FOLDER/<name>/<name>_0001.png, 12 of each."""
  root = tmp_path_factory.mktemp("people")
  grays, labels = load_digits(return_X_y=True)
  for digit in range(6):
    name = f"person{digit}"
    (root / name).mkdir()
    for number, index in enumerate(np.flatnonzero(labels == digit)[:12], start=1):
      pixels = np.rint(grays[index] * (255 / 16)).astype(np.uint8).reshape(8, 8)
      Image.fromarray(pixels).save(root / name / f"{name}_{number:04d}.png")
  return root


@pytest.fixture
def faces(tiny, people):
  tiny.data.name, tiny.data.folder, tiny.data.channels = "folder", str(people), 1
  tiny.batch_size, tiny.eval_batch_size, tiny.steps = 16, 16, 8
  tiny.model = "resnet8"  # of one that learns too little all images are alike, to rounding
  tiny.embedding = 8
  tiny.eval_every_epochs = 100.0
  return tiny


def cosines(embeddings):
  unit = embeddings.astype(np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  return unit @ unit.T


@pytest.mark.slow
def test_a_run_verifies_the_classes_it_never_saw(faces, people, tmp_path):
  faces.verification.identities = 0.5
  faces.verification.flip = True
  built = experiment.build(faces)
  seen, unseen = set(built.dataset.class_names), set(built.dataset.unseen_names)
  assert len(seen) == len(unseen) == 3
  assert not seen & unseen
  results = loop.train(built, tmp_path / "run")

  with np.load(tmp_path / "run" / files.EMBEDDINGS, allow_pickle=False) as archive:
    kept = dict(archive)
  assert kept["names"].tolist() == list(built.dataset.unseen_names)
  assert np.bincount(kept["labels"]).tolist() == [12, 12, 12]

  # The embeddings are those of the network, by its own modules: image and flipped image added up.
  folder, best = tmp_path / "run", faces.best_metric
  with contextlib.closing(
    checkpoint.Checkpoints(folder, best_metric=best, read_only=True)
  ) as store:
    state, _ = store.restore(8, built.state_sharding.to_restore())
  images = built.dataset.unseen.images(np.arange(36))
  pixels = built.preprocess.evaluate(images)

  def features(x):
    variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats["backbone"]}
    return np.asarray(built.model.backbone.apply(variables, x, train=False)[0], np.float64)

  summed = features(pixels) + features(pixels[:, :, ::-1])
  summed /= np.linalg.norm(summed, axis=1, keepdims=True)
  np.testing.assert_allclose(kept["features"], summed, atol=1e-5)

  scores = cosines(kept["features"])
  rows, columns = np.triu_indices(36, 1)
  same = (kept["labels"][rows] == kept["labels"][columns]).astype(int)
  pair_scores = scores[rows, columns]
  assert results["verification_genuine_pairs"] == same.sum() == 3 * 66
  assert results["verification_impostor_pairs"] == len(same) - same.sum()
  assert results["verification_auc"] == pytest.approx(roc_auc_score(same, pair_scores), abs=1e-3)
  threshold = results["bias"] / faces.scale
  assert results["verification_threshold"] == pytest.approx(threshold, rel=1e-6)
  accepted = pair_scores > threshold
  assert results["verification_true_accept_at_threshold"] == pytest.approx(
    accepted[same == 1].mean(), abs=0.01
  )
  assert results["verification_false_accept_at_threshold"] == pytest.approx(
    accepted[same == 0].mean(), abs=0.01
  )
  first = [0, 12, 24]
  probes = [k for k in range(36) if k not in first]
  nearest = np.argmax(scores[np.ix_(probes, first)], axis=1)
  assert results["verification_rank_one"] == pytest.approx(
    np.mean(nearest == kept["labels"][probes]), abs=0.04
  )
  # What is verified, and how, may be another thing when a checkpoint is evaluated.
  faces.verification.flip = False
  run_config.refuse_other_config(folder, faces, except_keys=config_lib.may_change(on="evaluate"))
  again = loop.evaluate_only(experiment.build(faces, evaluate_only=True), folder)
  assert again["uniform_accuracy"] == results["uniform_accuracy"]
  assert again["verification_auc"] != results["verification_auc"]
  # Every evaluation tells it, and what the run holds is enough for the page.
  evaluations = [r for r in records.read_metrics(tmp_path / "run") if r["split"] == "test"]
  assert all(
    r["verification_auc"] == pytest.approx(results["verification_auc"]) for r in evaluations[-1:]
  )
  assert "equal error rate" in verification.table(results)
  assert json.loads((tmp_path / "run" / "dataset.json").read_text())["class_names"] == sorted(seen)


@pytest.mark.slow
def test_listed_pairs_of_another_folder(faces, people, tmp_path):
  """LFW's protocol: two folds of pairs, each measured at the other's best threshold."""
  rng = np.random.default_rng(0)
  lines = ["2\t10"]
  for _ in range(2):
    for _ in range(10):
      i, j = rng.choice(12, 2, replace=False) + 1
      lines.append(f"person{rng.integers(6)}\t{i}\t{j}")
    for _ in range(10):
      a, b = rng.choice(6, 2, replace=False)
      lines.append(f"person{a}\t{rng.integers(12) + 1}\tperson{b}\t{rng.integers(12) + 1}")
  (tmp_path / "pairs.txt").write_text("\n".join(lines))
  faces.verification.folder = str(people)
  faces.verification.pairs = str(tmp_path / "pairs.txt")
  built = experiment.build(faces)
  results = loop.train(built, tmp_path / "run")
  assert results["verification_genuine_pairs"] == results["verification_impostor_pairs"] == 20
  with np.load(tmp_path / "run" / files.EMBEDDINGS, allow_pickle=False) as archive:
    rows = {path: k for k, path in enumerate(archive["paths"].tolist())}
    scores = cosines(archive["features"])
  found = []
  for line in lines[1:]:
    words = line.split("\t")
    (a, i), (b, j) = (words[:2], words[2:]) if len(words) == 4 else (words[:2], words[::2])
    names = [f"{name}/{name}_{int(number):04d}.png" for name, number in ((a, i), (b, j))]
    found.append((scores[rows[names[0]], rows[names[1]]], len(words) == 3))
  values, same = np.array([x for x, _ in found]), np.array([x for _, x in found])
  folds = metrics.ten_fold_accuracy(values, same, np.arange(40) // 20)
  assert results["verification_fold_accuracy"] == pytest.approx(folds.mean, abs=0.03)
  assert results["verification_fold_threshold"] == pytest.approx(np.mean(folds.thresholds), abs=0.1)
  at = results["verification_threshold"]
  assert results["verification_accuracy_at_threshold"] == pytest.approx(
    np.mean((values > at) == same), abs=0.03
  )


@pytest.mark.slow
def test_embeddings_are_the_same_on_any_devices(faces):
  faces.verification.identities = 0.5
  found = []
  for count in (1, 8):
    built = experiment.build(faces)
    built = built._replace(mesh=mesh_of(count))
    variables = built.init_state().variables
    unseen = built.dataset.unseen
    place = inference.variables_sharding(built.model, unseen.image_shape, built.mesh)
    network = inference.Network(built.model, built.preprocess, place)
    step = network.jit(embeddings.make_embed_step(network, flip=False))
    options = {"batch_size": 16, "workers": 0, "mesh": built.mesh}
    found.append(embeddings.embeddings(step, place.put(variables), unseen, **options))
  assert found[0].shape == (36, 8)
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, rtol=1e-5)


def mesh_of(count):
  return jax.make_mesh((count, 1), ("data", "class"), axis_types=(AxisType.Auto,) * 2,
                       devices=jax.devices()[:count])  # fmt: skip


@pytest.mark.parametrize(
  ("loss", "expected"), [("bce-nu", np.log(10 * 3) / 16), ("bce-nd", None), ("bce-u", None)]
)
def test_the_unified_threshold_is_bias_over_scale(faces, loss, expected):
  faces.verification.identities = 0.5
  faces.loss = loss
  built = experiment.build(faces)
  found = built.evaluator.unified_threshold(built.init_state().variables)
  assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"identities": 0.1}, "verification.identities is 0.1, 1 of 6 classes; expected a share"),
    ({"identities": 0.9}, "verification.identities is 0.9, 5 of 6 classes; expected a share"),
    ({"identities": 1.5}, "config.verification.identities must be a finite number"),
    ({"folder": "x"}, "config.verification.folder is 'x': set config.verification.pairs too"),
    ({"pairs": "x"}, "config.verification.pairs is 'x': set config.verification.folder too"),
    ({"flip": True}, "config.verification.flip is true, without effect"),
    ({"folder": "x", "pairs": "y", "identities": 0.5}, "are both set: expected one"),
    ({"folder": "x", "pairs": "nowhere.txt"}, "nowhere.txt cannot be read as a list of pairs"),
  ],
)
def test_what_cannot_be_verified_is_refused(faces, values, message):
  faces.verification.update(values)
  with pytest.raises(ValueError, match=message):
    experiment.build(faces)


def test_digits_have_no_identities_to_hold_out(tiny):
  tiny.verification.identities = 0.5
  with pytest.raises(ValueError, match=r"config.data.name is 'digits': expected 'folder'"):
    experiment.build(tiny)


def test_a_pair_list_of_images_of_another_size_is_refused(faces, people, tmp_path):
  (tmp_path / "a").mkdir()
  for name in "bc":
    Image.new("L", (9, 9)).save(tmp_path / "a" / f"{name}.png")
  with open(tmp_path / "pairs.csv", "w") as file:
    csv.writer(file).writerows([["path1", "path2", "same"], ["a/b.png", "a/c.png", 1]])
  faces.verification.folder, faces.verification.pairs = str(tmp_path), str(tmp_path / "pairs.csv")
  with pytest.raises(ValueError, match=r"holds images of \(9, 9\).*set config.data.image_size"):
    experiment.build(faces)


def test_unseen_classes_follow_from_their_number_and_every_image_is_in_one_split(people):
  once, again = (sources.folder(people, channels=1, unseen_fraction=0.5) for _ in range(2))
  assert once.unseen_names == again.unseen_names
  assert len(once.train) + len(once.test) + len(once.unseen) == 72
  pixels = [
    source.images(np.arange(len(source))) for source in (once.train, once.test, once.unseen)
  ]
  distinct = {image.tobytes() for part in pixels for image in part}
  assert len(distinct) == 72
  for label, name in enumerate(once.unseen_names):
    own = sorted(x.tobytes() for x in pixels[2][once.unseen.labels == label])
    files = sorted((people / name).iterdir())
    assert own == sorted(np.asarray(Image.open(f))[..., None].tobytes() for f in files)
