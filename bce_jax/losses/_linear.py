"""BCE of a linear classifier without its scores: by chunks of classes, and split over devices.

BCE has no normalizer over the classes, so that a chunk of classes needs nothing of the others: the
scores of a chunk are formed, used and dropped, and devices that hold different classes add up their
losses and no more.

Source: the loss is `bce`'s (see there). Rematerialized scores: Wijmans et al., "Cut Your Losses in
Large-Vocabulary Language Models", ICLR 2025. Gradients formed in the forward pass: Hsu et al.,
"Liger Kernel", 2024. Classes split over devices: An et al., "Partial FC", CVPR 2022.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from bce_jax import checks, explicit
from bce_jax.losses._bce import is_zero
from bce_jax.losses._chunks import Fixed, Operands, Plan, each_loss, mean_loss, vary, varying_axes
from bce_jax.norms import l2_normalize

# A chunk's scores by default. On CPU larger ones were measured to be no faster, and beyond 2²¹
# slower; the gradients hold four arrays of this size. Elsewhere it is a guess: large enough that a
# chunk's matrix products take much longer than their launch.
_CHUNK_ELEMENTS = 2**23
_CHUNK_ELEMENTS_CPU = 2**20
# Rows of a default chunk are a multiple of this: a whole tile of an accelerator's matrix unit.
_TILE = 128
# A sampled table is walked in at least so many chunks, so that the rows left out save work.
_MASKED_CHUNKS = 16


@explicit.auto(explicit.leading)
def linear_bce(
  features: Float[ArrayLike, "b D"],
  weights: Float[ArrayLike, "N D"],
  labels: Int[ArrayLike, " b"] | Float[ArrayLike, "b N"],
  *,
  bias: Float[ArrayLike, ""] | Float[ArrayLike, " N"] = 0.0,
  scale: Float[ArrayLike, ""] = 1.0,
  margin: Float[ArrayLike, ""] = 0.0,
  negative_weight: Float[ArrayLike, ""] = 1.0,
  smoothing: Float[ArrayLike, ""] = 0.0,
  class_mask: Bool[ArrayLike, " N"] | Bool[ArrayLike, "b N"] | None = None,
  normalize: bool | Literal["features", "weights"] = False,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  num_classes: int | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> Float[Array, " b"]:
  r"""`bce` of a linear classifier, whose scores are never held all at once.

    loss_b = bce(c_b, label_b, …),   c_bj = w_jᵀx_b, with x̂ and ŵ in place of x and w by `normalize`

  It equals `bce` of `features @ weights.T` (or of `cosine`) in value and in every gradient, but
  forms the scores of `chunk_size` classes at a time, in the backward pass a second time: four
  matrix products in all, and no more memory than the arguments, their gradients and one chunk.
  (XLA on CPU holds a table narrower than float32 once more.) Derivatives are by reverse mode, the
  first without limits; JAX refuses a second one with a mask [N] under jit.

  With `axis_name` inside `shard_map` or `pmap` each device holds the rows d·n … (d+1)·n − 1 of the
  table, and the devices exchange the sum of their losses. Under `shard_map(check_vma=True)`, the
  default, gradients are right whether taken inside or outside of it. Under check_vma=False and
  `pmap` they are right only when taken OUTSIDE: taken inside, JAX differentiates the sum over k
  devices as a sum. The gradients of weights and of a diverse bias are then k times too large, and
  those of all else are k times this device's share (so that their `pmean` is right).

  Args:
    features: x, any floating dtype; computed in float32 (float64 stays float64).
    weights: w, one row per class, any floating dtype; with `axis_name` this device's rows.
    labels: class ids in [0, N), or float targets in [0, 1] of the scores' shape. An id out of range
      raises where its value is known; under jit that example's loss is nan. With `axis_name` ids
      are of the whole table, and targets of this device's columns.
    bias: one number (unified) or one per class (diverse, as the weights' rows); subtracted.
    scale: γ ≥ 0.
    margin: m ≥ 0, taken from the label's similarity before scaling; needs integer labels.
    negative_weight: λ ≥ 0, the weight of the negative terms.
    smoothing: ε in [0, 1], over the classes of all devices.
    class_mask: False removes the class, its positive term too. A mask [N] saves work: rows that it
      removes are not multiplied (`sample_classes` draws one). Of this device's rows with
      `axis_name`.
    normalize: True for the cosine of `losses.cosine`; "features" or "weights" for one side only.
    chunk_size: classes in a chunk, ≥ 1; need not divide N. None chooses it.
    axis_name: the axis over which the classes are split.
    num_classes: N of the whole table; rows of it from N on are padding, which never counts and has
      gradient 0, whatever it holds. None: every row is a class.
    precision: of the matrix products; the default is true float32 on TPU and GPU too.

  Returns:
    One loss per example, ≥ 0, summed over the classes of all devices: [B].

  Raises:
    ValueError: as `bce`; for shapes that do not fit, for an unknown `normalize`, for a chunk_size
      below 1, for a num_classes beyond the table.

  >>> import jax.numpy as jnp
  >>> weights = jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
  >>> linear_bce(jnp.array([[1.0, 0.0]]), weights, jnp.array([0]), bias=0.5, chunk_size=2)
  Array([0.8769...], dtype=float32)

  Source: [R] and [F] of `bce`; derived: a sum over classes needs no second pass.
  """
  plan, operands, fixed, valid = _prepare(
    features,
    weights,
    labels,
    bias=bias,
    scale=scale,
    margin=margin,
    negative_weight=negative_weight,
    smoothing=smoothing,
    class_mask=class_mask,
    normalize=normalize,
    chunk_size=chunk_size,
    axis_name=axis_name,
    num_classes=num_classes,
    precision=precision,
  )
  losses = each_loss(plan, operands, fixed)
  if axis_name is not None:
    losses = lax.psum(losses, axis_name)
  return losses if valid is None else jnp.where(valid, losses, jnp.nan)


@explicit.auto(explicit.replicated)
def linear_bce_mean(
  features: Float[ArrayLike, "b D"],
  weights: Float[ArrayLike, "N D"],
  labels: Int[ArrayLike, " b"] | Float[ArrayLike, "b N"],
  *,
  bias: Float[ArrayLike, ""] | Float[ArrayLike, " N"] = 0.0,
  scale: Float[ArrayLike, ""] = 1.0,
  margin: Float[ArrayLike, ""] = 0.0,
  negative_weight: Float[ArrayLike, ""] = 1.0,
  smoothing: Float[ArrayLike, ""] = 0.0,
  class_mask: Bool[ArrayLike, " N"] | Bool[ArrayLike, "b N"] | None = None,
  normalize: bool | Literal["features", "weights"] = False,
  chunk_size: int | None = None,
  axis_name: str | None = None,
  num_classes: int | None = None,
  precision: lax.PrecisionLike = lax.Precision.HIGHEST,
  example_weights: Float[ArrayLike, " b"] | None = None,
) -> Float[Array, ""]:
  r"""Weighted mean of `linear_bce`, with one matrix product less.

    (1/B) Σ_b v_b · loss_b

  Because what multiplies each loss is known beforehand, the gradients are formed along with the
  value and the scores never a second time: three matrix products in all (one, where nothing is
  differentiated). The backward pass only multiplies them by the cotangent; float16 gradients
  that need a loss scale want it in `example_weights`, where it comes before they are rounded.

  With `axis_name` the devices exchange one number. What is said at `linear_bce` of gradients taken
  inside of `pmap` and `shard_map(check_vma=False)` holds here too. Where the batch is split over
  another axis, B is this device's: take `pmean` of the result over that axis.

  Args:
    features: x, any floating dtype; computed in float32 (float64 stays float64).
    weights: as `linear_bce`.
    labels: as `linear_bce`; a label out of range makes the mean nan.
    bias: as `linear_bce`.
    scale: as `linear_bce`.
    margin: as `linear_bce`.
    negative_weight: as `linear_bce`.
    smoothing: as `linear_bce`.
    class_mask: as `linear_bce`.
    normalize: as `linear_bce`.
    chunk_size: as `linear_bce`.
    axis_name: as `linear_bce`.
    num_classes: as `linear_bce`.
    precision: as `linear_bce`.
    example_weights: v, one per example; None: all 1. The sum is divided by B, not by Σ v. An
      example of weight 0 still needs a label in range.

  Returns:
    One number; 0 for an empty batch.

  Raises:
    ValueError: as `linear_bce`; for example_weights that are not floating of shape [B].

  >>> import jax.numpy as jnp
  >>> weights = jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
  >>> linear_bce_mean(jnp.array([[1.0, 0.0]]), weights, jnp.array([0]), bias=0.5)
  Array(0.8769..., dtype=float32)

  Source: as `linear_bce`; gradients in the forward pass: Liger Kernel.
  """
  plan, operands, fixed, valid = _prepare(
    features,
    weights,
    labels,
    bias=bias,
    scale=scale,
    margin=margin,
    negative_weight=negative_weight,
    smoothing=smoothing,
    class_mask=class_mask,
    normalize=normalize,
    chunk_size=chunk_size,
    axis_name=axis_name,
    num_classes=num_classes,
    precision=precision,
    example_weights=example_weights,
    mean=True,
  )
  mean: jax.Array = mean_loss(plan, operands, fixed)
  if axis_name is not None:
    mean = lax.psum(mean, axis_name)
  # Added, not chosen: the examples in range keep their gradients, as in a mean of `bce`.
  return mean if valid is None else mean + jnp.where(jnp.all(valid), 0.0, jnp.nan)


def _prepare(
  features: Any,
  weights: Any,
  labels: Any,
  *,
  bias: Any,
  scale: Any,
  margin: Any,
  negative_weight: Any,
  smoothing: Any,
  class_mask: Any,
  normalize: Any,
  chunk_size: Any,
  axis_name: str | None,
  num_classes: Any,
  precision: Any,
  example_weights: Any = None,
  mean: bool = False,
) -> tuple[Plan, Operands, Fixed, jax.Array | None]:
  """Checks the arguments; returns what the core needs, and which labels were in range."""
  x, w = _factors(features, weights, normalize)
  dtype, (batch, rows) = x.dtype, (x.shape[0], w.shape[0])
  table = _table(rows, num_classes, axis_name)
  operands: Operands = {"features": x, "weights": w}
  own = valid = None
  if jnp.issubdtype(checks.dtype_of(labels), jnp.floating):
    # In their own dtype: they are as large as the scores, and are converted by chunk.
    own_dtype = jax.dtypes.canonicalize_dtype(checks.dtype_of(labels))
    shape: Any = jax.ShapeDtypeStruct((batch, rows), own_dtype)
    operands["targets"] = checks.float_targets(labels, shape)
  else:
    ids, valid = checks.int_labels(labels, (batch,), table.total)
    own = ids - table.first
    own = jnp.where(valid & (own >= 0) & (own < rows), own, -1)

  operands["bias"] = _bias(bias, rows, dtype)
  operands["scale"] = checks.scalar("scale", scale, dtype, low=0.0)
  operands["margin"] = checks.scalar("margin", margin, dtype, low=0.0)
  if own is None and not is_zero(margin):
    raise ValueError("a margin needs integer labels, got float targets")
  operands["negative_weight"] = checks.scalar("negative_weight", negative_weight, dtype, low=0.0)
  operands["smoothing"] = checks.scalar("smoothing", smoothing, dtype, low=0.0, high=1.0)
  if mean:
    operands["each"] = _each(example_weights, batch, dtype, valid)

  counted = _counted(class_mask, table, (batch, rows), dtype, smoothing, axis_name)
  chunk = _chunk_size(chunk_size, batch, rows, counted.order is not None)
  fixed = _fixed(own, counted, rows, chunk)
  # Inside shard_map(check_vma=True) every operand is made to vary over all axes in question, so
  # that the core below is local to a device: the sums over devices that the gradients of operands
  # common to several need are then what JAX makes of this cast.
  axes = frozenset[str]().union(*(varying_axes(x) for x in jax.tree.leaves((operands, fixed))))
  if axis_name is not None:
    axes |= varying_axes(table.first)
  plan = Plan(
    chunk=chunk,
    dtype=dtype,
    normalize_weights=normalize in (True, "weights"),
    with_margin=not is_zero(margin),
    with_smoothing=not is_zero(smoothing),
    precision=precision,
    axes=tuple(sorted(axes)),
  )
  return plan, vary(operands, plan.axes), vary(fixed, plan.axes), valid


def _factors(features: Any, weights: Any, normalize: Any) -> tuple[jax.Array, jax.Array]:
  """Features in the dtype of the computation, normalized if they are to be; weights as they are."""
  for name, x in (("features", features), ("weights", weights)):
    if not jnp.issubdtype(checks.dtype_of(x), jnp.floating):
      raise ValueError(f"{name} must be floating point, got dtype {checks.dtype_of(x)}")
  x, w = jnp.asarray(features), jnp.asarray(weights)
  if x.ndim != 2 or w.ndim != 2 or x.shape[-1] != w.shape[-1] or w.shape[0] == 0:
    raise ValueError(
      f"features must have shape [B, D] and weights [N, D] with N ≥ 1, got {x.shape} and {w.shape}"
    )
  if not isinstance(normalize, bool | str) or normalize not in (False, True, "features", "weights"):
    raise ValueError(f"normalize must be False, True, 'features' or 'weights', got {normalize!r}")
  x = x.astype(checks.computing_dtype(x.dtype, w.dtype))
  return (l2_normalize(x) if normalize in (True, "features") else x), w


class _Table(NamedTuple):
  """The classifier's rows over all devices, of which this one holds some."""

  total: int  # N
  first: jax.Array  # [], the class of this device's first row
  padded: bool  # whether some rows are no class


def _table(rows: int, num_classes: Any, axis_name: str | None) -> _Table:
  parts = 1 if axis_name is None else lax.axis_size(axis_name)
  total = rows * parts
  if num_classes is not None:
    num_classes = checks.integer("num_classes", num_classes, low=1)
    if num_classes > total:
      raise ValueError(
        f"num_classes must be at most {total}, {rows} rows on each of {parts} devices,"
        f" got {num_classes}"
      )
    total = num_classes
  first = jnp.zeros((), jnp.int32)
  if axis_name is not None:
    first = lax.axis_index(axis_name) * jnp.int32(rows)
  return _Table(total, first, total < rows * parts)


def _bias(bias: Any, rows: int, dtype: Any) -> jax.Array:
  if np.shape(bias) not in ((), (rows,)) or not checks.is_real(checks.dtype_of(bias)):
    raise ValueError(
      f"bias must be a scalar (unified) or of shape ({rows},) (diverse),"
      f" got {checks.dtype_of(bias)} of shape {np.shape(bias)}"
    )
  return jnp.asarray(bias).astype(dtype)


def _each(example_weights: Any, batch: int, dtype: Any, valid: jax.Array | None) -> jax.Array:
  """What each loss is multiplied by in the mean, [B]."""
  if example_weights is None:
    each = jnp.ones(batch, dtype)
  else:
    given = checks.dtype_of(example_weights)
    if np.shape(example_weights) != (batch,) or not jnp.issubdtype(given, jnp.floating):
      raise ValueError(
        f"example_weights must be floating of shape ({batch},), got {given} of shape"
        f" {np.shape(example_weights)}"
      )
    each = jnp.asarray(example_weights).astype(dtype)
  if valid is not None:
    each = jnp.where(valid, each, 0.0)
  return each / batch


class _Counted(NamedTuple):
  """Which rows of this device count."""

  mask: jax.Array | None  # [B, n]
  order: jax.Array | None  # [n], the rows that count first, by a mask [n]
  limit: jax.Array | None  # [], how many rows count: of `order`, or the first
  num_kept: jax.Array  # [] or [B, 1], the number of classes that count on all devices


def _counted(
  class_mask: Any,
  table: _Table,
  shape: tuple[int, int],
  dtype: Any,
  smoothing: Any,
  axis_name: str | None,
) -> _Counted:
  rows = shape[1]
  limit = jnp.clip(table.total - table.first, 0, rows) if table.padded else None
  num_kept = jnp.asarray(table.total, dtype)
  if class_mask is None:
    return _Counted(None, None, limit, num_kept)
  checks.class_mask(class_mask, shape)
  kept = jnp.asarray(class_mask)
  if limit is not None:
    inside = jnp.arange(rows, dtype=jnp.int32) < limit
    kept = kept & (inside if kept.ndim == 1 else inside[None, :])
  counts = jnp.sum(kept, -1, dtype=jnp.int32)
  order = mask = None
  if kept.ndim == 1:
    order, limit = _kept_first(kept, counts), counts
  else:
    mask, counts = kept, counts[:, None]
  if not is_zero(smoothing):
    num_kept = counts if axis_name is None else lax.psum(counts, axis_name)
    num_kept = num_kept.astype(dtype)
  return _Counted(mask, order, limit, num_kept)


def _fixed(own: jax.Array | None, counted: _Counted, rows: int, chunk: int) -> Fixed:
  order = counted.order
  if order is not None:  # the last chunk may reach beyond the table, to rows that do not exist
    missing = -rows % chunk
    order = jnp.concatenate([order, rows + jnp.arange(missing, dtype=jnp.int32)])
  return Fixed(own, counted.mask, order, counted.limit, counted.num_kept)


def _chunk_size(chunk_size: Any, batch: int, rows: int, masked_rows: bool) -> int:
  """Returns the number of classes in a chunk, at most all of them."""
  if chunk_size is not None:
    return min(checks.integer("chunk_size", chunk_size, low=1), rows)
  elements = _CHUNK_ELEMENTS_CPU if jax.default_backend() == "cpu" else _CHUNK_ELEMENTS
  chunks = -(-rows * batch // elements)
  if masked_rows:
    chunks = max(chunks, _MASKED_CHUNKS)
  even = -(-rows // max(chunks, 1))  # no chunk is nearly empty
  return min(-(-even // _TILE) * _TILE, rows)


def _kept_first(kept: jax.Array, count: jax.Array) -> jax.Array:
  """Indices of a mask [n], those under True first, each part in its order."""
  seen = jnp.cumsum(kept, dtype=jnp.int32)
  index = jnp.arange(kept.size, dtype=jnp.int32)
  place = jnp.where(kept, seen - 1, count + index - seen)
  return jnp.zeros(kept.size, jnp.int32).at[place].set(index, unique_indices=True)
