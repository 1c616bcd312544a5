"""The train state: what a run carries from step to step, and a checkpoint holds."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bce_jax.models import Classifier
from bce_jax.objectives import Objective


class TrainState(struct.PyTreeNode):
  """The train state; the run's random key is not in it, since steps fold in `step`.

  Attributes:
    step: number of updates made, int32.
    params: {"backbone": …, "head": …}, and "objective" where the method has parameters of its own.
    batch_stats: running statistics of the normalization layers.
    opt_state: the optimizer's, of the parameters that are trained.
    memory: the objective's.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  memory: Any

  @property
  def variables(self) -> Any:
    """The network's variables, as evaluation takes them."""
    params = {name: self.params[name] for name in ("backbone", "head")}
    return {"params": params, "batch_stats": self.batch_stats}


def trained(params: Any, objective: Objective) -> Any:
  """Returns the parameters that the method trains."""
  names = params.keys() if objective.trainable is None else objective.trainable
  return {name: params[name] for name in names}


def create_state(
  key: jax.Array,
  model: Classifier,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  image_shape: tuple[int, int, int],
  network: tuple[Any, Any] | None = None,
) -> TrainState:
  """Returns the state before the first step: a pure function, to be jitted or `eval_shape`d.

  Args:
    key: the run's.
    model: a classifier.
    optimizer: of the parameters that are trained.
    objective: the method.
    image_shape: height, width, channels.
    network: (params, batch_stats) to start from, with or without a head; None starts anew.
  """
  params, batch_stats = network or ({}, {})
  if not {"backbone", "head"} <= params.keys():
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    if network is None:
      batch_stats = variables.get("batch_stats", {})
    params = {"backbone": {}} | variables["params"] | params  # one of no parameters, perhaps
  params = {name: params[name] for name in ("backbone", "head")}
  if objective.parameters is not None:
    num_features = params["head"]["weights"].shape[-1]
    params["objective"] = objective.parameters(jax.random.fold_in(key, 1), num_features)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(trained(params, objective)),
    memory=objective.memory(params),
  )
