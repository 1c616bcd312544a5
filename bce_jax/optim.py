"""Optimizer and schedule: clipping, and a weight decay for each group of parameters.

An optimizer is a function (config, schedule, decay, **options) → the whole update, learning rate
included: an optax transformation, or several in their order. `config` is the group `optimizer` of a
config, `schedule` step → learning rate, `decay` a tuple of transformations that add the decay of
the four groups; one from outside takes `decay` only if it wants them. Gradients are clipped before.

A schedule is a function (config, steps, **options) → optax schedule of so many steps, after warming
up. It may take `steps_per_epoch` too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from bce_jax import extensions

GROUPS = ("kernel", "norm", "head", "bias")
Parts = Sequence[optax.GradientTransformation]


def parameter_group(path: tuple[Any, ...], leaf: Any) -> str:
  """Returns the name of the weight-decay group of a parameter.

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


def _sgd(config: ConfigDict, schedule: optax.Schedule, decay: Parts) -> Parts:
  momentum = [optax.trace(config.momentum, config.nesterov)] if config.momentum else []
  return [*decay, *momentum, optax.scale_by_learning_rate(schedule)]


def _adamw(config: ConfigDict, schedule: optax.Schedule, decay: Parts) -> Parts:
  adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
  return [adam, *decay, optax.scale_by_learning_rate(schedule)]


def _cosine(config: ConfigDict, steps: int) -> optax.Schedule:
  return optax.cosine_decay_schedule(config.learning_rate, steps)


def _constant(config: ConfigDict, steps: int) -> optax.Schedule:
  del steps
  return optax.constant_schedule(config.learning_rate)


OPTIMIZERS: Mapping[str, Callable[..., Parts]] = {"sgd": _sgd, "adamw": _adamw}
SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {"cosine": _cosine, "constant": _constant}


def optimizer(name: str) -> extensions.Plugin:
  """Returns an optimizer, ours or from outside.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a module that is missing.
  """
  return extensions.find(
    "optimizer.name",
    name,
    tuple(OPTIMIZERS),
    lambda own: extensions.own(own, OPTIMIZERS[own]),
    positional=2,
    given=("decay",),
  )


def schedule(name: str) -> extensions.Plugin:
  """Returns a schedule, ours or from outside.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a module that is missing.
  """
  return extensions.find(
    "optimizer.schedule",
    name,
    tuple(SCHEDULES),
    lambda own: extensions.own(own, SCHEDULES[own]),
    positional=2,
    given=("steps_per_epoch",),
  )


def learning_rate(
  config: ConfigDict,
  *,
  total_steps: int,
  warmup_steps: int,
  steps_per_epoch: int = 1,
  options: Mapping[str, Any] | None = None,
) -> optax.Schedule:
  """Returns the schedule: a linear warm-up, then constant, a half cosine down to 0, or another.

  Args:
    config: the group `optimizer` of a config.
    total_steps: number of updates of the run.
    warmup_steps: how many of them warm up, < total_steps.
    steps_per_epoch: for a schedule from outside that takes it.
    options: of a schedule from outside.

  Returns:
    step → learning rate.

  Raises:
    ValueError: for a schedule from outside that is none.
  """
  after = extensions.make(
    "optimizer.schedule",
    schedule(config.schedule),
    config,
    total_steps - warmup_steps,
    given={"steps_per_epoch": steps_per_epoch},
    options=options or {},
  )
  if not callable(after):
    raise ValueError(
      f"config.optimizer.schedule {config.schedule!r} made {after!r}: expected a function of a step"
    )
  if warmup_steps == 0:
    return after
  peak = config.learning_rate
  warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


def create_optimizer(
  config: ConfigDict,
  schedule: optax.Schedule,
  *,
  bias_learnable: bool,
  options: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
  """Builds the optax chain: clip, decay, momentum (sgd); clip, Adam, decay (adamw); or another.

  Args:
    config: the group `optimizer` of a config.
    schedule: step → learning rate.
    bias_learnable: False leaves the head's bias untouched, its decay included.
    options: of an optimizer from outside.

  Returns:
    A gradient transformation.

  Raises:
    ValueError: for an optimizer from outside that is none.
  """
  decays: Mapping[str, float] = {
    "kernel": config.weight_decay,
    "norm": config.norm_weight_decay,
    "head": config.head_weight_decay,
    "bias": config.bias_weight_decay if bias_learnable else 0.0,
  }
  decay = tuple(
    optax.add_decayed_weights(decays[group], mask=_only(group)) for group in GROUPS if decays[group]
  )
  clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
  found = optimizer(config.name)
  made = extensions.make(
    "optimizer.name", found, config, schedule, given={"decay": decay}, options=options or {}
  )
  one = isinstance(made, optax.GradientTransformation)
  parts = [made] if one else list(made) if isinstance(made, Sequence) else [None]
  if not all(isinstance(part, optax.GradientTransformation) for part in parts):
    raise ValueError(
      f"config.optimizer.name {config.name!r} made {made!r}: expected an optax transformation"
    )
  frozen = []
  if found.outside and not bias_learnable:  # ours leave alone what has neither gradient nor decay
    frozen = [optax.masked(optax.set_to_zero(), _only("bias"))]
  return optax.chain(*clip, *parts, *frozen)


def _only(group: str) -> Callable[[Any], Any]:
  """A mask of the parameters of a group."""
  return lambda params: jax.tree_util.tree_map_with_path(
    lambda path, leaf: parameter_group(path, leaf) == group, params
  )
