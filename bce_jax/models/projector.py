"""The projector of contrastive terms."""

import math

import jax
from flax import linen as nn
from jaxtyping import Array, Float


class Projector(nn.Module):
  """Two linear layers with a ReLU between: D → D → ReLU → size.

  Weights and biases start at U(±1/√D), as PyTorch's linear layers do.

  Attributes:
    size: P, of the projections.
  """

  size: int

  @nn.compact
  def __call__(self, features: Float[Array, "*batch D"]) -> Float[Array, "*batch P"]:
    """Projects features, in float32."""
    num_features = features.shape[-1]
    bound = 1 / math.sqrt(num_features)

    def layer(size: int, name: str) -> nn.Dense:
      return nn.Dense(
        size,
        name=name,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
        precision=jax.lax.Precision.HIGHEST,
      )

    return layer(self.size, "out")(nn.relu(layer(num_features, "hidden")(features)))
