"""Compactness, separability and neural collapse of features, exact, without an [n, n] array.

The streaming half, `class_moments`, sums up any number of samples by their numbers, means and unit
vectors per class and ONE scatter within classes, [D, D]. `merge_moments` puts parts together. The
final half, `geometry`, works on the host in float64, once.

The scatter is taken about the part's own class means, and merging adds what the means of two parts
differ by (Chan et al. 1983). Sums of x xᵀ would be simpler to merge, but the scatter is then the
small difference of large numbers: of features at 1000 ± 0.01 float32 keeps nothing of it.

Sources: Fan et al., "BCE3S: Binary Cross-Entropy Based Tripartite Synergistic Learning for
Long-tailed Recognition", AAAI 2026, arXiv 2511.14097, for compactness and separability; Papyan, Han
and Donoho, "Prevalence of Neural Collapse", PNAS 2020, arXiv 2008.08186, and Li et al., "BCE vs. CE
in Deep Feature Learning", ICML 2025, arXiv 2505.05813, for NC1 to NC3; Chan, Golub and LeVeque,
"Algorithms for Computing the Sample Variance", The American Statistician, 1983.
"""

import contextlib
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bce_jax import checks, explicit
from bce_jax.norms import MIN_NORM

_BLOCK = 1024  # rows of an [N, N] matrix that are held at once


class ClassMoments(NamedTuple):
  """What is kept of the samples; numpy float64 outside a trace, float32 at least inside one.

  Attributes:
    counts: number of samples n_i of each class.
    means: mean feature μ_i of each class; 0 for a class without samples.
    scatter: Σ (x − μ_y)(x − μ_y)ᵀ over all samples.
    unit_sums: Σ x̂ of each class.
    unit_squares: Σ ‖x̂‖² of each class: the number of its samples that are not zero.
  """

  counts: Int[Array, " N"] | Int[np.ndarray, " N"]
  means: Float[Array, "N D"] | Float[np.ndarray, "N D"]
  scatter: Float[Array, "D D"] | Float[np.ndarray, "D D"]
  unit_sums: Float[Array, "N D"] | Float[np.ndarray, "N D"]
  unit_squares: Float[Array, " N"] | Float[np.ndarray, " N"]


class Geometry(NamedTuple):
  """How features and classifier lie; K classes have samples. `mean_and_std` sums up over classes.

  Attributes:
    compactness: of each class; nan with fewer than two samples.
    separability: of each class' mean direction; nan for a class without samples, and for K = 1.
    classifier_separability: the same of the classifier's rows, all N of them; nan for N = 1.
    nc1: tr(Σ_W Σ_B†) / K, spread within classes against spread between them; 0 when collapsed.
    nc2: distance of the class means from a simplex equiangular tight frame; 0 when they are one.
    nc3: the same of classifier against class means; 0 when classifier and means are one frame.

  The last three are nan for K < 2 and where the class means coincide.
  """

  compactness: Float[np.ndarray, " N"]
  separability: Float[np.ndarray, " N"]
  classifier_separability: Float[np.ndarray, " N"]
  nc1: float
  nc2: float
  nc3: float


