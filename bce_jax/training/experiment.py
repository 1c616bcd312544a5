"""From a config to the parts of a run; everything that can be wrong with one is found here."""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bce_jax import models, objectives, sharding
from bce_jax.data import listed, longtail, reading, sources, statistics
from bce_jax.data.preprocess import Preprocess
from bce_jax.data.reading import Skipped
from bce_jax.data.sources import Dataset
from bce_jax.evaluation.evaluator import Evaluator
from bce_jax.models import Classifier
from bce_jax.objectives import Objective, Problem
from bce_jax.training import config as config_lib
from bce_jax.training import microbatch, optim, pmap
from bce_jax.training.state import TrainState, create_state


class Experiment(NamedTuple):
  """The parts of a run.

  Attributes:
    config: checked.
    dataset: its splits.
    mesh: the devices.
    model: backbone and head.
    objective: the method.
    optimizer: an optax chain.
    schedule: step → learning rate.
    preprocess: augmentation and normalisation.
    train_counts: training images of each class, [N].
    key: the run's.
    steps_per_epoch: whole batches of the training split.
    total_steps: of the run.
  """

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

  @property
  def init_state(self) -> Callable[..., TrainState]:
    """The pure function that makes the state before the first step.

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

  @property
  def state_sharding(self) -> sharding.StateSharding:
    """Where the train state lies on the devices."""
    return sharding.StateSharding(self.mesh, jax.eval_shape(self.init_state))

  @property
  def evaluator(self) -> Evaluator:
    """What evaluates the network; its steps are compiled once for each evaluator."""
    return Evaluator(
      self.config, self.dataset, self.mesh, self.model, self.preprocess, self.train_counts
    )

  def steps(self, epochs: float) -> int:
    """A duration in epochs as a number of steps, at least 1."""
    return max(1, round(epochs * self.steps_per_epoch))


def load_dataset(config: ConfigDict, progress: Any = None, *, judging: bool = False) -> Dataset:
  """Reads the data that a config names.

  Args:
    config: checked.
    progress: wraps the reading of a folder, called like tqdm.
    judging: nothing will be trained: the training split is left as it is.

  Raises:
    ValueError: one line, for a folder or an image that can't be read.
  """
  data = config.data
  dataset: Dataset
  if data.name == "digits":
    dataset = sources.digits(validation_fraction=data.validation_fraction)
  else:
    dataset = sources.folder(
      data.folder,
      image_size=data.image_size,
      channels=data.channels,
      full_scale=data.full_scale,
      in_memory=data.in_memory,
      validation_fraction=data.validation_fraction,
      test_fraction=data.test_fraction,
      unseen_fraction=config.verification.identities,
      layout=data.layout,
      empty_classes=data.empty_classes,
      skip_damaged=data.skip_damaged,
      progress=progress,
    )
  if data.imbalance is not None and not judging:
    labels = dataset.train.labels
    available = np.bincount(labels, minlength=len(dataset.class_names))
    try:
      counts = longtail.largest_fit(
        available, imbalance=data.imbalance, profile=data.imbalance_profile
      )
    except ValueError as error:
      raise ValueError(f"config.data.imbalance: {error}") from None
    kept = longtail.subset(labels, counts, seed=data.imbalance_seed)
    dataset = dataset._replace(train=dataset.train.take(kept))
  if config.verification.folder:
    pairs = listed.listed_pairs(
      config.verification.pairs,
      config.verification.folder,
      image_size=data.image_size,
      channels=dataset.train.image_shape[2],
      full_scale=data.full_scale,
      skip_damaged=data.skip_damaged,
      progress=progress,
    )
    if pairs.source.image_shape != dataset.train.image_shape:
      raise ValueError(
        f"config.verification.folder holds images of {pairs.source.image_shape[:2]} (height,"
        f" width), the training images are of {dataset.train.image_shape[:2]}: set"
        " config.data.image_size"
      )
    dataset = dataset._replace(
      unseen=pairs.source,
      listed=pairs.listed,
      notes=(*dataset.notes, *pairs.notes),
      skipped=(*dataset.skipped, *pairs.skipped),
    )
    reading.check_count([one.reason for one in dataset.skipped], data.skip_damaged)
  return dataset


def _statistics(
  dataset: Dataset, fixed: Any, config: ConfigDict, *, judging: bool
) -> tuple[Dataset, np.ndarray, np.ndarray]:
  """Mean and deviation of the channels; and the dataset with what was found on the way."""
  # Where they are fixed, some images tell whether there is anything to see.
  found = statistics.channel_statistics(dataset.train, limit=256 if fixed else 10_000)
  notes = () if judging else statistics.notes(found, len(dataset.train))
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


def build_model(config: ConfigDict, num_classes: int) -> Classifier:
  """Builds the network that a config names; of the data it needs the number of classes only.

  Args:
    config: checked.
    num_classes: N.

  Returns:
    Backbone and head.

  Raises:
    ValueError: one line, for what the model refuses.
  """
  loss = objectives.parse(config.loss)
  normalize_weights = config.normalize_weights
  head = models.Head(
    num_classes=num_classes,
    normalize_features=loss.normalized,
    normalize_weights=loss.normalized if normalize_weights is None else normalize_weights,
    scale=config.scale if loss.normalized else 1.0,
    weight_init=config.weight_init,
    bias=loss.bias,
    bias_init=config.bias_init,
    bias_mean=config.bias_mean,
    bias_learnable=config.bias_learnable,
  )
  return Classifier(_build_backbone(config), head)


def _build_backbone(config: ConfigDict) -> nn.Module:
  backbone = models.create(
    config.model,
    stem=config.stem,
    dtype=jnp.dtype(config.dtype),
    zero_init_last_norm=config.zero_init_last_norm,
    batch_norm_group=config.batch_norm_group,
  )
  if not config.embedding:
    return backbone
  return models.Embedding(
    backbone,
    config.embedding,
    dtype=jnp.dtype(config.dtype),
    batch_norm_group=config.batch_norm_group,
  )


def build(config: ConfigDict, *, progress: Any = None, judging: bool = False) -> Experiment:
  """Builds the parts of a run, reading the data but writing nothing.

  Args:
    config: as `config.default()` makes it, with values changed.
    progress: wraps the reading of a folder, called like tqdm.
    judging: nothing will be trained, so any number of training images will do.

  Raises:
    ValueError: one line, for anything that can't work.
  """
  config_lib.check(config)
  class_devices = config.class_devices
  if judging:  # on other devices, perhaps; the figures are the same to rounding on any
    class_devices = math.gcd(class_devices, jax.device_count())
  mesh = sharding.make_mesh(class_devices)
  sharding.check_batch_size("eval_batch_size", config.eval_batch_size, mesh)
  if not judging:
    sharding.check_batch_size("batch_size", config.batch_size, mesh)
    microbatch.check_micro_batches(config.micro_batches, config.batch_size, mesh.shape["data"])
  _build_backbone(config)  # what it refuses, it refuses before the data are read
  dataset = load_dataset(config, progress, judging=judging)
  steps_per_epoch = len(dataset.train) // config.batch_size
  if judging:
    steps_per_epoch = max(steps_per_epoch, 1)
  if not steps_per_epoch:
    raise ValueError(
      f"config.batch_size {config.batch_size} is more than the {len(dataset.train)} training images"
    )
  train_counts = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
  model = build_model(config, len(dataset.class_names))
  # Under pmap each device is a mesh of its own.
  inner = mesh if config.parallel == "jit" else None
  objective = objectives.create(config, Problem(train_counts, steps_per_epoch, model.head, inner))
  if not judging:
    images = config.batch_size // config.micro_batches * objective.num_views
    microbatch.check_batch_norm_group(config.batch_norm_group, images)
    if config.batch_norm_group and not objective.batch_statistics:
      raise ValueError(
        f"config.batch_norm_group is {config.batch_norm_group}, but the objective"
        f" {config.objective.name!r} normalises by the running statistics: expected none"
      )
  if config.parallel == "pmap" and not judging:
    pmap.check(config, objective)
  total_steps = config.steps or max(1, round(config.epochs * steps_per_epoch))
  if total_steps >= 2**31:  # the train state counts them in int32
    raise ValueError(
      f"config.epochs {config.epochs} and config.steps {config.steps} make {total_steps:.3g} steps:"
      f" expected fewer than {2**31}"
    )
  warmup_epochs = config.optimizer.warmup_epochs
  warmup_steps = min(round(warmup_epochs * steps_per_epoch), total_steps // 2)
  height, width, channels = dataset.train.image_shape
  if config.data.crop_padding >= min(height, width):
    raise ValueError(
      f"config.data.crop_padding {config.data.crop_padding} is too much for images of"
      f" {height}×{width} pixels: expected less than {min(height, width)}"
    )

  if config.data.cutout >= min(height, width):
    raise ValueError(
      f"config.data.cutout {config.data.cutout} is too much for images of {height}×{width} pixels:"
      f" expected less than {min(height, width)}"
    )
  if config.data.auto_augment and channels != 3:
    raise ValueError(
      f"config.data.auto_augment is made for colour images, got {channels} channel(s): expected"
      " false"
    )

  schedule = optim.learning_rate(
    config.optimizer, total_steps=total_steps, warmup_steps=warmup_steps
  )
  optimizer = optim.create_optimizer(
    config.optimizer, schedule, bias_learnable=config.bias_learnable
  )
  fixed = objective.channel_statistics if channels == 3 else None
  dataset, mean, std = _statistics(dataset, fixed, config, judging=judging)
  experiment = Experiment(
    config=config,
    dataset=dataset,
    mesh=mesh,
    model=model,
    objective=objective,
    optimizer=optimizer,
    schedule=schedule,
    preprocess=Preprocess(
      mean,
      std,
      config.data.crop_padding,
      config.data.flip,
      config.data.auto_augment,
      config.data.cutout,
    ),
    train_counts=train_counts,
    key=jax.random.key(config.seed),
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
  )
  jax.eval_shape(experiment.init_state)  # what the model refuses, it refuses here
  return experiment
