"""Folders of images: how they are laid out, what is followed, and what is passed over."""

import os

import numpy as np
import pytest
from PIL import Image

from bce_jax.data import folders, search, sources

NUMBER = iter(range(10**6))


def images(root, **counts):
  """Writes so many images into each folder; '__' stands for '/'."""
  for name, count in counts.items():
    folder = root / name.replace("__", "/")
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
      Image.fromarray(np.full((4, 4), next(NUMBER) % 256, np.uint8)).save(folder / f"{i}.png")
  return root


def listed(path, **options):
  return folders.list_splits(path, **options)


def counts(listing):
  """Images of each class in train, validation and test."""
  number = len(listing.class_names)
  splits = (listing.train, listing.validation, listing.test)
  return [np.bincount(split.labels, minlength=number).tolist() for split in splits]


def refused(path, *parts, **options):
  with pytest.raises(ValueError, match=r".") as error:
    listed(path, **options)
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert part in message
  return message


# Splits


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_validation_folder_is_the_validation_split(tmp_path, name):
  images(
    tmp_path, train__a=3, train__b=2, test__a=1, test__b=1, **{f"{name}__a": 2, f"{name}__b": 1}
  )
  listing = listed(tmp_path)
  assert counts(listing) == [[3, 2], [2, 1], [1, 1]]
  assert listing.notes == (f"{tmp_path}: {name!r} is the validation split",)
  listing = listed(tmp_path, validation_fraction=0.5)  # as many presets have
  assert counts(listing) == [[3, 2], [2, 1], [1, 1]]
  assert listing.notes[0].endswith("split; data.validation_fraction=0.5 takes nothing more")


@pytest.mark.parametrize("name", ["valid", "dev"])
def test_without_a_test_folder_the_other_one_is_the_test_split(tmp_path, name):
  images(tmp_path, train__a=4, train__b=4, **{f"{name}__a": 2, f"{name}__b": 1})
  listing = listed(tmp_path, validation_fraction=0.25)
  assert counts(listing) == [[3, 3], [1, 1], [2, 1]]
  assert listing.notes == (f"{tmp_path} has no folder 'test': {name!r} is the test split",)


def test_other_folders_and_classes_that_lack_images_are_reported(tmp_path):
  images(tmp_path, train__a=1, train__b=1, train__c=1, test__a=1, valid__b=1, extra__a=1, more=2)
  notes = listed(tmp_path).notes
  assert f"{tmp_path}/test has no images of 2 classes (b, c)" in notes
  assert f"{tmp_path}/valid has no images of 2 classes (a, c)" in notes
  assert notes[-1] == f"{tmp_path}: passed over 2 folders (extra, more)"
  images(tmp_path, valid__d=1)
  refused(tmp_path, "valid/d is no class of the training images")


def test_two_validation_folders(tmp_path):
  images(tmp_path, train__a=1, train__b=1, test__a=1, valid__a=1, dev__a=1)
  refused(tmp_path, "both 'valid' and 'dev'")


# A class that is called like a split


def test_classes_called_train_and_test(tmp_path):
  images(tmp_path, bus=5, car=5, train=5)
  listing = listed(tmp_path)
  assert listing.class_names == ("bus", "car", "train")
  assert counts(listing) == [[4, 4, 4], [0, 0, 0], [1, 1, 1]]
  images(tmp_path, test=5)
  assert listed(tmp_path).class_names == ("bus", "car", "test", "train")
  assert listed(tmp_path, layout="flat").class_names == ("bus", "car", "test", "train")
  refused(tmp_path, "train has none", layout="splits")


def test_images_beside_the_classes_of_a_split_are_reported(tmp_path):
  images(tmp_path, train__a=2, train__b=2, test__a=1, test__b=1, train=3)
  (tmp_path / "readme.txt").write_text("")
  listing = listed(tmp_path)
  assert counts(listing) == [[2, 2], [0, 0], [1, 1]]
  assert listing.notes == (f"{tmp_path}: passed over 3 in no class folder, 1 .txt",)


