"""Lists of pairs to verify: the protocol of LFW (pairs.txt), or a simple CSV file.

Only the list is read, no image: embed `paths` in their order, and `bce_jax.metrics.pair_scores`
takes the embeddings and `pairs`, `ten_fold_accuracy` the scores, `same` and `folds`.

Source: Huang et al., Labeled Faces in the Wild, University of Massachusetts technical report 07-49,
2007; the file format is described at the set's home page.
"""

import csv
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from bce_jax.data import matching

# Looked for in this order.
_ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".webp", ".jfif", ".jpe", ".tif", ".tiff", ".avif")

# What the two columns of names may be called, before 1 and 2 (or a and b), in order of preference.
_NAMES: tuple[str, ...] = (
  "path",
  "filepath",
  "file",
  "filename",
  "imagepath",
  "image",
  "imgpath",
  "img",
  "im",
)
_NAMES += ("photo", "picture", "pic", "face", "sample", "name", "id", "p", "x")
_ROWS = ("row", "idx", "index")  # of an array: numbers from 0
_ENDS = (("1", "2"), ("a", "b"), ("0", "1"), ("left", "right"), ("first", "second"))
_SAME: tuple[str, ...] = (
  "same",
  "issame",
  "sameperson",
  "sameidentity",
  "label",
  "target",
  "y",
  "match",
  "ismatch",
)
_SAME += ("genuine", "actualissame", "identical", "issameperson")
_FOLD = ("fold", "folds", "split", "set")
_TRUE = {"1", "true", "t", "yes", "y", "same", "genuine", "match", "matched", "positive", "pos"}
_FALSE = {"0", "-1", "false", "f", "no", "n", "different", "diff", "impostor", "imposter"}
_FALSE |= {"mismatch", "mismatched", "nonmatch", "negative", "neg"}


class PairList(NamedTuple):
  """Pairs of images.

  Attributes:
    paths: the distinct images in the order they are named in, relative to their folder, with /.
    pairs: two indices into `paths` for each pair.
    same: whether the pair shows one identity.
    folds: the fold each pair belongs to, from 0.
    rows: whether the names are numbers of rows, from 0, and no images.
  """

  paths: tuple[str, ...]
  pairs: Int64[np.ndarray, "n 2"]
  same: Bool[np.ndarray, " n"]
  folds: Int64[np.ndarray, " n"]
  rows: bool = False


_Layout = tuple[int, int, int, int | None]  # where first, second, same and fold stand


class _Columns(NamedTuple):
  """Where a line holds what."""

  first: int
  second: int
  same: int
  fold: int | None
  width: int
  delimiter: str | None  # None: any white space
  rows: bool = False


def read(file: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None) -> PairList:
  r"""Reads a list of pairs, as LFW's pairs.txt or as CSV; its first line says which.

  The form of LFW, fields separated by tabs (or by spaces, in a line without a tab). The first line
  gives the number of folds and of pairs n in one (or n alone: a single fold); 2n lines per fold
  follow, n of one identity, "name i j", and n of two, "name1 i name2 j". Image i of a name is
  name/name_000i.jpg, or with another ending where `folder` has that: .png, .jpeg, .bmp, .webp.

  A table has a header such as "path1,path2,same" or "path1,path2,same,fold", in any order, with
  commas, tabs, semicolons or spaces; img1, image_a, id1, issame, label, … are known too, and other
  columns are not looked at. same is 1 or 0 (or −1), true or false, same or different; fold an
  integer ≥ 0. Without folds all pairs are in fold 0. row1,row2,same names rows of an array, from 0.
  Of a table without a header every line holds two names and, as the last or the first field, same;
  a fold may follow.

  Args:
    file: the list, UTF-8.
    folder: where the images are: every one must be there. Names may be written with \\ for /, with
      another ending, or with folders before them that are not there. None: nothing is looked for.

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
  pairs=array([[0, 1], [1, 2]]), same=array([ True, False]), folds=array([0, 0]), rows=False)
  """
  lines = _lines(file)
  root = None if folder is None else pathlib.Path(folder)
  columns, headed = _header(file, lines), True
  if columns is None and not _is_lfw(lines):
    columns, headed = _without_header(file, lines), False
  if columns is not None and columns.rows and root is not None:
    raise ValueError(f"{file}, line 1: expected names of images in {root}, got {lines[0]!r}")
  sizes = _fold_sizes(file, lines) if columns is None else None
  index: dict[str, int] = {}
  rows, same, folds, negative = [], [], [], set()
  for number, line in enumerate(lines[headed:], start=1 + headed):
    if columns is not None and not line.strip():
      continue
    try:
      if columns is not None:
        first, second, word, fold = _table_pair(line, columns, root)
        is_same = word in _TRUE
        negative |= {word} - _TRUE
        if {"0", "-1"} <= negative:
          raise ValueError("same is 0 in one line and -1 in another: expected one of them")
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
  return PairList(
    tuple(index),
    np.array(rows, np.int64),
    np.array(same),
    np.array(folds, np.int64),
    columns is not None and columns.rows,
  )


