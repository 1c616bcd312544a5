"""Stage 2 of BCE3S: the classifier alone is trained on, balanced over the classes.

The network of a stage-1 run (`config.start_from`) keeps its backbone; the classifier's
weights and bias go on with BCE weighed by the effective number of samples of each class, and after
every epoch rows longer than a limit, computed once from stage 1, are cut to it (MaxNorm).

Source: [T] Fan et al., "BCE3S", AAAI 2026, §4; weights: Cui et al., CVPR 2019; MaxNorm: Alshammari
et al., "Long-Tailed Recognition via Weight Balancing", CVPR 2022.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bce_jax import losses
from bce_jax.objectives import rebalance as rebalance_lib
from bce_jax.objectives.joint import check as check_joint
from bce_jax.objectives.joint import from_config as joint_from_config
from bce_jax.objectives.objective import Objective, Problem
from bce_jax.objectives.rebalance import Rebalance

OPTIONS: dict[str, Any] = {
  "beta": 0.99999,
  "class_share": 1.0,
  "max_norm_fraction": 0.1,
  "drifting_statistics": False,
}
MEANINGS = {
  "beta": "β of the class-balanced example weights (1 − β)/(1 − βⁿ)",
  "class_share": "r, share of the classes in each step's loss, those of the batch included; 1: all",
  "max_norm_fraction": "MaxNorm's limit: 0, the shortest row at the start; 1, the longest",
  # As the released code does.
  "drifting_statistics": "batch norm by the batch's statistics; false: by those of start_from",
}
RANGES = {
  "beta": (0, True, 1),
  "class_share": (0, False, 1),
  "max_norm_fraction": (0, True, 1),
}


def check(config: Any) -> None:
  """Refuses a config that this method can't use."""
  if not config.start_from:
    raise ValueError(
      "config.objective.name 'balanced' goes on from a run: set --config.start_from=RUN_FOLDER too"
    )
  if config.objective.beta >= 1:
    raise ValueError(f"config.objective.beta must be less than 1, got {config.objective.beta}")
  if config.rebalance.class_weight_beta is not None:
    raise ValueError(
      "config.rebalance.class_weight_beta would weigh the classes twice: the objective 'balanced'"
      f" has config.objective.beta; expected none, got {config.rebalance.class_weight_beta}"
    )
  check_joint(config)


def create(config: Any, problem: Problem) -> Objective:
  """Returns the method with the options of a config."""
  offsets = rebalance_lib.from_config(config, problem.train_counts).offsets
  weights = losses.class_weights(problem.train_counts, beta=config.objective.beta)
  return balanced(
    joint_from_config(config, problem, Rebalance(offsets, weights)),
    steps_per_epoch=problem.steps_per_epoch,
    max_norm_fraction=config.objective.max_norm_fraction,
    drifting_statistics=config.objective.drifting_statistics,
  )


def balanced(
  base: Objective,
  *,
  steps_per_epoch: int,
  max_norm_fraction: float = 0.1,
  drifting_statistics: bool = False,
) -> Objective:
  """The classifier alone on a frozen backbone, with MaxNorm.

  Args:
    base: `joint` with class-balanced weights; BCE3S has a BCE loss.
    steps_per_epoch: updates between two projections by MaxNorm.
    max_norm_fraction: in [0, 1]; see `losses.max_norm_limit`.
    drifting_statistics: normalize by the batch's own statistics in training, and update the
      running ones, as the released code does; else both stay those of stage 1.

  Returns:
    The objective; its logs hold "accuracy", top-1 on the training batch.
  """

  def memory(params: Any) -> jax.Array:
    return losses.max_norm_limit(params["head"]["weights"], fraction=max_norm_fraction)

  def after_update(params: Any, limit: jax.Array, step: jax.Array) -> Any:
    head = params["head"]
    ends_epoch = (step + 1) % steps_per_epoch == 0
    cut = losses.max_norm(head["weights"], limit=limit)
    return params | {"head": head | {"weights": jnp.where(ends_epoch, cut, head["weights"])}}

  return base._replace(
    memory=memory,
    after_update=after_update,
    trainable=("head",),
    batch_statistics=drifting_statistics,
    continues_head=True,
  )
