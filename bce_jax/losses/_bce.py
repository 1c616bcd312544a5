"""Losses of one example against all classes: BCE, its softmax twin and the hinge they smooth.

One sign convention: the decision score is z = scale · (c − margin · 1[label]) − bias, for a
similarity c (wᵀx, or the cosine of w and x) and a bias that is one number (unified) or one per
class (diverse).

Papers: [R] Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289;
[F] Zhou et al., "UniFace", ICCV 2023; [C] Li et al., "BCE vs. CE in Deep Feature Learning", ICML
2025.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bce_jax import checks, explicit
from bce_jax.norms import l2_normalize


class _Terms(NamedTuple):
  """What every loss needs of its arguments, checked and in the dtype of the computation."""

  similarities: jax.Array  # [..., N], scale · (c − margin · 1[label])
  bias: jax.Array  # [], or [1, …, 1, N]
  targets: jax.Array  # [..., N]: bool for integer labels, else floating
  kept: jax.Array | None  # [N] or [..., N] bool: the classes that count
  num_kept: jax.Array | float  # number of them, [..., 1] where it may differ
  valid: jax.Array | None  # [...] bool: labels in range, None for soft targets

  def finish(self, loss: jax.Array) -> jax.Array:
    return loss if self.valid is None else jnp.where(self.valid, loss, jnp.nan)

  def zero_removed(self, x: jax.Array) -> jax.Array:
    return x if self.kept is None else jnp.where(self.kept, x, 0.0)


def _terms(
  logits: Any,
  labels: Any,
  *,
  bias: Any = 0.0,
  scale: Any = 1.0,
  margin: Any = 0.0,
  class_mask: Any = None,
) -> _Terms:
  """Checks the arguments that the losses share and applies scale and margin."""
  c = checks.float_array("logits", logits)
  if c.ndim == 0 or c.shape[-1] == 0:
    raise ValueError(f"logits must have shape [..., classes] with classes ≥ 1, got {c.shape}")
  num_classes = c.shape[-1]
  soft = jnp.issubdtype(checks.dtype_of(labels), jnp.floating)
  valid = None
  if soft:
    targets = checks.float_targets(labels, c)
  else:
    labels, valid = checks.int_labels(labels, c.shape[:-1], num_classes)
    targets = jnp.expand_dims(labels, -1) == _per_class(
      jnp.arange(num_classes, dtype=jnp.int32), c.ndim
    )

  if np.shape(bias) not in ((), (num_classes,)) or not checks.is_real(checks.dtype_of(bias)):
    raise ValueError(
      f"bias must be a scalar (unified) or of shape ({num_classes},) (diverse),"
      f" got {checks.dtype_of(bias)} of shape {np.shape(bias)}"
    )
  bias = jnp.asarray(bias).astype(c.dtype)
  if bias.ndim:
    bias = _per_class(bias, c.ndim)
  scale = checks.scalar("scale", scale, c.dtype, low=0.0)
  no_margin = checks.known(margin) is not None and not np.any(checks.known(margin))
  margin = checks.scalar("margin", margin, c.dtype, low=0.0)
  if not no_margin:
    if soft:
      raise ValueError("a margin needs integer labels, got float targets")
    c = c - jnp.where(targets, margin, 0.0)

  kept: jax.Array | None = None
  num_kept: jax.Array | float = float(num_classes)
  if class_mask is not None:
    kept = checks.class_mask(class_mask, c.shape)
    num_kept = jnp.sum(kept, -1, keepdims=True, dtype=c.dtype)
    c = jnp.where(kept, c, 0.0)  # what is removed may be nan, and must not reach scale's gradient
  return _Terms(scale * c, bias, targets, kept, num_kept, valid)


def _per_class(values: jax.Array, ndim: int) -> jax.Array:
  """[..., N] with axes of length 1 in front, to stand beside [..., N] of `ndim` axes."""
  return jnp.expand_dims(values, tuple(range(ndim - values.ndim)))


def _hinge_or_softplus(
  penalty: Callable[[jax.Array], jax.Array],
  z: jax.Array,
  targets: jax.Array,
  negative_weight: jax.Array,
) -> jax.Array:
  """Σ over classes of penalty(−z) for the targets and negative_weight · penalty(z) for the rest.

  Integer labels need one penalty per class: the sign is chosen first, so that a positive's term is
  never the difference of two large ones.
  """
  if targets.dtype == bool:
    return jnp.where(targets, 1.0, negative_weight) * penalty(jnp.where(targets, -z, z))
  return targets * penalty(-z) + negative_weight * (1.0 - targets) * penalty(z)


def class_losses(
  z: jax.Array,
  targets: jax.Array,
  negative_weight: jax.Array,
  epsilon: jax.Array | None,
  num_kept: jax.Array | float,
  softplus: Callable[[jax.Array], jax.Array] = jax.nn.softplus,
) -> jax.Array:
  """The term of every class in `bce`, from decision scores: [..., N].

  Args:
    z: decision scores, [..., N].
    targets: [..., N], bool or floating.
    negative_weight: λ.
    epsilon: ε of the smoothing, None for none.
    num_kept: the number of classes that count, [] or [..., 1]; smoothing needs it.
    softplus: log(1 + eᶻ).
  """
  plain = _hinge_or_softplus(softplus, z, targets, negative_weight)
  if epsilon is None:
    return plain
  n = jnp.maximum(jnp.asarray(num_kept, z.dtype), 1.0)
  uniform = (softplus(-z) + (n - 1.0) * softplus(z)) / n
  return (1.0 - epsilon) * plain + epsilon * uniform


@explicit.auto(explicit.leading)
def bce(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch N"],
  *,
  bias: Float[ArrayLike, ""] | Float[ArrayLike, " N"] = 0.0,
  scale: Float[ArrayLike, ""] = 1.0,
  margin: Float[ArrayLike, ""] = 0.0,
  negative_weight: Float[ArrayLike, ""] = 1.0,
  smoothing: Float[ArrayLike, ""] = 0.0,
  class_mask: Bool[ArrayLike, " N"] | Bool[ArrayLike, "*batch N"] | None = None,
) -> Float[Array, "*batch"]:
  r"""Binary cross-entropy of every class, summed over the classes.

  With z = scale · (c − margin · 1[label]) − bias and sp(z) = log(1 + eᶻ):

    loss = sp(−z_y) + negative_weight · Σ_{j≠y} sp(z_j)

  and for soft targets t: Σ_j [t_j sp(−z_j) + negative_weight · (1 − t_j) sp(z_j)]. With smoothing ε
  it is (1−ε) · loss + ε/N · Σ_j [sp(−z_j) + (N−1) sp(z_j)].

  bce-u and bce-nu are this with a scalar bias, bce-d and bce-nd with a bias [N]; for the normalized
  two (-n) the logits are `cosine(features, weights)` and scale is γ.

  Args:
    logits: similarities c, of any floating dtype; computed in float32 (float64 stays float64).
    labels: class ids in [0, N), or float targets in [0, 1] of the logits' own shape. An id out of
      range raises where its value is known; under jit that example's loss is nan.
    bias: one number (unified) or one per class (diverse); subtracted.
    scale: γ ≥ 0.
    margin: m ≥ 0, taken from the label's similarity before scaling; needs integer labels.
    negative_weight: λ ≥ 0, the weight of the negative terms (UniFace: 0.6 to 0.7).
    smoothing: ε in [0, 1], applied to z after the margin; its own negatives are not weighted by λ.
    class_mask: False removes the class, its positive term too, as if its column were deleted (N
      above is then the number of classes left).

  Returns:
    One loss per example, ≥ 0, summed over classes: [*batch].

  Raises:
    ValueError: for a wrong shape, dtype or option, for float targets of another shape than the
      logits' (nothing is broadcast), for a margin with float targets.

  >>> import jax.numpy as jnp
  >>> bce(jnp.array([[2.0, -1.0, 0.0]]), jnp.array([0]), bias=0.5)
  Array([0.8769...], dtype=float32)

  Source: [R] eqs. (bce-u) to (bce-nd); margin and λ: [F] §3; smoothing: [C].
  """
  terms = _terms(logits, labels, bias=bias, scale=scale, margin=margin, class_mask=class_mask)
  z = terms.zero_removed(terms.similarities - terms.bias)
  weight = checks.scalar("negative_weight", negative_weight, z.dtype, low=0.0)
  epsilon = None
  if not is_zero(smoothing):
    epsilon = checks.scalar("smoothing", smoothing, z.dtype, low=0.0, high=1.0)
  losses = class_losses(z, terms.targets, weight, epsilon, terms.num_kept)
  return terms.finish(jnp.sum(terms.zero_removed(losses), -1))


@explicit.auto(explicit.leading)
def softmax_cross_entropy(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch N"],
  *,
  bias: Float[ArrayLike, ""] | Float[ArrayLike, " N"] = 0.0,
  scale: Float[ArrayLike, ""] = 1.0,
  margin: Float[ArrayLike, ""] = 0.0,
  smoothing: Float[ArrayLike, ""] = 0.0,
  class_mask: Bool[ArrayLike, " N"] | Bool[ArrayLike, "*batch N"] | None = None,
) -> Float[Array, "*batch"]:
  r"""Softmax cross-entropy, the twin of `bce` with the same arguments.

    loss = −log softmax(z)_y,   z = scale · (c − margin · 1[label]) − bias

  and for soft targets −Σ_j t_j log softmax(z)_j; with smoothing ε it is
  (1−ε) · loss − ε/N · Σ_j log softmax(z)_j. A unified bias cancels: the loss does not depend on it
  and its gradient is exactly 0 (soft-u, soft-nu).

  Args:
    logits: similarities c, of any floating dtype; computed in float32 (float64 stays float64).
    labels: class ids in [0, N), or float targets in [0, 1] of the logits' own shape. An id out of
      range raises where its value is known; under jit that example's loss is nan.
    bias: one number (unified, without effect) or one per class (diverse); subtracted.
    scale: γ ≥ 0, the inverse temperature.
    margin: m ≥ 0, taken from the label's similarity before scaling; needs integer labels.
    smoothing: ε in [0, 1].
    class_mask: False removes the class from the sum in the normalizer and from the targets, as if
      its column were deleted (an example whose label is removed has loss 0).

  Returns:
    One loss per example, ≥ 0: [*batch].

  Raises:
    ValueError: as `bce`.

  >>> import jax.numpy as jnp
  >>> softmax_cross_entropy(jnp.array([[2.0, -1.0, 0.0]]), jnp.array([0]))
  Array([0.1698...], dtype=float32)

  Source: [R] eqs. (soft-u) to (soft-nd); smoothing: Szegedy et al., CVPR 2016, §7.
  """
  terms = _terms(logits, labels, bias=bias, scale=scale, margin=margin, class_mask=class_mask)
  # A unified bias is left out, not subtracted: it cancels exactly, and no rounding is added.
  z = terms.similarities if terms.bias.ndim == 0 else terms.similarities - terms.bias
  z = terms.zero_removed(z)
  where = terms.kept
  if where is not None:  # where no class is left all count: log 1 rather than log 0
    where = where | ~jnp.any(where, -1, keepdims=True)
  minus_log_p = terms.zero_removed(-jax.nn.log_softmax(z, where=where))
  targets = terms.targets
  plain = jnp.where(targets, minus_log_p, 0.0) if targets.dtype == bool else targets * minus_log_p
  losses = plain
  if not is_zero(smoothing):
    epsilon = checks.scalar("smoothing", smoothing, z.dtype, low=0.0, high=1.0)
    n = jnp.maximum(jnp.asarray(terms.num_kept, z.dtype), 1.0)
    losses = (1.0 - epsilon) * plain + epsilon * minus_log_p / n
  return terms.finish(jnp.sum(terms.zero_removed(losses), -1))


@explicit.auto(explicit.leading)
def naive(
  logits: Float[ArrayLike, "*batch N"],
  labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch N"],
  *,
  threshold: Float[ArrayLike, ""],
) -> Float[Array, "*batch"]:
  r"""The hinge around one threshold whose smooth upper bound is `bce`.

    loss = max(0, t − c_y) + Σ_{j≠y} max(0, c_j − t)

  It is zero exactly when one threshold t separates the label's similarity from all others.

  Args:
    logits: similarities c, of any floating dtype; computed in float32 (float64 stays float64).
    labels: class ids in [0, N), or float targets in [0, 1] of the logits' own shape.
    threshold: t, one number; may be learned.

  Returns:
    One loss per example, ≥ 0: [*batch].

  Raises:
    ValueError: as `bce`.

  >>> import jax.numpy as jnp
  >>> naive(jnp.array([[2.0, -1.0, 0.5]]), jnp.array([0]), threshold=0.0)
  Array([0.5], dtype=float32)

  Source: derived from [F] §3.3.
  """
  terms = _terms(logits, labels)
  t = checks.scalar("threshold", threshold, terms.similarities.dtype)
  one = jnp.ones((), terms.similarities.dtype)
  losses = _hinge_or_softplus(jax.nn.relu, terms.similarities - t, terms.targets, one)
  return terms.finish(jnp.sum(losses, -1))


@explicit.auto(explicit.outer)
def cosine(
  features: Float[ArrayLike, "*batch D"],
  weights: Float[ArrayLike, "N D"],
  *,
  precision: jax.lax.PrecisionLike = jax.lax.Precision.HIGHEST,
) -> Float[Array, "*batch N"]:
  r"""Cosine of every feature vector and every class's weight vector.

    cos_j = x̂ᵀŵ_j,   v̂ = v / max(‖v‖, 1e-5)

  A zero vector has cosine 0 and a finite gradient.

  Args:
    features: x, any floating dtype; computed in float32 (float64 stays float64).
    weights: w, one row per class.
    precision: of the matrix product; the default is true float32 on TPU and GPU too, because the
      result is multiplied by a scale of up to 512.

  Returns:
    Cosines in [−1, 1] (up to rounding): [*batch, N].

  Raises:
    ValueError: for dtypes that are not floating, or shapes that do not fit.

  >>> import jax.numpy as jnp
  >>> cosine(jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0]]))
  Array([[0.6],
         [0. ]], dtype=float32)

  Source: [R] (similarity of the normalized losses); released code for the bound on the norm.
  """
  x, w = checks.float_array("features", features), checks.float_array("weights", weights)
  if x.ndim == 0 or w.ndim != 2 or x.shape[-1] != w.shape[-1]:
    raise ValueError(
      f"features must have shape [..., D] and weights [N, D], got {x.shape} and {w.shape}"
    )
  dtype = checks.computing_dtype(x.dtype, w.dtype)
  return jnp.matmul(
    l2_normalize(x.astype(dtype)), l2_normalize(w.astype(dtype)).T, precision=precision
  )


def is_zero(x: Any) -> bool:
  """Whether an option is known to be 0, so that its terms need not be formed."""
  value = checks.known(x)
  return value is not None and value.ndim == 0 and value == 0
