"""The forward pass of a trained network, and the batches of a split that go through it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bce_jax import sharding
from bce_jax.data import loader
from bce_jax.data.preprocess import Preprocess
from bce_jax.data.sources import Source
from bce_jax.models import Classifier, Outputs
from bce_jax.sharding import StateSharding

Variables = dict[str, Any]
"""A network's {"params": {"backbone": …, "head": …}, "batch_stats": …}."""


def variables_sharding(
  model: Classifier, image_shape: tuple[int, int, int], mesh: Mesh
) -> StateSharding:
  """Returns where the variables of a network lie on the devices: rows of the head along 'class'.

  Args:
    model: a classifier.
    image_shape: height, width, channels.
    mesh: the devices.
  """

  def init() -> Any:
    return model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)

  found = jax.eval_shape(init)
  like: Variables = {"batch_stats": {}, **found, "params": {"backbone": {}, **found["params"]}}
  return StateSharding(mesh, like)


class Network(NamedTuple):
  """The forward pass of a network with its preprocessing: (variables, images) → outputs.

  Attributes:
    model: a classifier.
    preprocess: normalization.
    state_sharding: of its variables, see `variables_sharding`.
  """

  model: Classifier
  preprocess: Preprocess
  state_sharding: StateSharding

  def pixels(self, images: jax.Array) -> jax.Array:
    """Normalizes uint8 images."""
    return self.preprocess.evaluate(images)

  def outputs(self, variables: Variables, pixels: jax.Array) -> Outputs:
    """Returns the network's outputs for normalized images; variables are not padded."""
    outputs = self.model.apply(variables, pixels, train=False)
    assert isinstance(outputs, Outputs)
    return outputs

  def jit(self, function: Callable[[Variables, Any], Any]) -> Callable:
    """Compiles a function of (variables, batch) for the devices.

    What it returns stays split along 'data' on a single host; on several each gets all of it.

    Args:
      function: sees the variables without padding.
    """
    mesh = self.state_sharding.mesh
    split, whole = sharding.batch_sharded(mesh), sharding.replicated(mesh)
    return jax.jit(
      lambda variables, batch: function(self.state_sharding.unpad(variables), batch),
      in_shardings=(self.state_sharding.shardings(), split),
      out_shardings=whole if jax.process_count() > 1 else split,
    )


def flipped(pixels: jax.Array) -> jax.Array:
  """Returns images flipped from left to right, [batch, height, width, channels]."""
  return pixels[:, :, ::-1]


def batches(
  source: Source, *, batch_size: int, workers: int, mesh: Mesh
) -> Iterator[tuple[int, np.ndarray, dict[str, jax.Array]]]:
  """Yields a split in batches on the devices, in its order.

  Args:
    source: the split.
    batch_size: images at once; the last batch is filled up.
    workers: processes that read images.
    mesh: the devices.

  Yields:
    (number of the first image; which rows of the batch are images, not filling, [batch_size];
    the batch).
  """
  rows = sharding.local_rows(batch_size, mesh)
  loaded = loader.evaluation_batches(source, batch_size=batch_size, rows=rows, workers=workers)
  for number, batch in enumerate(loaded):
    start = number * batch_size
    where = np.arange(batch_size) < len(source) - start  # of the whole batch, all processes' rows
    batch.pop("where")
    yield start, where, sharding.put_batch(batch, mesh, batch_size)
