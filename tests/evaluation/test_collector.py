"""What is kept of the last look at the test split, against what all of it at once would give."""

import errno
import io
import zipfile

import numpy as np
import pytest

from bce_jax import metrics
from bce_jax.data.sources import ArraySource
from bce_jax.evaluation import collector
from bce_jax.evaluation.summary import EvalOutputs
from bce_jax.runs import test_outputs

CLASSES, IMAGES = 14, 403
NAMES = tuple(f"class {k}" for k in range(CLASSES))


def made_split(*, seed=0, diverse=False, size=(8, 8, 1)):
  """Labels, scores, bias, features, training counts and images of a made-up split."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES - 1, IMAGES).astype(np.int32)  # the last class has none
  scores = rng.normal(0, 2, (IMAGES, CLASSES)).astype(np.float32)
  scores[np.arange(IMAGES), labels] += 2
  bias = rng.normal(1, 1, CLASSES) if diverse else np.asarray(1.5)
  features = rng.normal(size=(IMAGES, 6)).astype(np.float32)
  counts = rng.permutation(np.arange(CLASSES) * 10 + 3)
  images = rng.integers(0, 256, (IMAGES, *size), dtype=np.uint8)
  return labels, scores, bias.astype(np.float32), features, counts, images


def pairs(scores, labels):
  """(own, largest other) by brute force."""
  own = np.eye(scores.shape[1], dtype=bool)[labels]
  return scores[own], np.where(own, -np.inf, scores).max(1)


def eval_outputs(labels, scores, bias, features=None, *, whole=False):
  return EvalOutputs(
    *pairs(scores - bias, labels),
    *pairs(scores, labels),
    features=None if whole else features,
    scores=None if whole else scores,
  )


def collected(split, batch_size, *, moments=None, weights=None):
  """The test outputs of a split that passes by in batches."""
  labels, scores, bias, features, counts, images = split
  gathered = collector.ReportCollector(labels, bias, counts)
  for start in range(0, len(labels), batch_size):
    part = slice(start, start + batch_size)
    gathered(start, eval_outputs(labels[part], scores[part], bias, features[part]))
  whole = eval_outputs(labels, scores, bias, whole=True)
  return gathered.test_outputs(whole, moments, weights, ArraySource(images, labels), NAMES)


def equal(a, b, path="outputs"):
  """Two nested tuples of arrays are the same, dtypes and None too."""
  assert type(a) is type(b), path
  if isinstance(a, tuple):
    assert len(a) == len(b), path
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
      equal(x, y, f"{path}.{a._fields[k] if hasattr(a, '_fields') else k}")
  elif isinstance(a, np.ndarray):
    assert a.dtype == b.dtype, path
    np.testing.assert_array_equal(a, b, err_msg=path)
  else:
    assert a == b, path


@pytest.mark.parametrize("diverse", [False, True])
@pytest.mark.parametrize("batch_size", [1, 64, IMAGES])
def test_of_batches_of_any_size_it_is_that_of_all_at_once(diverse, batch_size):
  split = labels, scores, bias, features, counts, _ = made_split(diverse=diverse)
  found = collected(split, batch_size)
  z = scores - bias
  np.testing.assert_array_equal(found.predicted, [int(np.argmax(row)) for row in z])
  assert found.predicted.dtype == np.int32
  for distributions, values in ((found.scores, scores), (found.decisions, z if diverse else None)):
    if values is None:
      assert distributions is None
      continue
    positive, hardest = pairs(values, labels)
    own = np.eye(CLASSES, dtype=bool)[labels]
    sets = (positive, values[~own], hardest)
    for histogram, numbers in zip(distributions[:3], sets, strict=True):
      counted, _ = np.histogram(numbers.astype(np.float64), histogram.edges)
      np.testing.assert_array_equal(histogram.counts, counted)
      assert histogram.total == len(numbers)
    for k in range(CLASSES):
      rows = labels == k
      of_class = (values[rows, k], values[rows][:, np.arange(CLASSES) != k], values[~rows, k])
      for spread, numbers in zip(distributions[3:], of_class, strict=True):
        assert spread.count[k] == numbers.size
        if numbers.size:
          assert (spread.low[k], spread.high[k]) == (numbers.min(), numbers.max())
          assert spread.mean()[k] == pytest.approx(np.mean(numbers, dtype=np.float64))
          assert spread.std()[k] == pytest.approx(np.std(numbers, dtype=np.float64), abs=1e-9)
  rows = collector.map_rows(labels, counts)
  np.testing.assert_array_equal(found.map_features, features[rows])
  np.testing.assert_array_equal(found.map_labels, labels[rows])
  np.testing.assert_array_equal(found.labels, labels)
  np.testing.assert_array_equal(found.train_counts, counts)
  np.testing.assert_array_equal(found.positive, pairs(z, labels)[0])
  np.testing.assert_array_equal(found.scaled_hardest_negative, pairs(scores, labels)[1])
  assert found.class_names == NAMES


def test_geometry_is_that_of_the_moments():
  split = labels, _, _, features, _, _ = made_split()
  weights = np.random.default_rng(1).normal(size=(CLASSES, 6)).astype(np.float32)
  moments = metrics.class_moments(features, labels, num_classes=CLASSES)
  found = collected(split, 100, moments=moments, weights=weights)
  expected = metrics.geometry(moments, weights)
  for name in ("compactness", "separability", "classifier_separability"):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
  assert collected(split, 100).compactness is None


def test_of_very_many_classes_neither_scores_nor_features_are_looked_at():
  labels, scores, bias, _, counts, images = made_split()
  gathered = collector.ReportCollector(labels, bias, counts)
  whole = eval_outputs(labels, scores, bias, whole=True)
  gathered(0, whole)
  found = gathered.test_outputs(whole, None, None, ArraySource(images, labels), NAMES)
  assert found.predicted is None
  assert found.scores is None
  assert len(found.map_features) == len(found.map_labels) == 0
  assert len(found.example_rows)


@pytest.mark.parametrize(
  ("num_classes", "each"), [(1, 2000), (2, 700), (10, 150), (11, 150), (37, 101), (500, 3)]
)
def test_the_map_shows_ten_classes_from_most_to_fewest(num_classes, each):
  rng = np.random.default_rng(num_classes)
  labels = rng.permutation(np.repeat(np.arange(num_classes), each))
  counts = rng.permutation(num_classes) * 5
  rows = collector.map_rows(labels, counts)
  assert (np.diff(rows) > 0).all()
  assert len(rows) <= 1000
  shown, numbers = np.unique(labels[rows], return_counts=True)
  assert len(shown) == min(10, num_classes)
  assert set(numbers) == {min(each, 1000 // len(shown))}
  # With the class of most training images and that of fewest, and between them evenly.
  ranks = np.sort(np.argsort(np.argsort(-counts))[shown])
  assert (ranks[0], ranks[-1]) == (0, num_classes - 1)
  if num_classes > 1:
    gaps = np.diff(ranks)
    assert gaps.max() - gaps.min() <= 1
  for k in shown:  # the first of each
    own = rows[labels[rows] == k]
    np.testing.assert_array_equal(own, np.flatnonzero(labels == k)[: len(own)])


def test_the_map_passes_over_classes_without_test_images():
  labels = np.array([3, 3, 5])
  rows = collector.map_rows(labels, np.arange(12))
  np.testing.assert_array_equal(rows, [0, 1, 2])
  assert len(collector.map_rows(np.zeros(0, int), np.arange(3))) == 0


def test_examples_are_of_the_worst_classes_the_worst_first():
  split = labels, scores, bias, _, _, images = made_split()
  found = collected(split, 50)
  positive, hardest = pairs(scores - bias, labels)
  wrong = hardest >= positive
  share = {k: wrong[labels == k].mean() for k in set(labels.tolist())}
  worst = sorted(share, key=lambda k: (-share[k], k))[:6]
  expected = [row for k in worst for row in np.flatnonzero(wrong & (labels == k))[:6]]
  np.testing.assert_array_equal(found.example_rows, expected)
  np.testing.assert_array_equal(found.example_images, images[expected])


def test_a_split_without_mistakes_has_no_examples():
  labels, scores, bias, features, counts, images = made_split()
  scores[np.arange(IMAGES), labels] = 99
  found = collected((labels, scores, bias, features, counts, images), 50)
  assert len(found.example_rows) == 0
  assert len(found.example_images) == 0


@pytest.mark.parametrize(
  ("size", "small"),
  [
    ((8, 8, 1), (8, 8, 1)),
    ((64, 20, 3), (64, 20, 3)),
    ((65, 65, 3), (64, 64, 3)),
    ((200, 100, 3), (64, 32, 3)),
    ((100, 200, 1), (32, 64, 1)),
    ((3, 500, 3), (1, 64, 3)),
  ],
)
def test_large_examples_are_made_smaller(size, small):
  _, width, channels = size
  # A ramp from left to right, another one in each channel: it stays one.
  ramp = np.linspace(0, 255, width)[None, :, None] * np.linspace(1, 0.5, channels)
  image = np.broadcast_to(np.rint(ramp), size).astype(np.uint8)
  split = (*made_split()[:-1], np.broadcast_to(image, (IMAGES, *size)))
  found = collected(split, IMAGES).example_images
  assert found.dtype == np.uint8
  assert found.shape[1:] == small
  expected = np.linspace(0, 255, small[1])[None, :, None] * np.linspace(1, 0.5, channels)
  assert np.abs(found[0].astype(float) - expected).max() < 6


def test_what_is_written_is_read(make_outputs, tmp_path):
  for options in (
    {},
    {"diverse": True, "pairs": True, "size": (5, 7, 3)},
    {"num_classes": 40},
  ):
    made, _ = make_outputs(**options)
    test_outputs.write(tmp_path, made)
    assert [path.name for path in tmp_path.iterdir()] == ["test_outputs.npz"]
    equal(test_outputs.read(tmp_path), made)
  assert "ünïcödé" in made.class_names
  without = made._replace(
    predicted=None, scores=None, compactness=None, separability=None, classifier_separability=None,
    map_features=np.zeros((0, 1), np.float32), map_labels=np.zeros(0, np.int32),
    example_images=np.zeros((0, 2, 2, 1), np.uint8), example_rows=np.zeros(0, int),
    class_names=("a", "", "名前", *made.class_names[3:]),
  )  # fmt: skip
  test_outputs.write(tmp_path, without)
  equal(test_outputs.read(tmp_path), without)


def test_nothing_but_a_whole_file_is_read(make_outputs, tmp_path):
  made, _ = make_outputs(points=40)
  test_outputs.write(tmp_path, made)
  path = tmp_path / "test_outputs.npz"
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  damaged = [data[:k] for k in np.linspace(0, len(data) - 1, 12).astype(int)]
  for place in rng.integers(0, len(data), 120):
    changed = bytearray(data)
    changed[place] ^= 1 << int(rng.integers(8))
    damaged.append(bytes(changed))
  refused = 0
  for bad in damaged:
    path.write_bytes(bad)
    try:  # a bit of a date in the archive means nothing: then all is as it was
      equal(test_outputs.read(tmp_path), made)
    except ValueError as error:
      assert str(error).startswith(f"{path} is damaged: ")  # noqa: PT017 - either is right
      refused += 1
  assert refused > 100
  path.unlink()
  with pytest.raises(ValueError, match=r"has no test_outputs\.npz"):
    test_outputs.read(tmp_path)


@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("labels", lambda x: x[:-1]),
    ("labels", lambda x: x + 100),
    ("class_names", lambda x: x[:-1]),
    ("class_names", lambda x: None),
    ("predicted", lambda x: x[:-1]),
    ("bias", lambda x: np.zeros(3)),
    ("positive", lambda x: None),
    ("compactness", lambda x: x[:-1]),
    ("map_labels", lambda x: x[:-1]),
    ("example_rows", lambda x: x + 10_000),
    ("example_images", lambda x: x[0]),
    ("scores.positive.counts", lambda x: np.array(["a"], object)),
    ("scores.type_two_by_class.count", lambda x: x[:-1]),
    ("scores.hardest_negative.exponent", lambda x: None),
  ],
)
def test_what_does_not_fit_together_is_refused(make_outputs, tmp_path, name, change):
  made, _ = make_outputs()
  test_outputs.write(tmp_path, made)
  with np.load(tmp_path / "test_outputs.npz") as archive:
    arrays = dict(archive)
  arrays[name] = change(arrays[name])
  if arrays[name] is None:
    del arrays[name]
  np.savez(tmp_path / "test_outputs.npz", **arrays)
  with pytest.raises(ValueError, match="is damaged"):
    test_outputs.read(tmp_path)


class Harmful:
  """Says so when it is unpickled."""

  loaded = False

  def __reduce__(self):
    return setattr, (Harmful, "loaded", True)


def test_nothing_is_unpickled(make_outputs, tmp_path):
  made, _ = make_outputs()
  test_outputs.write(tmp_path, made)
  path = tmp_path / "test_outputs.npz"
  with np.load(path) as archive:
    arrays = dict(archive)
  np.savez(path, **{**arrays, "labels": np.array([Harmful()], object)}, allow_pickle=True)
  with pytest.raises(ValueError, match="damaged"):
    test_outputs.read(tmp_path)
  alone = io.BytesIO()
  np.save(alone, arrays["labels"])
  for data in (np.array([Harmful()], object).dumps(), alone.getvalue()):  # no archive at all
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
      test_outputs.read(tmp_path)
  assert not Harmful.loaded


def test_a_full_disk_leaves_the_old_file(make_outputs, tmp_path):
  """/dev/full is a disk that is always full."""
  old, new = (make_outputs(seed=seed)[0] for seed in (0, 1))
  test_outputs.write(tmp_path, old)
  (tmp_path / "test_outputs.npz.tmp").symlink_to("/dev/full")
  with pytest.raises(OSError, match=r"test_outputs\.npz") as caught:
    test_outputs.write(tmp_path, new)
  assert caught.value.errno == errno.ENOSPC
  assert [path.name for path in tmp_path.iterdir()] == ["test_outputs.npz"]
  equal(test_outputs.read(tmp_path), old)
  assert zipfile.is_zipfile(tmp_path / "test_outputs.npz")


def test_a_folder_that_is_gone_is_named(make_outputs, tmp_path):
  with pytest.raises(OSError, match="gone"):
    test_outputs.write(tmp_path / "gone", make_outputs()[0])
