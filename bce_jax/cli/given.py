"""What bce-eval is given: scores, labels and more, each checked against the others."""

import argparse
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bce_jax.cli import keys
from bce_jax.cli import labels as labels_lib

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray


class Given(NamedTuple):
  """A classifier's scores, labels, bias and more, each checked against the others.

  Attributes:
    name: of the file, for people.
    logits: [n, N].
    labels: int64 [n], each in [0, N).
    bias: [] or [N], finite; or None.
    train_counts: int64 [N]; or None.
    features: [n, D]; or None.
    weights: [N, D]; or None.
  """

  name: str
  logits: "StoredArray"
  labels: "np.ndarray"
  bias: "np.ndarray | None"
  train_counts: "np.ndarray | None"
  features: "StoredArray | None"
  weights: "np.ndarray | None"


def open_files(paths: Sequence[pathlib.Path]) -> "Mapping[str, StoredArray]":
  """Opens an .npz, or LOGITS.npy LABELS.npy; returns the arrays by what they are used as.

  Raises:
    ValueError: for anything else.
  """
  from bce_jax.data import arrays

  if len(paths) > 2:
    raise ValueError(f"expected an .npz, LOGITS.npy LABELS.npy or a run folder, got {len(paths)}")
  if len(paths) == 2:
    logits, labels = map(arrays.open_array, paths)
    if len(logits.shape) == 1 and len(labels.shape) == 2 and 1 not in labels.shape:
      raise ValueError(
        f"{logits.name} has shape {logits.shape}, {labels.name} {labels.shape}: expected logits of"
        f" shape [samples, classes] first, bce-eval {paths[1]} {paths[0]}"
      )
    return {"logits": logits, "labels": labels}
  if arrays.is_npy(paths[0]):
    raise ValueError(f"{paths[0]} holds one array: give logits and labels, LOGITS.npy LABELS.npy")
  return keys.assign(paths[0], arrays.open_arrays(paths[0]))


def read(path: pathlib.Path, found: "Mapping[str, StoredArray]", args: argparse.Namespace) -> Given:
  """Reads the scores, labels and options of bce-eval, and checks that they fit together.

  Args:
    path: of the scores, for people.
    found: as `open_files` returns it.
    args: of bce-eval.

  Raises:
    ValueError: naming what does not.
  """
  if args.pairs is not None:
    raise ValueError(
      f"--pairs is of features without logits: expected an .npz with such, got {path}"
    )
  if "labels" not in found:
    assert isinstance(found, keys.Named)
    raise ValueError(keys.lacking(found, "labels"))
  scored = ("logits", "labels", "bias", "train_counts", "features")
  keys.print_unused(found, scored + (("weights",) if "features" in found else ()))
  logits = found["logits"]
  if len(logits.shape) != 2 or 0 in logits.shape:
    raise ValueError(
      f"{logits.name} has shape {logits.shape}: expected logits of shape [samples, classes]"
    )
  size, num_classes = logits.shape
  labels = labels_lib.class_ids(found["labels"], size, num_classes, class_names=names_for(found))
  b = bias(args.bias, found.get("bias"), num_classes)
  counts = found.get("train_counts")
  train_counts = None if counts is None else labels_lib.whole(counts.name, counts.load())
  if args.train_counts is not None:
    train_counts = _train_counts(args.train_counts)
  if train_counts is not None:
    where = "--train-counts" if args.train_counts is not None or counts is None else counts.name
    if train_counts.shape != (num_classes,) or train_counts.min() < 0:
      got: Any = train_counts.shape
      if got == (num_classes,):
        got = train_counts.min()
      raise ValueError(
        f"{where}: expected {num_classes} numbers of training images, each at least 0, got {got}"
      )
  features, weights = found.get("features"), found.get("weights")
  if features is not None and (len(features.shape) != 2 or features.shape[0] != size):
    raise ValueError(f"{features.name} has shape {features.shape}: expected ({size}, D)")
  return Given(
    name=str(path),
    logits=logits,
    labels=labels,
    bias=b,
    train_counts=train_counts,
    features=features,
    weights=None if features is None or weights is None else _weights(weights, features, logits),
  )


