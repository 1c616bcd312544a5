"""Class weights and logit adjustment from the training counts, for any method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bce_jax import losses
from bce_jax.models import Scores


class Rebalance(NamedTuple):
  """Class weights and logit adjustment that long-tailed training adds to a loss.

  Attributes:
    offsets: τ log π of each class, added to its decision score in training only; None for none.
    weights: of the examples of each class, summing to N; None for none.
  """

  offsets: Float[Array, " N"] | None = None
  weights: Float[Array, " N"] | None = None

  def adjusted(self, scores: Scores) -> Scores:
    """The scores with the offsets in their bias: z_j + τ log π_j."""
    return scores if self.offsets is None else scores._replace(bias=scores.bias - self.offsets)

  def mean(
    self,
    values: Float[Array, "*batch"],
    targets: Int[Array, "*batch"] | Float[Array, "*batch N"],
  ) -> jax.Array:
    """The mean of the examples' losses, each weighted by its class, a mixed one by its mix."""
    if self.weights is None:
      return jnp.mean(values)
    if jnp.issubdtype(targets.dtype, jnp.floating):
      return jnp.mean(values * jnp.sum(targets * self.weights, -1))
    return jnp.mean(values * self.weights[targets])

  def of_examples(self, labels: Int[Array, "*batch"]) -> Float[Array, "*batch"] | None:
    """The weight of each example by its class; None where all weigh the same."""
    return None if self.weights is None else self.weights[labels]


def from_config(config: Any, train_counts: Int[np.ndarray, " N"]) -> Rebalance:
  """Returns what the group `rebalance` of a config asks for.

  Raises:
    ValueError: where a class without training images can't be weighed.
  """
  options = config.rebalance
  offsets = weights = None
  if options.logit_adjustment:
    offsets = losses.logit_adjustment(train_counts, temperature=options.logit_adjustment)
  if options.class_weight_beta is not None:
    weights = losses.class_weights(train_counts, beta=options.class_weight_beta)
  return Rebalance(offsets, weights)