@explicit.auto(explicit.replicated)
def class_moments(
  features: Float[ArrayLike, "*batch D"],
  labels: Int[ArrayLike, "*batch"],
  *,
  num_classes: int,
  where: Bool[ArrayLike, "*batch"] | None = None,
  axis_name: str | tuple[str, ...] | None = None,
) -> ClassMoments:
  r"""Sums up samples by class, the streaming half of `geometry`.

    n_i,  μ_i,  Σ (x − μ_y)(x − μ_y)ᵀ,  Σ_{y=i} x̂,  Σ_{y=i} ‖x̂‖²,   x̂ = x / max(‖x‖, 1e-5)

  Outside a trace everything is computed in float64. Inside one float32 stays float32: measured on
  CPU over 4,000 samples in parts of 128, merged outside in float64, the scatter is then right to
  2e-4 for clusters of radius 0.01 a unit apart at an offset of 1000, and to 2e-7 without one.

  Args:
    features: x, not normalized, any floating dtype.
    labels: class ids in [0, num_classes).
    num_classes: N ≥ 1.
    where: samples that count; all for None. What stands under False is not looked at.
    axis_name: inside pmap or shard_map, the axis (or axes) the samples are split over: every
      device gets the moments of all samples together.

  Returns:
    `ClassMoments`. Of no samples they are zeros, and merging them changes nothing.

  Raises:
    ValueError: for wrong shapes or dtypes, a label out of range or features that are not finite
      (outside a trace; inside one, either makes all moments but the counts nan).

  >>> moments = class_moments([[3.0, 4.0], [0.0, 1.0]], [0, 0], num_classes=2)
  >>> moments.means
  array([[1.5, 2.5],
         [0. , 0. ]])
  >>> moments.unit_sums
  array([[0.6, 1.8],
         [0. , 0. ]])
  """
  num_classes = checks.integer("num_classes", num_classes, low=1)
  shape = np.shape(features)
  if not shape or not shape[-1]:
    raise ValueError(f"features must have shape [..., D] with D ≥ 1, got {shape}")
  mask = checks.example_mask(where, shape[:-1])
  ids, valid = checks.int_labels(labels, shape[:-1], num_classes, where=where)
  # Inside a trace all that `jnp` makes is a tracer, even of constants.
  eager = all(checks.known(x) is not None for x in (features, ids, mask))
  with jax.enable_x64(True) if eager else contextlib.nullcontext():
    x = checks.float_array("features", features)
    x = x.astype(np.float64) if eager else x
    moments: ClassMoments = _moments(
      x.reshape(-1, shape[-1]),
      *(a.reshape(-1) for a in (ids, mask, valid)),
      num_classes=num_classes,
      axis_name=axis_name,
    )
  if not eager:
    return moments
  moments = jax.device_get(moments)
  if not all(np.isfinite(a).all() for a in moments):
    raise ValueError("features must be finite, and their squares too")
  return moments


@explicit.auto(explicit.replicated)
def merge_moments(a: ClassMoments, b: ClassMoments) -> ClassMoments:
  r"""The moments of two parts together; the order does not matter but for rounding.

    n = n_a + n_b,   μ = μ_a + (n_b/n)(μ_b − μ_a),
    scatter = scatter_a + scatter_b + Σ_i (n_a n_b / n)_i (μ_a − μ_b)_i (μ_a − μ_b)_iᵀ

  Args:
    a: as of `class_moments`, with float32 or float64 arrays.
    b: the same, of the same shapes.

  Returns:
    `ClassMoments`: numpy float64 outside a trace, in the parts' own dtype inside one.

  Raises:
    ValueError: for moments of different shapes.

  >>> one = class_moments([[1.0]], [0], num_classes=1)
  >>> two = class_moments([[3.0]], [0], num_classes=1)
  >>> both = merge_moments(one, two)
  >>> both.counts, both.means, both.scatter
  (array([2]), array([[2.]]), array([[2.]]))

  Source: Chan, Golub and LeVeque 1983.
  """
  for name, x, y in zip(ClassMoments._fields, a, b, strict=True):
    if np.shape(x) != np.shape(y):
      raise ValueError(f"the moments' {name} differ in shape: {np.shape(x)} and {np.shape(y)}")
  xp: Any = jnp
  if not any(isinstance(leaf, jax.core.Tracer) for leaf in (*a, *b)):
    xp, a, b = np, _on_host(a), _on_host(b)
  counts = a.counts + b.counts
  n_a, n_b = (m.counts.astype(m.means.dtype) for m in (a, b))
  share = n_b / xp.maximum(n_a + n_b, 1.0)
  shift = b.means - a.means
  # Rows scaled by a root, so that the product is symmetric.
  root = xp.sqrt(n_a * share)[:, None] * shift
  if xp is np:  # a batch holds few of many classes, and the others' rows are 0
    root = root[(n_a > 0) & (n_b > 0)]
  return ClassMoments(
    counts,
    a.means + share[:, None] * shift,
    a.scatter + b.scatter + (_gram(root) if xp is jnp else root.T @ root),
    a.unit_sums + b.unit_sums,
    a.unit_squares + b.unit_squares,
  )