def names_for(found: "Mapping[str, StoredArray]") -> "StoredArray | None":
  """Returns the class names, None where there are none or they can't be read and aren't needed.

  Raises:
    ValueError: where they can't be read, and text has to be found among them.
  """
  try:
    return found.get("class_names")
  except ValueError:
    if found["labels"].dtype.kind in "SU":
      raise
    return None


def bias(option: str | None, stored: "StoredArray | None", num_classes: int) -> Any:
  """Returns the bias of --bias, else that of the file: [] or [N], finite; None without any.

  Raises:
    ValueError: for any other.
  """
  import numpy as np

  from bce_jax.data import arrays

  name = f"--bias {option}"
  if option is not None:
    try:
      values: np.ndarray = np.asarray(float(option))
    except ValueError:
      if not pathlib.Path(option).exists():
        raise ValueError(f"{name}: expected a number or an .npy file") from None
      values = arrays.open_array(pathlib.Path(option)).load()
  elif stored is not None:
    name, values = stored.name, stored.load()
  else:
    return None
  if values.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {values.dtype}: expected real numbers")
  shape = values.shape
  if values.size == 1:
    values = values.reshape(())
  elif max(shape, default=0) == values.size:  # a row or a column
    values = values.reshape(-1)
  if values.shape not in ((), (num_classes,)):
    raise ValueError(f"{name} has shape {shape}: expected one number or ({num_classes},)")
  if values.dtype not in (np.float32, np.float64):
    with np.errstate(over="ignore"):  # of a wider float: what is infinite then is refused
      values = values.astype(np.float64)
  if not np.isfinite(values).all():
    raise ValueError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)].flat[0]}")
  return values


def _weights(stored: "StoredArray", features: "StoredArray", logits: "StoredArray") -> Any:
  from bce_jax.evaluation import from_files as stored_lib

  expected = (logits.shape[1], features.shape[1])
  if stored.shape != expected:
    hint = "; save it transposed, weights.T" if stored.shape == expected[::-1] else ""
    raise ValueError(f"{stored.name} has shape {stored.shape}: expected {expected}{hint}")
  return stored.load().astype(stored_lib.computed_in(stored))


def _train_counts(option: str) -> "np.ndarray":
  """Numbers from a comma list, an .npy file, a text or JSON file, or a run folder."""
  import numpy as np

  from bce_jax.data import arrays

  path, name = pathlib.Path(option), f"--train-counts {option}"
  if path.is_dir():
    path = path / "dataset.json"
  if not path.is_file():
    if not re.fullmatch(r"[-\d.e+]+([,\s]+[-\d.e+]+)*[,\s]*", option):
      raise ValueError(f"{name}: expected a file, a run folder or numbers with commas between them")
    text = option
  else:
    with open(path, "rb") as file:
      binary = file.read(6) == b"\x93NUMPY"
    if binary:
      return labels_lib.whole(name, arrays.open_array(path).load())
    text = path.read_text("utf-8-sig", errors="replace")
  try:
    if text.lstrip().startswith(("[", "{")):
      read = json.loads(text)
      numbers = read["train_counts"] if isinstance(read, dict) else read
    else:
      numbers = [float(word) for word in re.split(r"[,\s]+", text.strip(", \n\t\r")) if word]
    return labels_lib.whole(name, np.array(numbers, np.float64))
  except KeyError:
    raise ValueError(f"{name}: {path} has no 'train_counts'") from None
  except (ValueError, TypeError) as error:
    if str(error).startswith(name):
      raise
    raise ValueError(f"{name}: expected whole numbers ({' '.join(str(error).split())})") from None
