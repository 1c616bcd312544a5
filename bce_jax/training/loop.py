"""Runs an experiment in a run folder: trains, goes on after a kill, evaluates at the end."""

import contextlib
import math
import pathlib
import shutil
import signal
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from bce_jax import config as config_lib
from bce_jax.config import metrics, writers
from bce_jax.evaluation.evaluator import TestResults
from bce_jax.evaluation.summary import Results
from bce_jax.runs import (
  checkpoint,
  data_files,
  dataset_record,
  files,
  outside,
  provenance,
  records,
  result_rows,
  run_log,
  test_outputs,
)
from bce_jax.runs.checkpoint import Checkpoints
from bce_jax.runs.lock import locked
from bce_jax.training import parallel, start
from bce_jax.training.experiment import Experiment
from bce_jax.training.preemption import Preemption
from bce_jax.training.progress_bar import Progress
from bce_jax.training.skipping import Skipping
from bce_jax.training.trainer import Services, Trainer


def train(
  experiment: Experiment, workdir: pathlib.Path, preemption: Preemption | None = None
) -> Results:
  """Trains to the end, from the newest checkpoint in `workdir` if there is one.

  Args:
    experiment: as `experiment.build` returns it.
    workdir: the run folder; made if it is missing.
    preemption: which listens for signals already; None: listens here.

  Returns:
    The final results, as written to results.json. "seconds" are those of the whole loop, with
    compiling, evaluating and saving, and "images_per_second" are over all of them; those of the
    records in metrics.jsonl are of the steps alone (see `progress_bar.Pace`).

  Raises:
    NonFiniteError: when the loss, a parameter or a score is not finite.
    PreemptedError: when asked to end by a signal.
    ValueError: for an image that can't be read, by name; for a checkpoint that can't be restored.
  """
  made_here = not workdir.exists()
  with contextlib.ExitStack() as stack:
    if preemption is None:
      preemption = Preemption(workdir, owns_process=False)
      stack.enter_context(preemption.listening())
    if jax.process_index() == 0:
      workdir.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locked(workdir))
      run_log.open_in(workdir)
      preemption.at_the_very_end(lambda: (workdir / files.LOCK).unlink(missing_ok=True))
    try:
      return _train(experiment, workdir, preemption)
    except ValueError:
      # What was given is wrong, and nothing came of it yet: no half-made run folder stays behind.
      if jax.process_index() == 0 and made_here and not checkpoint.any_in(workdir):
        shutil.rmtree(workdir)
      raise


def _train(experiment: Experiment, workdir: pathlib.Path, preemption: Preemption) -> Results:
  config = experiment.config
  experiment = start.with_source(experiment, workdir)
  if config.data.skip_damaged and checkpoint.any_in(workdir):
    # An image that was corrupted since is no other data, though the mean is without it.
    experiment = start.with_statistics_of(workdir, experiment)
  changed = outside.changes(workdir, experiment.outside)
  writes = jax.process_index() == 0
  kept = config_lib.with_absolute_paths(config).to_dict()
  _write_down(experiment, workdir, kept, writes=writes)
  with contextlib.ExitStack() as stack:
    checkpoints = Checkpoints(
      workdir, best_metric=config.best_metric, better=metrics.better(config)
    )
    stack.push(checkpoints.leave)
    try:
      state, record, said = start.state_of(experiment, checkpoints)
    except ValueError as error:
      if not changed:
        raise
      raise ValueError("; ".join([str(error), *changed])) from error  # which may be why
    first = int(state.step)
    # Checkpoints of version 0.1 hold no records.
    lines = record.pop("records", None) or records.lines_until(workdir, first)
    sessions = stack.enter_context(
      provenance.recorded(workdir, kept, first, outside=experiment.outside, writes=writes)
    )
    progress = _progress(experiment, first)
    stack.callback(progress.close)
    writer = records.RecordWriter(
      workdir,
      lines,
      step=first,
      sessions=sessions,
      writes=writes,
      others=writers.create(config, workdir) if writes else (),
      say=progress.say,
    )
    stack.callback(writer.close)
    for line in (_headline(experiment), *said, *changed, *experiment.dataset.notes):
      progress.say(line)
    services = Services(
      experiment.evaluator,
      parallel.create(experiment),
      checkpoints,
      writer,
      progress,
      preemption,
      Skipping(experiment, writer, progress.say, first),
    )
    trainer = Trainer(experiment, state, record, services)
    del state
    with preemption.training():
      trainer.run()
      checkpoints.wait()
    if preemption.number == signal.SIGINT:  # in the last step; a scheduler's grace may suffice
      raise preemption.ended(experiment.total_steps)
    return _finish(experiment, workdir, trainer, services, kept, sessions)


