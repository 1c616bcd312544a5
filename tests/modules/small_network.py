"""A network of two convolutions, for tests of whole runs: `config.model = "small_network"`.

It is traced and compiled several times as fast as the smallest ResNet, has features of the same
size, and weights enough to be the largest file of a checkpoint.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bce_jax.models.norm import batch_norm


class SmallNetwork(nn.Module):
  """Features [batch, 64]: two strided convolutions, a batch norm, a ReLU, an average."""

  batch_norm_group: int | None = None
  axis_name: str | None = None
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, *, train):
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    conv = functools.partial(nn.Conv, kernel_size=(3, 3), strides=2, use_bias=False, **types)
    norm = batch_norm(train=train, group=self.batch_norm_group, axis_name=self.axis_name, **types)
    x = conv(64, name="conv2")(conv(16, name="conv1")(images))
    return nn.relu(norm(name="norm")(x)).mean((1, 2)), {}


def create(*, batch_norm_group=None, axis_name=None, dtype=jnp.float32, param_dtype=jnp.float32):
  return SmallNetwork(batch_norm_group, axis_name, dtype, param_dtype)