def geometry(moments: ClassMoments, weights: Float[ArrayLike, "N D"]) -> Geometry:
  r"""Compactness, separability and neural collapse, the final half: on the host, in float64.

    compactness_i = 100 (‖Σx̂‖² − Σ‖x̂‖²) / (n_i (n_i − 1))     100 · mean cosine of a pair
    separability_i = 100 (1 − mean_{j≠i} cos(m_i, m_j)),       m_i = mean x̂ of class i
    NC1 = tr(Σ_W Σ_B†) / K,   Σ_W = scatter / n,   Σ_B = HᵀH / K
    NC2 = ‖HHᵀ/‖HHᵀ‖_F − (I − 11ᵀ/K)/√(K−1)‖_F,   NC3 the same of WHᵀ

  H: the means of the K classes that have samples, less their own mean. A class without samples is
  absent from all but `classifier_separability`: its row of W too.

  The pseudo-inverse is taken from the singular values of H/√K, whose squares are those of Σ_B: of
  the K − 1 largest those above max(ε₆₄ max(K, D) · largest, ε max ‖μ_i‖), where ε is the rounding
  of the means' dtype: below it lies what rounding alone makes of a common offset.

  Args:
    moments: as of `class_moments`, merged.
    weights: W, the classifier's rows, not normalized, any floating dtype.

  Returns:
    `Geometry`.

  Raises:
    ValueError: for a wrong shape or dtype, values that are not finite, or inside a trace.

  >>> import numpy as np
  >>> features = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
  >>> moments = class_moments(features, [0, 0, 1], num_classes=2)
  >>> geometry(moments, np.eye(2)).compactness
  array([100.,  nan])
  >>> geometry(moments, np.eye(2)).separability
  array([100., 100.])

  Sources: Fan et al. 2026; Papyan, Han and Donoho 2020; Li et al. 2025.
  """
  if any(isinstance(x, jax.core.Tracer) for x in (*moments, weights)):
    raise ValueError("geometry works on the host: call it outside jit, on what jit returned")
  shape = np.shape(moments.means)
  dtype = checks.dtype_of(weights)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"weights must be floating point, got dtype {dtype}")
  if np.shape(weights) != shape:
    raise ValueError(f"weights must have the means' shape {shape}, got {np.shape(weights)}")
  rounding = float(np.finfo(checks.dtype_of(moments.means)).eps)
  w = np.asarray(weights, np.float64)
  moments = _on_host(moments)
  for name, x in (*moments._asdict().items(), ("weights", w)):
    if not np.isfinite(x).all():
      raise ValueError(f"{name} must be finite: a feature, a label or a weight was not right")
  counts, means, scatter, unit_sums, unit_squares = (np.asarray(x) for x in moments)
  present = counts > 0
  pairs = np.maximum(counts * (counts - 1.0), 1.0)
  cosines = (np.sum(unit_sums**2, -1) - unit_squares) / pairs
  within = scatter / max(counts.sum(), 1)
  return Geometry(
    np.where(counts > 1, 100.0 * cosines, np.nan),
    _separability(unit_sums / np.maximum(counts, 1)[:, None], present),
    _separability(w, np.ones_like(present)),
    *_collapse(means[present], w[present], within, rounding),
  )


def mean_and_std(values: Float[ArrayLike, " N"]) -> tuple[float, float]:
  """Mean and standard deviation over the classes that have a value.

  Args:
    values: one per class, nan for an absent one: a field of `Geometry`.

  Returns:
    (mean, standard deviation √(mean (v − mean)²)), float64; nan where no class has a value.

  Raises:
    ValueError: for a wrong shape or dtype.

  >>> import numpy as np
  >>> mean_and_std(np.array([1.0, np.nan, 3.0]))
  (2.0, 1.0)
  """
  dtype = checks.dtype_of(values)
  if np.ndim(values) != 1 or not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f"values must be floats of shape [N], got {dtype} of {np.shape(values)}")
  known = np.asarray(values, np.float64)
  known = known[~np.isnan(known)]
  return (float(known.mean()), float(known.std())) if known.size else (math.nan, math.nan)


