"""Labels as people save them: class ids, one-hot rows, names, two kinds; each as numbers."""

import sys
from typing import TYPE_CHECKING

from bce_jax.names import nearest

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray

_BLOCK = 2**22  # numbers that are held at once
_TRUE = ("1", "true", "same", "genuine", "positive", "pos", "yes", "match")
_FALSE = ("0", "-1", "false", "different", "impostor", "negative", "neg", "no", "mismatch")


def class_ids(
  stored: "StoredArray",
  size: int,
  num_classes: int,
  *,
  class_names: "StoredArray | None" = None,
) -> "np.ndarray":
  """Returns labels (ids, one-hot rows or class names) as class ids, int64 [n], each in [0, N).

  Whole numbers, one-hot rows, or text that is found among the class names. A column of a classifier
  whose `classes_` are numbers is found by them too.

  Args:
    stored: the labels.
    size: n, the rows of logits.
    num_classes: N, their columns.
    class_names: [N], in the order of the columns.

  Raises:
    ValueError: for labels that don't fit, with the first that is wrong.
  """
  import numpy as np

  shape = stored.shape
  if shape not in ((size,), (size, 1)):
    if shape == (size, num_classes):
      return _of_one_hot(stored, num_classes)
    hint = ""
    if shape and shape[0] == num_classes != size:
      hint = "; if the rows of logits are classes, save logits.T"
    raise ValueError(
      f"{stored.name} has shape {shape}: expected ({size},), one label for each of the"
      f" {size:,} rows of logits{hint}"
    )
  values = stored.load().reshape(-1)
  if class_names is not None and (values.dtype.kind in "SU" or class_names.dtype.kind in "iuf"):
    return _by_name(stored, values, _names(class_names, num_classes))
  if values.dtype.kind in "SU":
    raise ValueError(
      f"{stored.name} has dtype {values.dtype}: expected whole numbers, or class_names"
      f" ({num_classes},) beside them, in the order of the columns of logits"
    )
  if values.dtype.kind == "b" and num_classes == 2:
    values = values.astype(np.int64)
  _print_narrow(stored, num_classes)
  labels = whole(stored.name, values)
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    hint = ""
    if labels.min() == 1 and labels.max() == num_classes:
      hint = "; they seem to begin at 1"
    elif num_classes == 2 and set(np.unique(labels).tolist()) <= {-1, 1}:
      hint = "; save (labels + 1) // 2, or one score per sample"
    elif labels.min() < 0 and _most(stored.dtype) < num_classes - 1:
      hint = f"; {stored.dtype} can't hold more than {_most(stored.dtype)}"
    raise ValueError(
      f"{stored.name}: {wrong.sum():,} of {size:,} labels are out of range, the first is"
      f" {labels[wrong][0]}: expected 0 … {num_classes - 1}{hint}"
    )
  return labels


def two_kinds(
  stored: "StoredArray", size: int, *, class_names: "StoredArray | None" = None
) -> "np.ndarray":
  """Returns binary labels as bool [n], from 0 and 1, −1 and 1, bool, or text that says so.

  Args:
    stored: the labels.
    size: n, the number of scores.
    class_names: two of them, the second that of the positives.

  Raises:
    ValueError: for other labels, or where all are of one kind.
  """
  import numpy as np

  if stored.shape not in ((size,), (size, 1)):
    raise ValueError(
      f"{stored.name} has shape {stored.shape}: expected ({size},), one label for each of the"
      f" {size:,} scores"
    )
  values = stored.load().reshape(-1)
  if values.dtype.kind in "SU":
    if class_names is not None:
      positive = _by_name(stored, values, _names(class_names, 2)) == 1
    else:
      words = [x.strip().lower() for x in as_text(stored.name, values).tolist()]
      bad = [x for x in words if x not in _TRUE + _FALSE]
      if bad or {"0", "-1"} <= set(words):
        raise ValueError(
          f"{stored.name}: expected 0 and 1, -1 and 1, true and false or two class_names (the"
          f" second one positive) for one score per sample, got {bad[0] if bad else '0 and -1'!r}"
        )
      positive = np.array([x in _TRUE for x in words], bool)
  elif values.dtype.kind == "b":
    positive = values
  else:
    numbers = whole(stored.name, values)
    kinds = np.unique(numbers)
    if not set(kinds.tolist()) <= {0, 1} and not set(kinds.tolist()) <= {-1, 1}:
      got = ", ".join(map(str, kinds[:5])) + (", …" if len(kinds) > 5 else "")
      raise ValueError(
        f"{stored.name}: expected 0 and 1 (or -1 and 1) for one score per sample, got {got}; scores"
        " of several classes have the shape [samples, classes]"
      )
    positive = numbers == 1
  if positive.all() or not positive.any():
    kind = "positive" if positive.all() else "negative"
    raise ValueError(f"{stored.name}: all {size:,} labels are {kind}: expected some of both kinds")
  return positive


