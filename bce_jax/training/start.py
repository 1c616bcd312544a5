"""Where training starts: its own newest checkpoint, the network of another run, or anew."""

import pathlib
from contextlib import AbstractContextManager
from typing import Any

import jax
from ml_collections import ConfigDict

from bce_jax.objectives import families
from bce_jax.runs import checkpoint, dataset_record, files, records, run_config
from bce_jax.runs.checkpoint import Checkpoints
from bce_jax.training.experiment import Experiment
from bce_jax.training.state import TrainState

BACKBONE_KEYS = ("model", "stem", "embedding", "zero_init_last_norm")


def describe_dataset(experiment: Experiment) -> dict[str, Any]:
  """Returns the contents of dataset.json for the experiment's data."""
  return dataset_record.describe(experiment.dataset, experiment.preprocess, experiment.train_counts)


def with_statistics_of(workdir: pathlib.Path, experiment: Experiment) -> Experiment:
  """Returns the experiment with the normalization and class counts of the run in a folder.

  Raises:
    ValueError: when the classes or the size of the images are not the run's.
  """
  preprocess, counts = dataset_record.with_statistics_of(
    workdir, describe_dataset(experiment), experiment.preprocess
  )
  return experiment._replace(preprocess=preprocess, train_counts=counts)


def with_source(experiment: Experiment, workdir: pathlib.Path) -> Experiment:
  """Returns the experiment with the normalization of the run in `start_from`, if there is one.

  A resumption of it has that normalization too.

  Raises:
    ValueError: where the source can't be used.
  """
  config = experiment.config
  if not config.start_from:
    return experiment
  if checkpoint.any_in(workdir):
    return with_statistics_of(workdir, experiment)
  source = pathlib.Path(config.start_from)
  if not (source / files.CONFIG).is_file():
    reason = f"it has no {files.CONFIG}" if source.is_dir() else "there is no such folder"
    raise ValueError(f"config.start_from {config.start_from} is not a run folder: {reason}")
  there = run_config.config_of(source)
  _refuse_other_backbone(there, config)
  differs = _other_head(experiment, there)
  if differs:
    _refuse_fresh_head(experiment, differs)
    preprocess = dataset_record.normalization_of(
      source, describe_dataset(experiment), experiment.preprocess
    )
  else:
    _refuse_leaking_split(there, config)
    preprocess = with_statistics_of(source, experiment).preprocess
  with _source_checkpoint(config, there):  # there is one, before anything is written
    pass
  # The counts are this run's own: its training images may be others.
  return experiment._replace(preprocess=preprocess)


def _source_checkpoint(
  config: ConfigDict, there: ConfigDict
) -> AbstractContextManager[tuple[Checkpoints, int]]:
  """Opens the checkpoint that training starts from; the best by that run's own metric."""
  source = pathlib.Path(config.start_from)
  return checkpoint.existing(source, config.start_from_checkpoint, there.best_metric)


def state_of(
  experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any], list[str]]:
  """Returns the newest checkpoint, or the state before the first step; and which, in words.

  Returns:
    (the state on the devices, padded; the loop's own record; lines for people).
  """
  config, state_sharding = experiment.config, experiment.state_sharding
  restored = checkpoints.restore_newest(state_sharding.to_restore())
  if restored is not None:
    state, loop, corrupted = restored
    said = [f"{reason}; it was moved to {files.QUARANTINE}/" for reason in corrupted]
    said.append(f"resumed from the checkpoint of step {int(state.step)}")
    return state_sharding.put(state), loop, said
  loop = {"pending": {}, "seconds": 0.0}
  if not config.start_from:
    return _init(experiment)(), loop, []
  state, said = _from_network(experiment)
  return state, loop, said


def _init(experiment: Experiment) -> Any:
  """Compiles the function that makes the state before the first step, on the devices."""
  state_sharding = experiment.state_sharding

  def init(network: Any = None) -> TrainState:
    return state_sharding.pad(experiment.init_state(network))

  return jax.jit(init, out_shardings=state_sharding.shardings())