@functools.partial(jax.jit, static_argnames=("num_classes", "axis_name"))
def _moments(
  x: jax.Array,
  ids: jax.Array,
  mask: jax.Array,
  valid: jax.Array,
  *,
  num_classes: int,
  axis_name: str | None,
) -> ClassMoments:
  def by_class(rows: jax.Array) -> jax.Array:
    sums: jax.Array = jax.ops.segment_sum(rows, ids, num_segments=num_classes)
    return sums if axis_name is None else lax.psum(sums, axis_name)

  member = mask & valid
  x = jnp.where(member[:, None], x, 0.0)
  counts = by_class(member.astype(jnp.int32))
  divisor = jnp.maximum(counts, 1).astype(x.dtype)[:, None]
  means = by_class(x) / divisor
  # Once more about the first result: a long float32 sum of large features is off by more than
  # tight clusters are wide.
  means = means + by_class(jnp.where(member[:, None], x - means[ids], 0.0)) / divisor
  scatter = _gram(jnp.where(member[:, None], x - means[ids], 0.0))
  squared = jnp.sum(x * x, -1, keepdims=True)
  directions = x * lax.rsqrt(jnp.maximum(squared, MIN_NORM**2))
  # Where a square overflows, x̂ would be 0 without a word.
  bad = jnp.sum(mask & ~(valid & jnp.isfinite(squared[:, 0])), dtype=jnp.int32)
  if axis_name is not None:
    scatter, bad = lax.psum((scatter, bad), axis_name)
  sums = (means, scatter, by_class(directions), by_class(jnp.sum(directions * directions, -1)))
  return ClassMoments(counts, *(jnp.where(bad > 0, jnp.nan, a) for a in sums))


def _gram(rows: jax.Array) -> jax.Array:
  """Σ r rᵀ over rows; accelerators would multiply float32 in fewer bits if not told."""
  return jnp.matmul(rows.T, rows, precision="highest")


def _on_host(moments: ClassMoments) -> ClassMoments:
  counts, *sums = jax.device_get(moments)
  return ClassMoments(np.asarray(counts, np.int64), *(np.asarray(x, np.float64) for x in sums))


def _separability(vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
  """100 (1 − mean cosine to the other present rows); nan for an absent row."""
  out = np.full(len(vectors), np.nan)
  v = vectors[present]
  squared = np.sum(v * v, -1, keepdims=True)
  v = v / np.sqrt(np.maximum(squared, MIN_NORM**2))
  if len(v) > 1:
    others = (v @ v.sum(0) - np.sum(v * v, -1)) / (len(v) - 1)
    out[present] = 100.0 * (1.0 - others)
  return out


def _collapse(
  means: np.ndarray, w: np.ndarray, within: np.ndarray, rounding: float
) -> tuple[float, float, float]:
  """NC1, NC2, NC3 of K class means and their classifier rows."""
  k = len(means)
  if k < 2:
    return math.nan, math.nan, math.nan
  h = means - means.mean(0)
  _, s, directions = np.linalg.svd(h / math.sqrt(k), full_matrices=False)
  s, directions = s[: k - 1], directions[: k - 1]
  own = np.finfo(np.float64).eps * max(means.shape) * s[0]
  kept = s > max(own, rounding * np.linalg.norm(means, axis=-1).max())
  if not kept.any():
    return math.nan, math.nan, math.nan
  ratios = np.sum((directions @ within) * directions, -1)[kept] / s[kept] ** 2
  return float(ratios.sum() / k), _off_simplex(h, h), _off_simplex(w, h)


def _off_simplex(a: np.ndarray, h: np.ndarray) -> float:
  """‖ahᵀ/‖ahᵀ‖_F − (I − 11ᵀ/K)/√(K−1)‖_F by blocks of rows; nan where ahᵀ = 0."""
  k = len(a)
  norm = math.sqrt(sum(np.sum((a[i : i + _BLOCK] @ h.T) ** 2) for i in range(0, k, _BLOCK)))
  if not norm:
    return math.nan
  total = 0.0
  for i in range(0, k, _BLOCK):
    block = a[i : i + _BLOCK] @ h.T / norm + 1.0 / (k * math.sqrt(k - 1))
    rows = np.arange(len(block))
    block[rows, i + rows] -= 1.0 / math.sqrt(k - 1)
    total += np.sum(block**2)
  return math.sqrt(total)
