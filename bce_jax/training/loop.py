"""The loop around the step: data in, records and checkpoints out, and on again after a kill."""

import contextlib
import math
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax.data import loader
from bce_jax.data.images import DamagedError
from bce_jax.report import evidence
from bce_jax.training import checkpoint, data_files, judging, parallel, provenance, records, run_log
from bce_jax.training import workdir as workdir_lib
from bce_jax.training.checkpoint import Checkpoints
from bce_jax.training.experiment import Experiment
from bce_jax.training.figures import Figures, NonFiniteError
from bce_jax.training.preemption import Preemption
from bce_jax.training.progress import EVALUATING, Progress
from bce_jax.training.skipping import Skipping
from bce_jax.training.state import TrainState
from bce_jax.training.step import jit_train_step, make_train_step

EMBEDDINGS = "embeddings.npz"


def train(
  experiment: Experiment, workdir: pathlib.Path, preemption: Preemption | None = None
) -> Figures:
  """Trains to the end, from the newest checkpoint in `workdir` if there is one.

  Args:
    experiment: as `experiment.build` returns it.
    workdir: the run folder; made if it is missing.
    preemption: which listens for signals already; None: listens here.

  Returns:
    The final figures, as written to results.json. "seconds" are those of the whole loop, with
    compiling, evaluating and saving, and "images_per_second" are over all of them; those of the
    records in metrics.jsonl are of the steps alone (see `progress.Pace`).

  Raises:
    NonFiniteError: when the loss, a parameter or a score is not finite.
    PreemptedError: when told to end by a signal.
    ValueError: for an image that can't be read, by name; for a checkpoint that can't be restored.
  """
  made_here = not workdir.exists()
  with contextlib.ExitStack() as stack:
    if preemption is None:
      preemption = Preemption(workdir, owns_process=False)
      stack.enter_context(preemption.listening())
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      stack.enter_context(workdir_lib.locked(workdir))
      run_log.open_in(workdir)
      preemption.at_the_very_end(lambda: (workdir / workdir_lib.LOCK).unlink(missing_ok=True))
    try:
      return _train(experiment, workdir, preemption)
    except ValueError:
      # What was given is wrong, and nothing came of it yet: no half-made run folder stays behind.
      if jax.process_index() == 0 and made_here and not checkpoint.any_in(workdir):
        shutil.rmtree(workdir)
      raise


def _train(experiment: Experiment, workdir: pathlib.Path, preemption: Preemption) -> Figures:
  config, mesh = experiment.config, experiment.mesh
  experiment = _with_source(experiment, workdir)
  if config.data.skip_damaged and checkpoint.any_in(workdir):
    # An image that was damaged since is no other data, though the mean is without it.
    experiment = workdir_lib.with_statistics_of(workdir, experiment)
  first_process = jax.process_index() == 0
  kept = config_lib.with_absolute_paths(config).to_dict()
  _write_down(experiment, workdir, kept, writes=first_process)
  with contextlib.ExitStack() as stack:
    checkpoints = Checkpoints(workdir, best_metric=config.best_metric)
    stack.push(checkpoints.leave)
    state, loop, said = _start(experiment, checkpoints)
    first_step = int(state.step)
    # Checkpoints of version 0.1 hold no records.
    lines = loop.pop("records", None) or records.lines_until(workdir, first_step)
    sessions = stack.enter_context(
      provenance.recorded(workdir, kept, first_step, writes=first_process)
    )
    writer = records.RecordWriter(
      workdir, lines, step=first_step, sessions=sessions, writes=first_process
    )
    stack.callback(writer.close)
    progress = Progress(
      first=first_step,
      total=experiment.total_steps,
      images_per_step=config.batch_size,
      evaluate_every=experiment.steps(config.eval_every_epochs),
      shown=first_process,
    )
    stack.callback(progress.close)
    parameters = int(parameter_overview.count_parameters(experiment.layout.like.params))
    progress.say(
      f"{config.objective.name}, {config.loss} on {config.model}: {parameters:,} parameters,"
      f" {len(experiment.dataset.train):,} training images of"
      f" {len(experiment.dataset.class_names)} classes, {experiment.total_steps:,} steps on"
      f" {mesh.size} {jax.default_backend()} device(s)"
      + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    )
    for line in (*said, *experiment.dataset.notes):
      progress.say(line)
    skipping = Skipping(experiment, writer, progress.say, first_step)
    steps = judging.jit_steps(experiment)
    with preemption.training():
      state, loop = _run(
        experiment, state, loop, steps, checkpoints, writer, progress, preemption, skipping
      )
      checkpoints.wait()
    if preemption.number == signal.SIGINT:  # in the last step; a scheduler's grace may suffice
      raise preemption.ended(experiment.total_steps)
    with progress.doing("evaluating the test split"):
      seen = judging.of_test_split(experiment, state, steps, observed=True)
    images, seconds = experiment.total_steps * config.batch_size, loop["seconds"]
    results = seen.figures | {
      "seconds": seconds,
      "images_per_second": images / seconds if seconds else math.nan,
    }
    if first_process:
      if seen.evidence is not None:
        evidence.write(workdir, seen.evidence)
      if seen.embeddings is not None:
        _write_embeddings(workdir, experiment, seen)
      provenance.finish(sessions, experiment.total_steps)
      writer.end(sessions[-1], experiment.total_steps)
      whence = {"provenance": {"config": kept, "sessions": sessions}}
      records.write_json(workdir / records.RESULTS, results | whence)
  return results


