"""What a run carries from step to step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bce_jax.models import Classifier
from bce_jax.objectives import Objective


class TrainState(struct.PyTreeNode):
  """Everything that a checkpoint holds; a run's key is not in it, since step keys fold in `step`.

  Attributes:
    step: number of updates made, int32.
    params: {"backbone": …, "head": …}.
    batch_stats: running statistics of the normalisation layers.
    opt_state: the optimiser's.
    memory: the objective's.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  memory: Any


def create_state(
  key: jax.Array,
  model: Classifier,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  image_shape: tuple[int, int, int],
) -> TrainState:
  """Returns the state before the first step: a pure function, to be jitted or `eval_shape`d."""
  variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.init(params),
    memory=objective.memory(),
  )
