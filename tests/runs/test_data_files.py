"""A run goes on with the files it was started with, or says which one is another."""

import shutil
import types

import numpy as np
import pytest

from bce_jax.data import sources
from bce_jax.data.pairs import PairList
from bce_jax.runs import data_files, files


def config_for(folder=""):
  return types.SimpleNamespace(
    data=types.SimpleNamespace(folder=str(folder)),
    verification=types.SimpleNamespace(folder=str(folder)),
  )


def described(folder, **options):
  dataset = sources.folder(folder, channels=1, **options)
  return dataset, data_files.describe(dataset, config_for(folder))


@pytest.fixture
def images(image_folder, tmp_path):
  shutil.copytree(image_folder, tmp_path / "images")
  return tmp_path / "images"


@pytest.fixture
def now(images, tmp_path):
  """What differs now from what there was."""
  dataset, before = described(images)
  data_files.write(tmp_path, before)

  def compare(folder=images, **options):
    found, files = described(folder, **options)
    names = (dataset.class_names, found.class_names)
    return data_files.difference(tmp_path, before.digests, files, names)

  return compare


def swap(one, two):
  one.rename(one.parent / "aside")
  two.rename(one)
  (one.parent / "aside").rename(two)


def test_the_same_files_anywhere_are_the_same(images, now, tmp_path):
  assert now() == ""
  assert now(in_memory=False) == ""
  shutil.copytree(images, tmp_path / "elsewhere")
  assert now(tmp_path / "elsewhere") == ""


def relabel(train):
  (train / "digit0" / "03.png").rename(train / "digit1" / "extra.png")


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda f: (f / "digit1" / "05.png").unlink(), "train/digit1/05.png is missing"),
    (lambda f: shutil.copy(f / "digit1/05.png", f / "digit1/a.png"), "train/digit1/a.png is new"),
    (
      lambda f: (f / "digit2" / "00.png").rename(f / "digit2" / "zz.png"),
      "train/digit2/00.png is missing (2 files differ)",
    ),
    (relabel, "train/digit0/03.png is missing (2 files differ)"),
    (
      lambda f: (f / "digit1/04.png").write_bytes((f / "digit1/04.png").read_bytes() + b"more"),
      "bytes and has",
    ),
    # Labels that changed places: the same names, and perhaps the same sizes.
    (lambda f: swap(f / "digit0", f / "digit1"), "train/digit0/00.png ha"),
    (lambda f: swap(f / "digit1/01.png", f / "digit2/01.png"), "train/digit1/01.png ha"),
    (lambda f: swap(f, f.parent / "test"), "train/digit0/00.png is missing"),
  ],
)
def test_the_first_file_that_differs_is_named(images, now, change, told, in_memory):
  change(images / "train")
  assert told in now(in_memory=in_memory)


def test_contents_of_one_size_that_changed_places(images, now):
  """By a checksum, since nothing else tells them apart."""
  one, two = images / "train" / "digit1" / "00.png", images / "train" / "digit1" / "01.png"
  size = max(len(x.read_bytes()) for x in (one, two))
  for path in (one, two):  # what follows a PNG's end is no part of the image
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
  dataset, before = described(images)
  data_files.write(images, before)
  swap(one, two)
  names = (dataset.class_names,) * 2
  told = data_files.difference(images, before.digests, described(images)[1], names)
  assert told == "train/digit1/00.png has other contents (2 files differ)"


def test_a_file_that_moves_another_to_another_split_is_named_itself(images, tmp_path):
  """Splits made of one folder follow the number of files."""
  whole = images / "train"
  dataset, before = described(whole, test_fraction=0.25)
  data_files.write(tmp_path, before)
  (whole / "digit1" / "03.png").unlink()
  files = described(whole, test_fraction=0.25)[1]
  told = data_files.difference(tmp_path, before.digests, files, (dataset.class_names,) * 2)
  assert told.startswith("digit1/03.png is missing")


@pytest.mark.parametrize(
  ("change", "told"),
  [
    (lambda labels, images: labels.__setitem__(5, 7), "image 5 of train was of class '4' and is"),
    (lambda labels, images: images.__setitem__(9, 0), "image 9 of train has other contents"),
  ],
)
def test_images_in_no_files(tmp_path, change, told):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 4, 4, 1), np.uint8)
  labels = np.full(20, 4)
  names = tuple("0123456789")

  def describe():
    source = sources.ArraySource(images.copy(), labels)
    return data_files.describe(sources.Dataset(source, None, source, names), config_for())

  before = describe()
  data_files.write(tmp_path, before)
  change(labels, images)
  # Of two splits that hold the same image, the first is named.
  difference = data_files.difference(tmp_path, before.digests, describe(), (names, names))
  assert difference.startswith(told)


def test_a_list_of_pairs_is_the_same(tmp_path):
  source = sources.ArraySource(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, int))

  def describe(same):
    rows, folds = np.array([[0, 1], [1, 2]]), np.zeros(2, int)
    listed = PairList(("a", "b", "c"), rows, np.array(same), folds)
    dataset = sources.Dataset(source, None, source, ("0",), source, (), listed)
    return data_files.describe(dataset, config_for())

  before = describe([True, False])
  assert data_files.difference(tmp_path, before.digests, describe([True, False]), ((), ())) == ""
  told = data_files.difference(tmp_path, before.digests, describe([True, True]), ((), ()))
  assert "the list of pairs differs" in told


def test_a_list_that_is_damaged_or_gone_is_said(images, now, tmp_path):
  (images / "train" / "digit1" / "05.png").unlink()
  (tmp_path / files.DATASET_FILES).write_bytes(b"\x1f\x8b")
  assert "the files of train differ (dataset_files.gz, which names them, can't be read)" in now()
  (tmp_path / files.DATASET_FILES).unlink()
  assert "can't be read" in now()
