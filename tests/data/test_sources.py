"""Sources: what is read from folders, what is refused, and that every split is fixed."""

import itertools
import pathlib
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bce_jax.data import sources, splits, statistics

EXTRACT = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "extract.py"


def save(path, pixels, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels)).save(path, **options)
  return path


def plain(value, height=4, width=6, channels=3):
  return np.full((height, width, channels), value, np.uint8)


def tree(root, counts, **shape):
  """Writes {"train/cat": 3, …} and returns the root; every image has a value of its own."""
  value = 0
  for name, count in counts.items():
    for i in range(count):
      save(root / name / f"{i:02d}.png", plain(value % 256, **shape))
      value += 1
  return root


def everything(source):
  return source.images(np.arange(len(source)))


def values(source):
  """The value each image of a `tree` was written with."""
  return everything(source)[:, 0, 0, 0].tolist()


def assert_one_line(error, *parts):
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert str(part) in message


@pytest.mark.parametrize("in_memory", [True, False])
def test_folder_names_the_unreadable_file(tmp_path, in_memory):
  tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 2})
  bad = tmp_path / "test" / "b" / "01.png"
  bad.write_bytes(b"no image")
  with pytest.raises(ValueError, match="cannot be read as an image") as error:
    sources.folder(tmp_path, in_memory=in_memory)
  assert_one_line(error, bad)


def test_folder_source_names_a_file_broken_later(tmp_path):
  tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
  train = sources.folder(tmp_path, in_memory=False).train
  bad = tmp_path / "train" / "a" / "01.png"
  bad.write_bytes(bad.read_bytes()[:40])  # the header is whole
  assert train.images(np.array([0])).shape == (1, 4, 6, 3)
  with pytest.raises(ValueError, match="cannot be read as an image") as error:
    train.images(np.array([0, 1]))
  assert_one_line(error, bad)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("odd", ["train/b", "test/b"])
def test_folder_names_the_first_size_that_differs(tmp_path, in_memory, odd):
  tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
  for name in ("00.png", "01.png"):
    save(tmp_path / odd / name, plain(0, 5, 7))
  with pytest.raises(ValueError, match=r"set data\.image_size") as error:
    sources.folder(tmp_path, in_memory=in_memory)
  first = tmp_path / "train" / "a" / "00.png"
  assert_one_line(error, tmp_path / odd / "00.png", "5 x 7", "4 x 6", first)
  dataset = sources.folder(tmp_path, in_memory=in_memory, image_size=3)
  assert dataset.train.image_shape == dataset.test.image_shape == (3, 3, 3)


# Layouts


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("test_name", ["test", "val", "dev"])
def test_folder_with_splits(tmp_path, in_memory, test_name):
  tree(tmp_path, {"train/dog": 2, "train/cat": 3, f"{test_name}/dog": 1, f"{test_name}/cat": 2})
  dataset = sources.folder(tmp_path, in_memory=in_memory)
  assert isinstance(dataset.train, sources.ArraySource if in_memory else sources.FolderSource)
  assert isinstance(dataset.train, sources.Source)
  assert dataset.class_names == ("cat", "dog")
  assert dataset.validation is None
  assert dataset.train.labels.dtype == np.int32
  assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
  assert dataset.test.labels.tolist() == [0, 0, 1]
  assert values(dataset.train) == [2, 3, 4, 0, 1]
  assert values(dataset.test) == [6, 7, 5]
  assert dataset.train.image_shape == (4, 6, 3)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", ["valid", "validation"])
def test_folder_with_validation(tmp_path, in_memory, name):
  tree(tmp_path, {f"{split}/{c}": 2 for split in ("train", "test", name) for c in "ab"})
  dataset = sources.folder(tmp_path, in_memory=in_memory)
  assert values(dataset.train) == [0, 1, 2, 3]
  assert values(dataset.test) == [4, 5, 6, 7]
  assert values(dataset.validation) == [8, 9, 10, 11]
  again = sources.folder(tmp_path, in_memory=in_memory, validation_fraction=0.5)
  assert values(again.train) == [0, 1, 2, 3]
  assert any("data.validation_fraction=0.5 takes nothing more" in note for note in again.notes)


