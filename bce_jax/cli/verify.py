"""The part of bce-eval that judges embeddings: are two samples of one identity?"""

import argparse
import math
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bce_jax.names import did_you_mean

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.data.arrays import StoredArray
  from bce_jax.report.evidence import RocPoints

KEYS = ("features", "labels", "paths", "bias", "scale")


def wanted(held: Mapping[str, Any]) -> bool:
  """Whether a file holds embeddings to be verified, and no scores."""
  return "features" in held and "logits" not in held


def judge(
  path: pathlib.Path, held: Mapping[str, "StoredArray"], args: argparse.Namespace
) -> "tuple[dict[str, Any], RocPoints]":
  """Verifies all pairs by the labels, or those of a list.

  Args:
    path: of the file, for messages.
    held: its arrays.
    args: of bce-eval: `threshold` and `pairs` are used, `bias` and `train_counts` refused.

  Returns:
    (figures named as in results.json, points of the curve).

  Raises:
    ValueError: naming what does not fit together.
  """
  from bce_jax.training import verifying

  for name in ("bias", "train_counts"):
    if getattr(args, name) is not None:
      option = f"--{name.replace('_', '-')}"
      raise ValueError(f"{option} is of scores, but {path} holds features without logits")
  features = _features(held["features"])
  if args.threshold is not None and abs(args.threshold) > 1:
    raise ValueError(f"--threshold {args.threshold}: expected one on cosines, -1 … 1")
  threshold = args.threshold if args.threshold is not None else _learned(held)
  if args.pairs is not None:
    listed = _listed(path, held, args.pairs, len(features))
    return verifying.verify_listed_pairs(features, listed, threshold=threshold)
  if "labels" not in held:
    hint = " (or give --pairs)" if "paths" in held else ""
    raise ValueError(f"{path} has no 'labels'{hint}; {did_you_mean('labels', held, used=KEYS)}")
  labels = _identities(held["labels"], len(features))
  try:
    with _bar(len(features)) as bar:

      def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

      return verifying.verify_all_pairs(features, labels, threshold=threshold, progress=advance)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def _features(stored: "StoredArray") -> "np.ndarray":
  import numpy as np

  from bce_jax.metrics.cosines import MIN_NORM
  from bce_jax.training.stored import computed_in

  if len(stored.shape) != 2 or 0 in stored.shape or stored.shape[0] < 2:
    raise ValueError(
      f"{stored.name} has shape {stored.shape}: expected [samples, D], with two or more samples"
    )
  features = stored.load().astype(computed_in(stored))
  bad = int(np.sum(~np.isfinite(features).all(axis=1)))
  if bad:
    raise ValueError(f"{stored.name}: {bad:,} of {len(features):,} rows hold nan or infinity")
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
  path: pathlib.Path, held: Mapping[str, "StoredArray"], file: pathlib.Path, size: int
) -> Any:
  """The list's pairs as rows of the features, found by path, or by path without its ending."""
  import numpy as np

  from bce_jax.data import pairs

  if "paths" not in held:
    raise ValueError(
      f"--pairs {file} names images: expected 'paths' in {path}, one a row of its features; it"
      f" holds {', '.join(held)}"
    )
  stored = held["paths"]
  if stored.shape != (size,) or stored.dtype.kind != "U":
    raise ValueError(f"{stored.name} is {stored.dtype} {stored.shape}: expected text, ({size},)")
  listed = pairs.read(file)
  names = [str(name) for name in stored.load()]
  exact, bare = _rows(names), _rows(map(_bare, names))
  found = [exact.get(name) or bare.get(_bare(name)) or [] for name in listed.paths]
  missing = [name for name, rows in zip(listed.paths, found, strict=True) if not rows]
  if missing:
    raise ValueError(
      f"--pairs {file} names {missing[0]}, which is not among the {size:,} paths of {path}"
      f" ({len(missing):,} are missing)"
    )
  for name, rows in zip(listed.paths, found, strict=True):
    if len(rows) > 1:
      first, second = rows[:2]
      raise ValueError(
        f"--pairs {file} names {name}, which may be row {first} ({names[first]}) or row {second}"
        f" ({names[second]}) of {path}: expected one"
      )
  at = np.array([rows[0] for rows in found])
  return listed._replace(paths=tuple(names), pairs=at[listed.pairs])


def _rows(names: Iterable[str]) -> dict[str, list[int]]:
  """The rows of each name."""
  rows: dict[str, list[int]] = {}
  for row, name in enumerate(names):
    rows.setdefault(name, []).append(row)
  return rows


def _bare(name: str) -> str:
  """A path without its ending: it is the same image as .jpg or .png.

  Not all that follows a dot is one: subject01.happy and subject01.sad are two images.
  """
  from bce_jax.data import folders

  ending = next((x for x in folders.ENDINGS if name.lower().endswith(x)), "")
  return name[: len(name) - len(ending)]


def _bar(size: int) -> Any:
  from tqdm import tqdm

  return tqdm(desc="pairs", unit=" tiles", disable=size < 20_000 or not sys.stderr.isatty())
