"""A backbone and a head as one network."""

from typing import NamedTuple

from flax import linen as nn
from jaxtyping import Array, Float

from bce_jax.models.head import Head, Scores


class Outputs(NamedTuple):
  """What a classifier returns of a batch.

  Attributes:
    features: [batch, D], float32.
    scores: similarities, scale and bias: see `Scores`.
    intermediates: the backbone's named intermediate arrays.
  """

  features: Float[Array, "batch D"]
  scores: Scores
  intermediates: dict[str, Array]


class Classifier(nn.Module):
  """Features of the backbone, scored by the head; parameters under "backbone" and "head"."""

  backbone: nn.Module
  head: Head

  def __call__(
    self, images: Float[Array, "batch height width channels"], *, train: bool
  ) -> Outputs:
    """Runs the network; with `train` the batch's own statistics normalize it."""
    features, intermediates = self.backbone(images, train=train)
    return Outputs(features, self.head(features), intermediates)
