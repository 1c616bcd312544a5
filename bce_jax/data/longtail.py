"""Long-tailed subsets of balanced sets: how many images each class keeps, and which.

Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019 (the
exponential profile); Buda et al., 2018 (steps); counts as in the released code of BCE3S.
"""

from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from bce_jax.data import splits
from bce_jax.names import nearest

PROFILES = ("exponential", "step")


def class_counts(
  num_classes: int, largest: int, *, imbalance: float, profile: str = "exponential"
) -> Int64[np.ndarray, " n"]:
  r"""Returns how many images each class keeps, the first class the most.

    exponential: n_i = ⌊n_max · IF^(−i/(N−1))⌋ · step: n_max for the first ⌊N/2⌋, ⌊n_max/IF⌋ after

  Args:
    num_classes: N ≥ 2.
    largest: n_max ≥ 1, images of the first class.
    imbalance: IF ≥ 1, images of the first class over those of the last.
    profile: "exponential" or "step".

  Returns:
    Counts, not increasing: [N].

  Raises:
    ValueError: for a number out of range, an unknown profile, or a class left without images.

  >>> class_counts(5, 100, imbalance=100).tolist()
  [100, 31, 10, 3, 1]
  """
  if num_classes < 2 or largest < 1:
    raise ValueError(f"num_classes is {num_classes} and largest is {largest}; expected ≥ 2 and ≥ 1")
  if not (np.isfinite(imbalance) and imbalance >= 1):
    raise ValueError(f"imbalance is {imbalance}; expected a finite number ≥ 1")
  i = np.arange(num_classes)
  share = 1.0 / imbalance
  if profile == "exponential":
    # Python's own power, as the released code has it: where n_i is nearly whole, one rounding
    # more or less is one image more or less.
    counts = np.array(
      [int(largest * share ** (k / (num_classes - 1.0))) for k in range(num_classes)]
    )
  elif profile == "step":
    counts = np.where(i < num_classes // 2, largest, int(largest * share))
  else:
    raise ValueError(
      f"unknown profile {profile!r}; did you mean {nearest(profile, PROFILES)!r}?"
      f" expected one of {', '.join(PROFILES)}"
    )
  if imbalance <= largest:  # n · (1/n) may round to less than 1
    counts = np.maximum(counts, 1)
  if counts.min() < 1:
    raise ValueError(
      f"imbalance {imbalance} leaves a class of {largest} images with none:"
      f" expected at most {largest}"
    )
  return counts.astype(np.int64)


def largest_fit(
  available: Int[np.ndarray, " N"], *, imbalance: float, profile: str = "exponential"
) -> Int64[np.ndarray, " N"]:
  """Returns the largest counts of a profile that the classes of a set can give.

  Args:
    available: images of each class, ≥ 1: [N].
    imbalance: IF ≥ 1.
    profile: "exponential" or "step".

  Returns:
    `class_counts` of the largest first class with which no class needs more than it has: [N].

  Raises:
    ValueError: as `class_counts`.

  >>> largest_fit(np.array([100, 30, 10]), imbalance=10).tolist()
  [98, 30, 9]
  """
  largest = int(available[0])
  while True:
    counts = class_counts(len(available), largest, imbalance=imbalance, profile=profile)
    if np.all(counts <= available):
      return counts
    largest -= 1


def subset(
  labels: Int[np.ndarray, " n"], counts: Any, *, seed: int | None = None
) -> Int64[np.ndarray, " kept"]:
  """Returns which images of a labeled set make its long-tailed subset.

  Args:
    labels: class ids of all images, in [0, N).
    counts: images each class keeps: [N].
    seed: of the choice within each class; None keeps the first of each class in data order, as the
      released code does.

  Returns:
    Indices into `labels`, increasing: [sum of counts].

  Raises:
    ValueError: when a class has fewer images than it is to keep.

  >>> subset(np.array([0, 1, 0, 1, 0]), [2, 1]).tolist()
  [0, 1, 2]
  """
  chosen = []
  for label, count in enumerate(np.asarray(counts)):
    members = np.flatnonzero(labels == label)
    if len(members) < count:
      raise ValueError(f"class {label} has {len(members)} images, fewer than the {count} to keep")
    if seed is not None:
      members = members[splits.permutation((seed, label), len(members))]
    chosen.append(members[:count])
  return np.sort(np.concatenate(chosen))
