"""Checkpoints by orbax: the latest is kept, and the best on a held-out split."""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from bce_jax.training.state import TrainState

FOLDER = "checkpoints"


def any_in(workdir: pathlib.Path) -> bool:
  """Whether a run folder holds a checkpoint, told without opening them."""
  return any((workdir / FOLDER).glob("[0-9]*"))


class Checkpoints:
  """The checkpoints of a run folder.

  Each holds the train state and the loop's own record (a JSON object). Written beside its final
  place and renamed, so that a kill in the middle of a save leaves the one before as the latest.
  """

  def __init__(self, workdir: pathlib.Path, *, best_metric: str, read_only: bool = False):
    """Opens the checkpoints.

    Args:
      workdir: the run folder.
      best_metric: name of the metric whose largest value makes a checkpoint the best.
      read_only: nothing is written or cleaned up.
    """
    self._best_metric = best_metric
    latest = checkpoint_managers.LatestN(1)
    best = checkpoint_managers.BestN(
      n=1,
      get_metric_fn=lambda metrics: metrics[best_metric],
      keep_checkpoints_without_metrics=False,
    )
    # orbax logs every save at INFO and warns of what it chooses itself.
    logging.getLogger("absl").setLevel(logging.ERROR)
    self._manager = ocp.CheckpointManager(
      (workdir / FOLDER).absolute(),
      options=ocp.CheckpointManagerOptions(
        # Without best_fn orbax does not write metrics down; what is kept is the policy's to say.
        best_fn=lambda metrics: metrics[best_metric],
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
      ),
      item_handlers={"state": ocp.StandardCheckpointHandler(), "loop": ocp.JsonCheckpointHandler()},
    )

  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None when there is none."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Step of the best checkpoint on the validation split (the last of equals), or None."""
    judged = [
      (self._manager.metrics(step)[self._best_metric], step)
      for step in self._manager.all_steps()
      if self._manager.metrics(step)
    ]
    return max(judged, default=(0.0, None))[1]

  def save(
    self, state: TrainState, loop: dict[str, Any], validation: dict[str, float] | None
  ) -> None:
    """Saves a checkpoint, in the background.

    Args:
      state: the train state.
      loop: the loop's own record, JSON.
      validation: figures on the held-out split, where it was judged at this step.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    metrics = None if validation is None else {self._best_metric: validation[self._best_metric]}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(loop))
    self._manager.save(step, args=args, metrics=metrics)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Restores a checkpoint.

    Args:
      step: of an existing checkpoint.
      like: the state's shapes, dtypes and shardings (`jax.ShapeDtypeStruct`).

    Returns:
      (train state, the loop's record).

    Raises:
      ValueError: when the checkpoint is damaged, or of another network.
    """
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like), loop=ocp.args.JsonRestore())
    try:
      restored = self._manager.restore(step, args=args)
      return restored["state"], restored["loop"]
    except Exception as error:  # orbax raises whatever its readers do
      raise self._damaged(step, error) from error

  def network(self, step: int, sharding: jax.sharding.Sharding) -> tuple[Any, Any]:
    """Restores the network of a checkpoint of any method and optimiser.

    Args:
      step: of an existing checkpoint.
      sharding: of all its arrays.

    Returns:
      (params, batch_stats).

    Raises:
      ValueError: when the checkpoint is damaged.
    """
    try:
      like = abstract(self._manager.item_metadata(step)["state"], sharding)
      args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
      state = self._manager.restore(step, args=args)["state"]
      return state["params"], state["batch_stats"]
    except Exception as error:
      raise self._damaged(step, error) from error

  def _damaged(self, step: int, error: Exception) -> ValueError:
    where = self._manager.directory / str(step)
    reason = f"{type(error).__name__}: {error}"
    return ValueError(f"checkpoint {where} can't be restored: {reason[:200]}")

  def wait(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for what is being written, and ends the writers."""
    self._manager.wait_until_finished()
    self._manager.close()


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and dtypes of a state, laid out by one sharding, to restore into."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
