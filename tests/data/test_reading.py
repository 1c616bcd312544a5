"""Sets with damaged images, or of more than 8 bits: the same in memory and read when asked."""

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from bce_jax.data import images, listed, loader, reading, sources

MODES = pytest.mark.parametrize("in_memory", [True, False])


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def cut(path):
  """Leaves the header whole."""
  path.write_bytes(path.read_bytes()[:-40])


@pytest.fixture
def root(tmp_path):
  """Six training images of each of two classes, three of the other splits, all different."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 6), ("test", 3), ("val", 3)):
    for name in "ab":
      for i in range(count):
        write(tmp_path / split / name / f"{i}.png", rng.integers(0, 256, (6, 6, 3), np.uint8))
  return tmp_path


def everything(source):
  return source.images(np.arange(len(source)))


@MODES
def test_another_image_of_the_class_stands_in(root, in_memory):
  whole = everything(sources.folder(root).train)
  for name in ("a/1", "a/2", "b/5"):
    cut(root / "train" / f"{name}.png")
  with pytest.raises(images.DamagedError, match=r"train/a/1\.png cannot be read"):
    everything(sources.folder(root, in_memory=in_memory).train)
  dataset = sources.folder(root, in_memory=in_memory, skip_damaged=3)
  order = [0, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 6]  # the next of the class, and around
  np.testing.assert_array_equal(everything(dataset.train), whole[order])
  assert np.bincount(dataset.train.labels).tolist() == [6, 6]
  taken = dataset.train.take(np.array([11, 3, 7, 6, 2]))
  np.testing.assert_array_equal(everything(taken), whole[[7, 3, 7, 6, 3]])
  names = {"train/a/1.png", "train/a/2.png", "train/b/5.png"}
  if in_memory:
    assert {one.file for one in dataset.skipped} == names
    with pytest.raises(images.DamagedError, match=r"3 images are damaged, and .*skip_damaged is 2"):
      sources.folder(root, in_memory=True, skip_damaged=2)
  else:
    assert dataset.train.found_damaged().keys() == {1, 2, 11}


@MODES
def test_evaluation_leaves_damaged_images_out(root, in_memory):
  whole = sources.folder(root)
  cut(root / "test" / "a" / "1.png")
  cut(root / "val" / "b" / "2.png")
  dataset = sources.folder(root, in_memory=in_memory, skip_damaged=2)
  assert [one.file for one in dataset.skipped] == ["val/b/2.png", "test/a/1.png"]
  np.testing.assert_array_equal(everything(dataset.test), everything(whole.test)[[0, 2, 3, 4, 5]])
  np.testing.assert_array_equal(everything(dataset.validation), everything(whole.validation)[:-1])
  assert dataset.test.labels.tolist() == [0, 0, 1, 1, 1]
  with pytest.raises(images.DamagedError, match="2 images are damaged"):
    sources.folder(root, in_memory=in_memory, skip_damaged=1)


@MODES
def test_headers_and_the_first_image(root, in_memory):
  whole = everything(sources.folder(root).train)
  (root / "train" / "a" / "0.png").write_bytes(b"no image")
  dataset = sources.folder(root, in_memory=in_memory, skip_damaged=1)
  assert [one.file for one in dataset.skipped] == ["train/a/0.png"]
  np.testing.assert_array_equal(everything(dataset.train)[:2], whole[[1, 1]])


@MODES
def test_a_class_of_damaged_images(root, in_memory):
  for i in range(6):
    cut(root / "train" / "b" / f"{i}.png")
  train = sources.folder(root, in_memory=in_memory, skip_damaged=9).train
  with pytest.raises(images.DamagedError, match="every image of"):
    train.images(np.array([7]))


def test_what_means_nothing_is_not_skipped(root):
  write(root / "train" / "a" / "9.tif", np.zeros((6, 6), np.float32))
  write(root / "train" / "b" / "9.png", np.zeros((6, 7), np.uint8))
  for in_memory in (True, False):
    with pytest.raises(ValueError, match=r"set config\.data\.full_scale"):
      sources.folder(root, in_memory=in_memory, skip_damaged=9)
    with pytest.raises(ValueError, match=r"9\.png is 6 x 7"):
      sources.folder(root, in_memory=in_memory, skip_damaged=9, full_scale=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_name_the_damaged_images(root, workers):
  cut(root / "train" / "a" / "1.png")
  plain = sources.folder(root, in_memory=True, skip_damaged=1).train
  train = pickle.loads(pickle.dumps(sources.folder(root, in_memory=False, skip_damaged=1).train))
  options = {"seed": 0, "batch_size": 4, "first_step": 0, "last_step": 6, "partner_exponent": 1.0}
  batches = list(loader.train_batches(train, workers=workers, **options))
  named = [batch.pop("damaged").tolist() for batch in batches]
  expected = list(loader.train_batches(plain, **options))
  assert [1] in named
  for step, (batch, other) in enumerate(zip(batches, expected, strict=True)):
    assert batch.keys() == other.keys()
    for key, array in batch.items():
      np.testing.assert_array_equal(array, other[key])
    visited = loader.batch_indices(step, seed=0, n=12, batch_size=4)
    assert 1 not in visited or named[step] == [1]


def test_pairs_of_damaged_images_are_left_out(root):
  names = [f"a/{i}.png" for i in range(3)] + [f"b/{i}.png" for i in range(3)]
  rows = [(0, 1, 1), (3, 4, 1), (1, 3, 0), (2, 5, 0)]
  text = "".join(f"{names[i]},{names[j]},{same}\n" for i, j, same in rows)
  (root / "pairs.csv").write_text("path1,path2,same\n" + text)
  cut(root / "test" / "a" / "1.png")
  with pytest.raises(images.DamagedError, match=r"a/1\.png"):
    listed.listed_pairs(root / "pairs.csv", root / "test")
  found = listed.listed_pairs(root / "pairs.csv", root / "test", skip_damaged=1)
  assert [one.file for one in found.skipped] == ["a/1.png"]
  pairs = found.listed
  assert [(pairs.paths[i], pairs.paths[j]) for i, j in pairs.pairs] == [
    ("b/0.png", "b/1.png"),
    ("a/2.png", "b/2.png"),
  ]
  assert pairs.same.tolist() == [True, False]
  kept = [images.decode(str(root / "test" / path)) for path in pairs.paths]
  np.testing.assert_array_equal(everything(found.source), kept)


def test_stand_ins_are_of_the_class():
  labels = np.array([0, 1, 0, 1, 1, 0])
  assert list(reading.others_of_class(labels, 3)) == [4, 1]
  assert list(reading.others_of_class(labels, 5)) == [0, 2]


# More than 8 bits


def deep(root, tops, kind=np.uint16, **options):
  """Writes an image for each largest value; half of them each class."""
  for i, top in enumerate(tops):
    pixels = np.zeros((4, 4), kind)
    pixels[0, 0] = top
    path = root / "ab"[i % 2] / f"{i:02d}.{'tif' if options else 'png'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {key: value[i] if isinstance(value, list) else value for key, value in options.items()}
    Image.fromarray(pixels).save(path, **({"tiffinfo": {281: extra["top"]}} if extra else {}))
  return root


@MODES
@pytest.mark.parametrize(
  ("tops", "parts"),
  [
    ([255] * 6, ["all of 6 images of more than 8 bits", "above 255, of 65535", "full_scale=255"]),
    ([0, 255, 7, 9, 100, 0], ["all of 6 images"]),
  ],
)
def test_eight_bits_in_sixteen_are_refused(tmp_path, in_memory, tops, parts):
  deep(tmp_path, tops)
  with pytest.raises(ValueError, match=r".") as error:
    sources.folder(tmp_path, in_memory=in_memory)
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert part in message
  told = sources.folder(tmp_path, in_memory=in_memory, full_scale=255)
  assert everything(told.train).max() == 255
  assert told.notes == ()
  black = sources.folder(tmp_path, in_memory=in_memory, full_scale=65535)
  assert everything(black.train).max() == 0


@MODES
@pytest.mark.parametrize(
  ("tops", "part"),
  [
    ([4095, 1000, 4000, 50, 3000, 2000], "1 of 6 images of more than 8 bits .* hold no"),
    (
      [4095, 1000, 4000, 2500, 3000, 2000],
      "largest value of 6 images .* is 4095, of 65535 .*=4095",
    ),
    ([60000, 1000, 65535, 300, 9999, 256], None),
  ],
)
def test_dark_sets_are_reported(tmp_path, in_memory, tops, part):
  deep(tmp_path, tops)
  notes = sources.folder(tmp_path, in_memory=in_memory).notes
  assert len(notes) == (part is not None)
  if part:
    assert re.search(part, notes[0])


@MODES
def test_images_of_a_set_have_one_white(tmp_path, in_memory):
  deep(tmp_path / "one", [4095, 4000] * 3, top=4095)
  dataset = sources.folder(tmp_path / "one", in_memory=in_memory)
  assert everything(dataset.train).max() == 255
  deep(tmp_path / "two", [4095, 60000] * 3, top=[4095, 60000] * 3)
  with pytest.raises(ValueError, match=r"says that 4095 is white, and .* 65535, so that") as error:
    sources.folder(tmp_path / "two", in_memory=in_memory)
  assert "\n" not in str(error.value)
  sources.folder(tmp_path / "two", in_memory=in_memory, full_scale=65535)
