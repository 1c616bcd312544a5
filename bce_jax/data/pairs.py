"""Lists of pairs to verify: the protocol of LFW (pairs.txt), or a simple CSV file.

Only the list is read, no image: embed `paths` in their order, and `bce_jax.metrics.pair_scores`
takes the embeddings and `pairs`, `ten_fold_accuracy` the scores, `same` and `folds`.

Source: Huang et al., Labeled Faces in the Wild, University of Massachusetts technical report 07-49,
2007; the file format is described at the set's home page.
"""

import csv
import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

_HEADERS = (["path1", "path2", "same"], ["path1", "path2", "same", "fold"])
_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".webp")  # looked for in this order
_SAME = {"1": True, "true": True, "0": False, "false": False}


class PairList(NamedTuple):
  """Pairs of images.

  Attributes:
    paths: the distinct images in the order they are named in, relative to their folder, with /.
    pairs: two indices into `paths` for each pair.
    same: whether the pair shows one identity.
    folds: the fold each pair belongs to, from 0.
  """

  paths: tuple[str, ...]
  pairs: Int64[np.ndarray, "n 2"]
  same: Bool[np.ndarray, "n"]
  folds: Int64[np.ndarray, "n"]


def read(file: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> PairList:
  r"""Reads a list of pairs in either form; the first line tells which.

  The form of LFW, fields separated by tabs (or by spaces, in a line without a tab). The first line
  gives the number of folds and of pairs n in one (or n alone: a single fold); 2n lines a fold
  follow, n of one identity, "name i j", and n of two, "name1 i name2 j". Image i of a name is
  name/name_000i.jpg, or with another ending where `folder` has that: .png, .jpeg, .bmp, .webp.

  The CSV form has the header "path1,path2,same" or "path1,path2,same,fold"; same is 1, 0, true or
  false, fold an integer ≥ 0. Without folds all pairs are in fold 0.

  Args:
    file: the list, UTF-8.
    folder: where the images are: every one must be there. None: nothing is looked for.

  Returns:
    `PairList`.

  Raises:
    ValueError: for a file that cannot be read or a line of another form, with its number; for an
      image that is not in `folder`.

  >>> import tempfile
  >>> text = "1\t1\nAda\t1\t2\nAda\t2\tBob\t1\n"
  >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
  ...   _ = file.write(text)
  ...   file.flush()
  ...   read(file.name)
  PairList(paths=('Ada/Ada_0001.jpg', 'Ada/Ada_0002.jpg', 'Bob/Bob_0001.jpg'),
  pairs=array([[0, 1], [1, 2]]), same=array([ True, False]), folds=array([0, 0]))
  """
  lines = _lines(file)
  root = None if folder is None else pathlib.Path(folder)
  header = _csv_fields(lines[0]) if lines else []
  is_csv = header[:1] == ["path1"]
  if is_csv and header not in _HEADERS:
    wanted = " or ".join(",".join(names) for names in _HEADERS)
    raise ValueError(f"{file}, line 1: expected {wanted}, got {lines[0]!r}")
  sizes = None if is_csv else _fold_sizes(file, lines)
  index: dict[str, int] = {}
  rows, same, folds = [], [], []
  for number, line in enumerate(lines[1:], start=2):
    try:
      if is_csv:
        first, second, is_same, fold = _csv_pair(line, len(header), root)
      else:
        first, second, is_same = _lfw_pair(line, root)
        fold = (number - 2) // (2 * sizes[1]) if sizes else 0
    except ValueError as error:
      raise ValueError(f"{file}, line {number}: {error}") from None
    rows.append([index.setdefault(path, len(index)) for path in (first, second)])
    same.append(is_same)
    folds.append(fold)
  if sizes:
    _check_folds(file, np.array(same), *sizes)
  elif not rows:
    raise ValueError(f"{file} holds no pair: expected some after its first line")
  return PairList(tuple(index), np.array(rows, np.int64), np.array(same), np.array(folds, np.int64))


def _lines(file: str | os.PathLike[str]) -> list[str]:
  try:
    text = pathlib.Path(file).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    raise ValueError(f"{file} cannot be read as a list of pairs: {reason}") from error
  return text.rstrip().split("\n")


def _fold_sizes(file: str | os.PathLike[str], lines: list[str]) -> tuple[int, int]:
  """(folds, pairs of one identity in each), from the first line; the others must agree with it."""
  fields = lines[0].split()
  if len(fields) not in (1, 2) or not all(x.isdecimal() and int(x) for x in fields):
    raise ValueError(
      f"{file}, line 1: expected the number of folds and of pairs, such as '10 300', or the header"
      f" {','.join(_HEADERS[0])}, got {lines[0]!r}"
    )
  folds, size = (1, int(fields[0])) if len(fields) == 1 else (int(fields[0]), int(fields[1]))
  if len(lines) - 1 != 2 * folds * size:
    raise ValueError(
      f"{file} has {len(lines) - 1} lines after the first, expected 2 · {folds} · {size} ="
      f" {2 * folds * size} pairs"
    )
  return folds, size


def _check_folds(file: str | os.PathLike[str], same: np.ndarray, folds: int, size: int) -> None:
  counts = same.reshape(folds, -1).sum(1)
  wrong = np.flatnonzero(counts != size)
  if len(wrong):
    fold, start = wrong[0], 2 + 2 * size * wrong[0]
    raise ValueError(
      f"{file}, lines {start} to {start + 2 * size - 1}: fold {fold + 1} has {counts[fold]} pairs"
      f" of one identity, expected {size}"
    )


def _lfw_pair(line: str, root: pathlib.Path | None) -> tuple[str, str, bool]:
  fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
  if len(fields) == 3:
    name, first, second = fields
    return _lfw_path(name, first, root), _lfw_path(name, second, root), True
  if len(fields) == 4:
    name, first, other, second = fields
    return _lfw_path(name, first, root), _lfw_path(other, second, root), False
  raise ValueError(f"expected 'name i j' or 'name1 i name2 j', got {line!r}")


def _lfw_path(name: str, number: str, root: pathlib.Path | None) -> str:
  if not number.isdecimal():
    raise ValueError(f"expected the number of an image of {name!r}, got {number!r}")
  stem = f"{name}/{name}_{int(number):04d}"
  if root is None:
    return stem + _ENDINGS[0]
  for ending in _ENDINGS:
    if (root / (stem + ending)).is_file():
      return stem + ending
  raise ValueError(f"no image {stem} in {root}, with any of the endings {', '.join(_ENDINGS)}")


def _csv_fields(line: str) -> list[str]:
  return [field.strip() for field in next(csv.reader([line.rstrip("\r")]), [])]


def _csv_pair(line: str, width: int, root: pathlib.Path | None) -> tuple[str, str, bool, int]:
  fields = _csv_fields(line)
  if len(fields) != width:
    raise ValueError(f"expected {width} fields, got {len(fields)}: {line!r}")
  first, second, same, fold = (*fields, "0")[:4]
  if same.lower() not in _SAME:
    raise ValueError(f"same is {same!r}; expected one of {', '.join(_SAME)}")
  if not fold.isdecimal():
    raise ValueError(f"fold is {fold!r}; expected an integer of at least 0")
  for path in (first, second):
    if root is not None and not (root / path).is_file():
      raise ValueError(f"no image {path!r} in {root}")
  return first, second, _SAME[same.lower()], int(fold)
