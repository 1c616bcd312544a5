"""The three BCE terms of BCE3S, weights and offsets from class counts, the MaxNorm projection.

Signs as in `bce`: a decision score z counts for a class where it is positive. (BCE3S writes
z = ŵᵀx + b; with the bias of this package, which is subtracted, its b is −bias.)

Paper: [T] Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning for
Long-tailed Recognition", AAAI 2026, arXiv 2511.14097.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bce_jax import checks, explicit
from bce_jax.losses._bce import bce, cosine, softmax_cross_entropy
from bce_jax.norms import norm


@explicit.auto(explicit.leading)
def mixed_bce(
  logits: Float[ArrayLike, "*batch N"],
  targets: Float[ArrayLike, "*batch N"],
  *,
  class_mask: Bool[ArrayLike, " N"] | Bool[ArrayLike, "*batch N"] | None = None,
) -> Float[Array, "*batch"]:
  r"""BCE of mixed images: weighted positives, and no negative term for a class that is in the mix.

    loss = Σ_j [t_j sp(−z_j) + 1[t_j = 0] sp(z_j)],   sp(z) = log(1 + eᶻ)

  `bce` with soft targets has (1 − t_j) sp(z_j) instead; for one-hot targets the two agree.

  Args:
    logits: decision scores z, any floating dtype; computed in float32 (float64 stays float64).
    targets: t in [0, 1], λ for the source's class and 1 − λ for the partner's.
    class_mask: False removes the class, its positive term too.

  Returns:
    One loss per example, ≥ 0, summed over classes: [*batch].

  Raises:
    ValueError: for a wrong shape or dtype, or known targets outside [0, 1].

  >>> import jax.numpy as jnp
  >>> mixed_bce(jnp.array([[2.0, -1.0, 0.0]]), jnp.array([[0.7, 0.3, 0.0]]))
  Array([1.17597...], dtype=float32)

  Source: [T] §3 and the released code.
  """
  z = checks.float_array("logits", logits)
  if not jnp.issubdtype(checks.dtype_of(targets), jnp.floating):
    raise ValueError(f"targets must be floating point, got dtype {checks.dtype_of(targets)}")
  t = checks.float_targets(targets, z)
  if class_mask is None:
    kept = jnp.ones((), bool)
  else:
    kept = checks.class_mask(class_mask, z.shape)
    z = jnp.where(kept, z, 0.0)  # what is removed may be nan, and must not reach a gradient
  negative = jnp.where(t == 0, jax.nn.softplus(z), 0.0)
  return jnp.sum(jnp.where(kept, t * jax.nn.softplus(-z) + negative, 0.0), -1)


@explicit.auto(explicit.leading)
def contrast(
  projections: Float[ArrayLike, "*batch P"],
  memory: Float[ArrayLike, "N P"],
  targets: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch N"],
  *,
  temperature: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "*batch"]:
  r"""Sample against sample: BCE of the cosines to one remembered projection per class.

    loss = sp(−cos(g, M_y)/τ) + Σ_{j≠y} sp(cos(g, M_j)/τ)

  and for mixed targets as `mixed_bce`. The gradient reaches both sides; the released method holds
  the memory fixed (`jax.lax.stop_gradient`), under which the projections collapse into one point.

  Args:
    projections: g, not normalized, any floating dtype.
    memory: M, one projection per class, not normalized.
    targets: class ids, or t in [0, 1].
    temperature: τ > 0.

  Returns:
    One loss per example, ≥ 0, summed over classes: [*batch].

  Raises:
    ValueError: for a wrong shape, dtype or option.

  >>> import jax.numpy as jnp
  >>> contrast(jnp.array([[1.0, 0.0]]), jnp.eye(2), jnp.array([0]))
  Array([1.0064...], dtype=float32)

  Source: [T] §3.
  """
  cosines = cosine(projections, memory)
  value = checks.known(temperature)
  if value is not None and np.ndim(value) == 0 and not value > 0:
    raise ValueError(f"temperature must be > 0, got {temperature}")
  z = cosines / checks.scalar("temperature", temperature, cosines.dtype)
  if jnp.issubdtype(checks.dtype_of(targets), jnp.floating):
    return mixed_bce(z, targets)
  return bce(z, targets)


@explicit.auto(explicit.leading)
def classifier_uniformity(
  weights: Float[ArrayLike, "N D"], *, scale: Float[ArrayLike, ""] = 1.0
) -> Float[Array, " N"]:
  r"""Class against class: BCE that pushes the classifier's vectors apart.

    loss_k = sp(−s) + Σ_{j≠k} sp(s · ŵ_kᵀŵ_j)

  Args:
    weights: w, one row per class, not normalized, any floating dtype.
    scale: s ≥ 0.

  Returns:
    One loss per class: [N]; BCE3S takes their mean.

  Raises:
    ValueError: for a wrong shape, dtype or option.

  >>> import jax.numpy as jnp
  >>> classifier_uniformity(jnp.eye(2))
  Array([1.0064..., 1.0064...], dtype=float32)

  Source: [T] §3.
  """
  w = checks.float_array("weights", weights)
  if w.ndim != 2:
    raise ValueError(f"weights must have shape [N, D], got {w.shape}")
  return bce(cosine(w, w), np.arange(len(w)), scale=scale)


def class_weights(counts: Int[ArrayLike, " N"], *, beta: float) -> Float[Array, " N"]:
  r"""Class-balanced weights by the effective number of samples, scaled to sum N.

    weight_i ∝ (1 − β) / (1 − β^{n_i})

  with 1 − βⁿ as −expm1(n · log β): plain float32 loses four digits at β = 0.99999.

  Args:
    counts: n_i ≥ 1, training images of each class.
    beta: in [0, 1); 0 gives equal weights, → 1 gives 1/n_i.

  Returns:
    Weights, float32: [N], summing to N.

  Raises:
    ValueError: for a beta out of range, counts that are not integers, or a class without images.

  >>> class_weights([100, 10, 1], beta=0.0)
  Array([1., 1., 1.], dtype=float32)

  Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
  """
  values = _counts(counts)
  if not (np.ndim(beta) == 0 and 0 <= beta < 1):
    raise ValueError(f"beta must be a number in [0, 1), got {beta}")
  effective = -np.expm1(values * (math.log(beta) if beta else -math.inf))
  weights = 1.0 / effective
  return jnp.asarray(weights * (len(values) / weights.sum()), jnp.float32)


def logit_adjustment(
  counts: Int[ArrayLike, " N"], *, temperature: float = 1.0
) -> Float[Array, " N"]:
  r"""Offsets τ log π_j for the decision scores, π_j = n_j / Σ n the training prior.

  Added in training (loss of z + τ log π), or subtracted at test time from the scores of a plainly
  trained network (post hoc). Losses of this package take them in their bias: bias − offsets.

  Args:
    counts: n_j ≥ 1, training images of each class.
    temperature: τ, finite; 1 is the Bayes-optimal one for softmax.

  Returns:
    Offsets, float32: [N].

  Raises:
    ValueError: for counts that are not integers, a class without images, or τ not finite.

  >>> logit_adjustment([90, 10])
  Array([-0.105..., -2.302...], dtype=float32)

  Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eqs. 9 and 10.
  """
  values = _counts(counts)
  if not (np.ndim(temperature) == 0 and np.isfinite(temperature)):
    raise ValueError(f"temperature must be a finite number, got {temperature}")
  return jnp.asarray(temperature * np.log(values / values.sum()), jnp.float32)


@explicit.auto(explicit.leading)
def balanced_softmax(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch N"],
  counts: Int[ArrayLike, " N"],
) -> Float[Array, "*batch"]:
  r"""Softmax cross-entropy whose classes weigh as often as they are trained on.

    loss = −log (n_y exp z_y / Σ_j n_j exp z_j)

  The same as softmax cross-entropy of z + `logit_adjustment` with τ = 1.

  Args:
    logits: z, any floating dtype.
    labels: class ids in [0, N), or float targets in [0, 1] of the logits' own shape.
    counts: n_j ≥ 1, training images of each class.

  Returns:
    One loss per example, ≥ 0: [*batch].

  Raises:
    ValueError: as `softmax_cross_entropy` and `logit_adjustment`.

  >>> import jax.numpy as jnp
  >>> balanced_softmax(jnp.zeros((1, 2)), jnp.array([1]), [90, 10])
  Array([2.302...], dtype=float32)

  Source: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020.
  """
  return softmax_cross_entropy(logits, labels, bias=-logit_adjustment(counts))


@explicit.auto(explicit.replicated)
def max_norm_limit(weights: Float[ArrayLike, "N D"], *, fraction: float = 0.1) -> Float[Array, ""]:
  r"""The norm to which stage 2 of BCE3S cuts the classifier's rows: min + fraction · (max − min).

  Args:
    weights: w, one row per class, any floating dtype.
    fraction: in [0, 1].

  Returns:
    A norm between the smallest and the largest of the rows': [].

  Raises:
    ValueError: for a wrong shape or dtype, or a fraction out of range.

  >>> import jax.numpy as jnp
  >>> max_norm_limit(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
  Array(1.4, dtype=float32)

  Source: [T] §4; Alshammari et al., "Long-Tailed Recognition via Weight Balancing", CVPR 2022.
  """
  norms = norm(_rows(weights))
  share = checks.scalar("fraction", fraction, norms.dtype, low=0.0, high=1.0)
  return jnp.min(norms) + share * (jnp.max(norms) - jnp.min(norms))


@explicit.auto(explicit.alike)
def max_norm(
  weights: Float[ArrayLike, "N D"], *, limit: Float[ArrayLike, ""]
) -> Float[Array, "N D"]:
  r"""Projects every row onto the ball of radius `limit`: w_i · min(1, limit / ‖w_i‖).

  Args:
    weights: w, one row per class, any floating dtype.
    limit: ≥ 0, as of `max_norm_limit`.

  Returns:
    The rows, none longer than `limit`: [N, D].

  Raises:
    ValueError: for a wrong shape, dtype or limit.

  >>> import jax.numpy as jnp
  >>> max_norm(jnp.array([[3.0, 4.0], [0.0, 1.0]]), limit=2.5)
  Array([[1.5, 2. ],
         [0. , 1. ]], dtype=float32)

  Source: [T] §4; Alshammari et al., CVPR 2022.
  """
  w = _rows(weights)
  bound = checks.scalar("limit", limit, w.dtype, low=0.0)
  norms = norm(w)
  longer = norms > bound
  return jnp.where(longer, w / jnp.where(longer, norms, 1.0) * bound, w)


def _counts(counts: ArrayLike) -> np.ndarray:
  values = checks.known(counts)
  if values is None or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f"counts must be integers of shape [N], got {counts}")
  if values.size == 0 or values.min() < 1:
    raise ValueError(f"every class needs at least one image, got counts {values}")
  return values


def _rows(weights: ArrayLike) -> jax.Array:
  w = checks.float_array("weights", weights)
  if w.ndim != 2 or not w.size:
    raise ValueError(f"weights must have shape [N, D], got {w.shape}")
  return w
