"""Which array of an .npz file is which, by the names that people give them."""

import difflib
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from bce_jax.data.arrays import StoredArray

USED: tuple[str, ...] = (
  "logits",
  "labels",
  "bias",
  "train_counts",
  "class_names",
  "features",
  "weights",
  "paths",
)
USED += ("scale",)
_QUIET = ("names",)  # of identities, in the embeddings.npz of a run
_PREDICTED = ("predictions", "prediction", "preds", "pred", "y_pred", "y_hat")
SYNONYMS: Mapping[str, tuple[str, ...]] = {
  "features": (
    *("feature", "feats", "feat", "embeddings", "embedding", "embeds", "embs", "emb"),
    *("representations", "feature_vectors"),
  ),
  "logits": (
    *("logit", "scores", "score", "outputs", "output", "probs", "prob", "probabilities", "probas"),
    *("y_score", "y_scores", "y_prob", "y_proba", "decision_function", *_PREDICTED),
  ),
  "labels": (
    *("label", "targets", "target", "y", "y_true", "true_labels", "gt", "ground_truth"),
    *("identities", "identity", "same", "issame", "is_same", "actual_issame"),
  ),
  "class_names": ("classes", "classnames", "class_name", "categories", "label_names"),
  "paths": (
    *("path", "filenames", "filename", "file_names", "files", "file_paths", "filepaths"),
    *("image_paths", "img_paths", "image_names", "names"),
  ),
}
"""What else an array may be called, where the file has none of the name itself."""


class Named(Mapping[str, "StoredArray"]):
  """The arrays of a file by what they are used as, each opened when it is asked for.

  Attributes:
    path: of the file.
    held: its arrays by their own names.
    keys_of: the own name of each that is used.
  """

  def __init__(self, path: pathlib.Path, held: Mapping[str, "StoredArray"], keys: dict[str, str]):
    """Is made by `assign`."""
    self.path, self.held, self.keys_of = path, held, keys

  def __getitem__(self, name: str) -> "StoredArray":
    """Opens an array.

    Raises:
      KeyError: when there is none of that name.
      ValueError: when it is damaged, or holds objects.
    """
    return self.held[self.keys_of[name]]

  def __contains__(self, name: object) -> bool:
    return name in self.keys_of  # without opening it

  def __iter__(self) -> Iterator[str]:
    return iter(self.keys_of)

  def __len__(self) -> int:
    return len(self.keys_of)


def assign(path: pathlib.Path, held: Mapping[str, "StoredArray"]) -> Named:
  """Finds out what each array of a file is by its name, and prints which unusual names were taken.

  Args:
    path: of the file, for messages.
    held: its arrays.

  Raises:
    ValueError: where scores and features are missing or several arrays may be meant, saying which
      one to rename.
  """
  keys = {name: name for name in USED if name in held}
  found = Named(path, held, keys)
  doubtful: dict[str, list[str]] = {}
  for name in SYNONYMS:
    if name in keys:
      continue
    meant = [key for key in _meant(name, held) if _fits(name, held, key, found)]
    if len(meant) == 1:
      keys[name] = meant[0]
    elif meant:
      doubtful[name] = meant
  if "features" in keys:  # those are evaluated alone, or besides the logits
    doubtful.pop("logits", None)
  if "logits" in keys:
    doubtful.pop("features", None)
  for name in ("logits", "features", "labels"):
    if name in doubtful:
      choices = " and ".join(map(repr, doubtful[name]))
      raise ValueError(
        f"{path} has no {name!r}, but {choices}, each of which may be meant: save one of them as"
        f" {name!r}"
      )
  if "logits" not in keys and "features" not in keys:
    raise ValueError(lacking(found, "logits"))
  _print_assumed(found)
  return found


