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

  def traced() -> Any:
    state = jax.eval_shape(experiment.init_state)
    return jax.eval_shape(train_step, state, _batch(experiment))

  logs = extensions.calling(f"a training step with {said}", traced)[1]
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
    call = lambda key: backbone.init_with_output(key, images, train=False)[0]  # noqa: E731
    return jax.eval_shape(call, jax.random.key(0))

  out = extensions.calling(said, run)
  two = isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)
  if not two or getattr(out[0], "ndim", 0) != 2 or len(out[0]) != 2:
    raise ValueError(
      f"{said} returns {jax.tree.map(lambda x: x.shape, out)!r:.100} for two images: expected"
      " (features [2, D], a dict of intermediates)"
    )


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
