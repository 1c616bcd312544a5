"""Batch norm: over the whole batch, or over groups of images smaller than it."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float


def batch_norm(
  *,
  train: bool,
  group: int | None,
  axis_name: str | None,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
) -> Callable[..., nn.Module]:
  """Chooses the batch norm of a network: the constructor of its norms.

  Args:
    train: whether to normalize by the batch's statistics, and update the running ones.
    group: images that are normalized together (`GhostBatchNorm`); None: all of them.
    axis_name: of the `jax.pmap` or `jax.shard_map` whose devices' images are normalized together;
      without meaning for groups.
    dtype: dtype of the outputs.
    param_dtype: dtype of the parameters; the statistics are float32 always.

  Returns:
    A function that makes one norm, and takes its name, `use_scale` and `scale_init`.

  Example:
    >>> batch_norm(train=False, group=None, axis_name=None)(name="norm").epsilon
    1e-05
  """
  # Without axis_name statistics under jit are those of the whole batch on any number of devices;
  # under pmap they would be each device's own.
  kind: Callable[..., nn.Module]
  if group is None:
    kind = functools.partial(nn.BatchNorm, axis_name=axis_name)
  else:
    kind = functools.partial(GhostBatchNorm, group=group)
  return functools.partial(
    kind,
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    param_dtype=param_dtype,
  )


class GhostBatchNorm(nn.Module):
  """Batch norm in which each group of successive images has statistics of its own.

  In training image i is normalized by mean and variance of the images i // group · group to
  i // group · group + group − 1, whatever the size of the batch; gradients go through them. The
  running statistics move to the mean over the groups of the groups' means and (biased) variances,
  in float32. Parameters and running statistics have the names and shapes of `nn.BatchNorm`, and
  evaluation is the same, so a network trained with either can go on with the other.

  Where the batch is split over devices and the group divides a device's share, the devices have
  nothing to tell each other but the running statistics, which nothing waits for.

  Attributes:
    group: images that are normalized together; it must divide the number of images.
    use_running_average: whether to normalize by the running statistics, and leave them.
    momentum: weight of the past in the running statistics.
    epsilon: added to the variance.
    dtype: dtype of the outputs; the computation is in float32 at least.
    param_dtype: dtype of the parameters.
    use_scale: whether there is a scale; without one it is 1.
    scale_init: where the scale starts.

  Example:
    >>> import jax
    >>> norm = GhostBatchNorm(group=2, use_running_average=False)
    >>> images = jnp.array([1.0, 3.0, 10.0, 30.0]).reshape(4, 1, 1, 1)
    >>> variables = norm.init(jax.random.key(0), images)
    >>> outputs, _ = norm.apply(variables, images, mutable=["batch_stats"])
    >>> outputs.ravel().round(2).tolist()
    [-1.0, 1.0, -1.0, 1.0]

  References:
    Hoffer et al., Train longer, generalize better, NeurIPS 2017, section 4, "ghost batch
    normalization".
  """

  group: int
  use_running_average: bool
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  use_scale: bool = True
  scale_init: nn.initializers.Initializer = nn.initializers.ones

  @nn.compact
  def __call__(
    self, inputs: Float[Array, "batch height width channels"]
  ) -> Float[Array, "batch height width channels"]:
    """Normalizes.

    Args:
      inputs: `[batch, height, width, channels]`.

    Returns:
      `[batch, height, width, channels]`, in `dtype`.

    Raises:
      ValueError: if the images are no whole number of groups.
    """
    channels = inputs.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    scale = None
    if self.use_scale:
      scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)

    # Groups along the first axis: of a batch split over devices, whole ones stay where they are.
    groups = inputs[None]
    if self.use_running_average:
      mean, var = running_mean.value, running_var.value
    else:
      if not self.is_initializing():  # that may be with a single image
        groups = inputs.reshape(-1, self._fitting_group(len(inputs)), *inputs.shape[1:])
      mean, var = _statistics(groups)
      if not self.is_initializing():
        for running, new in ((running_mean, mean), (running_var, var)):
          newest = jnp.mean(new, axis=(0, 1, 2, 3)).astype(jnp.float32)
          running.value = self.momentum * running.value + (1 - self.momentum) * newest

    factor = lax.rsqrt(var + self.epsilon)
    if scale is not None:
      factor = factor * scale
    outputs = (groups - mean) * factor + bias
    return outputs.astype(self.dtype).reshape(inputs.shape)

  def _fitting_group(self, images: int) -> int:
    if self.group < 1 or images % self.group:
      raise ValueError(
        f"a batch norm group of {self.group} does not divide the {images} images that go through"
        " the network together"
      )
    return self.group


def _statistics(
  groups: Float[Array, "groups group height width channels"],
) -> tuple[Float[Array, "groups 1 1 1 channels"], Float[Array, "groups 1 1 1 channels"]]:
  """Mean and biased variance of each group, by the formula of `nn.BatchNorm`, in float32."""
  values = groups.astype(jnp.promote_types(groups.dtype, jnp.float32))
  axes = (1, 2, 3)
  mean = jnp.mean(values, axes, keepdims=True)
  mean_square = jnp.mean(jnp.square(values), axes, keepdims=True)
  return mean, jnp.maximum(mean_square - jnp.square(mean), 0)  # rounding may leave less than 0