def _write_down(
  experiment: Experiment, workdir: pathlib.Path, config: dict[str, Any], *, writes: bool
) -> None:
  """Writes what a run needs to go on: its config, and which data it is of.

  Raises:
    ValueError: where the folder holds a run on other data.
  """
  files = data_files.describe(experiment.dataset, experiment.config)
  workdir_lib.refuse_other_dataset(workdir, experiment, files)
  if not writes:
    return
  records.write_json(workdir / records.CONFIG, config)
  if not (checkpoint.any_in(workdir) and (workdir / data_files.LIST).exists()):
    data_files.write(workdir, files)
  told = workdir_lib.describe_dataset(experiment) | {"files": files.digests}
  records.write_json(workdir / records.DATASET, told)


def _write_embeddings(workdir: pathlib.Path, experiment: Experiment, seen: judging.Seen) -> None:
  """Writes embeddings.npz, which bce-eval reads: of the classes never trained on."""
  dataset = experiment.dataset
  assert dataset.unseen is not None
  assert seen.embeddings is not None
  arrays: dict[str, Any] = {"features": seen.embeddings}
  if "verification_threshold" in seen.figures:  # with which it judges t = b/γ
    arrays |= {
      "bias": np.float64(seen.figures["bias"]),
      "scale": np.float64(experiment.model.head.scale),
    }
  if dataset.listed is None:
    arrays |= {"labels": dataset.unseen.labels, "names": np.array(dataset.unseen_names)}
  else:
    arrays |= {"paths": np.array(dataset.listed.paths)}
  evidence.write_arrays(workdir / EMBEDDINGS, arrays)


def evaluate_only(
  experiment: Experiment, workdir: pathlib.Path, *, which: str = "latest"
) -> Figures:
  """Judges a checkpoint of a run folder on the test split; writes nothing.

  Args:
    experiment: built from the run folder's config.
    workdir: the run folder.
    which: "latest" or "best" (on the validation split).

  Raises:
    NonFiniteError: when a score is nan.
    ValueError: when there is no such checkpoint, or the data do not fit it.
  """
  experiment = workdir_lib.with_statistics_of(workdir, experiment)
  layout = experiment.layout
  with checkpoint.existing(workdir, which, experiment.config.best_metric) as (checkpoints, step):
    state, _ = checkpoints.restore(step, layout.to_restore())
  seen = judging.of_test_split(experiment, layout.put(state), judging.jit_steps(experiment))
  return seen.figures


