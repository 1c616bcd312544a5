"""An embedding on top of a backbone: features around zero, as open-set recognition needs them."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from bce_jax.models.norm import batch_norm


class Embedding(nn.Module):
  """A backbone, and behind it a linear layer and batch norm without scale.

    e = norm(W f(x)),   norm: mean 0 and variance 1 of each element over the batch

  The features of a ResNet come out of a ReLU, so that the cosine of any two is large: fine for a
  classifier, whose rows may be negative, but two images can't be told apart by one threshold on it.
  The scale of the norm is fixed, so that only directions are learned.

  Attributes:
    backbone: called as `backbone(images, train=…)`; returns features and intermediates.
    size: length of the embedding.
    dtype: dtype of the linear layer; the embedding is float32 at least.
    param_dtype: dtype of the parameters.
    batch_norm_group: see `models.create`.
    axis_name: see `models.create`.

  Example:
    >>> import jax
    >>> from bce_jax import models
    >>> model = Embedding(models.create("resnet8"), size=32)
    >>> images = jnp.ones((2, 16, 16, 1))
    >>> (features, _), _ = jax.eval_shape(
    ...   lambda key: model.init_with_output(key, images, train=False), jax.random.key(0))
    >>> features.shape
    (2, 32)

  References:
    Deng et al., ArcFace, CVPR 2019, section 3.1: the output "BN-Dropout-FC-BN", here without the
    first two.
  """

  backbone: nn.Module
  size: int
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  batch_norm_group: int | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "batch height width channels"], *, train: bool
  ) -> tuple[Float[Array, "batch dim"], dict[str, Array]]:
    """Embeds a batch of images; the backbone's features are among the intermediates."""
    features, intermediates = self.backbone(images, train=train)
    linear = nn.Dense(
      self.size,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="linear",
    )
    norm = batch_norm(
      train=train,
      group=self.batch_norm_group,
      axis_name=self.axis_name,
      param_dtype=self.param_dtype,
    )(name="norm", use_scale=False)
    wide = linear(features).astype(jnp.promote_types(self.dtype, jnp.float32))
    embedding = norm(wide[:, None, None])[:, 0, 0]  # as of images of one pixel, for the groups
    return embedding, intermediates