def without(listed: PairList, kept: Bool[np.ndarray, " m"]) -> PairList:
  """Returns a list without the pairs of some images.

  Args:
    listed: the pairs, of m images.
    kept: which images are kept.

  >>> listed = PairList(("a", "b", "c"), np.array([[0, 1], [1, 2]]), np.array([True, False]),
  ...   np.array([0, 1]))
  >>> without(listed, np.array([False, True, True]))
  PairList(paths=('b', 'c'), pairs=array([[0, 1]]), same=array([False]), folds=array([1]),
  rows=False)
  """
  rows = kept[listed.pairs].all(axis=1)
  number = np.cumsum(kept) - 1
  return PairList(
    tuple(path for path, keep in zip(listed.paths, kept, strict=True) if keep),
    number[listed.pairs[rows]],
    listed.same[rows],
    listed.folds[rows],
    listed.rows,
  )


def _lines(file: str | os.PathLike[str]) -> list[str]:
  try:
    data = pathlib.Path(file).read_bytes()
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as spreadsheets save "Unicode text"
    text = data.decode("utf-16" if wide else "utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    raise ValueError(f"{file} cannot be read as a list of pairs: {reason}") from error
  return text.rstrip().replace("\r\n", "\n").split("\n")


def _is_lfw(lines: list[str]) -> bool:
  fields = lines[0].split()
  return len(fields) in (1, 2) and all(x.isdecimal() for x in fields)


def _header(file: str | os.PathLike[str], lines: list[str]) -> _Columns | None:
  """The columns that the first line names; None where it names none.

  Raises:
    ValueError: for a header without a column that says same.
  """
  for delimiter in (",", "\t", ";", None):
    fields = [_key(field) for field in _fields(lines[0], delimiter)]
    stems = [(stem, ends) for stem in (*_NAMES, *_ROWS) for ends in _ENDS]
    pair = next(
      (
        (fields.index(stem + a), fields.index(stem + b), stem in _ROWS)
        for stem, (a, b) in stems
        if stem + a in fields and stem + b in fields
      ),
      None,
    )
    if pair is None:
      continue
    same = next((k for k, field in enumerate(fields) if field in _SAME), None)
    if same is None:
      spare = [f for k, f in enumerate(fields) if k not in pair[:2] and f and f not in _FOLD]
      hint = f"; {spare[0]!r} says nothing known" if spare else ""
      raise ValueError(
        f"{file}, line 1: expected path1,path2,same or path1,path2,same,fold, got"
        f" {lines[0].strip()!r}{hint} (same may also be called issame, label, match or target)"
      )
    fold = next((k for k, field in enumerate(fields) if field in _FOLD), None)
    return _Columns(pair[0], pair[1], same, fold, len(fields), delimiter, pair[2])
  return None


def _key(field: str) -> str:
  """A heading without what tells nothing: Image_1 and image1 are one."""
  return re.sub(r"[\s_.\-]", "", field.lower())


def _without_header(file: str | os.PathLike[str], lines: list[str]) -> _Columns:
  """The columns of a table by what stands in them.

  Raises:
    ValueError: where nothing, or more than one thing, can be meant.
  """
  layouts: dict[int, list[_Layout]] = {3: [(0, 1, 2, None), (1, 2, 0, None)], 4: [(0, 1, 2, 3)]}
  for delimiter in (",", "\t", ";", None):
    table = [_fields(line, delimiter) for line in lines if line.strip()]
    widths = {len(fields) for fields in table}
    if len(widths) != 1 or not widths <= set(layouts):
      continue
    width = widths.pop()
    fitting = [
      _Columns(*layout, width, delimiter) for layout in layouts[width] if _fits(table, layout)
    ]
    if len(fitting) == 1:
      return fitting[0]
    if fitting:
      raise ValueError(
        f"{file}, line 1: the first or the last field may say same: expected a header such as"
        f" path1,path2,same, got {lines[0]!r}"
      )
  raise ValueError(
    f"{file}, line 1: expected the number of folds and of pairs, such as '10 300', or the header"
    f" path1,path2,same, got {lines[0]!r}"
  )


def _fits(table: list[list[str]], layout: _Layout) -> bool:
  first, second, same, fold = layout
  return all(
    _word(row[same]) in _TRUE | _FALSE
    # "Ada 1 1" would be images 1 and 1 of Ada, in the form of LFW.
    and row[first].isdecimal() == row[second].isdecimal()
    and (fold is None or row[fold].isdecimal())
    for row in table
  )


def _fold_sizes(file: str | os.PathLike[str], lines: list[str]) -> tuple[int, int]:
  """(folds, pairs of one identity in each), from the first line; the others must agree with it."""
  fields = lines[0].split()
  if not all(int(x) for x in fields):
    raise ValueError(
      f"{file}, line 1: expected the number of folds and of pairs, such as '10 300', got"
      f" {lines[0]!r}"
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


def _fields(line: str, delimiter: str | None) -> list[str]:
  if delimiter is None:
    return line.split()
  return [field.strip() for field in next(csv.reader([line], delimiter=delimiter), [])]


def _word(same: str) -> str:
  """A word of the two sets, where it is one: 1.0 is 1."""
  return re.sub(r"^([+-]?\d+)\.0*$", r"\1", same.lower())


def _table_pair(
  line: str, columns: _Columns, root: pathlib.Path | None
) -> tuple[str, str, str, int]:
  fields = _fields(line, columns.delimiter)
  if len(fields) != columns.width:
    raise ValueError(f"expected {columns.width} fields, got {len(fields)}: {line!r}")
  names = [fields[columns.first], fields[columns.second]]
  word = _word(fields[columns.same])
  if word not in _TRUE | _FALSE:
    raise ValueError(
      f"same is {fields[columns.same]!r}; expected 1 or 0, true or false, same or different"
    )
  fold = "0" if columns.fold is None else fields[columns.fold]
  if not fold.isdecimal():
    raise ValueError(f"fold is {fold!r}; expected an integer of at least 0")
  for name in names:
    if not name:
      raise ValueError(f"expected two names, got an empty one: {line!r}")
    if columns.rows and not name.isdecimal():
      raise ValueError(f"expected the number of a row, from 0, got {name!r}")
  if root is not None:
    names = [_in_folder(name, root) for name in names]
  return names[0], names[1], word, int(fold)


def _in_folder(name: str, root: pathlib.Path) -> str:
  """The path of an image as the folder has it."""
  clean = matching.plain(name)
  parts = clean.split("/")
  # Folders of another machine may stand before it.
  absolute = matching.is_absolute(parts) or parts[0] == ".."
  tails = ["/".join(parts[k:]) for k in range(1, len(parts))] if absolute else []
  spellings = (name, clean) if "\\" in name else (clean, name)  # a name may hold a \ on Linux
  for path in (*spellings, *tails):
    for choice in (path, *(matching.bare(path) + ending for ending in _ENDINGS)):
      if (root / choice).is_file():
        return choice
  raise ValueError(f"no image {name!r} in {root}")
