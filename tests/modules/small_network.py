"""A network of one convolution, for tests of whole runs: `config.model = "small_network"`.

It is traced and compiled several times as fast as the smallest ResNet.
"""

import flax.linen as nn

from bce_jax.models.norm import batch_norm


class SmallNetwork(nn.Module):
  """Features [batch, 16]: a convolution, a batch norm, a ReLU, an average."""

  batch_norm_group: int | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, *, train):
    norm = batch_norm(train=train, group=self.batch_norm_group, axis_name=self.axis_name)
    x = nn.Conv(16, (3, 3), strides=2, use_bias=False)(images)
    return nn.relu(norm(name="norm")(x)).mean((1, 2)), {}


def create(*, batch_norm_group=None, axis_name=None):
  return SmallNetwork(batch_norm_group, axis_name)
