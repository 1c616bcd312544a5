"""Lists the image files of a folder by split and class."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bce_jax.data import layouts, search, splits
from bce_jax.data.search import ENDINGS

EMPTY = ("refuse", "drop", "keep")


class Files(NamedTuple):
  """Image files and their class ids, as many of each."""

  paths: list[str]
  labels: np.ndarray

  def at(self, indices: np.ndarray) -> "Files":
    """The files at some places, in this order."""
    return Files([self.paths[i] for i in indices], self.labels[indices])


class Listing(NamedTuple):
  """The files of a folder.

  Attributes:
    train: the training split.
    validation: the validation split; without files where there is none.
    test: the test split.
    class_names: of the labels.
    notes: what was assumed or passed over, a line each.
  """

  train: Files
  validation: Files
  test: Files
  class_names: tuple[str, ...]
  notes: tuple[str, ...]


class _Split(NamedTuple):
  """What a folder of classes holds: the files of each, and what was passed over."""

  path: pathlib.Path
  files: dict[str, list[str]]
  passed: search.Passed
  folders: dict[str, set[tuple[int, int]]]


def joined(files: Sequence[Files]) -> Files:
  """All files of several splits, in their order."""
  paths = [path for split in files for path in split.paths]
  return Files(paths, np.concatenate([split.labels for split in files]))


def of_classes(files: Files, classes: np.ndarray) -> Files:
  """The files of some classes, ascending, which are numbered anew from 0."""
  files = files.at(np.flatnonzero(np.isin(files.labels, classes)))
  return Files(files.paths, np.searchsorted(classes, files.labels).astype(np.int32))


def unseen_classes(n: int, fraction: float) -> np.ndarray:
  """Which of n classes are left out of training, a choice that follows from n and the share."""
  if not fraction:
    return np.zeros(0, np.int64)
  count = round(fraction * n)
  if not 2 <= count <= n - 2:
    raise ValueError(
      f"verification.identities is {fraction}, {count} of {n} classes; expected a share that leaves"
      " two or more classes on each side"
    )
  return np.sort(splits.permutation((splits.SPLIT_SEED, 1), n)[:count])


def list_splits(
  path: pathlib.Path,
  validation_fraction: float = 0.0,
  test_fraction: float = 0.2,
  *,
  layout: str = "auto",
  empty_classes: str = "refuse",
) -> Listing:
  """Lists the images of a folder by split and class.

  Args:
    path: the folder.
    validation_fraction: share of the training images to set apart; of a folder that has a
      validation split nothing is, and this is said.
    test_fraction: share of the images of a flat folder to set apart.
    layout: auto, flat or splits; see `layouts.layout_of`.
    empty_classes: what becomes of a class without training images: refuse, drop or keep.

  Raises:
    ValueError: for another layout, or a class without images.
  """
  if empty_classes not in EMPTY:
    raise ValueError(f"data.empty_classes is {empty_classes!r}; expected {', '.join(EMPTY)}")
  found = layouts.layout_of(path, layout)
  beside = search.Passed()
  if found.train is None:
    if test_fraction == 0:
      raise ValueError(f"data.test_fraction is 0 and {path} has no test split; expected 0 < f < 1")
    train, others = _read_split(path), []
  else:
    assert found.test is not None
    beside = search.subfolders(path)[1]
    names = [found.test, *([found.validation] if found.validation else [])]
    train, others = _read_split(path / found.train), [_read_split(path / name) for name in names]
  class_names, notes = _choose_classes(train, others, empty_classes)
  listed = [_files(split, class_names, train, empty_classes, notes) for split in (train, *others)]
  if found.validation:
    files, test, validation = listed
    note = f"{path}: {found.validation!r} is the validation split"
    if validation_fraction:
      note += f"; data.validation_fraction={validation_fraction} takes nothing more"
    notes.insert(0, note)
  else:
    files, test = listed if found.train else _taken(listed[0], test_fraction, "data.test_fraction")
    files, validation = _taken(files, validation_fraction, "data.validation_fraction")
    if found.test not in (None, "test"):
      notes.insert(0, f"{path} has no folder 'test': {found.test!r} is the test split")
  notes += _shared([train, *others])
  notes += _passed_over(path, found.others, [beside, *(split.passed for split in (train, *others))])
  return Listing(files, validation, test, class_names, tuple(notes))


def _taken(files: Files, fraction: float, option: str) -> tuple[Files, Files]:
  kept, taken = splits.held_out(files.labels, fraction, option)
  return files.at(kept), files.at(taken)


def _read_split(path: pathlib.Path) -> _Split:
  """Searches the folders of classes in a folder."""
  names, passed = search.subfolders(path)
  found = {name: search.search(path / name) for name in names}
  seen: dict[tuple[int, int], str] = {}
  for name, one in found.items():
    for folder in one.folders:
      other = seen.setdefault(folder, name)
      if other != name:
        raise ValueError(
          f"{path}: the classes {other!r} and {name!r} share a folder, through a link: expected"
          " each image in one class"
        )
  files = {name: [str(path / name / file) for file in found[name].files] for name in names}
  passed = search.total([passed, *(one.passed for one in found.values())])
  return _Split(path, files, passed, {name: one.folders for name, one in found.items()})


def _choose_classes(
  train: _Split, others: Sequence[_Split], empty_classes: str
) -> tuple[tuple[str, ...], list[str]]:
  """Returns the names of the classes, and what is to be said of empty ones."""
  path, names = train.path, list(train.files)
  if len(names) < 2:
    found = f"only {names[0]!r}" if names else "none"
    raise ValueError(f"{path} has {found}; expected two or more folders of images, one per class")
  empty = [name for name in names if not train.files[name]]
  if not empty:
    return tuple(names), []
  if empty_classes == "refuse":
    _refuse_empty(path / empty[0], more=len(empty) - 1)
  if empty_classes == "keep":
    return tuple(names), [f"{path}: {_several('class', empty)} without training images kept"]
  names = [name for name in names if name not in empty]
  if len(names) < 2:
    raise ValueError(f"{path} has images of {len(names)} classes; expected two or more classes")
  lost = sum(len(split.files.get(name, ())) for split in others for name in empty)
  also = f", and their {lost:,} images of other splits" if lost else ""
  dropped = f"{path}: {_several('class', empty)} without training images dropped{also}"
  return tuple(names), [dropped]


def _refuse_empty(path: pathlib.Path, more: int = 0) -> None:
  passed = search.describe(search.search(path).passed)
  raise ValueError(
    f"{path} holds no images{f', and {more:,} other folders too' if more else ''}; expected files"
    f" {' '.join(ENDINGS)}{f', got {passed}' if passed else ''}; config.data.empty_classes=drop"
    " or keep allows it"
  )


def _shared(read: Sequence[_Split]) -> list[str]:
  """Says of splits that hold the same folder, through a link, that they do."""
  return [
    f"{one.path} and {other.path} share a folder, through a link: an image is in both splits"
    for one, other in itertools.combinations(read, 2)
    if set().union(*one.folders.values()) & set().union(*other.folders.values())
  ]


def _several(word: str, names: Sequence[str], most: int = 5) -> str:
  """ "2 classes (a, b)"."""
  plural = "es" if word.endswith("s") else "s"
  listed = ", ".join(names[:most]) + (", …" if len(names) > most else "")
  return f"{len(names):,} {word}{plural if len(names) > 1 else ''} ({listed})"


def _files(
  split: _Split,
  class_names: tuple[str, ...],
  train: _Split,
  empty_classes: str,
  notes: list[str],
) -> Files:
  """Lists the images of a split, class by class, in the order of their names."""
  ids = {name: index for index, name in enumerate(class_names)}
  if not split.files:
    strays = search.describe(split.passed)
    raise ValueError(
      f"{split.path} has no folders; expected a folder of images for each class"
      + (f", got {strays}" if strays else "")
    )
  paths: list[str] = []
  labels: list[int] = []
  for name, files in split.files.items():
    if name not in ids:
      if name in train.files:  # it was dropped
        continue
      raise ValueError(
        f"{split.path / name} is no class of the training images; expected one of their"
        f" {len(ids)} classes{layouts.nearest(name, class_names)}"
      )
    if not files and empty_classes == "refuse":
      _refuse_empty(split.path / name)
    paths += files
    labels += [ids[name]] * len(files)
  if split is not train:
    missing = [name for name in class_names if not split.files.get(name)]
    if missing:
      notes.append(f"{split.path} has no images of {_several('class', missing)}")
  return Files(paths, np.asarray(labels, np.int32))


def _passed_over(
  path: pathlib.Path, folders: Sequence[str], parts: Sequence[search.Passed]
) -> list[str]:
  """The line that says what was passed over, if anything was."""
  texts = [_several("folder", folders)] if folders else []
  passed = search.describe(search.total(parts))
  if passed:
    texts.append(passed)
  return [f"{path}: passed over {', '.join(texts)}"] if texts else []