def _with_source(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
  """What starts from another run normalises images as that run did, and so does its resumption."""
  config = experiment.config
  if not config.start_from:
    return experiment
  if checkpoint.any_in(workdir):
    return workdir_lib.with_statistics_of(workdir, experiment)
  source = pathlib.Path(config.start_from)
  workdir_lib.refuse_other_network(source, config)
  with _source_checkpoint(config):  # there is one, before anything is written
    pass
  counts = experiment.train_counts  # this run's own: its training images may be others
  return workdir_lib.with_statistics_of(source, experiment)._replace(train_counts=counts)


def _source_checkpoint(config: ConfigDict) -> AbstractContextManager[tuple[Checkpoints, int]]:
  """Opens the checkpoint that training starts from; the best by that run's own metric."""
  source = pathlib.Path(config.start_from)
  best_metric = workdir_lib.config_of(source).best_metric
  return checkpoint.existing(source, config.start_from_checkpoint, best_metric)


def _start(
  experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any], list[str]]:
  """The newest checkpoint, or the state before the first step; and which, in words."""
  config, layout = experiment.config, experiment.layout
  restored = checkpoints.restore_newest(layout.to_restore())
  if restored is not None:
    state, loop, damaged = restored
    said = [f"{reason}; it was moved to {checkpoint.DAMAGED}/" for reason in damaged]
    said.append(f"resumed from the checkpoint of step {int(state.step)}")
    return layout.put(state), loop, said

  def init(network: Any = None) -> TrainState:
    return layout.stored(experiment.init_state(network))

  init_state = jax.jit(init, out_shardings=layout.shardings())
  loop = {"pending": {}, "seconds": 0.0}
  if not config.start_from:
    return init_state(), loop, []
  with _source_checkpoint(config) as (others, step):
    state = init_state(others.network(step, layout.abstract))
  ended = workdir_lib.finished(pathlib.Path(config.start_from)) is not None
  whence = f"starts from the network of step {step} of {config.start_from}"
  return state, loop, [whence if ended else f"{whence}, a run that has not ended"]