def _finish(
  experiment: Experiment,
  workdir: pathlib.Path,
  trainer: Trainer,
  services: Services,
  config: dict[str, Any],
  sessions: list[dict[str, Any]],
) -> Results:
  """Evaluates the test split and writes what the run leaves behind."""
  total, seconds = experiment.total_steps, trainer.seconds
  with services.progress.doing("evaluating the test split"):
    evaluated = services.evaluator.test_split(trainer.state.variables, collected=True)
  results = {
    "step": total,
    "split": "test",
    **evaluated.results,
    "seconds": seconds,
    "images_per_second": total * experiment.config.batch_size / seconds if seconds else math.nan,
  }
  if jax.process_index() == 0:
    if evaluated.outputs is not None:
      test_outputs.write(workdir, evaluated.outputs)
    if evaluated.embeddings is not None:
      _write_embeddings(workdir, experiment, evaluated)
    provenance.finish(sessions, total)
    services.writer.end(sessions[-1], total)
    rows = result_rows.to_keep(experiment.config, results)
    whence = {"provenance": {"config": config, "sessions": sessions, **rows}}
    records.write_json(workdir / files.RESULTS, results | whence)
  return results


def _progress(experiment: Experiment, first: int) -> Progress:
  config = experiment.config
  return Progress(
    first=first,
    total=experiment.total_steps,
    images_per_step=config.batch_size,
    evaluate_every=experiment.steps(config.eval_every_epochs),
    shown=jax.process_index() == 0,
  )


def _headline(experiment: Experiment) -> str:
  """What is trained, in one line."""
  config, dataset = experiment.config, experiment.dataset
  params = experiment.state_sharding.like.params
  parameters = int(parameter_overview.count_parameters(params))
  processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
  return (
    f"{config.objective.name}, {config.loss} on {config.model}: {parameters:,} parameters,"
    f" {len(dataset.train):,} training images of {len(dataset.class_names)} classes,"
    f" {experiment.total_steps:,} steps on {experiment.mesh.size} {jax.default_backend()}"
    f" device(s){processes}"
  )


def _write_down(
  experiment: Experiment, workdir: pathlib.Path, config: dict[str, Any], *, writes: bool
) -> None:
  """Writes what a run needs to go on: its config, and which data it is of.

  Raises:
    ValueError: where the folder holds a run on other data.
  """
  data = data_files.describe(experiment.dataset, experiment.config)
  described = start.describe_dataset(experiment)
  skip_damaged = experiment.config.data.skip_damaged
  dataset_record.refuse_other(workdir, described, data, skip_damaged=skip_damaged)
  if not writes:
    return
  records.write_json(workdir / files.CONFIG, config)
  if not (checkpoint.any_in(workdir) and (workdir / files.DATASET_FILES).exists()):
    data_files.write(workdir, data)
  records.write_json(workdir / files.DATASET, described | {"files": data.digests})


def _write_embeddings(
  workdir: pathlib.Path, experiment: Experiment, evaluated: TestResults
) -> None:
  """Writes embeddings.npz, which bce-eval reads: of the classes never trained on."""
  dataset, results = experiment.dataset, evaluated.results
  assert dataset.unseen is not None
  assert evaluated.embeddings is not None
  arrays: dict[str, Any] = {"features": evaluated.embeddings}
  if "verification_threshold" in results:  # with which it evaluates at t = b/γ
    arrays |= {
      "bias": np.float64(results["bias"]),
      "scale": np.float64(experiment.model.head.scale),
    }
  if dataset.listed is None:
    arrays |= {"labels": dataset.unseen.labels, "names": np.array(dataset.unseen_names)}
  else:
    arrays |= {"paths": np.array(dataset.listed.paths)}
  test_outputs.write_arrays(workdir / files.EMBEDDINGS, arrays)


def evaluate_only(
  experiment: Experiment, workdir: pathlib.Path, *, which: str = "latest"
) -> Results:
  """Evaluates a checkpoint of a run folder on the test split; writes nothing.

  Args:
    experiment: built from the run folder's config.
    workdir: the run folder.
    which: "latest" or "best" (on the validation split).

  Raises:
    NonFiniteError: when a score is nan.
    ValueError: when there is no such checkpoint, or the data do not fit it.
  """
  outside.changes(workdir, experiment.outside)
  experiment = start.with_statistics_of(workdir, experiment)
  state_sharding = experiment.state_sharding
  with checkpoint.existing(workdir, which, experiment.config.best_metric) as (checkpoints, step):
    state, _ = checkpoints.restore(step, state_sharding.to_restore())
  evaluated = experiment.evaluator.test_split(state_sharding.put(state).variables)
  return {"step": int(state.step), "split": "test", **evaluated.results}
