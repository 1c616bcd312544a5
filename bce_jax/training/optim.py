"""The optimizer: schedule, clipping, and a weight decay of its own for each group of parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

GROUPS = ("kernel", "norm", "head", "bias")


def parameter_group(path: tuple[Any, ...], leaf: Any) -> str:
  """Names the weight-decay group of a parameter.

  Args:
    path: its key path in {"backbone": …, "head": …, "objective": …}.
    leaf: the parameter, or its shape.

  Returns:
    "bias" (the head's: a threshold, not a weight), "head" (the classifier's weights), "norm"
    (vectors: scales and biases of the normalization and linear layers) or "kernel" (the rest).
  """
  names = [key.key for key in path]
  if names[0] == "head":
    return "bias" if names[-1] == "bias" else "head"
  return "norm" if leaf.ndim <= 1 else "kernel"


def learning_rate(config: ConfigDict, *, total_steps: int, warmup_steps: int) -> optax.Schedule:
  """Returns the schedule: a linear warm-up, then constant or a half cosine down to 0.

  Args:
    config: the group `optimizer` of a config.
    total_steps: number of updates of the run.
    warmup_steps: how many of them warm up, < total_steps.

  Returns:
    step → learning rate.
  """
  peak = config.learning_rate
  if config.schedule == "constant":
    after = optax.constant_schedule(peak)
  else:
    after = optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
  if warmup_steps == 0:
    return after
  warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


def create_optimizer(
  config: ConfigDict, schedule: optax.Schedule, *, bias_learnable: bool
) -> optax.GradientTransformation:
  """Builds the optax chain: clip, decay, momentum (sgd); clip, Adam, decay (adamw).

  Args:
    config: the group `optimizer` of a config.
    schedule: step → learning rate.
    bias_learnable: False leaves the head's bias untouched, its decay included.

  Returns:
    A gradient transformation.
  """
  decays: Mapping[str, float] = {
    "kernel": config.weight_decay,
    "norm": config.norm_weight_decay,
    "head": config.head_weight_decay,
    "bias": config.bias_weight_decay if bias_learnable else 0.0,
  }

  def only(group: str):
    return lambda params: jax.tree_util.tree_map_with_path(
      lambda path, leaf: parameter_group(path, leaf) == group, params
    )

  decay = [
    optax.add_decayed_weights(decays[group], mask=only(group)) for group in GROUPS if decays[group]
  ]
  clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
  if config.name == "sgd":
    momentum = [optax.trace(config.momentum, config.nesterov)] if config.momentum else []
    parts = [*clip, *decay, *momentum]
  else:
    parts = [*clip, optax.scale_by_adam(), *decay]
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
