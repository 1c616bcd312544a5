"""The losses of a linear classifier and their gradients, by chunks of classes; for `linear`.

One pure function of a chunk, and JAX's own derivative of it inside the loop over the chunks.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bce_jax.losses._bce import class_losses
from bce_jax.norms import l2_normalize

_AXIS_OF_CLASSES = {"weights": 0, "bias": 0, "targets": 1}


class Plan(NamedTuple):
  """What is static of a call; hashable."""

  chunk: int
  dtype: Any
  normalize_weights: bool
  with_margin: bool
  with_smoothing: bool
  precision: Any
  axes: tuple[str, ...]  # the mesh axes over which the operands vary, under check_vma=True


class Fixed(NamedTuple):
  """What has no gradient."""

  labels: jax.Array | None  # [B] rows of this device's table, −1 where another device owns it
  mask: jax.Array | None  # [B, n] bool: the classes that count, where it depends on the example
  order: jax.Array | None  # [≥ n] rows in the order in which they are walked
  limit: jax.Array | None  # []: how many rows of that order count; the rest are never looked at
  num_kept: jax.Array  # [] or [B, 1]: the number of classes that count, on all devices


# The operands that have a gradient are a dict: features [B, D] in the dtype of the computation,
# weights [n, D] in its own, bias [] or [n], scale, margin, negative_weight, smoothing, and for soft
# targets targets [B, n].
Operands = dict[str, jax.Array]


def varying_axes(x: Any) -> frozenset[str]:
  """The mesh axes over which a value varies; none outside of shard_map(check_vma=True)."""
  axes: frozenset[str] = jax.typeof(x).mat.varying
  return axes


def vary(tree: Any, axes: tuple[str, ...]) -> Any:
  """The same values, varying over all of `axes`."""

  def cast(x: jax.Array) -> jax.Array:
    missing = tuple(axis for axis in axes if axis not in varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(cast, tree)


def _class_axis(name: str, x: jax.Array) -> int | None:
  """The axis of an operand along which its classes lie."""
  return _AXIS_OF_CLASSES.get(name) if x.ndim else None


def _cut(
  plan: Plan, operands: Operands, fixed: Fixed, start: Any, size: int
) -> tuple[Operands, Any, Callable[[Operands], jax.Array]]:
  """One chunk of classes.

  Returns:
    (the operands of these classes; where they lie: a start, or the rows' numbers; the function of
    such operands that gives these classes' part of the losses, [B]).
  """
  positions = start + jnp.arange(size, dtype=jnp.int32)
  if fixed.order is None:
    ids, place = positions, start
  else:
    ids = place = lax.dynamic_slice_in_dim(fixed.order, start, size)

  def take(x: jax.Array, axis: int) -> jax.Array:
    bits = _as_bits(x)
    if fixed.order is None:
      bits = lax.dynamic_slice_in_dim(bits, start, size, axis)
    else:
      bits = jnp.take(bits, ids, axis, mode="clip", unique_indices=True)
    return bits if bits.dtype == x.dtype else lax.bitcast_convert_type(bits, x.dtype)

  part = {}
  for name, x in operands.items():
    axis = _class_axis(name, x)
    part[name] = x if axis is None else take(x, axis)
  inside = None if fixed.limit is None else positions < fixed.limit
  mask = None if fixed.mask is None else take(fixed.mask, 1)
  return part, place, functools.partial(_chunk_losses, plan, fixed, ids, inside, mask)


def _bits_dtype(dtype: Any) -> Any:
  """What stands for a narrow float where it is only moved; any other dtype itself.

  XLA on CPU moves bfloat16 as float32: it would convert the whole table, and its gradient once per
  chunk, there and back. Accelerators move it as it is.
  """
  narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
  moved_as_float32 = narrow and jax.default_backend() == "cpu"
  return np.dtype(f"uint{8 * dtype.itemsize}") if moved_as_float32 else dtype


def _as_bits(x: jax.Array) -> jax.Array:
  """The same array with the dtype that `_bits_dtype` gives."""
  bits = _bits_dtype(x.dtype)
  return x if bits == x.dtype else lax.bitcast_convert_type(x, bits)


def _put(total: jax.Array, part: jax.Array, place: Any, axis: int) -> jax.Array:
  """Writes a chunk's gradients to where `_cut` took the chunk from."""
  if jnp.ndim(place) == 0:
    return lax.dynamic_update_slice_in_dim(total, part, place, axis)
  index = (slice(None),) * axis + (place,)
  return total.at[index].set(part, mode="drop", unique_indices=True)


@jax.custom_jvp
def _softplus(z: jax.Array) -> jax.Array:
  """log(1 + eᶻ), with a derivative that does not need the value.

  Where only gradients are formed `jax.nn.softplus` takes a logarithm for each score all the same.
  """
  return jnp.maximum(z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


_softplus.defjvps(lambda tangent, value, z: tangent * jax.nn.sigmoid(z))


def _chunk_losses(
  plan: Plan,
  fixed: Fixed,
  ids: jax.Array,
  inside: jax.Array | None,
  mask: jax.Array | None,
  part: Operands,
) -> jax.Array:
  """Σ of `bce`'s terms over the classes of one chunk: [B]. Pure, and local to a device."""
  w = part["weights"].astype(plan.dtype)
  kept = mask
  if inside is not None:
    # Not only its scores: 0 · nan is nan in the product that gives the features' gradient.
    w = jnp.where(inside[:, None], w, 0.0)
    kept = inside[None, :] if mask is None else inside[None, :] & mask
  if plan.normalize_weights:
    w = l2_normalize(w)
  c = jnp.matmul(part["features"], w.T, precision=plan.precision)

  def zero_removed(x: jax.Array) -> jax.Array:
    return x if kept is None else jnp.where(kept, x, 0.0)

  if fixed.labels is None:
    targets = zero_removed(part["targets"].astype(plan.dtype))
  else:
    targets = fixed.labels[:, None] == ids[None, :]
    if plan.with_margin:
      c = c - jnp.where(targets, part["margin"], 0.0)
  bias = part["bias"][None, :] if part["bias"].ndim else part["bias"]
  z = zero_removed(part["scale"] * zero_removed(c) - bias)
  epsilon = part["smoothing"] if plan.with_smoothing else None
  losses = class_losses(
    z, targets, part["negative_weight"], epsilon, fixed.num_kept, softplus=_softplus
  )
  return jnp.sum(zero_removed(losses), -1)


def _over_chunks(
  plan: Plan, operands: Operands, fixed: Fixed, body: Callable[..., Any], carry: Any
) -> Any:
  """Carries `carry` through body(start, size, carry) for every chunk of classes."""
  zero = jnp.int32(0)
  if fixed.order is not None:  # only as many chunks as there are rows that count
    assert fixed.limit is not None
    trips = (fixed.limit + jnp.int32(plan.chunk - 1)) // jnp.int32(plan.chunk)
    trips = trips.astype(jnp.int32)
    return lax.fori_loop(
      zero, trips, lambda i, carry: body(i * jnp.int32(plan.chunk), plan.chunk, carry), carry
    )
  full, rest = divmod(operands["weights"].shape[0], plan.chunk)
  if full == 1:
    carry = body(zero, plan.chunk, carry)
  else:
    carry = lax.fori_loop(
      0, full, lambda i, carry: body(jnp.int32(i) * plan.chunk, plan.chunk, carry), carry
    )
  # The last chunk is smaller, rather than padded: no copy of the weights is made for it.
  return body(jnp.int32(full * plan.chunk), rest, carry) if rest else carry


def _values(plan: Plan, operands: Operands, fixed: Fixed) -> jax.Array:
  """The losses, and nothing for gradients: one matrix product."""

  def body(start: jax.Array, size: int, losses: jax.Array) -> jax.Array:
    part, _, of_part = _cut(plan, operands, fixed, start, size)
    return losses + of_part(part)

  batch = operands["features"].shape[0]
  zeros = vary(jnp.zeros(batch, plan.dtype), plan.axes)
  losses: jax.Array = _over_chunks(plan, operands, fixed, body, zeros)
  return losses


def _gradients(
  plan: Plan, operands: Operands, fixed: Fixed, cotangent: jax.Array, wanted: list[str]
) -> tuple[jax.Array, Operands]:
  """The losses [B], and the gradients of Σ cotangent · losses w.r.t. the operands `wanted`.

  Three matrix products. The gradients along the classes are written chunk by chunk into one array,
  in the operand's own dtype; nothing else here is larger than a chunk.
  """

  def body(start: jax.Array, size: int, carry: Any) -> Any:
    losses, grads = carry
    part, place, of_part = _cut(plan, operands, fixed, start, size)
    value, pull_back = jax.vjp(lambda x: of_part(part | x), {name: part[name] for name in wanted})
    (found,) = pull_back(cotangent)
    for name, grad in found.items():
      axis = _class_axis(name, operands[name])
      total = grads[name]
      grads[name] = total + grad if axis is None else _put(total, _as_bits(grad), place, axis)
    return losses + value, grads

  zeros = {name: jnp.zeros(x.shape, _bits_dtype(x.dtype)) for name, x in operands.items()}
  start = (jnp.zeros(cotangent.shape, plan.dtype), {name: zeros[name] for name in wanted})
  losses, grads = _over_chunks(plan, operands, fixed, body, vary(start, plan.axes))
  for name, grad in grads.items():
    dtype = operands[name].dtype
    grads[name] = grad if grad.dtype == dtype else lax.bitcast_convert_type(grad, dtype)
  return losses, grads


# Both rules are told what is differentiated (symbolic_zeros): no gradient is formed in vain. But
# JAX keeps ONE tree of residuals for a traced call, whichever arguments it is differentiated by
# later: that of the last trace. So the tree is always the same, and what is wanted stands in the
# shape of one of its arrays, which belongs to its own trace.


def _without_zeros(operands: dict[str, Any], fixed: Fixed) -> tuple[Operands, Fixed, jax.Array]:
  """Undoes symbolic_zeros=True: the operands, and an array whose shape says what is wanted."""
  sizes = [2 if x.perturbed else 1 for x in operands.values()]
  wanted = jnp.zeros(sizes, jnp.bool_)
  return (*jax.tree.map(lambda x: x.value, (operands, fixed)), wanted)


def _names_wanted(names: Iterable[str], wanted: jax.Array) -> list[str]:
  """The names of the operands that are differentiated, by the shape that `_without_zeros` made."""
  return [name for name, size in zip(names, wanted.shape, strict=True) if size == 2]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _each_loss(plan: Plan, operands: Operands, fixed: Fixed) -> jax.Array:
  """The loss of each example, [B], over the classes of this device: four matrix products."""
  return _values(plan, operands, fixed)


def _losses_forward(plan: Plan, operands: dict[str, Any], fixed: Fixed) -> tuple[jax.Array, Any]:
  operands, fixed, wanted = _without_zeros(operands, fixed)
  return _values(plan, operands, fixed), (operands, fixed, wanted)


def _losses_backward(plan: Plan, residuals: Any, cotangent: Any) -> tuple[Any, None]:
  operands, fixed, wanted = residuals
  if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
    return dict.fromkeys(operands), None
  _, grads = _gradients(plan, operands, fixed, cotangent, _names_wanted(operands, wanted))
  return {name: grads.get(name) for name in operands}, None


_each_loss.defvjp(_losses_forward, _losses_backward, symbolic_zeros=True)
# Compiled, since JAX has no rule for symbolic_zeros where shard_map runs eagerly.
each_loss = jax.jit(_each_loss, static_argnums=0, inline=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mean_loss(plan: Plan, operands: Operands, fixed: Fixed) -> jax.Array:
  """Σ of the operand "each" [B] times the losses: a number, by three matrix products."""
  operands = dict(operands)
  each = operands.pop("each")
  return jnp.sum(each * _values(plan, operands, fixed))


def _mean_forward(plan: Plan, operands: dict[str, Any], fixed: Fixed) -> tuple[jax.Array, Any]:
  operands, fixed, wanted = _without_zeros(operands, fixed)
  names = list(operands)
  each = operands.pop("each")
  asked = _names_wanted(names, wanted)
  losses, grads = _gradients(plan, operands, fixed, each, [n for n in asked if n != "each"])
  if "each" in asked:
    grads["each"] = losses
  nothing = jnp.zeros((), plan.dtype)
  return jnp.sum(each * losses), ({name: grads.get(name, nothing) for name in names}, wanted)


def _mean_backward(plan: Plan, residuals: Any, cotangent: Any) -> tuple[Any, None]:
  grads, wanted = residuals
  scaled: dict[str, jax.Array | None] = dict.fromkeys(grads)
  if not isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
    for name in _names_wanted(grads, wanted):
      scaled[name] = (cotangent * grads[name].astype(plan.dtype)).astype(grads[name].dtype)
  return scaled, None


_mean_loss.defvjp(_mean_forward, _mean_backward, symbolic_zeros=True)
mean_loss = jax.jit(_mean_loss, static_argnums=0, inline=True)
