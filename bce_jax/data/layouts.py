"""How a folder of images is laid out: a folder for each class, or those below train, test, …"""

import difflib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from bce_jax.data import search

LAYOUTS = ("auto", "flat", "splits")
VALIDATION = ("val", "valid", "validation", "dev")
_SPLITS = {"train", "training", "test", "testing", *VALIDATION}
_FLAT = "config.data.layout=flat"


class FolderLayout(NamedTuple):
  """Which folders hold which split; all None in a flat layout, a folder for each class.

  Attributes:
    train: name of the folder.
    test: name of the folder.
    validation: name of the folder; None for none.
    others: folders beside them, which are passed over.
  """

  train: str | None = None
  test: str | None = None
  validation: str | None = None
  others: tuple[str, ...] = ()


def layout_of(path: pathlib.Path, layout: str = "auto") -> FolderLayout:
  """Finds out how a folder is laid out.

  Args:
    path: the folder.
    layout: flat, splits, or auto: as its content tells.

  Raises:
    ValueError: where it can be read in two ways, or in none, saying how to tell.
  """
  if layout not in LAYOUTS:
    raise ValueError(f"data.layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
  if not path.is_dir():
    hint = nearest(path.name, search.subfolders(path.parent)[0]) if path.parent.is_dir() else ""
    raise ValueError(f"data.folder {path} is not a folder; expected a folder of images{hint}")
  names = search.subfolders(path)[0]
  if layout == "auto":
    layout = _by_content(path, names)
  if layout == "flat":
    return FolderLayout()
  if "train" not in names:
    raise ValueError(f"{path} has no folder 'train'; expected 'train' and 'test', or {_FLAT}")
  validation = [name for name in VALIDATION if name in names]
  if len(validation) > 1:
    listed = " and ".join(map(repr, validation))
    raise ValueError(f"{path} holds both {listed}; expected one of them")
  test = "test"
  if "test" not in names:
    if not validation:
      raise ValueError(
        f"{path} holds 'train' but no 'test', 'val', 'valid', 'validation' or 'dev'; expected one"
        f" of them, or data.folder {path / 'train'}, of which data.test_fraction is held out"
        + (f"; or {_FLAT}, if 'train' is a class" if len(names) > 1 else "")
      )
    test = validation.pop()
  used = {"train", test, *validation}
  others = tuple(name for name in names if name not in used)
  return FolderLayout("train", test, validation[0] if validation else None, others)


def _by_content(path: pathlib.Path, names: Sequence[str]) -> str:
  """Whether a folder is flat, or has splits."""
  splits = [name for name in names if name.lower() in _SPLITS]
  classes = [name for name in names if name.lower() not in _SPLITS]
  if names and not classes and "train" not in names:
    raise ValueError(
      f"{path} holds {', '.join(names)}; expected 'train' and 'test', or one folder a class"
      f" ({_FLAT}, if these are classes)"
    )
  shapes = {name: _shape(path / name) for name in splits}
  nested = [name for name in splits if shapes[name] == "folders"]
  if "train" not in names:
    if nested:
      raise ValueError(
        f"{path} holds {nested[0]!r}, a folder of folders as a split is, beside {classes[0]!r}, but"
        f" no 'train'; expected 'train' and 'test', or {_FLAT}, if {nested[0]!r} is a class"
      )
    _refuse_splits_in_classes(path, names)
    return "flat"
  if shapes["train"] == "images" and classes and not nested:
    return "flat"
  if shapes["train"] == "folders" or (shapes["train"] == "both" and len(nested) > 0):
    return "splits"
  if shapes["train"] == "none" and not classes:
    return "splits"
  holds = {
    "images": "images, and no folder of them for each class",
    "both": "images beside folders of images",
    "none": "neither images nor folders of them",
  }[shapes["train"]]
  raise ValueError(
    f"{path / 'train'} holds {holds}: expected a folder for each class in it; or {_FLAT}, if"
    f" 'train' is a class; or config.data.layout=splits, if it is the training split"
  )


def _refuse_splits_in_classes(path: pathlib.Path, names: Sequence[str]) -> None:
  inside = [set(search.subfolders(path / name)[0]) for name in names]
  if inside and all("train" in found and found <= _SPLITS for found in inside):
    raise ValueError(
      f"{path / names[0]} holds {', '.join(sorted(inside[0]))}; expected"
      f" {path / 'train' / names[0]}, …: a split holds classes; or {_FLAT} to split them anew"
    )


def _shape(path: pathlib.Path) -> str:
  """What lies directly in a folder: images, folders, both or none."""
  names, passed = search.subfolders(path)
  if passed[search.OUTSIDE]:
    return "both" if names else "images"
  return "folders" if names else "none"


def nearest(name: str, choices: Sequence[str]) -> str:
  """Returns a hint at the choice that looks most alike; empty for none."""
  matches = difflib.get_close_matches(name, choices, n=1)
  return f" (did you mean {matches[0]!r}?)" if matches else ""
