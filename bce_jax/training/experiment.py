"""Builds an experiment from a config: data, network, method, optimizer; mistakes are found here."""

import functools
import math
import os
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax import extensions, objectives, optim, sharding
from bce_jax.data import reading, sources, statistics
from bce_jax.data.preprocess import Preprocess, create_preprocess
from bce_jax.data.reading import Skipped
from bce_jax.data.sources import Dataset
from bce_jax.evaluation.evaluator import Evaluator
from bce_jax.models import Classifier
from bce_jax.objectives import Objective, Problem
from bce_jax.runs.outside import FROM_PYTHON
from bce_jax.training import microbatch, pmap, tracing
from bce_jax.training.state import TrainState, create_state
from bce_jax.training.step import make_train_step


class _Parts(NamedTuple):
  """The fields of `Experiment`, which is a class of its own to compute what follows once."""

  config: ConfigDict
  dataset: Dataset
  mesh: Mesh
  model: Classifier
  objective: Objective
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  preprocess: Preprocess
  train_counts: np.ndarray
  key: jax.Array
  steps_per_epoch: int
  total_steps: int
  outside: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({})


class Experiment(_Parts):
  """All that a run needs, and what follows from it; `_replace` returns one with other parts.

  Attributes:
    config: checked.
    dataset: its splits.
    mesh: the devices.
    model: backbone and head.
    objective: the method.
    optimizer: an optax chain.
    schedule: step → learning rate.
    preprocess: augmentation and normalization.
    train_counts: training images of each class, [N].
    key: the run's.
    steps_per_epoch: whole batches of the training split.
    total_steps: of the run.
    outside: what is none of this package, {key of the config: what a run records of it}.
  """

  @functools.cached_property
  def init_state(self) -> Callable[..., TrainState]:
    """The pure function that returns the state before the first step.

    Its argument, where given, is the network to start from: (params, batch_stats).
    """
    shape = self.dataset.train.image_shape
    return lambda network=None: create_state(
      jax.random.fold_in(self.key, 2**31 - 1),
      self.model,
      self.optimizer,
      self.objective,
      shape,
      network,
    )

  @functools.cached_property
  def state_sharding(self) -> sharding.StateSharding:
    """Where the train state lies on the devices."""
    return sharding.StateSharding(self.mesh, jax.eval_shape(self.init_state))

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """What evaluates the network, compiled when it is first used."""
    return Evaluator(
      self.config, self.dataset, self.mesh, self.model, self.preprocess, self.train_counts
    )

  def train_step(self, make: Callable[..., Callable] | None = None) -> Callable:
    """Returns the pure train step, or the form of it that `make` returns."""
    return (make or make_train_step)(
      self.model,
      self.objective,
      self.optimizer,
      self.preprocess,
      self.key,
      micro_batches=self.config.micro_batches,
    )

  def steps(self, epochs: float) -> int:
    """Returns a duration in epochs as a number of steps, at least 1."""
    return max(1, round(epochs * self.steps_per_epoch))


def build(
  config: ConfigDict,
  dataset: Dataset | None = None,
  model: nn.Module | None = None,
  *,
  progress: Any = None,
  evaluate_only: bool = False,
) -> Experiment:
  """Builds the experiment that a config describes; reads the data, writes nothing.

  Args:
    config: as `config.default()` makes it, with values changed.
    dataset: in place of the data that it names; a run folder says that it was given from Python.
    model: in place of the backbone that it names, with the interface of ours (see
      `bce_jax.models.create`), or a whole `bce_jax.models.Classifier`; likewise.
    progress: wraps the reading of a folder, called like tqdm.
    evaluate_only: nothing will be trained, so any number of training images will do.

  Raises:
    ValueError: one line, for anything that can't work.

  >>> import numpy as np
  >>> from bce_jax import config as config_lib
  >>> from bce_jax.data.sources import ArraySource, Dataset
  >>> images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1)).astype(np.uint8)
  >>> mine = ArraySource(images, np.arange(32) % 2)
  >>> config = config_lib.default()
  >>> config.batch_size, config.epochs = 16, 5
  >>> build(config, dataset=Dataset(mine, None, mine, ("even", "odd"))).total_steps
  10
  """
  config_lib.check(config, evaluate_only=evaluate_only)
  mesh = _make_mesh(config, evaluate_only=evaluate_only)
  config_lib.build_backbone(config, model)  # what it refuses, it refuses before the data are read
  outside = _outside(config, dataset, model)
  dataset = config_lib.load_dataset(config, progress, evaluate_only=evaluate_only, given=dataset)
  steps_per_epoch = _steps_per_epoch(dataset, config, evaluate_only=evaluate_only)
  train_counts = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
  network = config_lib.build_model(config, len(dataset.class_names), model)
  # Under pmap each device is a mesh of its own.
  inner = mesh if config.parallel == "jit" else None
  objective = objectives.create(config, Problem(train_counts, steps_per_epoch, network.head, inner))
  if not evaluate_only:
    _check_training(config, objective)
  total_steps = _total_steps(config, steps_per_epoch)
  if config.data.augmentation == "standard":
    _check_augmentation(config.data, dataset.train.image_shape)
  schedule, optimizer = _create_optimizer(config, steps_per_epoch, total_steps)
  fixed = objective.channel_statistics if dataset.train.image_shape[2] == 3 else None
  dataset, mean, std = _statistics(dataset, fixed, config, evaluate_only=evaluate_only)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    mesh=mesh,
    model=network,
    objective=objective,
    optimizer=optimizer,
    schedule=schedule,
    preprocess=create_preprocess(config, mean, std),
    train_counts=train_counts,
    key=jax.random.key(config.seed),
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    outside=outside,
  )
  if outside:
    tracing.check(experiment, trains=not evaluate_only)
    if not evaluate_only:
      experiment = experiment._replace(dataset=_with_notes(dataset, config))
  jax.eval_shape(experiment.init_state)  # what the model refuses, it refuses here
  return experiment


