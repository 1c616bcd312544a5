"""The train step as one program per device: `jax.pmap`, in place of jit over a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import jax_utils
from ml_collections import ConfigDict

from bce_jax.data.preprocess import Preprocess
from bce_jax.models import Classifier
from bce_jax.objectives import Objective
from bce_jax.training import microbatch
from bce_jax.training.microbatch import Arrays
from bce_jax.training.state import TrainState
from bce_jax.training.step import make_train_step

AXIS = "data"


def check(config: ConfigDict, objective: Objective) -> None:
  """Refuses what can't be trained with `config.parallel` 'pmap'.

  Raises:
    ValueError: one line, naming the key.
  """
  if config.class_devices != 1:
    raise ValueError(
      f"config.class_devices is {config.class_devices}, but under pmap each device holds the whole"
      " classifier: expected 1, or config.parallel 'jit'"
    )
  if objective.memory_of_images:
    raise ValueError(
      f"config.parallel is 'pmap', but the objective {config.objective.name!r} remembers images of"
      " the whole batch, which no device sees under pmap: expected 'jit'"
    )
  images = config.batch_size // jax.device_count() // config.micro_batches * objective.num_views
  microbatch.check_batch_norm_group(config.batch_norm_group, images, where="one device")


def make_pmap_train_step(
  model: Classifier,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  preprocess: Preprocess,
  key: jax.Array,
  *,
  micro_batches: int = 1,
  unrolled: bool | None = None,
) -> Callable[[TrainState, Arrays], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the compiled step (states, batch) → (next states, logs), one program per device.

  It does what `step.make_train_step` does under jit over a mesh, to rounding: an image is augmented
  by its row in the batch of all devices, batch norm without a group has the statistics of all of
  them, sampled classes hold the labels of all of them. A batch norm group lies within a device's
  images.

  Args:
    model: a classifier, of a backbone that takes an `axis_name`; the same as under jit.
    objective: the method; a loss in chunks of classes without a mesh.
    optimizer: as `create_state` was given.
    preprocess: augmentation and normalization.
    key: the run's.
    micro_batches: see `step.make_train_step`; of each device's images.
    unrolled: likewise.

  Returns:
    A function of a state as `replicate` makes it, which is donated, and a batch as `split` makes
    it; the logs are the same on every device, [devices].

  Raises:
    ValueError: for a method whose memory needs the whole batch at once.
  """
  if objective.memory_of_images:
    raise ValueError(
      "the objective remembers images of the whole batch, which no device sees under pmap: expected"
      " one without such a memory, or the step under jit over a mesh"
    )
  train_step = make_train_step(
    model.clone(backbone=model.backbone.clone(axis_name=AXIS)),
    objective,
    optimizer,
    preprocess,
    key,
    micro_batches=micro_batches,
    unrolled=unrolled,
    axis_name=AXIS,
  )
  return jax.pmap(train_step, axis_name=AXIS, donate_argnums=0)


def replicate(tree: Any) -> Any:
  """Returns a tree with a copy of each array on every local device, along a new first axis."""
  return jax_utils.replicate(tree)


def unreplicate(tree: Any) -> Any:
  """Returns a tree without its first axis: the first local device's copy."""
  return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def split(batch: dict[str, np.ndarray], devices: int | None = None) -> dict[str, np.ndarray]:
  """Cuts the first axis of a batch in two: [devices, rows of each].

  Args:
    batch: arrays of the rows of this process.
    devices: number of local devices; none: all there are.

  Raises:
    ValueError: where the devices can't share the rows evenly.
  """
  count = jax.local_device_count() if devices is None else devices

  def cut(x: np.ndarray) -> np.ndarray:
    if len(x) % count:
      raise ValueError(f"{count} device(s) can't share a batch of {len(x)} rows evenly")
    return x.reshape(count, len(x) // count, *x.shape[1:])

  return {name: cut(x) for name, x in batch.items()}
