"""Embeddings of images: the network's features, without its classifier."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from bce_jax import losses
from bce_jax.data import loader
from bce_jax.data.sources import Source
from bce_jax.models import Classifier, Outputs
from bce_jax.training import parallel
from bce_jax.training.state import TrainState
from bce_jax.training.step import Preprocess


def jit_embed_step(
  model: Classifier, preprocess: Preprocess, layout: parallel.Layout, *, flip: bool
) -> Callable[[TrainState, Any], jax.Array]:
  """Returns the compiled function (state, uint8 images) → embeddings of length 1, [batch, D].

    f(x) / ‖f(x)‖,   or with `flip` (f(x) + f(x mirrored)) / ‖…‖

  Args:
    model: a classifier.
    preprocess: normalisation.
    layout: of the train state.
    flip: add image and mirror image up, as the papers on faces do.
  """

  def embed(state: TrainState, images: jax.Array) -> jax.Array:
    state = layout.logical(state)
    pixels = preprocess.evaluate(images)

    def run(pixels: jax.Array) -> jax.Array:
      outputs = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, pixels, train=False
      )
      assert isinstance(outputs, Outputs)
      return outputs.features

    features = run(pixels)
    if flip:
      features = features + run(pixels[:, :, ::-1])
    return losses.unit(features)

  mesh = layout.mesh
  split, whole = parallel.batch_sharded(mesh), parallel.replicated(mesh)
  return jax.jit(
    embed,
    in_shardings=(layout.shardings(), split),
    out_shardings=split if jax.process_count() == 1 else whole,
  )


def embeddings(
  embed_step: Callable[[TrainState, Any], jax.Array],
  state: TrainState,
  source: Source,
  *,
  batch_size: int,
  workers: int,
  mesh: Mesh,
) -> Float[np.ndarray, "n D"]:
  """Embeds all images of a source, in its order.

  Args:
    embed_step: as `jit_embed_step` returns it.
    state: the train state, on its devices.
    source: n images.
    batch_size: images at once.
    workers: processes that read images.
    mesh: the devices.

  Returns:
    float32 [n, D], each of length 1; every process has all of them.
  """
  rows = parallel.local_rows(batch_size, mesh)
  parts = []
  for batch in loader.evaluation_batches(source, batch_size=batch_size, rows=rows, workers=workers):
    images = parallel.put_batch(batch["images"], mesh, batch_size)
    parts.append(parallel.to_host(embed_step(state, images)))
  return np.concatenate(parts)[: len(source)]