def _from_network(experiment: Experiment) -> tuple[TrainState, list[str]]:
  """Returns the state with the network of `config.start_from`, and what was taken, in words."""
  config, source = experiment.config, pathlib.Path(experiment.config.start_from)
  there = run_config.config_of(source)
  differs = _other_head(experiment, there)
  with _source_checkpoint(config, there) as (others, step):
    params, batch_stats = others.network(step, experiment.state_sharding.abstract)
  if differs:
    params = {"backbone": params.get("backbone", {})}
    _refuse_other_shapes(experiment, params["backbone"])
  state = _init(experiment)((params, batch_stats))
  what = "backbone" if differs else "network"
  said = f"starts from the {what} of step {step} of {config.start_from}"
  if run_config.finished(source) is None:
    said = f"{said}, a run that has not ended"
  if differs:
    said = f"{said}; the head starts anew ({'; '.join(differs)})"
  return state, [said]


def _other_head(experiment: Experiment, there: ConfigDict) -> list[str]:
  """Says why the head of `config.start_from` is not this run's; empty where it can be taken."""
  config, source = experiment.config, pathlib.Path(experiment.config.start_from)
  if config.start_from_parts == "backbone":
    return ["config.start_from_parts is 'backbone'"]
  before, now = _head(there), _head(config)
  differs = [
    f"{key} is {before[key]!r} there and {now[key]!r} here"
    for key in now
    if before[key] != now[key]
  ]
  names = tuple(records.read_json(source / files.DATASET, "class_names")["class_names"])
  if names != tuple(experiment.dataset.class_names):
    here = len(experiment.dataset.class_names)
    counts = f"{len(names)} there and {here} here" if len(names) != here else f"{here} others"
    differs.append(f"its classes are not the same: {counts}")
  return differs


def _head(config: ConfigDict) -> dict[str, Any]:
  """What the head of a run is made of, besides its classes."""
  normalized = families.of(config).normalized
  return {
    "loss": config.loss,
    "normalize_weights": normalized or bool(config.normalize_weights),
    "scale": config.scale if normalized else 1.0,
  }


def _refuse_other_backbone(there: ConfigDict, config: ConfigDict) -> None:
  before, now = _backbone(there), _backbone(config)
  changed = [
    f"{key} is {before.get(key)!r} there and {now.get(key)!r} here"
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key)
  ]
  if changed:
    raise ValueError(
      f"config.start_from {config.start_from} has another network: {'; '.join(changed)}"
    )


def _backbone(config: ConfigDict) -> dict[str, Any]:
  """What the backbone of a run is made of, its own options too."""
  options = {f"model_options.{key}": value for key, value in config.model_options.items()}
  return {key: config[key] for key in BACKBONE_KEYS} | options


def _refuse_fresh_head(experiment: Experiment, differs: list[str]) -> None:
  """Refuses a fresh head where the config or the method goes on from a trained one."""
  config = experiment.config
  if config.start_from_parts == "all":
    reason = "config.start_from_parts is 'all'"
  elif experiment.objective.continues_head:
    reason = f"the objective {config.objective.name!r} goes on from a trained head"
  else:
    return
  raise ValueError(
    f"config.start_from {config.start_from} has another head: {'; '.join(differs)}; but {reason}"
  )


def _refuse_leaking_split(there: ConfigDict, config: ConfigDict) -> None:
  """Refuses to hold out images that the source was trained on."""
  here = config.data.validation_fraction
  before = there.data.validation_fraction
  if here and here != before:
    raise ValueError(
      f"config.data.validation_fraction is {here}, but config.start_from {config.start_from} was"
      f" trained with {before}, so on images that would be held out here: expected {before} or 0"
    )


def _refuse_other_shapes(experiment: Experiment, backbone: Any) -> None:
  """Refuses a backbone whose arrays do not fit, as of other options of a model's own."""
  like = experiment.state_sharding.like.params["backbone"]
  if jax.tree.map(lambda x: x.shape, backbone) != jax.tree.map(lambda x: x.shape, like):
    raise ValueError(
      f"config.start_from {experiment.config.start_from} has a backbone of other shapes than"
      f" {experiment.config.model!r} has here"
    )