def _outside(config: ConfigDict, dataset: Any, model: Any) -> dict[str, dict[str, Any]]:
  """What of the experiment is none of this package, by the key of the config."""
  given = {"data.name": dataset, "model": model}
  return config_lib.from_outside(config) | {
    key: FROM_PYTHON for key, part in given.items() if part is not None
  }


def _with_notes(dataset: Dataset, config: ConfigDict) -> Dataset:
  """The data with what is to be said of keys that code from outside is not given."""
  notes = []
  if config.data.augmentation != "standard":
    notes.append(
      f"config.data.augmentation is {config.data.augmentation!r}: crop_padding, flip, auto_augment"
      " and cutout count only as far as it reads them"
    )
  found = optim.optimizer(config.optimizer.name)
  if not extensions.accepted(found.create, ["decay"]):
    notes.append(
      f"config.optimizer.name {found.name!r} takes no decay: weight_decay and its like count as"
      " far as it reads them"
    )
  return dataset._replace(notes=(*dataset.notes, *notes))


def _make_mesh(config: ConfigDict, *, evaluate_only: bool) -> Mesh:
  """The devices, which must be able to share the batches."""
  class_devices = config.class_devices
  if evaluate_only:  # on other devices, perhaps; the results are the same to rounding on any
    class_devices = math.gcd(class_devices, jax.device_count())
  mesh = sharding.make_mesh(class_devices)
  sharding.check_batch_size("eval_batch_size", config.eval_batch_size, mesh)
  if not evaluate_only:
    sharding.check_batch_size("batch_size", config.batch_size, mesh)
    microbatch.check_micro_batches(config.micro_batches, config.batch_size, mesh.shape["data"])
  return mesh


def _steps_per_epoch(dataset: Dataset, config: ConfigDict, *, evaluate_only: bool) -> int:
  """Whole batches of the training split; there must be one to train."""
  steps = len(dataset.train) // config.batch_size
  if evaluate_only:
    return max(steps, 1)
  if not steps:
    raise ValueError(
      f"config.batch_size {config.batch_size} is more than the {len(dataset.train)} training images"
    )
  return steps


def _check_training(config: ConfigDict, objective: Objective) -> None:
  """Refuses what this method can't be trained with."""
  images = config.batch_size // config.micro_batches * objective.num_views
  microbatch.check_batch_norm_group(config.batch_norm_group, images)
  if config.batch_norm_group and not objective.batch_statistics:
    raise ValueError(
      f"config.batch_norm_group is {config.batch_norm_group}, but the objective"
      f" {config.objective.name!r} normalizes by the running statistics: expected none"
    )
  if config.parallel == "pmap":
    pmap.check(config, objective)


def _total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
  total_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
  if total_steps >= 2**31:  # the train state counts them in int32
    raise ValueError(
      f"config.epochs {config.epochs} and config.steps {config.steps} make {total_steps:.3g} steps:"
      f" expected fewer than {2**31}"
    )
  return total_steps


def _check_augmentation(data: ConfigDict, image_shape: tuple[int, int, int]) -> None:
  """Refuses augmentation that leaves nothing of images of this size, or is not made for them."""
  height, width, channels = image_shape
  for key in ("crop_padding", "cutout"):
    if data[key] >= min(height, width):
      raise ValueError(
        f"config.data.{key} {data[key]} is too much for images of {height}×{width} pixels:"
        f" expected less than {min(height, width)}"
      )
  if data.auto_augment and channels != 3:
    raise ValueError(
      f"config.data.auto_augment is made for color images, got {channels} channel(s): expected"
      " false"
    )


def _create_optimizer(
  config: ConfigDict, steps_per_epoch: int, total_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
  warmup_steps = min(round(config.optimizer.warmup_epochs * steps_per_epoch), total_steps // 2)
  schedule = optim.learning_rate(
    config.optimizer,
    total_steps=total_steps,
    warmup_steps=warmup_steps,
    steps_per_epoch=steps_per_epoch,
    options=config.schedule_options,
  )
  return schedule, optim.create_optimizer(
    config.optimizer,
    schedule,
    bias_learnable=config.bias_learnable,
    options=config.optimizer_options,
  )


def _statistics(
  dataset: Dataset, fixed: Any, config: ConfigDict, *, evaluate_only: bool
) -> tuple[Dataset, np.ndarray, np.ndarray]:
  """Mean and standard deviation of the channels; and the dataset with what was found on the way."""
  # Where they are fixed, some images tell whether there is anything to see.
  found = statistics.channel_statistics(dataset.train, limit=256 if fixed else 10_000)
  notes = () if evaluate_only else statistics.notes(found, len(dataset.train))
  dataset = dataset._replace(notes=(*dataset.notes, *notes))
  if isinstance(dataset.train, sources.FolderSource):
    known = {one.file for one in dataset.skipped}
    more = [
      Skipped(os.path.relpath(dataset.train.paths[index], config.data.folder), reason)
      for index, reason in sorted(dataset.train.found_damaged().items())
    ]
    dataset = dataset._replace(
      skipped=(*dataset.skipped, *(one for one in more if one.file not in known))
    )
    reading.check_count([one.reason for one in dataset.skipped], config.data.skip_damaged)
  mean, std = fixed or (found.mean, found.std)
  return dataset, np.asarray(mean, np.float32), np.asarray(std, np.float32)
