"""Traces code from outside before anything is written: what fails is reported in one line."""

from typing import Any

import jax
import jax.numpy as jnp

from bce_jax import extensions

# `experiment` imports this module, so that an `Experiment` is an `Any` here.
Experiment = Any


def check(experiment: Experiment, *, trains: bool) -> None:
  """Traces the network, and a training step, on shapes alone.

  Args:
    experiment: all of it, with a part from outside.
    trains: whether a step will be made.

  Raises:
    ValueError: one line: what went wrong, and where.
  """
  if "model" in experiment.outside:
    _check_network(experiment)
  if not trains:
    return
  said = ", ".join(f"config.{key} {x['name']!r}" for key, x in experiment.outside.items())
  train_step = experiment.train_step()

  _check_schedule(experiment)
  state = jax.eval_shape(experiment.init_state)
  after, logs = extensions.calling(
    f"a training step with {said}", jax.eval_shape, train_step, state, _batch(experiment)
  )
  for part, value in vars(state).items():
    now = getattr(after, part)
    if _layout(now) != _layout(value):
      raise ValueError(
        f"a training step with {said} makes of the state's {part} {_layout(now)!r:.100}: expected"
        f" what it was, {_layout(value)!r:.100}"
      )
  for name, value in logs.items():
    if value.shape or not jnp.issubdtype(value.dtype, jnp.number):
      raise ValueError(
        f"a training step with {said} logs {name!r} as {value.dtype} {value.shape}: expected a"
        " number"
      )


def _check_network(experiment: Experiment) -> None:
  """Refuses a backbone of another interface than ours."""
  name = experiment.outside["model"]["name"]
  said = f"config.model {name!r}"
  images = jnp.zeros((2, *experiment.dataset.train.image_shape))

  def run() -> Any:
    backbone = experiment.model.backbone
    call = lambda key: backbone.init_with_output(key, images, train=False)  # noqa: E731
    return jax.eval_shape(call, jax.random.key(0))

  out, variables = extensions.calling(said, run)
  others = set(variables) - {"params", "batch_stats"}
  if others:
    raise ValueError(
      f"{said} keeps variables {min(others)!r}: expected 'params' and 'batch_stats' only"
    )
  two = isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)
  if not two or getattr(out[0], "ndim", 0) != 2 or len(out[0]) != 2:
    raise ValueError(
      f"{said} returns {jax.tree.map(lambda x: x.shape, out)!r:.100} for two images: expected"
      " (features [2, D], a dict of intermediates)"
    )
  if not jnp.issubdtype(out[0].dtype, jnp.floating):
    raise ValueError(f"{said} returns features {out[0].dtype}: expected floating point")


def _check_schedule(experiment: Experiment) -> None:
  """Refuses a learning rate that is no number."""
  if "optimizer.schedule" not in experiment.outside:
    return
  said = f"config.optimizer.schedule {experiment.config.optimizer.schedule!r}"
  step = jax.ShapeDtypeStruct((), jnp.int32)
  rate = extensions.calling(f"{said}: its function", jax.eval_shape, experiment.schedule, step)
  if getattr(rate, "shape", None) != () or not jnp.issubdtype(rate.dtype, jnp.floating):
    raise ValueError(f"{said} makes of a step {_layout(rate)}: expected a number")


def _layout(tree: Any) -> Any:
  """A tree with the dtype and the shape of each array, as text."""
  return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)


def _batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
  size = experiment.config.batch_size
  shape = (size, *experiment.dataset.train.image_shape)
  one = {
    "images": jax.ShapeDtypeStruct(shape, jnp.uint8),
    "labels": jax.ShapeDtypeStruct((size,), jnp.int32),
  }
  if experiment.objective.partner is None:
    return one
  return one | {f"partner_{name}": value for name, value in one.items()}
