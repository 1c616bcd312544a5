"""Where the learnable bias starts, and where perfect training leaves it."""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from bce_jax import checks


def bias_init(mode: int, num_classes: int, *, mean: float = 0.0) -> Float[Array, " N"]:
  r"""Deterministic initial values of the diverse bias, plus a constant.

  With x = 0 … N−1:

    1: x · 2: 64x/N · 3: 2 reversed · 4: log(96x + 1) · 5: 4 reversed ·
    6: quarters of the classes at log(96N), 0, log(96N), 0 · 7: at 0, log(96N), 0, log(96N)

  (quarters split at ⌊N/4⌋, ⌊N/2⌋, ⌊3N/4⌋). Mode 0, U(±1/√features), is random and belongs to the
  classifier (`bce_jax.models.Head`).

  Args:
    mode: 1 to 7.
    num_classes: N ≥ 1.
    mean: constant added to every entry.

  Returns:
    The bias, float32: [N].

  Raises:
    ValueError: for another mode, or num_classes < 1.

  >>> bias_init(2, 4)
  Array([ 0., 16., 32., 48.], dtype=float32)

  Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289,
  figure 3 (its "bias initialization 3 / 7") and the released code.
  """
  if isinstance(mode, bool) or mode not in range(1, 8):
    raise ValueError(f"mode of bias_init must be one of 1, 2, …, 7, got {mode!r}")
  n = checks.integer("num_classes", num_classes, low=1)
  offset = checks.scalar("mean", mean, jnp.float32)
  x = np.arange(n)
  if mode == 1:
    values = x.astype(np.float64)
  elif mode in (2, 3):
    values = 64 * x / n
  elif mode in (4, 5):
    values = np.log(96 * x + 1)
  else:
    quarter = np.searchsorted([n // 4, n // 2, 3 * n // 4], x, side="right")
    values = np.where(quarter % 2 == (0 if mode == 6 else 1), np.log(96 * n), 0.0)
  if mode in (3, 5):
    values = values[::-1]
  return jnp.asarray(values, jnp.float32) + offset


def prior_bias(num_classes: int, *, share: float = 1.0) -> Float[Array, ""]:
  r"""Initial unified bias at which the negatives do not swamp the first steps: log(10 · N · r).

  Args:
    num_classes: N ≥ 1.
    share: r in (0, 1], the share of the classes that each step uses as negatives.

  Returns:
    The bias, on scale · c: float32 scalar.

  Raises:
    ValueError: for num_classes < 1 or a share outside (0, 1].

  >>> prior_bias(10)
  Array(4.6051702, dtype=float32)

  Source: Zhou et al., "UniFace", ICCV 2023, §3.4.
  """
  n = checks.integer("num_classes", num_classes, low=1)
  if not (checks.known(share) is not None and np.ndim(share) == 0 and 0 < share <= 1):
    raise ValueError(f"share must be a number in (0, 1], got {share}")
  return jnp.asarray(np.log(10.0 * n * float(share)), jnp.float32)


def converged_bias(
  lower: Float[ArrayLike, "*shape"],
  upper: Float[ArrayLike, "*shape"],
  num_classes: int,
) -> Float[Array, "*shape"]:
  r"""The unified bias of perfect training: all negatives at A, all positives at B.

  The root b of σ(b − B) = (N − 1) σ(A − b), in closed form

    e^b = ½ [(N−2) e^A + √((N−2)² e^{2A} + 4 (N−1) e^{A+B})],

  computed in logs. A ≤ b always; b < B iff B − A > log(2N − 3); for large B − A it is about
  (A + B)/2 + ½ log(N − 1).

  Args:
    lower: A, the similarity of negative pairs (scale included), −γ for cosines.
    upper: B > A, the similarity of positive pairs, γ for cosines; the shape of `lower`.
    num_classes: N ≥ 2.

  Returns:
    The bias, float32 at least, of the arguments' shape.

  Raises:
    ValueError: for num_classes < 2, shapes that differ, values not finite or upper ≤ lower.

  >>> converged_bias(-32.0, 32.0, 1000)
  Array(3.45337..., dtype=float32)

  Source: closed form of corollary 1 of Li et al., arXiv 2403.07289, derived for this project.
  """
  n = checks.integer("num_classes", num_classes, low=2)
  if np.shape(lower) != np.shape(upper):
    raise ValueError(
      f"lower and upper must have one shape, got {np.shape(lower)} and {np.shape(upper)}"
    )
  low, high = checks.known(lower), checks.known(upper)
  if low is not None and high is not None:
    fits = np.isfinite(low) & np.isfinite(high) & (low < high)
    if not fits.all():
      raise ValueError(f"lower < upper, both finite, is needed, got {lower} and {upper}")
  a, b = (jnp.asarray(v) for v in (lower, upper))
  dtype = checks.computing_dtype(a.dtype, b.dtype)
  a, b = a.astype(dtype), b.astype(dtype)
  # e^b / e^A: the difference B − A is all that is exponentiated, and only inside logaddexp.
  root = 0.5 * (math.log(4 * (n - 1)) + (b - a))
  if n > 2:
    log_rest = math.log(n - 2)
    root = jnp.logaddexp(0.5 * jnp.logaddexp(2 * log_rest, 2 * root), log_rest)
  return a + root - math.log(2)
