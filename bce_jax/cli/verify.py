"""The part of bce-eval that evaluates embeddings: are two samples of one identity?"""

import argparse
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bce_jax.cli import keys
from bce_jax.cli import labels as labels_lib

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray
  from bce_jax.runs.test_outputs import RocPoints


def wanted(held: Mapping[str, Any], args: argparse.Namespace) -> bool:
  """Whether bce-eval is to verify embeddings: there are no scores, or pairs are asked for."""
  return "features" in held and ("logits" not in held or args.pairs is not None)


def evaluate(
  path: pathlib.Path, held: Mapping[str, "StoredArray"], args: argparse.Namespace
) -> "tuple[dict[str, Any], RocPoints]":
  """Verifies all pairs by the labels, or those of a list.

  Args:
    path: of the file, for messages.
    held: its arrays.
    args: of bce-eval: `threshold` and `pairs` are used, `bias` and `train_counts` refused.

  Returns:
    (results named as in results.json, points of the curve).

  Raises:
    ValueError: naming what does not fit together.
  """
  from bce_jax.evaluation import verification

  for name in ("bias", "train_counts"):
    if getattr(args, name) is not None:
      option = f"--{name.replace('_', '-')}"
      raise ValueError(f"{option} is of scores, but of {path} the features are verified")
  keys.print_unused(held, ("features", "labels", "bias"))
  features = _features(held["features"])
  if args.threshold is not None and abs(args.threshold) > 1:
    raise ValueError(f"--threshold {args.threshold}: expected one on cosines, -1 … 1")
  threshold = args.threshold if args.threshold is not None else _learned(held)
  if args.pairs is not None:
    listed = _listed(path, held, args.pairs, len(features))
    return verification.verify_listed_pairs(features, listed, threshold=threshold)
  if "labels" not in held:
    assert isinstance(held, keys.Named)
    hint = "; --pairs FILE asks for pairs of its paths" if "paths" in held else ""
    raise ValueError(keys.lacking(held, "labels") + hint)
  labels = _identities(held["labels"], len(features))
  try:
    with _bar(len(features)) as bar:

      def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

      return verification.verify_all_pairs(features, labels, threshold=threshold, progress=advance)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def _features(stored: "StoredArray") -> "np.ndarray":
  import numpy as np

  from bce_jax.evaluation.from_files import computed_in
  from bce_jax.norms import MIN_NORM

  if len(stored.shape) != 2 or 0 in stored.shape or stored.shape[0] < 2:
    raise ValueError(
      f"{stored.name} has shape {stored.shape}: expected [samples, D], with two or more samples"
    )
  features = stored.load().astype(computed_in(stored))
  bad = int(np.sum(~np.isfinite(features).all(axis=1)))
  largest = float(np.finfo(stored.dtype).max) if stored.dtype.kind == "f" else math.inf
  if bad:
    hint = f", as in {stored.dtype} is all beyond ±{largest:g}" if np.isinf(features).any() else ""
    raise ValueError(f"{stored.name}: {bad:,} of {len(features):,} rows hold nan or infinity{hint}")
  cut = int(np.sum((np.abs(features) == largest).any(axis=1)))
  if cut:
    print(
      f"bce-eval: {stored.name}: {cut:,} of {len(features):,} rows hold ±{largest:g}, the largest"
      f" number of {stored.dtype}: they seem to have been cut off there",
      file=sys.stderr,
    )
  with np.errstate(over="ignore"):  # beyond float32 they are long enough
    short = int(np.sum(np.linalg.norm(features, axis=1) < MIN_NORM))
  if short:
    print(
      f"bce-eval: {stored.name}: {short:,} of {len(features):,} rows are shorter than {MIN_NORM:g},"
      " which has no direction to speak of: their cosines are taken as 0 or near it",
      file=sys.stderr,
    )
  return features


def _identities(stored: "StoredArray", size: int) -> "np.ndarray":
  """Whole numbers or text, as numbers."""
  import numpy as np

  if stored.shape not in ((size,), (size, 1)):
    raise ValueError(f"{stored.name} has shape {stored.shape}: expected ({size},)")
  values = stored.load().reshape(-1)
  whole = values.dtype.kind in "iuUS" or (values.dtype.kind == "f" and (values % 1 == 0).all())
  if not whole:
    raise ValueError(f"{stored.name} has dtype {values.dtype}: expected whole numbers or text")
  return np.unique(values, return_inverse=True)[1].reshape(-1)


def _learned(held: Mapping[str, "StoredArray"]) -> float | None:
  """t = b/γ, where the file says both."""
  given = [name for name in ("bias", "scale") if name in held]
  if len(given) < 2:
    if given:
      lacking = "scale" if given == ["bias"] else "bias"
      print(f"bce-eval: {given[0]!r} is not used: there is no {lacking!r}", file=sys.stderr)
    return None
  numbers = []
  for name in ("bias", "scale"):
    stored = held[name]
    if math.prod(stored.shape) != 1 or stored.dtype.kind not in "iuf":
      raise ValueError(f"{stored.name} is {stored.dtype} {stored.shape}: expected one number")
    numbers.append(float(stored.load().reshape(())))
  bias, scale = numbers
  if not math.isfinite(bias) or not (0 < scale < math.inf):
    raise ValueError(f"bias is {bias} and scale {scale}: expected finite numbers, and scale > 0")
  return bias / scale


def _listed(
  path: pathlib.Path, found: Mapping[str, "StoredArray"], file: pathlib.Path, size: int
) -> Any:
  """The list's pairs as rows of the features, found by path, or by row number where it says so."""
  import numpy as np

  from bce_jax.data import matching, pairs

  listed = pairs.read(file)
  if listed.rows:
    at = np.array([int(name) for name in listed.paths])
    if (at >= size).any():
      raise ValueError(
        f"--pairs {file} names row {at.max()}, but {path} has {size:,} rows: expected 0 …"
        f" {size - 1}"
      )
    return listed._replace(paths=tuple(map(str, range(size))), pairs=at[listed.pairs])
  if "paths" not in found:
    assert isinstance(found, keys.Named)
    raise ValueError(
      f"--pairs {file} names images, such as {listed.paths[0]}, but {keys.lacking(found, 'paths')}"
      " (the header row1,row2,same would name rows)"
    )
  stored = found["paths"]
  if stored.shape not in ((size,), (size, 1)):
    raise ValueError(f"{stored.name} has shape {stored.shape}: expected text, ({size},)")
  values = stored.load().reshape(-1)
  if values.dtype.kind in "iu":  # of images that have numbers for names
    values = values.astype(str)
  names = [str(name) for name in labels_lib.as_text(stored.name, values)]
  try:
    match = matching.find(listed.paths, names, str(path))
  except ValueError as error:
    raise ValueError(f"--pairs {file} names {error}") from None
  if match.how:
    print(f"bce-eval: --pairs {file}: {match.how}", file=sys.stderr)
  return listed._replace(paths=tuple(names), pairs=match.rows[listed.pairs])


def _bar(size: int) -> Any:
  from tqdm import tqdm

  return tqdm(desc="pairs", unit=" tiles", disable=size < 20_000 or not sys.stderr.isatty())