def whole(name: str, values: "np.ndarray") -> "np.ndarray":
  """Returns whole numbers as int64; floats that are whole but for a rounding are taken too.

  Raises:
    ValueError: for any other, with the first of them.
  """
  import numpy as np

  from bce_jax.checks import rounding

  if values.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {values.dtype}: expected whole numbers")
  given = values
  if values.dtype.kind == "f":
    near = np.rint(values)
    with np.errstate(invalid="ignore"):
      close = np.abs(values - near) <= rounding(values.dtype) * np.maximum(1, np.abs(near))
    values = np.where(close & (np.abs(near) < 2**20), near, values)
  with np.errstate(invalid="ignore"):
    # What int64 can't hold comes out as another number; so does what is not whole, or nan.
    numbers = values.astype(np.int64)
    bad = numbers != values
    bad |= np.abs(values.astype(np.float64)) >= 2.0**63
  if bad.any():
    raise ValueError(f"{name}: expected whole numbers, got {given[bad].flat[0]}")
  return numbers


def as_text(name: str, values: "np.ndarray") -> "np.ndarray":
  """Returns an array of text, or of bytes read as UTF-8, as text.

  Raises:
    ValueError: for anything else.
  """
  import numpy as np

  if values.dtype.kind == "S":
    try:
      return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
      raise ValueError(f"{name} holds bytes that are no UTF-8 text: save it as text") from None
  if values.dtype.kind != "U":
    raise ValueError(f"{name} has dtype {values.dtype}: expected text")
  return values


def _of_one_hot(stored: "StoredArray", num_classes: int) -> "np.ndarray":
  """The place of the 1 in each row; what a rounding has moved from 0 and 1 is taken too."""
  import numpy as np

  from bce_jax.checks import rounding

  if stored.dtype.kind not in "iufb":
    raise ValueError(f"{stored.name} has dtype {stored.dtype}: expected whole numbers")
  slack = rounding(stored.dtype) if stored.dtype.kind == "f" else 0.0
  found: list[np.ndarray] = []
  for chunk in stored.chunks(max(1, _BLOCK // num_classes)):
    values = chunk.astype(np.float64)
    ones = np.abs(values - 1) <= slack
    wrong = (ones.sum(1) != 1) | ~((np.abs(values) <= slack) | ones).all(1)
    if wrong.any():
      row = int(np.argmax(wrong))
      text = ", ".join(f"{x:.8g}" for x in values[row][:6]) + (", …" if num_classes > 6 else "")
      raise ValueError(
        f"{stored.name}, row {sum(map(len, found)) + row:,}: expected class ids, or one-hot rows of"
        f" one 1 and zeros, got [{text}]; of soft labels save labels.argmax(1)"
      )
    found.append(ones.argmax(1))
  print(f"bce-eval: {stored.name} is one-hot: the class of each row's 1 is taken", file=sys.stderr)
  return np.concatenate(found).astype(np.int64)


def _names(stored: "StoredArray", num_classes: int) -> "np.ndarray":
  """The class names [N], text or numbers, each but once."""
  import numpy as np

  if stored.shape not in ((num_classes,), (num_classes, 1), (1, num_classes)):
    raise ValueError(
      f"{stored.name} has shape {stored.shape}: expected ({num_classes},), the name of each column"
      " of logits"
    )
  values = stored.load().reshape(-1)
  names = values if values.dtype.kind in "iuf" else as_text(stored.name, values)
  kinds, counts = np.unique(names, return_counts=True)
  if (counts > 1).any():
    raise ValueError(f"{stored.name} holds {kinds[counts > 1][0]!s} twice: expected each name once")
  return names


def _by_name(stored: "StoredArray", values: "np.ndarray", names: "np.ndarray") -> "np.ndarray":
  """The place of each label among the names; both are text, or both numbers."""
  import numpy as np

  if values.dtype.kind in "SU":
    values, names = as_text(stored.name, values), names.astype(str)
  kinds, place = np.unique(values, return_inverse=True)
  at = {name: index for index, name in enumerate(names.tolist())}
  unknown = [kind for kind in kinds.tolist() if kind not in at]
  if unknown:
    missing = np.isin(values, unknown)
    first = values[missing][0]
    raise ValueError(
      f"{stored.name}: {first!s} is not among the {len(names):,} class names"
      f" ({missing.sum():,} of {len(values):,} labels are not); the nearest is"
      f" {nearest(first, names.tolist())}"
    )
  return np.array([at[kind] for kind in kinds.tolist()], np.int64)[place.reshape(-1)]


def _print_narrow(stored: "StoredArray", num_classes: int) -> None:
  """Warns of a dtype that cannot hold every class: what is larger has wrapped around in silence."""
  most = _most(stored.dtype)
  if most < num_classes - 1:
    print(
      f"bce-eval: {stored.name} has dtype {stored.dtype}, which holds no more than {most:,}, but"
      f" there are {num_classes:,} classes: larger labels would have become others",
      file=sys.stderr,
    )


def _most(dtype: "np.dtype") -> int:
  """The largest class id up to which a dtype holds every one."""
  import numpy as np

  if dtype.kind in "iu":
    return int(np.iinfo(dtype).max)
  return 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else 2**63
