"""The training loop: batches in, records and checkpoints out."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from bce_jax.data import loader
from bce_jax.data.images import DamagedError
from bce_jax.evaluation.evaluator import Evaluator
from bce_jax.evaluation.summary import NonFiniteError, Results
from bce_jax.runs.checkpoint import Checkpoints
from bce_jax.runs.records import RecordWriter
from bce_jax.training.experiment import Experiment
from bce_jax.training.parallel import Execution
from bce_jax.training.preemption import Preemption
from bce_jax.training.progress_bar import EVALUATING, Progress
from bce_jax.training.skipping import Skipping
from bce_jax.training.state import TrainState


class Services(NamedTuple):
  """What the trainer works with: evaluator, checkpoints, records, progress, signals.

  Attributes:
    evaluator: of the experiment.
    execution: how steps run on the devices.
    checkpoints: of the run folder.
    writer: of records.
    progress: for people.
    preemption: signals.
    skipping: of corrupted images.
  """

  evaluator: Evaluator
  execution: Execution
  checkpoints: Checkpoints
  writer: RecordWriter
  progress: Progress
  preemption: Preemption
  skipping: Skipping


class Due(NamedTuple):
  """What is due after a step: evaluating, saving, recording, stopping.

  Attributes:
    preempted: the run was asked to end.
    evaluate: the network is evaluated.
    save: a checkpoint is saved.
    record: a record is written.
  """

  preempted: bool
  evaluate: bool
  save: bool
  record: bool


class Trainer:
  """Trains from the step of a state to the end.

  `record` is the part of a checkpoint that is not the train state: the logs of the steps since the
  last record, so that the next record is the same whether or not a kill comes between, the records
  so far, and the seconds spent.

  Args:
    experiment: the run.
    state: on the devices, padded.
    record: of the checkpoint that it is from.
    services: see there.
  """

  def __init__(
    self, experiment: Experiment, state: TrainState, record: dict[str, Any], services: Services
  ):
    self._experiment, self._config = experiment, experiment.config
    self._services, self._execution = services, services.execution
    self._step = self._first = int(state.step)
    self._carried = self._execution.carry(state)
    self._record = record
    self._pending: dict[str, list[float]] = record["pending"]
    self._on_device: list[Any] = []
    self._start, self._seconds_before = time.monotonic(), record["seconds"]
    self._all_finite = jax.jit(_all_finite)
    # A checkpoint that was saved since it could not be evaluated is evaluated first, and replaced.
    self._unevaluated = record.pop("unevaluated", False)
    self._train_step = services.preemption.counted(self._execution.step)

  @property
  def state(self) -> TrainState:
    """The present state, on the devices, padded."""
    return self._execution.state(self._carried)

  @property
  def seconds(self) -> float:
    """Seconds until the last checkpoint, over all sessions of the run."""
    return self._record["seconds"]

  def run(self) -> None:
    """Trains to the end.

    Raises:
      PreemptedError: when asked to end; a checkpoint of the last step is saved.
      DamagedError: for an image that can't be read; a checkpoint of the last step is saved.
      NonFiniteError: when the loss, a parameter or a score is not finite.
    """
    if self._unevaluated:
      state = self.state
      self._save(state, self._evaluate(state))
      self._unevaluated = False
    for batch in self._batches():
      self._train_on(batch)
      self._follow_up(self._due())

  def _batches(self) -> Iterator[loader.Batch]:
    """Yields the batches of the steps that are left, and names images that were skipped."""
    config = self._config
    batches = loader.train_batches(
      self._experiment.dataset.train,
      seed=config.seed,
      batch_size=config.batch_size,
      first_step=self._first,
      last_step=self._experiment.total_steps,
      sampling_exponent=config.data.sampling_exponent,
      partner_exponent=self._experiment.objective.partner,
      rows=self._execution.rows(),
      workers=config.data.workers,
    )
    try:
      for batch in batches:
        self._services.skipping.note(batch.pop("damaged", ()), self._step + 1)
        yield batch
    except DamagedError:
      self._keep()
      raise

  def _train_on(self, batch: loader.Batch) -> None:
    progress = self._services.progress
    placed = self._execution.put_batch(batch)
    if self._step == self._first:
      with progress.doing("training", compiling="compiling the training step"):
        self._carried, logs = self._train_step(self._carried, placed)
        progress.advance()
        jax.block_until_ready(logs)
    else:
      self._carried, logs = self._train_step(self._carried, placed)
      progress.advance()
    self._on_device.append(logs)
    self._step += 1

  def _due(self) -> Due:
    step, config = self._step, self._config
    last = step == self._experiment.total_steps
    preempted = self._services.preemption.reached(step)
    evaluate = step % self._experiment.steps(config.eval_every_epochs) == 0 or last
    save_every = config.checkpoint_every_steps or self._experiment.total_steps
    save = evaluate or step % save_every == 0 or preempted
    return Due(preempted, evaluate, save, step % config.log_every_steps == 0 or last)

  def _follow_up(self, due: Due) -> None:
    """Records, evaluates and saves what is due after a step."""
    services, rate = self._services, math.nan
    if due.record or due.save:
      state = self.state  # once: under pmap it is brought to the mesh
      self._fetch()
      rate = services.progress.images_per_second() if due.record else math.nan
      services.skipping.exchange(self._step)
    if due.save:
      with services.progress.doing("checking the parameters"):
        finite = self._all_finite(state)
      if not finite:
        self._stop(f"the parameters after step {self._step} are not finite")
    if due.record:
      self._write_record(state, rate)
    validation = self._evaluate(state) if due.evaluate else None
    if due.save:
      with services.progress.doing("saving a checkpoint"):
        self._save(state, validation)
    if due.preempted and self._step != self._experiment.total_steps:
      services.checkpoints.wait()
      raise services.preemption.ended(self._step)
    services.progress.stepping()

  def _stop(self, what: str) -> NoReturn:
    checkpoints = self._services.checkpoints
    checkpoints.wait()
    kept = checkpoints.latest_step()
    outcome = "No checkpoint was made yet" if kept is None else f"Checkpoint {kept} is kept"
    raise NonFiniteError(
      f"{what}; training stops. {outcome}."
      " Try a smaller --config.optimizer.learning_rate, or set --config.optimizer.clip_norm"
    )

  def _fetch(self) -> None:
    """Brings the logs of the steps since the last time to the host, and checks the loss."""
    first = self._step - len(self._on_device) + 1
    for offset, logs in enumerate(self._execution.fetch(self._on_device)):
      if not np.isfinite(logs["loss"]):
        self._stop(f"the loss of step {first + offset} is {float(logs['loss'])}")
      for name, value in logs.items():
        self._pending.setdefault(name, []).append(float(value))
    self._on_device.clear()

  def _place(self, split: str) -> dict[str, Any]:
    """What every record begins with."""
    epoch = self._step / self._experiment.steps_per_epoch
    return {"step": self._step, "epoch": epoch, "split": split}

  def _write_record(self, state: TrainState, rate: float) -> None:
    """Writes the means over the steps since the last record."""
    means = {name: math.fsum(values) / len(values) for name, values in self._pending.items()}
    bias = self._services.evaluator.head(state.variables, "bias")
    record: dict[str, Any] = {
      **self._place("train"),
      **means,
      "learning_rate": float(self._experiment.schedule(self._step - 1)),
      "bias": float(bias.mean(dtype=np.float64)),
      "images_per_second": rate,
    }
    self._services.writer.write(record)
    shown = {name: record[name] for name in (*means, "bias")}
    self._services.progress.show(self._step, record["epoch"], shown)
    self._pending.clear()

  def _evaluate(self, state: TrainState) -> Results | None:
    """Evaluates the network of this step; returns its results where the split is held out."""
    services, split = self._services, self._services.evaluator.monitored_split
    try:
      with services.progress.doing(EVALUATING, compiling="compiling the evaluation"):
        results = services.evaluator.monitor(state.variables)
      if split != "test":
        services.checkpoints.refuse_without_best(results)
    except NonFiniteError as error:
      self._stop(f"after step {self._step} {error}")
    except ValueError:  # an image that can't be read, or a metric from outside
      self._keep(evaluated=False)
      raise
    services.writer.write(self._place(split) | results)
    services.progress.say(_evaluation_line(self._step, split, results))
    return None if split == "test" else results

  def _save(self, state: TrainState, validation: Results | None, *, evaluated: bool = True) -> None:
    # A copy: the save goes on in the background while the next record empties what is pending.
    pending = {name: list(values) for name, values in self._pending.items()}
    seconds = self._seconds_before + time.monotonic() - self._start
    lines = list(self._services.writer.lines)
    self._record = {"pending": pending, "seconds": seconds, "records": lines}
    kept = self._record if evaluated else self._record | {"unevaluated": True}
    state = self._experiment.state_sharding.to_save(state)
    self._services.checkpoints.save(state, kept, validation, replace=self._unevaluated)

  def _keep(self, *, evaluated: bool = True) -> None:
    """Saves what was trained until an image can't be read; several processes can't do it alone."""
    if self._step == self._first or jax.process_count() > 1:
      return
    self._fetch()
    state = self.state
    if self._all_finite(state):
      self._save(state, None, evaluated=evaluated)
      self._services.checkpoints.wait()


def _evaluation_line(step: int, split: str, results: Results) -> str:
  """What people read of an evaluation during training, in 80 columns; accuracies in %."""
  best, at_bias = (results[f"uniform_accuracy{x}"] for x in ("", "_at_bias"))
  return (
    f"step {step} {split}  A_SW {100 * results['sample_wise_accuracy']:.2f}"
    f"  A_Uni {100 * best:.2f}  at b {100 * at_bias:.2f} %"
    f"  b {results['bias']:.4g}  t* {results['threshold']:.4g}"
  )


def _all_finite(state: TrainState) -> jax.Array:
  """Whether what the network computes with is finite; a checkpoint of anything else is no use."""
  leaves = jax.tree.leaves((state.params, state.batch_stats))
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