def _run(
  experiment: Experiment,
  state: TrainState,
  loop: dict[str, Any],
  steps: judging.Steps,
  checkpoints: Checkpoints,
  writer: records.RecordWriter,
  progress: Progress,
  preemption: Preemption,
  skipping: Skipping,
) -> tuple[TrainState, dict[str, Any]]:
  """Trains from the state's step to the end.

  `loop` is the part of a checkpoint that is not the train state: the figures of the steps since
  the last record, so that the next record is the same whether or not a kill comes between, the
  records so far, and the seconds spent.

  Raises:
    PreemptedError: when told to end; a checkpoint of the last step is saved.
    DamagedError: for an image that can't be read; a checkpoint of the last step is saved.
  """
  config, total = experiment.config, experiment.total_steps
  mesh, layout = experiment.mesh, experiment.layout
  train_step = preemption.counted(
    jit_train_step(
      make_train_step(
        experiment.model,
        experiment.objective,
        experiment.optimizer,
        experiment.preprocess,
        experiment.key,
        micro_batches=config.micro_batches,
      ),
      layout,
    )
  )
  all_finite = jax.jit(_all_finite)
  evaluate_every = experiment.steps(config.eval_every_epochs)
  save_every = config.checkpoint_every_steps or total
  start, seconds_before = time.monotonic(), loop["seconds"]
  pending: dict[str, list[float]] = loop["pending"]
  on_device: list[dict[str, jax.Array]] = []
  step = first_step = int(state.step)

  def stop(what: str) -> NoReturn:
    checkpoints.wait()
    kept = checkpoints.latest_step()
    outcome = "No checkpoint was made yet" if kept is None else f"Checkpoint {kept} is kept"
    raise NonFiniteError(
      f"{what}; training stops. {outcome}."
      " Try a smaller --config.optimizer.learning_rate, or set --config.optimizer.clip_norm"
    )

  def fetch() -> None:
    """Brings the logs of the steps since the last time to the host, and looks at the loss."""
    first = step - len(on_device) + 1
    for offset, logs in enumerate(jax.device_get(on_device)):
      if not np.isfinite(logs["loss"]):
        stop(f"the loss of step {first + offset} is {float(logs['loss'])}")
      for name, value in logs.items():
        pending.setdefault(name, []).append(float(value))
    on_device.clear()

  def evaluate() -> dict[str, Any] | None:
    """Judges the network of this step; returns its figures where the split is held out."""
    try:
      with progress.doing(EVALUATING, compiling="compiling the evaluation"):
        figures = judging.monitor(experiment, state, steps)
    except NonFiniteError as error:
      stop(f"after step {step} {error}")
    except DamagedError:
      keep(judged=False)
      raise
    split = "test" if experiment.dataset.validation is None else "validation"
    epoch = step / experiment.steps_per_epoch
    writer.write({"step": step, "epoch": epoch, "split": split, **figures})
    progress.say(_evaluation_line(step, split, figures))
    return None if split == "test" else figures

  def save(validation: dict[str, Any] | None, *, judged: bool = True) -> None:
    nonlocal loop
    # A copy: the save goes on in the background while the next record empties `pending`.
    held = {name: list(values) for name, values in pending.items()}
    seconds = seconds_before + time.monotonic() - start
    loop = {"pending": held, "seconds": seconds, "records": list(writer.lines)}
    kept = loop if judged else loop | {"unevaluated": True}
    checkpoints.save(layout.to_save(state), kept, validation, replace=unevaluated)

  def keep(*, judged: bool = True) -> None:
    """Saves what was trained until an image can't be read; several processes can't do it alone."""
    if step == first_step or jax.process_count() > 1:
      return
    fetch()
    if all_finite(state):
      save(None, judged=judged)
      checkpoints.wait()

  def read(batches: Iterator[loader.Batch]) -> Iterator[loader.Batch]:
    try:
      for batch in batches:
        skipping.note(batch.pop("damaged", ()), step + 1)
        yield batch
    except DamagedError:
      keep()
      raise

  # A checkpoint that was saved since it could not be judged is judged now, and replaced.
  unevaluated = loop.pop("unevaluated", False)
  if unevaluated:
    save(evaluate())
    unevaluated = False
  batches = loader.train_batches(
    experiment.dataset.train,
    seed=config.seed,
    batch_size=config.batch_size,
    first_step=first_step,
    last_step=total,
    sampling_exponent=config.data.sampling_exponent,
    partner_exponent=experiment.objective.partner,
    rows=parallel.local_rows(config.batch_size, mesh),
    workers=config.data.workers,
  )
  for batch in read(batches):
    placed = parallel.put_batch(batch, mesh, config.batch_size)
    if step == first_step:
      with progress.doing("training", compiling="compiling the training step"):
        state, logs = train_step(state, placed)
        progress.advance()
        jax.block_until_ready(logs)
    else:
      state, logs = train_step(state, placed)
      progress.advance()
    on_device.append(logs)
    step += 1
    epoch = step / experiment.steps_per_epoch
    last = step == total
    preempted = preemption.reached(step)
    evaluating = step % evaluate_every == 0 or last
    saving = evaluating or step % save_every == 0 or preempted
    recording = step % config.log_every_steps == 0 or last
    if recording or saving:
      fetch()
      rate = progress.images_per_second() if recording else math.nan
      skipping.exchange(step)
    if saving:
      with progress.doing("checking the parameters"):
        finite = all_finite(state)
      if not finite:
        stop(f"the parameters after step {step} are not finite")
    if recording:
      means = {name: math.fsum(values) / len(values) for name, values in pending.items()}
      record: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "split": "train",
        **means,
        "learning_rate": float(experiment.schedule(step - 1)),
        "bias": float(judging.head(experiment, state, "bias").mean(dtype=np.float64)),
        "images_per_second": rate,
      }
      writer.write(record)
      progress.show(step, epoch, {name: record[name] for name in (*means, "bias")})
      pending.clear()
    validation = evaluate() if evaluating else None
    if saving:
      with progress.doing("saving a checkpoint"):
        save(validation)
    if preempted and not last:
      checkpoints.wait()
      raise preemption.ended(step)
    progress.stepping()
  return state, loop


def _evaluation_line(step: int, split: str, figures: Figures) -> str:
  """What people read of an evaluation during training, in 80 columns; accuracies in %."""
  best, at_bias = (figures[f"uniform_accuracy{x}"] for x in ("", "_at_bias"))
  return (
    f"step {step} {split}  A_SW {100 * figures['sample_wise_accuracy']:.2f}"
    f"  A_Uni {100 * best:.2f}  at b {100 * at_bias:.2f} %"
    f"  b {figures['bias']:.4g}  t* {figures['threshold']:.4g}"
  )


def _all_finite(state: TrainState) -> jax.Array:
  """Whether what the network computes with is finite; a checkpoint of anything else is no use."""
  leaves = jax.tree.leaves((state.params, state.batch_stats))
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