@pytest.mark.parametrize("in_memory", [True, False])
def test_folder_without_splits(tmp_path, in_memory):
  tree(tmp_path, {"a": 10, "b": 20, "c": 1})
  options = {"in_memory": in_memory, "validation_fraction": 0.25}
  dataset = sources.folder(tmp_path, **options)
  split = [values(dataset.train), values(dataset.validation), values(dataset.test)]
  assert sorted(itertools.chain(*split)) == list(range(31))
  assert np.bincount(dataset.test.labels).tolist() == [2, 4]
  assert np.bincount(dataset.validation.labels).tolist() == [2, 4]
  assert np.bincount(dataset.train.labels).tolist() == [6, 12, 1]
  again = sources.folder(tmp_path, **options)
  assert [values(again.train), values(again.validation), values(again.test)] == split
  # Fixed for good, not only within a run.
  assert split[2] == [5, 6, 12, 15, 21, 22]


def test_test_split_does_not_depend_on_validation(tmp_path):
  tree(tmp_path, {"a": 10, "b": 20})
  with_validation = sources.folder(tmp_path, validation_fraction=0.3)
  without = sources.folder(tmp_path)
  assert values(with_validation.test) == values(without.test)
  assert without.validation is None


def test_folder_finds_nested_and_upper_case_but_not_hidden_files(tmp_path):
  tree(tmp_path, {"train/b": 1, "test/a": 1, "test/b": 1})
  save(tmp_path / "train" / "a" / "2" / "x.PNG", plain(12))
  save(tmp_path / "train" / "a" / "10" / "x.TiFf", plain(11))
  save(tmp_path / "train" / "a" / "z.BMP", plain(13))
  save(tmp_path / "train" / "a" / ".hidden.png", plain(99))
  save(tmp_path / "train" / "a" / ".thumbnails" / "x.png", plain(99))
  save(tmp_path / "train" / ".cache" / "x.png", plain(99))
  save(tmp_path / "train" / "__MACOSX" / "a" / "x.png", plain(99))  # of a zip made on a Mac
  (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
  (tmp_path / "annotations").mkdir()
  dataset = sources.folder(tmp_path)
  assert dataset.class_names == ("a", "b")
  assert values(dataset.train) == [11, 12, 13, 0]


def test_folder_reads_every_ending(tmp_path):
  endings = ["png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp", "ppm"]
  for i, ending in enumerate(endings):
    save(tmp_path / "a" / f"{i}.{ending}", plain(100, 8, 8))
  save(tmp_path / "b" / "0.pgm", plain(100, 8, 8)[..., 0])
  dataset = sources.folder(tmp_path)
  images = np.concatenate([everything(dataset.train), everything(dataset.test)])
  assert len(images) == len(endings) + 1
  assert np.abs(images.astype(int) - 100).max() <= 2


def test_memory_limit_decides(tmp_path, monkeypatch):
  tree(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
  needed = 4 * 4 * 6 * 3
  monkeypatch.setattr(sources, "MEMORY_LIMIT", needed)
  assert isinstance(sources.folder(tmp_path).test, sources.ArraySource)
  monkeypatch.setattr(sources, "MEMORY_LIMIT", needed - 1)
  assert isinstance(sources.folder(tmp_path).test, sources.FolderSource)
  assert isinstance(sources.folder(tmp_path, channels=1).test, sources.ArraySource)


@pytest.mark.parametrize(
  ("in_memory", "title"), [(True, "decoding images"), (False, "checking images")]
)
def test_progress_sees_every_file(tmp_path, in_memory, title):
  tree(tmp_path, {"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
  seen = []

  def progress(iterable, *, total, desc):
    assert (total, desc) == (7, title)
    for item in iterable:
      seen.append(item)
      yield item

  sources.folder(tmp_path, in_memory=in_memory, progress=progress, threads=2)
  assert len(seen) == 7


def test_folder_source_survives_pickling(tmp_path):
  tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
  source = sources.folder(tmp_path, in_memory=False, image_size=4, channels=1).train
  copy = pickle.loads(pickle.dumps(source))
  np.testing.assert_array_equal(everything(copy), everything(source))
  np.testing.assert_array_equal(copy.labels, source.labels)


BOTH = {"train/a": 2, "train/b": 2, "test/a": 2, "test/b": 2}


@pytest.mark.parametrize(
  ("counts", "empty", "options", "parts"),
  [
    ({}, [], {}, ["has none", "two or more"]),
    ({"cats": 3}, [], {}, ["only 'cats'"]),
    ({"train/cats": 3, "test/cats": 1}, [], {}, ["/train", "only 'cats'"]),
    (BOTH, ["train/c"], {}, ["train/c", "holds no images"]),
    ({"train/a": 2, "train/b": 2, "test/a": 1}, ["test/b"], {}, ["test/b", "holds no images"]),
    ({"train/a": 2, "train/b": 2}, ["test"], {}, ["/test", "no folders"]),
    (
      {"train/a": 2, "train/b": 2},
      [],
      {},
      ["no 'test', 'val', 'valid', 'validation' or 'dev'", "/train"],
    ),
    ({**BOTH, "val/a": 1, "validation/a": 1}, [], {}, ["both 'val' and 'validation'"]),
    (
      {"train/cat": 2, "train/dog": 2, "test/cats": 1},
      [],
      {},
      ["test/cats", "no class of the training images", "did you mean 'cat'?"],
    ),
    ({"Train/a": 2, "Train/b": 2, "Test/a": 1, "Test/b": 1}, [], {}, ["Test, Train", "'train'"]),
    (BOTH, [], {"validation_fraction": 1.0}, ["data.validation_fraction is 1.0", "< 1"]),
    (BOTH, [], {"validation_fraction": -0.1}, ["data.validation_fraction is -0.1"]),
    (BOTH, [], {"validation_fraction": 0.01}, ["0.01", "takes no image", "largest class has 2"]),
    ({"a": 2, "b": 2}, [], {"test_fraction": 0.0}, ["data.test_fraction is 0"]),
    ({"a": 2, "b": 2}, [], {"test_fraction": 20.0}, ["data.test_fraction is 20.0"]),
    ({"a": 1, "b": 1}, [], {"test_fraction": 0.2}, ["data.test_fraction is 0.2", "takes no image"]),
    (BOTH, [], {"channels": 4}, ["data.channels is 4", "3 (color) or 1 (gray)"]),
    (BOTH, [], {"image_size": 0}, ["data.image_size is 0"]),
  ],
)
def test_folder_refuses(tmp_path, counts, empty, options, parts):
  tree(tmp_path, counts)
  for name in empty:
    (tmp_path / name).mkdir(parents=True)
  with pytest.raises(ValueError, match=r".") as error:
    sources.folder(tmp_path, **options)
  assert_one_line(error, *parts)


def test_folder_that_does_not_exist(tmp_path):
  tree(tmp_path / "flowers", {"a": 1, "b": 1})
  with pytest.raises(ValueError, match="is not a folder") as error:
    sources.folder(tmp_path / "flower")
  assert_one_line(error, tmp_path / "flower", "did you mean 'flowers'?")
  with pytest.raises(ValueError, match="is not a folder"):
    sources.folder(tmp_path / "no" / "such" / "place")


# Splits


@given(
  labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
  fraction=st.floats(0, 0.99),
)
def test_stratified_split(labels, fraction):
  labels = np.array(labels)
  kept, taken = splits.stratified_split(labels, fraction=fraction)
  assert sorted([*kept, *taken]) == list(range(len(labels)))
  for label in np.unique(labels):
    count = np.sum(labels == label)
    expected = min(int(np.floor(fraction * count + 0.5)), count - 1)
    assert np.sum(labels[taken] == label) == expected


def test_stratified_split_is_a_random_choice():
  labels = np.zeros(1000, int)
  _, taken = splits.stratified_split(labels, fraction=0.5)
  _, other = splits.stratified_split(labels, fraction=0.5, seed=1)
  assert 400 < np.sum(taken < 500) * 2 < 600
  assert 200 < len(np.intersect1d(taken, other)) < 300


def test_permutation_is_fixed_for_good():
  assert splits.permutation((1, 1), 6).tolist() == [1, 3, 5, 0, 2, 4]
  assert splits.permutation((2**40, 1), 6).tolist() != splits.permutation((0, 1), 6).tolist()


def test_digits_is_fixed_for_good():
  dataset = sources.digits()
  assert dataset.validation is None
  assert (len(dataset.train), len(dataset.test)) == (1437, 360)
  assert dataset.train.image_shape == (8, 8, 1)
  assert dataset.class_names == tuple("0123456789")
  assert zlib.crc32(dataset.test.labels.astype("<i4").tobytes()) == 4033342956
  assert zlib.crc32(everything(dataset.test).tobytes()) == 723904037


def test_digits_validation_comes_from_train_alone():
  dataset = sources.digits(validation_fraction=0.1)
  assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1292, 145, 360)
  assert zlib.crc32(everything(dataset.validation).tobytes()) == 1703609136
  np.testing.assert_array_equal(everything(dataset.test), everything(sources.digits().test))
  # All 1,797 digits differ, so that images tell whether splits overlap.
  parts = [dataset.train, dataset.validation, dataset.test]
  assert len({image.tobytes() for part in parts for image in everything(part)}) == 1797


def test_digits_is_stratified():
  dataset = sources.digits(validation_fraction=0.1)
  parts = [dataset.train, dataset.validation, dataset.test]
  counts = np.array([np.bincount(part.labels, minlength=10) for part in parts])
  shares = counts / counts.sum(axis=1, keepdims=True)
  assert np.abs(shares - shares[0]).max() < 0.005


def test_digits_values():
  from sklearn.datasets import load_digits

  dataset = sources.digits()
  found = np.sort(np.concatenate([everything(dataset.train), everything(dataset.test)]).ravel())
  grays = np.sort(load_digits().images.ravel())
  assert np.abs(found - grays * 255 / 16).max() <= 0.5
  assert (found.min(), found.max()) == (0, 255)


def test_digits_refuses_a_fraction():
  with pytest.raises(ValueError, match=r"data.validation_fraction is 1.5"):
    sources.digits(validation_fraction=1.5)


# Arrays


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (np.zeros((2, 4, 4, 1)), [0, 1], "images are float64 .*expected uint8"),
    (np.zeros((2, 4, 4), np.uint8), [0, 1], r"\(2, 4, 4\)"),
    (np.zeros((2, 4, 4, 1), np.uint8), [0, 1, 2], r"\(3,\); expected 2 integers"),
    (np.zeros((2, 4, 4, 1), np.uint8), [0.0, 1.0], "labels are float64"),
    (np.zeros((2, 4, 4, 1), np.uint8), [0, -1], "a label is -1"),
  ],
)
def test_array_source_refuses(images, labels, message):
  with pytest.raises(ValueError, match=message):
    sources.ArraySource(images, np.array(labels))


def test_array_source_gives_copies():
  images = np.zeros((3, 2, 2, 1), np.uint8)
  source = sources.ArraySource(images, np.arange(3))
  source.images(np.array([0, 1]))[:] = 7
  assert everything(source).max() == 0


@pytest.mark.parametrize("image_size", [None, 5])
@pytest.mark.parametrize("in_memory", [True, False])
def test_take_gives_some_images_in_the_order_asked(tmp_path, in_memory, image_size):
  tree(tmp_path, {"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1})
  train = sources.folder(tmp_path, in_memory=in_memory, image_size=image_size).train
  chosen = np.array([4, 0, 2])
  taken = train.take(chosen)
  assert type(taken) is type(train)
  assert taken.image_shape == train.image_shape
  np.testing.assert_array_equal(taken.labels, train.labels[chosen])
  np.testing.assert_array_equal(taken.images(np.arange(3)), train.images(chosen))


def test_folder_source_refuses_no_files():
  with pytest.raises(ValueError, match="no image files"):
    sources.FolderSource([], np.zeros(0, int))


# Real data


@pytest.mark.skipif(not EXTRACT.exists(), reason="the faces lie beside the checkout only")
def test_orl_faces(tmp_path):
  subprocess.run([sys.executable, EXTRACT, "orl", tmp_path], check=True, stdout=subprocess.DEVNULL)
  memory = sources.folder(tmp_path / "all", channels=1)
  assert len(memory.class_names) == 40
  assert np.bincount(memory.train.labels).tolist() == [8] * 40
  assert np.bincount(memory.test.labels).tolist() == [2] * 40
  lazy = sources.folder(tmp_path / "all", channels=1, in_memory=False)
  np.testing.assert_array_equal(everything(lazy.test), everything(memory.test))
  np.testing.assert_array_equal(lazy.train.labels, memory.train.labels)
  mean, std, *_ = statistics.channel_statistics(memory.train)
  np.testing.assert_allclose(mean, everything(memory.train).mean() / 255, rtol=1e-5)
  assert 0.1 < std[0] < 0.3
  small = sources.folder(tmp_path / "all", image_size=32)
  assert small.train.image_shape == (32, 32, 3)
  # A face is gray: the three channels agree; and the square keeps its brightness, about.
  pixels = everything(small.train)
  assert np.ptp(pixels, axis=-1).max() == 0
  assert abs(pixels.mean() / 255 - mean[0]) < 0.1