def lacking(found: Named, name: str) -> str:
  """Returns the message for a file that lacks `name`: what it holds, and what may be meant."""
  wanted = [name]
  if name == "logits" and "labels" not in found:
    wanted.append("labels")
  held = found.held
  rows = next((found[x].shape[:1] for x in ("logits", "features") if x in found), None)
  spare = [key for key in held if key not in found.keys_of.values()]
  hints = []
  if name == "logits":
    hints += [
      f"; {key!r} holds one whole number per sample, predicted classes perhaps: expected scores of"
      " shape [samples, classes]"
      for key in _meant(name, spare)
      if (array := _opened(held, key)) is not None and array.dtype.kind in "iu" and _is_flat(array)
    ]
  for what in wanted:
    if hints and what == "logits":
      continue
    meant = [key for key in spare if _looks_like(what, _opened(held, key), rows)]
    if len(meant) == 1:
      hints.append(f"; if {meant[0]!r} holds the {what}, save it as {what!r}")
      spare.remove(meant[0])
    elif meant:
      hints.append(f"; save the one that holds the {what} as {what!r}: {_either(meant)}?")
  names = " and no ".join(map(repr, wanted))
  holds = ", ".join(_described(held, key) for key in held)
  return f"{found.path} has no {names}: it holds {holds}{''.join(hints)}"


def _print_assumed(found: Named) -> None:
  """Prints what was taken for what, and which arrays are not looked at."""
  said = [f"taking {key!r} as {name}" for name, key in found.keys_of.items() if key != name]
  complete = "labels" in found or "paths" in found
  for key in found.held:
    if complete and key not in found.keys_of.values() and key not in _QUIET:
      free = [name for name in USED if name not in found]
      near = difflib.get_close_matches(key.lower(), free, n=1, cutoff=0.75)
      said.append(f"{key!r} is not used{f' (did you mean {near[0]!r}?)' if near else ''}")
  if said:
    print(f"bce-eval: {found.path}: {', '.join(said)}", file=sys.stderr)


def print_unused(found: Mapping[str, "StoredArray"], used: Sequence[str]) -> None:
  """Prints which known arrays of a file are not used.

  Paths and names stand beside them to tell people what they are; nothing is lost with them.
  """
  unused = [name for name in found if name not in (*used, "paths", "class_names", "scale")]
  if unused and isinstance(found, Named):
    verb = "is" if len(unused) == 1 else "are"
    words = ", ".join(repr(found.keys_of[name]) for name in unused)
    print(f"bce-eval: {found.path}: {words} {verb} not used here", file=sys.stderr)


def _meant(name: str, held: Iterable[str]) -> list[str]:
  """The arrays whose names stand for `name`, and for nothing that has its own."""
  return [
    key
    for key in held
    if key not in USED
    and key.lower().replace("-", "_").replace(" ", "_") in (name, *SYNONYMS[name])
  ]


def _fits(name: str, held: Mapping[str, "StoredArray"], key: str, found: Named) -> bool:
  """Whether an array that is called like a synonym can be what it says.

  'preds' are often the predicted classes, not scores, and 'classes' those of the samples.
  """
  array = _opened(held, key)
  if array is None:  # where it is needed, reading it says what is wrong
    return name in ("logits", "labels", "features")
  kind, dimensions = array.dtype.kind, len(array.shape)
  if name == "logits":
    if dimensions == 1 and "features" in found:
      return False
    return kind == "f" or (kind in "iu" and not _is_flat(array))
  if name == "features":
    return kind in "iuf" and dimensions == 2
  if name == "class_names":
    shape = found["logits"].shape if "logits" in found else ()
    return len(shape) == 2 and array.shape == (shape[1],)
  if name == "paths":
    return "features" in found and array.shape == found["features"].shape[:1]
  return dimensions in (1, 2)


def _looks_like(name: str, array: "StoredArray | None", rows: tuple[int, ...] | None) -> bool:
  """By shape and dtype, whatever it is called."""
  if array is None or (rows is not None and array.shape[:1] != rows):
    return False
  if name == "logits":
    return array.dtype.kind == "f" and len(array.shape) == 2 and array.shape[1] > 1
  return _is_flat(array) and array.dtype.kind in ("iuUS" if name == "paths" else "iubUS")


def _is_flat(array: "StoredArray") -> bool:
  """Whether it holds one value for each sample."""
  return len(array.shape) == 1 or (len(array.shape) == 2 and array.shape[1] == 1)


def _opened(held: Mapping[str, "StoredArray"], key: str) -> "StoredArray | None":
  try:
    return held[key]
  except ValueError:  # of no use: damaged, or Python objects
    return None


def _described(held: Mapping[str, "StoredArray"], key: str) -> str:
  array = _opened(held, key)
  if array is None:
    return f"{key} (Python objects, which are never loaded, or damaged)"
  return f"{key} ({array.dtype} {list(array.shape)})"


def _either(names: Sequence[str]) -> str:
  return " or ".join(map(repr, names))
