"""Checkpoints by orbax: the latest two are kept, and the best on a held-out split."""

import contextlib
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from bce_jax.names import nearest
from bce_jax.runs import files

_FINGERPRINT, _DIGEST = "fingerprint", "digest"
_BETTER = "better"  # beside the best metric's value, where less of it is better


class SaveError(RuntimeError):
  """A checkpoint could not be written; those before it are intact."""


def any_in(workdir: pathlib.Path) -> bool:
  """Whether a run folder holds a checkpoint; none is opened."""
  return any((workdir / files.CHECKPOINTS).glob("[0-9]*"))


class Checkpoints:
  """The checkpoints of a run folder.

  Each holds the train state and the loop's own record (a JSON object). Written beside its final
  place and renamed, so that a kill in the middle of a save leaves the one before as the latest.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    best_metric: str,
    better: str = "up",
    read_only: bool = False,
  ):
    """Opens the checkpoints.

    Args:
      workdir: the run folder.
      best_metric: name of the metric that makes a checkpoint the best.
      better: of those that are saved: "up", the largest value is the best, or "down", the least.
      read_only: nothing is written or cleaned up.
    """
    self._workdir = workdir
    self._best_metric, self._better = best_metric, better
    # Two, so that there is one to go on from where the newest is damaged.
    latest = checkpoint_managers.LatestN(2)
    best = checkpoint_managers.BestN(
      n=1,
      get_metric_fn=self._rank,
      keep_checkpoints_without_metrics=False,
    )
    self._manager = ocp.CheckpointManager(
      (workdir / files.CHECKPOINTS).absolute(),
      options=ocp.CheckpointManagerOptions(
        # Without best_fn orbax does not write metrics down; what is kept is the policy's to say.
        best_fn=self._rank,
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
    evaluated = [
      (self._rank(self._manager.metrics(step)), step)
      for step in self._manager.all_steps()
      if self._manager.metrics(step)
    ]
    return max(evaluated, default=(0.0, None))[1]

  def _rank(self, metrics: dict[str, Any]) -> float:
    """What the best checkpoint has most of."""
    value = metrics[self._best_metric]
    return -value if metrics.get(_BETTER) == "down" else value

  def _metrics(self, validation: dict[str, float] | None) -> dict[str, Any] | None:
    """What is saved of an evaluation to choose by; None where there is nothing."""
    value = math.nan if validation is None else validation[self._best_metric]
    if math.isnan(value):
      return None
    return {self._best_metric: value} | ({_BETTER: "down"} if self._better == "down" else {})

  def refuse_without_best(self, results: Mapping[str, Any]) -> None:
    """Raises ValueError where the results of an evaluation lack what the best is chosen by."""
    if self._best_metric not in results:
      raise ValueError(
        f"config.best_metric {self._best_metric!r} is no result of the evaluation; did you mean"
        f" {nearest(self._best_metric, results)!r}?"
      )

  def save(
    self,
    state: Any,
    loop: dict[str, Any],
    validation: dict[str, float] | None,
    *,
    replace: bool = False,
  ) -> None:
    """Saves a checkpoint, in the background.

    Args:
      state: the train state, logical.
      loop: the loop's own record, JSON.
      validation: results on the held-out split, where it was evaluated at this step.
      replace: one of the same step, which could not be evaluated then; else that one stays.

    Raises:
      SaveError: when this one, or the one before, could not be written.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      if not replace:
        return
      self._manager.delete(step)
    metrics = self._metrics(validation)
    loop = {**loop, _FINGERPRINT: fingerprint(state), _DIGEST: _digest(loop)}
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(loop))
    try:
      self._manager.save(step, args=args, metrics=metrics)
    except Exception as error:  # orbax raises whatever its writers do
      raise self._not_written(error) from error

  def restore_newest(self, like: Any) -> tuple[Any, dict[str, Any], list[str]] | None:
    """Restores the newest checkpoint that is intact; newer ones are quarantined, not deleted.

    Args:
      like: as for `restore`.

    Returns:
      (train state, the loop's record, what was wrong with each newer one), or None where there is
      no checkpoint.

    Raises:
      ValueError: where none of them is intact; they stay where they are.
    """
    refused: dict[int, ValueError] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self.restore(step, like)
        error = None
      except ValueError as reason:
        error = reason
      if not _everywhere(error is None):
        where = self._manager.directory / str(step)
        refused[step] = error or ValueError(f"checkpoint {where} can't be restored elsewhere")
        continue
      self._quarantine(list(refused))
      return *restored, [str(reason) for reason in refused.values()]
    if refused:
      raise refused[max(refused)]
    return None

  def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
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
    except Exception as error:  # orbax raises whatever its readers do
      raise self._damaged(step, f"{type(error).__name__}: {error}") from error
    state, loop = restored["state"], restored["loop"]
    # Older checkpoints have neither.
    expected, digest = loop.pop(_FINGERPRINT, None), loop.pop(_DIGEST, None)
    if expected is not None and expected != fingerprint(state):
      raise self._damaged(step, "its numbers are not those that were saved")
    if digest is not None and digest != _digest(loop):
      raise self._damaged(step, "its records are not those that were saved")
    return state, loop

  def network(self, step: int, abstract: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Restores the network of a checkpoint of any method and optimizer.

    Args:
      step: of an existing checkpoint.
      abstract: gives the arrays of a state, known by shape and dtype, a sharding: a
        `StateSharding.abstract`.

    Returns:
      (params, batch_stats).

    Raises:
      ValueError: when the checkpoint is damaged.
    """
    try:
      like = abstract(self._manager.item_metadata(step)["state"])
      args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
      state = self._manager.restore(step, args=args)["state"]
      return state["params"], state["batch_stats"]
    except Exception as error:
      raise self._damaged(step, f"{type(error).__name__}: {error}") from error

  def _damaged(self, step: int, reason: str) -> ValueError:
    where = self._manager.directory / str(step)
    return ValueError(f"checkpoint {where} can't be restored: {' '.join(reason.split())[:200]}")

  def _not_written(self, error: Exception) -> SaveError:
    kept = list(self._manager.all_steps(read=True))
    outcome = f"checkpoint {max(kept)} is kept" if kept else "there is none before it"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if len(reason) > 300:  # the cause stands at the end
      reason = f"{reason[:120]} … {reason[-180:]}"
    return SaveError(f"a checkpoint could not be written, {outcome}: {reason}")

  def _quarantine(self, steps: list[int]) -> None:
    """Moves checkpoints out of the way of those to come."""
    if not steps:
      return
    if jax.process_index() == 0:
      for step in steps:
        aside = self._workdir / files.QUARANTINE
        aside.mkdir(exist_ok=True)
        number = sum(1 for _ in aside.glob(f"{step}.*"))
        (self._workdir / files.CHECKPOINTS / str(step)).rename(aside / f"{step}.{number}")
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("corrupted checkpoints are quarantined")
    self._manager.reload()

  def wait(self) -> None:
    """Waits for what is being written.

    Raises:
      SaveError: when it could not be.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._not_written(error) from error

  def leave(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
    """Closes, at the end of a `with`; but one of several processes with an error leaves at once.

    A save ends when all have written their part: the others, who may be lost, would be waited for.
    """
    del kind, traceback
    if error is None or jax.process_count() == 1:
      self.close()

  def close(self) -> None:
    """Waits for what is being written, and ends the writers.

    Raises:
      SaveError: when it could not be written.
    """
    try:
      self.wait()
    finally:
      self._manager.close()


@contextlib.contextmanager
def existing(
  workdir: pathlib.Path, which: str, best_metric: str
) -> Iterator[tuple[Checkpoints, int]]:
  """Context manager: the checkpoints of a run folder, and the step of the latest or best one.

  Args:
    workdir: the run folder.
    which: "latest" or "best" (on the validation split).
    best_metric: see `Checkpoints`.

  Raises:
    ValueError: when there is no such checkpoint.
  """
  with contextlib.closing(
    Checkpoints(workdir, best_metric=best_metric, read_only=True)
  ) as checkpoints:
    step = checkpoints.latest_step() if which == "latest" else checkpoints.best_step()
    if step is None:
      reason = "" if which == "latest" else "; one is chosen on the validation split"
      raise ValueError(f"{workdir} has no {which} checkpoint{reason}")
    yield checkpoints, step


def fingerprint(state: Any) -> list[int]:
  """Returns a checksum of each array, the same however the array is sharded.

  The elements' bits, each times an odd number of its place, summed modulo 2³²: exact in any order,
  and so the same on any number of devices.
  """
  return [int(x) for x in jax.device_get(_fingerprint(state))]


@jax.jit
def _fingerprint(state: Any) -> jax.Array:
  def of(x: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[min(x.dtype.itemsize, 4)]
    bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
      place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    # Scattered, so that swapped elements are noticed too; odd, so that a changed one always is.
    factor = (place * jnp.uint32(0x9E3779B1)) | jnp.uint32(1)
    return jnp.sum(bits * factor, dtype=jnp.uint32)

  return jnp.stack([of(x) for x in jax.tree.leaves(state)])


def _digest(loop: dict[str, Any]) -> str:
  """Of the loop's record, as `fingerprint` is of the state."""
  return hashlib.sha256(json.dumps(loop, sort_keys=True).encode()).hexdigest()


def _everywhere(done: bool) -> bool:
  """Whether something was done by every process."""
  if jax.process_count() == 1:
    return done
  return bool(multihost_utils.process_allgather(jnp.asarray(done)).all())
