"""What bce-eval is given: scores, labels and more, each checked against the others."""

import argparse
import json
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bce_jax.names import did_you_mean

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray


class Given(NamedTuple):
  """What there is of a model, each checked against the others.

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


def read(paths: Sequence[pathlib.Path], args: argparse.Namespace) -> Given:
  """Opens what was given and checks that it fits together.

  Raises:
    ValueError: naming what does not.
  """
  from bce_jax.data import arrays

  if len(paths) > 2:
    raise ValueError(f"expected an .npz, LOGITS.npy LABELS.npy or a run folder, got {len(paths)}")
  if args.pairs is not None:
    given = " ".join(map(str, paths))
    raise ValueError(
      f"--pairs is of features without logits: expected an .npz with such, got {given}"
    )
  found: dict[str, StoredArray] = {}
  if len(paths) == 2:
    found = {"logits": arrays.open_array(paths[0]), "labels": arrays.open_array(paths[1])}
  elif arrays.is_npy(paths[0]):
    raise ValueError(f"{paths[0]} holds one array: give logits and labels, LOGITS.npy LABELS.npy")
  else:
    held = arrays.open_arrays(paths[0])
    wanted = ("logits", "labels", "bias", "train_counts", "features", "weights")
    for name in wanted[:2]:
      if name not in held:
        hint = did_you_mean(name, held, used=wanted)
        raise ValueError(f"{paths[0]} has no {name!r}; {hint}")
    found = {name: held[name] for name in wanted if name in held}
  logits = found["logits"]
  if len(logits.shape) != 2 or 0 in logits.shape:
    raise ValueError(
      f"{logits.name} has shape {logits.shape}: expected logits of shape [samples, classes]"
    )
  size, num_classes = logits.shape
  labels = _labels(found["labels"], size, num_classes)
  bias = _bias(args.bias, found.get("bias"), num_classes)
  counts = found.get("train_counts")
  train_counts = None if counts is None else _whole(counts.name, counts.load())
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
    name=" ".join(str(path) for path in paths[:1]),
    logits=logits,
    labels=labels,
    bias=bias,
    train_counts=train_counts,
    features=features,
    weights=None if features is None or weights is None else _weights(weights, features, logits),
  )


def _labels(stored: "StoredArray", size: int, num_classes: int) -> "np.ndarray":
  """Class ids as int64 [n], each in [0, N)."""
  shape = stored.shape
  if shape not in ((size,), (size, 1)):
    hint = " (for one-hot labels save labels.argmax(1))" if shape == (size, num_classes) else ""
    raise ValueError(
      f"{stored.name} has shape {shape}{hint}: expected ({size},), one label for each of the"
      f" {size:,} rows of logits"
    )
  labels = _whole(stored.name, stored.load().reshape(-1))
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    from_one = labels.min() == 1 and labels.max() == num_classes
    hint = "; they seem to begin at 1" if from_one else ""
    raise ValueError(
      f"{stored.name}: {wrong.sum():,} of {size:,} labels are out of range, the first is"
      f" {labels[wrong][0]}: expected 0 … {num_classes - 1}{hint}"
    )
  return labels


def _whole(name: str, values: "np.ndarray") -> "np.ndarray":
  """Whole numbers as int64; floats that are whole are taken too."""
  import numpy as np

  if values.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {values.dtype}: expected whole numbers")
  with np.errstate(invalid="ignore"):
    # What int64 can't hold comes out as another number; so does what is not whole, or nan.
    whole = values.astype(np.int64)
    bad = whole != values
    bad |= np.abs(values.astype(np.float64)) >= 2.0**63
  if bad.any():
    raise ValueError(f"{name}: expected whole numbers, got {values[bad].flat[0]}")
  return whole


def _bias(option: str | None, stored: "StoredArray | None", num_classes: int) -> Any:
  """[] or [N], finite; the option goes before what the file holds."""
  import numpy as np

  from bce_jax.data import arrays

  name = f"--bias {option}"
  if option is not None:
    try:
      bias: np.ndarray = np.asarray(float(option))
    except ValueError:
      if not pathlib.Path(option).exists():
        raise ValueError(f"{name}: expected a number or an .npy file") from None
      bias = arrays.open_array(pathlib.Path(option)).load()
  elif stored is not None:
    name, bias = stored.name, stored.load()
  else:
    return None
  if bias.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {bias.dtype}: expected real numbers")
  if bias.size == 1:
    bias = bias.reshape(())
  if bias.shape not in ((), (num_classes,)):
    raise ValueError(f"{name} has shape {bias.shape}: expected one number or ({num_classes},)")
  if bias.dtype not in (np.float32, np.float64):
    with np.errstate(over="ignore"):  # of a wider float: what is infinite then is refused
      bias = bias.astype(np.float64)
  if not np.isfinite(bias).all():
    raise ValueError(f"{name}: expected finite numbers, got {bias[~np.isfinite(bias)].flat[0]}")
  return bias


def _weights(stored: "StoredArray", features: "StoredArray", logits: "StoredArray") -> Any:
  from bce_jax.training import stored as stored_lib

  expected = (logits.shape[1], features.shape[1])
  if stored.shape != expected:
    raise ValueError(f"{stored.name} has shape {stored.shape}: expected {expected}")
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
      return _whole(name, arrays.open_array(path).load())
    text = path.read_text("utf-8-sig", errors="replace")
  try:
    if text.lstrip().startswith(("[", "{")):
      read = json.loads(text)
      numbers = read["train_counts"] if isinstance(read, dict) else read
    else:
      numbers = [float(word) for word in re.split(r"[,\s]+", text.strip(", \n\t\r")) if word]
    return _whole(name, np.array(numbers, np.float64))
  except KeyError:
    raise ValueError(f"{name}: {path} has no 'train_counts'") from None
  except (ValueError, TypeError) as error:
    if str(error).startswith(name):
      raise
    raise ValueError(f"{name}: expected whole numbers ({' '.join(str(error).split())})") from None
