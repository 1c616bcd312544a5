"""Embeddings of images: a network's features, normalized, without its classifier."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from bce_jax import losses, sharding
from bce_jax.data.sources import Source
from bce_jax.evaluation import inference
from bce_jax.evaluation.inference import Network, Variables


def make_embed_step(network: Network, *, flip: bool) -> Callable[[Variables, Any], jax.Array]:
  """Returns the pure function (variables, batch) → normalized embeddings [batch, D].

    f(x) / ‖f(x)‖,   or with `flip` (f(x) + f(x flipped)) / ‖…‖

  Args:
    network: whose features they are.
    flip: add up the features of image and flipped image, as the papers on faces do.
  """

  def embed(variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
    pixels = network.pixels(batch["images"])
    features = network.outputs(variables, pixels).features
    if flip:
      features = features + network.outputs(variables, inference.flipped(pixels)).features
    return losses.l2_normalize(features)

  return embed


def embeddings(
  embed_step: Callable[[Variables, Any], jax.Array],
  variables: Variables,
  source: Source,
  *,
  batch_size: int,
  workers: int,
  mesh: Mesh,
) -> Float[np.ndarray, "n D"]:
  """Embeds all images of a source, in its order.

  Args:
    embed_step: of `make_embed_step`, compiled by `Network.jit`.
    variables: the network's, on the devices.
    source: n images.
    batch_size: images at once.
    workers: processes that read images.
    mesh: the devices.

  Returns:
    float32 [n, D], each of length 1; every process has all of them.
  """
  parts = [
    sharding.to_host(embed_step(variables, batch))
    for _, _, batch in inference.batches(source, batch_size=batch_size, workers=workers, mesh=mesh)
  ]
  return np.concatenate(parts)[: len(source)]
