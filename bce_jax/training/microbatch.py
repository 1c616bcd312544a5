"""Microbatches: parts of a step's batch, and the mean of their gradients and logs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]


class Microbatch(NamedTuple):
  """A part of a step's batch, a device's share or a microbatch of it, and its place therein.

  Attributes:
    arrays: "images", "labels", and of a partner batch "partner_images" and "partner_labels".
    rows: numbers of the images in the whole batch; None: they are all of it, in order.
    step_labels: labels of the whole batch; None: those in `arrays`.
    step_partner_labels: likewise.
  """

  arrays: Arrays
  rows: jax.Array | None = None
  step_labels: jax.Array | None = None
  step_partner_labels: jax.Array | None = None


class StepOutputs(NamedTuple):
  """What a microbatch gives: gradients, batch statistics, logs and memory.

  Attributes:
    grads: of the loss' mean over the part.
    batch_stats: the running statistics, moved by the part.
    logs: scalars, means over the part.
    memory: the objective's.
  """

  grads: Any
  batch_stats: Any
  logs: dict[str, jax.Array]
  memory: Any


def check_micro_batches(count: int, batch_size: int, devices: int) -> None:
  """Refuses micro-batches that can't share a batch evenly, each on all of the devices.

  Args:
    count: number of micro-batches.
    batch_size: of the step, on all devices.
    devices: along 'data'.

  Raises:
    ValueError: naming the nearest numbers that fit.
  """
  if batch_size % (count * devices):
    raise ValueError(
      f"config.micro_batches is {count}, but a batch of {batch_size} images on {devices} device(s)"
      f" can't be cut into as many equal parts: {_nearest_divisors(batch_size // devices, count)}"
      " fits"
    )


def check_batch_norm_group(group: int | None, images: int, *, where: str = "the network") -> None:
  """Refuses batch norm groups that do not divide the images of a forward pass.

  Args:
    group: images normalized together; None: all.
    images: that go through it at once: every view of a micro-batch.
    where: the network, on all devices, or one device.

  Raises:
    ValueError: naming the nearest numbers that fit.
  """
  if group is not None and images % group:
    raise ValueError(
      f"config.batch_norm_group is {group}, which does not divide the {images} images that go"
      f" through {where} at once: {_nearest_divisors(images, group, least=2)} fits"
    )


def _nearest_divisors(of: int, number: int, *, least: int = 1) -> str:
  divisors = [n for n in range(least, of + 1) if of % n == 0]
  below = [n for n in divisors if n < number][-1:]
  above = [n for n in divisors if n > number][:1]
  return " or ".join(map(str, below + above)) or "none"


def share_of_device(arrays: Arrays, axis_name: str) -> Microbatch:
  """Returns a batch that is split along `axis_name` as this device's microbatch."""
  count = len(arrays["labels"])

  def everywhere(name: str) -> jax.Array | None:
    return jax.lax.all_gather(arrays[name], axis_name, tiled=True) if name in arrays else None

  return Microbatch(
    arrays,
    jax.lax.axis_index(axis_name) * count + jnp.arange(count),
    everywhere("labels"),
    everywhere("partner_labels"),
  )


def micro_batch(part: Microbatch, index: int | jax.Array, count: int) -> Microbatch:
  """Returns microbatch `index` of `count`: rows index, index + count, index + 2 · count, …

  Of a batch split over devices each device has as many of these rows, and keeps them.
  """
  size = len(part.arrays["labels"])
  if size % count:
    raise ValueError(f"{count} micro-batches can't share {size} images evenly")

  def cut(x: jax.Array) -> jax.Array:
    parts = x.reshape(size // count, count, *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(parts, index, axis=1, keepdims=False)

  whole = part
  if part.rows is None:
    labels, partner_labels = part.arrays["labels"], part.arrays.get("partner_labels")
    whole = Microbatch(part.arrays, jnp.arange(size), labels, partner_labels)
  assert whole.rows is not None
  arrays = {name: cut(x) for name, x in part.arrays.items()}
  return whole._replace(arrays=arrays, rows=cut(whole.rows))


def accumulate_gradients(
  run: Callable[[Microbatch, Any], StepOutputs],
  part: Microbatch,
  memory: Any,
  count: int,
  *,
  unrolled: bool,
) -> StepOutputs:
  """Returns the mean over the micro-batches of a part, each run with the memory of the one before.

  Args:
    run: (micro-batch, memory) → `StepOutputs`.
    part: to be cut.
    memory: the objective's.
    count: number of micro-batches.
    unrolled: whether they are written out one after the other, or loop on the device.
  """
  if unrolled:
    found = run(micro_batch(part, 0, count), memory)
    for index in range(1, count):
      following = micro_batch(part, index + _zero_after(found.grads), count)
      found = _sum(found, run(following, found.memory))
  else:
    shapes = jax.eval_shape(lambda: run(micro_batch(part, 0, count), memory))
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)._replace(memory=memory)

    def add(found: StepOutputs, index: jax.Array) -> tuple[StepOutputs, None]:
      return _sum(found, run(micro_batch(part, index, count), found.memory)), None

    found, _ = jax.lax.scan(add, start, jnp.arange(count))
  return found._replace(
    **{
      name: jax.tree.map(lambda x: x / count, getattr(found, name))
      for name in ("grads", "batch_stats", "logs")
    }
  )


def _zero_after(grads: Any) -> jax.Array:
  """Returns 0, known only once all the gradients are.

  What starts from it can't start earlier. XLA on CPU runs whatever it can at once, in as much
  memory as one batch takes, and drops an optimization barrier before it decides on the order.
  """
  firsts = jnp.stack([x.ravel()[0].astype(jnp.float32) for x in jax.tree.leaves(grads)])
  return jnp.sum(firsts > jnp.inf, dtype=jnp.int32)


def _sum(found: StepOutputs, other: StepOutputs) -> StepOutputs:
  """The sum of two parts' results; the memory is the newer one."""
  total: StepOutputs = jax.tree.map(jnp.add, found._replace(memory=()), other._replace(memory=()))
  return total._replace(memory=other.memory)
