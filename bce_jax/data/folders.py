"""Which files of a folder are which class and which split."""

import difflib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bce_jax.data import splits

# What a file really holds is told by its first bytes, not by its name: see `images`.
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Files(NamedTuple):
  """Image files and their class ids, as many of each."""

  paths: list[str]
  labels: np.ndarray

  def at(self, indices: np.ndarray) -> "Files":
    """The files at some places, in this order."""
    return Files([self.paths[i] for i in indices], self.labels[indices])


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
  path: pathlib.Path, validation_fraction: float, test_fraction: float
) -> tuple[Files, Files, Files, tuple[str, ...]]:
  """Returns the files of train, validation (none, perhaps) and test, and the class names."""
  if not path.is_dir():
    hint = _nearest(path.name, _folders(path.parent)) if path.parent.is_dir() else ""
    raise ValueError(f"data.folder {path} is not a folder; expected a folder of images{hint}")
  names = _folders(path)
  validation = None
  if "train" in names:
    test_name, validation_name = _split_names(path, names)
    class_names = _class_names(path / "train")
    train = _list_files(path / "train", class_names)
    test = _list_files(path / test_name, class_names)
    if validation_name:
      validation = _list_files(path / validation_name, class_names)
  else:
    if names and {name.lower() for name in names} <= _SPLIT_NAMES:
      raise ValueError(
        f"{path} holds {', '.join(names)}; expected 'train' and 'test', or one folder a class"
      )
    if test_fraction == 0:
      raise ValueError(f"data.test_fraction is 0 and {path} has no test split; expected 0 < f < 1")
    class_names = _class_names(path)
    everything = _list_files(path, class_names)
    kept, taken = splits.held_out(everything.labels, test_fraction, "data.test_fraction")
    train, test = everything.at(kept), everything.at(taken)
  if validation is None:
    kept, taken = splits.held_out(train.labels, validation_fraction, "data.validation_fraction")
    train, validation = train.at(kept), train.at(taken)
  elif validation_fraction:
    raise ValueError(
      f"data.validation_fraction is {validation_fraction}; expected 0, since {path} has a"
      " validation folder of its own"
    )
  return train, validation, test, class_names


def _split_names(path: pathlib.Path, names: Sequence[str]) -> tuple[str, str | None]:
  """Returns which folders hold the test split and, perhaps, the validation split."""
  validation = [name for name in ("val", "validation") if name in names]
  if len(validation) == 2:
    raise ValueError(f"{path} holds both 'val' and 'validation'; expected one of them")
  if "test" in names:
    return "test", validation[0] if validation else None
  if not validation:
    raise ValueError(
      f"{path} holds 'train' but no 'test', 'val' or 'validation'; expected one of them, or"
      f" data.folder {path / 'train'}, of which data.test_fraction is held out"
    )
  return validation[0], None


def _folders(path: pathlib.Path) -> list[str]:
  return sorted(
    entry.name for entry in path.iterdir() if not _passed_over(entry.name) and entry.is_dir()
  )


def _passed_over(name: str) -> bool:
  """What is hidden, and what a zip file made on a Mac holds beside the images."""
  return name.startswith(".") or name == "__MACOSX"


def _class_names(path: pathlib.Path) -> tuple[str, ...]:
  names = _folders(path)
  if len(names) < 2:
    found = f"only {names[0]!r}" if names else "none"
    raise ValueError(f"{path} has {found}; expected two or more folders of images, one a class")
  return tuple(names)


def _list_files(path: pathlib.Path, class_names: tuple[str, ...]) -> Files:
  """Lists the images of a split, class by class, in the order of their names."""
  ids = {name: index for index, name in enumerate(class_names)}
  names = _folders(path)
  if not names:
    raise ValueError(f"{path} has no folders; expected a folder of images for each class")
  paths: list[str] = []
  labels: list[int] = []
  for name in names:
    if name not in ids:
      raise ValueError(
        f"{path / name} is no class of the training images; expected one of their"
        f" {len(ids)} classes{_nearest(name, class_names)}"
      )
    files = sorted(walk(path / name))
    if not files:
      raise ValueError(f"{path / name} holds no images; expected files {' '.join(ENDINGS)}")
    paths += [str(path / name / file) for file in files]
    labels += [ids[name]] * len(files)
  return Files(paths, np.asarray(labels, np.int32))


def walk(path: pathlib.Path) -> Iterator[str]:
  """Yields the images below `path`, named from there with '/', which sorts alike everywhere.

  By their endings, `ENDINGS`. Folders within are searched too; hidden files are passed over.

  Raises:
    ValueError: for a folder that can't be searched: its images would be missing without a word.
  """

  def refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} can't be searched: {error.strerror}")

  for parent, folders, files in os.walk(path, onerror=refuse):
    folders[:] = [name for name in folders if not _passed_over(name)]
    for name in files:
      if name.lower().endswith(ENDINGS) and not name.startswith("."):
        yield (pathlib.Path(parent) / name).relative_to(path).as_posix()


def _nearest(name: str, choices: Sequence[str]) -> str:
  matches = difflib.get_close_matches(name, choices, n=1)
  return f" (did you mean {matches[0]!r}?)" if matches else ""
