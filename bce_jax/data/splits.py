"""Splits and orders that follow from the labels and the seed alone, on every machine."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64

SPLIT_SEED = 20240731  # of every split made here; with another, results could not be compared


def held_out(labels: np.ndarray, fraction: float, option: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns `stratified_split`; a fraction out of range, or too small, is refused."""
  if not 0 <= fraction < 1:
    raise ValueError(f"{option} is {fraction}; expected 0 ≤ fraction < 1")
  kept, taken = stratified_split(labels, fraction=fraction)
  if fraction and not len(taken):
    raise ValueError(
      f"{option} is {fraction}, which takes no image: the largest class has"
      f" {np.bincount(labels).max()}; expected a larger fraction, or larger classes"
    )
  return kept, taken


def stratified_split(
  labels: Int[np.ndarray, " n"], *, fraction: float, seed: int = SPLIT_SEED
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " taken"]]:
  """Splits a set class by class: of c images min(⌊fraction · c + ½⌋, c − 1) are taken.

  Args:
    labels: integers ≥ 0, [n].
    fraction: share to take, 0 ≤ f < 1.
    seed: the choice within a class is a function of this, the label and the class' size only.

  Returns:
    (kept, taken): indices, ascending, [n] in all.

  >>> kept, taken = stratified_split(np.array([0, 0, 0, 0, 1]), fraction=0.5)
  >>> len(kept), len(taken)
  (3, 2)
  """
  classes, counts = np.unique(labels, return_counts=True)
  by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
  is_taken = np.zeros(len(labels), bool)
  for label, members in zip(classes, by_class, strict=True):
    count = min(math.floor(fraction * len(members) + 0.5), len(members) - 1)
    is_taken[members[permutation((seed, int(label)), len(members))[:count]]] = True
  return np.flatnonzero(~is_taken), np.flatnonzero(is_taken)


def permutation(seed: Sequence[int], n: int) -> Int64[np.ndarray, " n"]:
  """Returns a permutation of 0 … n − 1, a function of `seed` (integers ≥ 0) and n only.

  >>> permutation((0, 2), 4).tolist()
  [3, 2, 0, 1]
  """
  # By sorting raw bits: NumPy promises that later versions give the same ones, and promises
  # nothing of the kind for Generator.permutation.
  bits = np.random.Philox(np.random.SeedSequence(tuple(seed))).random_raw(n)
  return np.argsort(bits, kind="stable")
