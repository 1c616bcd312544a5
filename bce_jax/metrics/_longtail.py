"""Accuracy apart for classes with many, a medium number of and few training images.

What has to be kept of a sample is whether it was right, so the streaming half is
`score_pairs`: right = positive > hardest negative. Parts are merged by concatenation, and across
devices by `axis_name`.

Source: Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019, §5, for the
limits; Fan et al., "BCE3S", AAAI 2026, arXiv 2511.14097, table 2.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from bce_jax import checks, explicit

MANY = 100
"""A class with more training images than this is a many-shot class."""

FEW = 20
"""A class with fewer training images than this is a few-shot class; the rest are medium."""


class ShotAccuracy(NamedTuple):
  """The accuracy of each group of classes; nan for a group without samples.

  Python floats outside a trace, scalars inside one. A group without samples is absent, not 0: the
  caller leaves it out.

  Attributes:
    many: over the samples of classes with more than 100 training images.
    medium: with 20 … 100.
    few: with fewer than 20, none included.
    all: over all samples.
  """

  many: float | jax.Array
  medium: float | jax.Array
  few: float | jax.Array
  all: float | jax.Array


@explicit.auto(explicit.replicated)
def shot_accuracy(
  correct: Bool[ArrayLike, "*batch"] | Float[ArrayLike, "*batch"],
  labels: Int[ArrayLike, "*batch"],
  train_counts: Int[ArrayLike, " N"],
  *,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> ShotAccuracy:
  """Mean of `correct` over the samples of many-, medium- and few-shot classes, and over all.

    many: n_y > 100,   medium: 20 ≤ n_y ≤ 100,   few: n_y < 20

  The groups are made by TRAINING images; the means are over the samples that are evaluated.

  Args:
    correct: whether each sample was classified correctly; a float in [0, 1] is a share.
    labels: class ids in [0, N).
    train_counts: n ≥ 0, training images of each class, in the subset trained on.
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over: every
      device gets the results of all samples together.

  Returns:
    `ShotAccuracy`. Summed in float64 outside a trace; inside one, bools are counted exactly and
    floats are summed in float32 at least.

  Raises:
    ValueError: for wrong shapes or dtypes, a negative count, a label out of range, or a share
      outside [0, 1] (outside a trace; inside one a label out of range or a negative count of a
      evaluated class makes all four nan).

  >>> shot_accuracy([True, False, True, True], [0, 0, 1, 2], [101, 100, 20])
  ShotAccuracy(many=0.5, medium=1.0, few=nan, all=0.75)

  Source: Liu et al., CVPR 2019, §5.
  """
  dtype = checks.dtype_of(correct)
  if dtype != np.bool_ and not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"correct must be bool or floating point, got dtype {dtype}")
  shape = np.shape(correct)
  mask = checks.example_mask(where, shape)
  shots = _shots(train_counts)
  ids, valid = checks.int_labels(labels, shape, len(shots), where=where)
  group = jnp.asarray(shots)[ids]
  value = checks.known(correct)
  # Inside a trace all that `jnp` makes is a tracer, even of constants.
  if (
    axis_name is None
    and value is not None
    and all(checks.known(x) is not None for x in (mask, group))
  ):
    group, mask = jax.device_get((group, mask))
    value = value.astype(np.float64)
    wrong = mask & ~((value >= 0) & (value <= 1))
    if wrong.any():
      raise ValueError(f"correct must lie in [0, 1], got {value[wrong].flat[0]}")
    pairs = zip(*_sums(np, value, group, mask), strict=True)
    return ShotAccuracy(*(float(r) / int(n) if n else math.nan for r, n in pairs))
  exact = dtype == np.bool_
  right, count = _sums(
    jnp,
    jnp.asarray(correct).astype(np.int32 if exact else checks.computing_dtype(dtype)),
    group,
    mask,
  )
  bad = jnp.sum(mask & (~valid | (group < 0)), dtype=jnp.int32)
  if axis_name is not None:
    right, count, bad = lax.psum((right, count, bad), axis_name)
  wide = checks.computing_dtype(right.dtype)
  share = right.astype(wide) / count.astype(wide)  # 0/0 is nan
  return ShotAccuracy(*jnp.where(bad == 0, share, jnp.nan))


def _shots(train_counts: Any) -> Any:
  """0 for a few-shot class, 1 for medium, 2 for many; −1 for a negative count inside a trace."""
  dtype, value = checks.dtype_of(train_counts), checks.known(train_counts)
  if not jnp.issubdtype(dtype, jnp.integer):
    raise ValueError(f"train_counts must be integers, got dtype {dtype}")
  if np.ndim(train_counts) != 1 or not np.size(train_counts):
    raise ValueError(f"train_counts must have shape [classes], got {np.shape(train_counts)}")
  if value is not None and value.min() < 0:
    raise ValueError(f"train_counts must be at least 0, got {value.min()}")
  # In numpy where the value is known: a wide integer must not wrap as int32.
  counts = train_counts if value is None else value
  shots = (counts >= FEW).astype(np.int32) + (counts > MANY).astype(np.int32)
  return shots - (counts < 0).astype(np.int32)


def _sums(xp: Any, value: Any, group: Any, mask: Any) -> tuple[Any, Any]:
  """Sums and numbers of samples of many, medium, few and all: [4], [4]."""
  members = [*(mask & (group == shot) for shot in (2, 1, 0)), mask]
  zero = xp.zeros((), value.dtype)
  right = xp.stack([xp.sum(xp.where(m, value, zero), dtype=value.dtype) for m in members])
  return right, xp.stack([xp.sum(m, dtype=np.int32) for m in members])
