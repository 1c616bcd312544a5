"""The part of bce-eval that evaluates one score per example: positive or not, by one threshold."""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bce_jax.cli import given, keys, labels

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray


def wanted(found: Mapping[str, "StoredArray"]) -> bool:
  """Whether bce-eval was given one score per sample, and not one per class.

  A column whose labels are all 0 is that of the only class of a classifier.
  """
  shape = found["logits"].shape if "logits" in found else ()
  if len(shape) == 1:
    return True
  if len(shape) != 2 or shape[1] != 1 or "labels" not in found:
    return False
  stored = found["labels"]
  return stored.dtype.kind in "bSU" or bool(stored.load().any())


def evaluate(
  path: pathlib.Path, found: Mapping[str, "StoredArray"], args: argparse.Namespace
) -> "tuple[dict[str, Any], np.ndarray, np.ndarray]":
  """Evaluates the scores at every threshold, and by those that were given.

  Args:
    path: of the scores, for messages.
    found: as `given.open_files` returns it.
    args: of bce-eval: `bias` and `threshold` are used, `pairs` and `train_counts` refused.

  Returns:
    (results by name, scores [n], which are positive [n]).

  Raises:
    ValueError: naming what does not fit together.
  """
  from bce_jax.evaluation import binary, from_files

  for name in ("pairs", "train_counts"):
    if getattr(args, name) is not None:
      option = f"--{name.replace('_', '-')}"
      raise ValueError(
        f"{option}: {path} holds one score per sample, with neither pairs nor classes"
      )
  if "labels" not in found:
    assert isinstance(found, keys.Named)
    raise ValueError(keys.lacking(found, "labels"))
  keys.print_unused(found, ("logits", "labels", "bias"))
  logits = found["logits"]
  if not len(logits):
    raise ValueError(f"{logits.name} has shape {logits.shape}: expected some scores")
  scores, extremes = from_files.column(logits)
  positive = labels.two_kinds(found["labels"], len(scores), class_names=given.names_for(found))
  bias = given.bias(args.bias, found.get("bias"), 1)
  results = binary.summarize(
    scores, positive, bias=None if bias is None else float(bias), threshold=args.threshold
  )
  for line in extremes.lines(logits):
    print(f"bce-eval: {line}", file=sys.stderr)
  return results | extremes.results(), scores, positive