@pytest.mark.parametrize(
  ("content", "parts"),
  [
    ({"train": 2, "test": 2}, ["/train holds images, and no folder", "layout=flat"]),
    ({"train": 2, "car": 2, "test__car": 2}, ["/train holds images, and no", "layout=splits"]),
    ({"train": 2, "train__x": 2, "car": 2}, ["/train holds images beside folders", "layout=flat"]),
    ({"train__x": 2, "train__y": 2, "car": 2}, ["holds 'train' but no 'test'", "layout=flat"]),
    ({"train": 0, "car": 2, "bus": 2}, ["/train holds neither", "layout=flat"]),
    ({"car": 2, "bus": 2, "test__car": 2}, ["'test', a folder of folders", "layout=flat"]),
    ({"Train__a": 2, "Test__a": 2, "more": 2}, ["'Test', a folder of folders", "layout=flat"]),
    ({"a__train": 2, "a__test": 2, "b__train": 2}, ["/a holds test, train;", "layout=flat"]),
    ({"valid__a": 2, "test__a": 2}, ["holds test, valid", "expected 'train'", "layout=flat"]),
  ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, content, parts):
  images(tmp_path, **content)
  refused(tmp_path, *parts)


def test_a_layout_can_be_given(tmp_path):
  images(tmp_path, train__x=5, train__y=5, car=5)
  listing = listed(tmp_path, layout="flat")
  assert listing.class_names == ("car", "train")
  assert counts(listing)[0] == [4, 8]
  refused(images(tmp_path / "flat", a=1, b=1), "no folder 'train'", layout="splits")
  refused(tmp_path, "data.layout is 'deep'", layout="deep")


# What is an image


def test_what_systems_leave_behind_is_no_class(tmp_path):
  images(tmp_path, a=5, b=5)
  names = ["@eaDir", "lost+found", "$RECYCLE.BIN", ".Trashes", "System Volume Information"]
  names += ["__MACOSX", ".ipynb_checkpoints", "#recycle", "@Recycle"]
  for name in names:
    images(tmp_path / name, x=1)
    images(tmp_path / "a" / name, x=1)
  for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
    (tmp_path / "a" / name).write_text("")
  listing = listed(tmp_path)
  assert listing.class_names == ("a", "b")
  assert counts(listing) == [[4, 4], [0, 0], [1, 1]]
  assert listing.notes == (f"{tmp_path}: passed over {2 * 9 + 3} hidden or of the system",)


def test_what_is_passed_over_is_reported_in_one_line(tmp_path):
  images(tmp_path, train__a=2, train__b=2, test__a=1, test__b=1)
  for name in ("x.HEIC", "y.heic", "z.heif", "notes.txt", ".hidden", "table.CSV", "README"):
    (tmp_path / "train" / "a" / name).write_text("BM is no image")
  (tmp_path / "train" / "a" / "gone").symlink_to("nowhere")
  (tmp_path / "stray.jpg").write_text("")
  [note] = listed(tmp_path).notes
  assert "2 .heic (needs pillow-heif, which is not installed), 1 .heif (needs" in note
  assert "\n" not in note
  rest = ["1 .csv", "1 .txt", "1 hidden", "1 linked to nothing", "1 in no class folder"]
  assert all(part in note for part in rest), note
  assert "1 without an ending and no image" in note


def test_every_ending_and_none(tmp_path):
  pixels = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
  formats = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.TIF": "TIFF", "d.Jpg": "JPEG", "f.PNG": "PNG"}
  formats |= {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "tiff": "TIFF", "gif": "GIF"}
  if ".avif" in search.ENDINGS:
    formats |= {"e.avif": "AVIF", "avif": "AVIF"}
  for kind in "xy":
    (tmp_path / kind).mkdir()
    for name, form in formats.items():
      pixels.save(tmp_path / kind / name, format=form)
  dataset = sources.folder(tmp_path)
  assert len(dataset.train) + len(dataset.test) == 2 * len(formats)
  assert dataset.notes == ()
  values = dataset.train.images(np.arange(len(dataset.train)))
  assert np.abs(values.astype(int) - 100).max() <= 3


def test_a_class_of_images_that_cannot_be_read(tmp_path):
  images(tmp_path, a=2, b=2, c=0)
  (tmp_path / "c" / "x.heic").write_text("")
  refused(tmp_path, "/c holds no images", "got 1 .heic (needs pillow-heif", "empty_classes=drop")


# Links


def test_linked_folders_are_followed(tmp_path):
  outside = images(tmp_path / "outside", a=2, b=3, deep__er=4)
  root = images(tmp_path / "set", a=1)
  (root / "a" / "more").symlink_to(outside / "a", target_is_directory=True)
  (root / "b").symlink_to(outside / "b", target_is_directory=True)
  (outside / "b" / "deep").symlink_to("../deep", target_is_directory=True)
  listing = listed(root, test_fraction=0.01 + 1 / 3)
  assert np.sum(counts(listing), axis=0).tolist() == [3, 7]
  assert f"{root}/b/deep/er/0.png" in listing.train.paths + listing.test.paths
  assert listing.notes == ()


def test_links_that_lead_back(tmp_path):
  root = images(tmp_path / "set", a=2, a__z=1, b=2)
  (root / "a" / "self").symlink_to(".", target_is_directory=True)
  (root / "a" / "set").symlink_to("..", target_is_directory=True)
  (root / "a" / "again").symlink_to("z", target_is_directory=True)
  listing = listed(root)
  assert len(listing.train.paths) + len(listing.test.paths) == 5
  # What is there is known by its own name, though the link's comes first.
  assert f"{root}/a/z/0.png" in listing.train.paths + listing.test.paths
  [note] = listing.notes
  assert "2 linked back to a folder above, 1 linked to a folder read already" in note


def test_links_between_two_folders(tmp_path):
  root = images(tmp_path / "set", a=2, b=2)
  other = images(tmp_path / "other", one=1, two=1)
  (root / "a" / "one").symlink_to(other / "one", target_is_directory=True)
  (other / "one" / "two").symlink_to(other / "two", target_is_directory=True)
  (other / "two" / "one").symlink_to(other / "one", target_is_directory=True)
  listing = listed(root)
  assert np.sum(counts(listing), axis=0).tolist() == [4, 2]
  assert "1 linked to a folder read already" in listing.notes[0]


def test_classes_and_splits_that_share_a_folder(tmp_path):
  root = images(tmp_path, a=2, b=2)
  (root / "b" / "a").symlink_to(root / "a", target_is_directory=True)
  refused(root, "the classes 'a' and 'b' share a folder")
  root = images(tmp_path / "set", train__a=2, train__b=2)
  (root / "test").symlink_to(root / "train", target_is_directory=True)
  assert listed(root).notes == (
    f"{root}/train and {root}/test share a folder, through a link: an image is in both splits",
  )


def test_a_folder_that_cannot_be_searched_is_not_passed_over(tmp_path):
  with pytest.raises(ValueError, match=r"gone can't be searched: No such file") as error:
    search.search(tmp_path / "gone")
  assert str(tmp_path) in str(error.value)


def test_names_are_sorted_as_before(tmp_path):
  images(tmp_path, a__2=1, a__10=1, a=3)
  os.rename(tmp_path / "a" / "0.png", tmp_path / "a" / "1.PNG")
  names = search.search(tmp_path / "a").files
  assert names == sorted(["1.PNG", "1.png", "2.png", "10/0.png", "2/0.png"])


# Empty classes


def test_empty_classes(tmp_path):
  images(tmp_path, train__a=2, train__b=0, train__c=2, test__a=1, test__b=3, test__c=1)
  refused(tmp_path, "/train/b holds no images", "empty_classes=drop")
  dropped = listed(tmp_path, empty_classes="drop")
  assert dropped.class_names == ("a", "c")
  assert counts(dropped) == [[2, 2], [0, 0], [1, 1]]
  assert dropped.notes == (
    f"{tmp_path}/train: 1 class (b) without training images dropped, and their 3 images of other"
    " splits",
  )
  kept = listed(tmp_path, empty_classes="keep")
  assert kept.class_names == ("a", "b", "c")
  assert counts(kept) == [[2, 0, 2], [0, 0, 0], [1, 3, 1]]
  assert kept.notes == (f"{tmp_path}/train: 1 class (b) without training images kept",)
  refused(tmp_path, "data.empty_classes is 'hide'", empty_classes="hide")


def test_an_empty_class_of_another_split(tmp_path):
  images(tmp_path, train__a=2, train__b=2, test__a=1, test__b=0)
  refused(tmp_path, "/test/b holds no images")
  assert listed(tmp_path, empty_classes="drop").notes == (
    f"{tmp_path}/test has no images of 1 class (b)",
  )


def test_nothing_but_empty_classes(tmp_path):
  images(tmp_path, a=2, b=0)
  refused(tmp_path, "images of 1 classes; expected two or more", empty_classes="drop")
