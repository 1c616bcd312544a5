"""Residual networks: the CIFAR and the ImageNet family of He et al. (2016), as feature extractors.

A network returns features, not scores; the classifier is a separate head (`bce_jax.models.head`).
Padding, stride placement and initialization are those of torchvision, so that results and weights
can be compared with PyTorch.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from bce_jax.models.norm import batch_norm

_kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def pad_shortcut(
  inputs: Float[Array, "batch height width in_channels"], *, channels: int, stride: int
) -> Float[Array, "batch out_height out_width out_channels"]:
  """Shortcut without parameters: every `stride`-th pixel, zeros for the new channels.

  Option A of the paper. The zeros are split evenly before and after the given channels; of an odd
  number the larger half comes after.

  Args:
    inputs: `[batch, height, width, in_channels]`.
    channels: number of channels to return, at least `in_channels`.
    stride: step between the pixels kept, in both directions.

  Returns:
    `[batch, ceil(height / stride), ceil(width / stride), channels]`.

  Raises:
    ValueError: if `channels` is less than the number of input channels.

  Example:
    >>> images = jnp.ones((1, 4, 4, 2))
    >>> shortcut = pad_shortcut(images, channels=4, stride=2)
    >>> shortcut.shape
    (1, 2, 2, 4)
    >>> shortcut[0, 0, 0].tolist()
    [0.0, 1.0, 1.0, 0.0]

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.1, option A.
  """
  extra = channels - inputs.shape[-1]
  if extra < 0:
    raise ValueError(
      f"a padded shortcut cannot drop channels: got channels={channels}, "
      f"expected at least the {inputs.shape[-1]} of the input"
    )
  kept = inputs[:, ::stride, ::stride]
  return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


class Block(nn.Module):
  """What the two kinds of residual block have in common.

  Args:
    width: channels of its convolutions; the output has `expansion * width`.
    stride: stride of the block.
    projection: where the shape changes, a 1x1 convolution with norm (option B) if True,
      `pad_shortcut` (option A) if False.
    zero_init_last_norm: whether the scale of the last norm starts at zero, which makes the block
      the ReLU of its shortcut.
    dtype: dtype of the computation; the inputs are expected in it.
    param_dtype: dtype of the parameters.
    batch_norm_group: see `bce_jax.models.create`.
    axis_name: see `bce_jax.models.create`.
  """

  width: int
  stride: int = 1
  projection: bool = True
  zero_init_last_norm: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  batch_norm_group: int | None = None
  axis_name: str | None = None

  expansion: ClassVar[int] = 1


class BasicBlock(Block):
  """Two 3x3 convolutions and a shortcut: `relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`.

  The first convolution carries the stride. The shortcut is the identity where the shape stays.

  Example:
    >>> import jax
    >>> block = BasicBlock(width=16, stride=2)
    >>> images = jnp.ones((1, 8, 8, 8))
    >>> outputs, _ = jax.eval_shape(
    ...   lambda key: block.init_with_output(key, images, train=False), jax.random.key(0))
    >>> outputs.shape
    (1, 4, 4, 16)

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 5 left.
  """

  @nn.compact
  def __call__(
    self, inputs: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width out_channels"]:
    """Applies the block.

    Args:
      inputs: `[batch, height, width, channels]`.
      train: whether to normalize by the batch's statistics, and update the running ones.

    Returns:
      `[batch, ceil(height / stride), ceil(width / stride), self.width]`.
    """
    conv, norm = _layers(self, train=train)
    outputs = conv(self.width, 3, stride=self.stride, name="conv1")(inputs)
    outputs = nn.relu(norm(name="norm1")(outputs))
    outputs = conv(self.width, 3, name="conv2")(outputs)
    outputs = norm(name="norm2", scale_init=_last_scale(self.zero_init_last_norm))(outputs)
    return nn.relu(outputs + _shortcut(self, inputs, train=train))


class BottleneckBlock(Block):
  """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut.

  The 3x3 convolution carries the stride, as in torchvision; in the paper the first 1x1 does.

  Example:
    >>> import jax
    >>> block = BottleneckBlock(width=4)
    >>> images = jnp.ones((1, 8, 8, 8))
    >>> outputs, _ = jax.eval_shape(
    ...   lambda key: block.init_with_output(key, images, train=False), jax.random.key(0))
    >>> outputs.shape
    (1, 8, 8, 16)

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, figure 5 right.
  """

  expansion: ClassVar[int] = 4

  @nn.compact
  def __call__(
    self, inputs: Float[Array, "batch height width channels"], *, train: bool
  ) -> Float[Array, "batch out_height out_width out_channels"]:
    """Applies the block.

    Args:
      inputs: `[batch, height, width, channels]`.
      train: whether to normalize by the batch's statistics, and update the running ones.

    Returns:
      `[batch, ceil(height / stride), ceil(width / stride), 4 * self.width]`.
    """
    conv, norm = _layers(self, train=train)
    outputs = conv(self.width, 1, name="conv1")(inputs)
    outputs = nn.relu(norm(name="norm1")(outputs))
    outputs = conv(self.width, 3, stride=self.stride, name="conv2")(outputs)
    outputs = nn.relu(norm(name="norm2")(outputs))
    outputs = conv(self.width * self.expansion, 1, name="conv3")(outputs)
    outputs = norm(name="norm3", scale_init=_last_scale(self.zero_init_last_norm))(outputs)
    return nn.relu(outputs + _shortcut(self, inputs, train=train))


class ResNet(nn.Module):
  """A residual network without classifier: stem, stages of blocks, average over the pixels.

  Stage k has `width * 2**(k - 1)` channels times the expansion of its block; every stage but the
  first halves the resolution. `build` makes the published ones by name.

  Args:
    block: `BasicBlock` or `BottleneckBlock`.
    stage_sizes: number of blocks of each stage.
    width: channels of the stem and block width of the first stage.
    imagenet_stem: a 7x7 convolution of stride 2 and a 3x3 max pool of stride 2 if True, a 3x3
      convolution of stride 1 if False.
    projection: whether shortcuts that change shape have parameters (option B, not A).
    zero_init_last_norm: whether the scale of each block's last norm starts at zero.
    dtype: dtype of the computation; the features are float32 at least.
    param_dtype: dtype of the parameters; batch statistics are float32 always.
    batch_norm_group: see `bce_jax.models.create`.
    axis_name: see `bce_jax.models.create`.

  Example:
    >>> import jax
    >>> model = ResNet(block=BasicBlock, stage_sizes=(1, 1), width=8)
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> features, intermediates = model.apply(variables, images, train=False)
    >>> features.shape, list(intermediates)
    ((2, 16), ['stem', 'stage1', 'stage2', 'features'])

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 3.3 and table 1.
  """

  block: type[BasicBlock] | type[BottleneckBlock]
  stage_sizes: tuple[int, ...]
  width: int
  imagenet_stem: bool = False
  projection: bool = True
  zero_init_last_norm: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  batch_norm_group: int | None = None
  axis_name: str | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "batch height width channels"], *, train: bool
  ) -> tuple[Float[Array, "batch dim"], dict[str, Array]]:
    """Computes the features of a batch of images.

    Args:
      images: `[batch, height, width, channels]`, floating-point.
      train: whether to normalize by the batch's statistics, and update the running ones (pass
        `mutable=["batch_stats"]` to `apply`).

    Returns:
      Features `[batch, dim]`, and a dict of intermediates: "stem" (what enters the first stage),
      "stage1", "stage2", … `[batch, height, width, channels]`, and "features".

    Raises:
      ValueError: if the images have another rank or are not floating-point.
    """
    check_images(images)
    intermediates = {}

    outputs = self._stem(images, train=train)
    intermediates["stem"] = outputs
    for stage, num_blocks in enumerate(self.stage_sizes, start=1):
      for index in range(1, num_blocks + 1):
        outputs = self.block(
          width=self.width * 2 ** (stage - 1),
          stride=2 if stage > 1 and index == 1 else 1,
          projection=self.projection,
          zero_init_last_norm=self.zero_init_last_norm,
          dtype=self.dtype,
          param_dtype=self.param_dtype,
          batch_norm_group=self.batch_norm_group,
          axis_name=self.axis_name,
          name=f"stage{stage}_block{index}",
        )(outputs, train=train)
      intermediates[f"stage{stage}"] = outputs

    # In bfloat16 the sum over the pixels would lose what the average is for.
    features = jnp.mean(outputs, axis=(1, 2), dtype=jnp.promote_types(jnp.float32, self.dtype))
    intermediates["features"] = features
    return features, intermediates

  def _stem(self, images: Array, *, train: bool) -> Array:
    conv, norm = _layers(self, train=train)
    size, stride = (7, 2) if self.imagenet_stem else (3, 1)
    outputs = conv(self.width, size, stride=stride, name="stem_conv")(images)
    outputs = nn.relu(norm(name="stem_norm")(outputs))
    if self.imagenet_stem:
      outputs = nn.max_pool(outputs, (3, 3), strides=(2, 2), padding=_padding(3))
    return outputs


def _padding(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
  # Not 'SAME': with stride 2 it pads one side more than the other, PyTorch pads both alike.
  return ((size // 2, size // 2),) * 2


def _layers(
  module: Block | ResNet, *, train: bool
) -> tuple[Callable[..., nn.Conv], Callable[..., nn.Module]]:
  """The convolution and the norm of the family, in the dtypes of `module`."""

  def conv(features: int, size: int, *, stride: int = 1, name: str) -> nn.Conv:
    return nn.Conv(
      features,
      kernel_size=(size, size),
      strides=(stride, stride),
      padding=_padding(size),
      use_bias=False,
      kernel_init=_kaiming_normal,
      dtype=module.dtype,
      param_dtype=module.param_dtype,
      name=name,
    )

  norm = batch_norm(
    train=train,
    group=module.batch_norm_group,
    axis_name=module.axis_name,
    dtype=module.dtype,
    param_dtype=module.param_dtype,
  )
  return conv, norm


def _last_scale(zero: bool) -> nn.initializers.Initializer:
  return nn.initializers.zeros if zero else nn.initializers.ones


def _shortcut(block: Block, inputs: Array, *, train: bool) -> Array:
  channels = block.width * block.expansion
  if block.stride == 1 and inputs.shape[-1] == channels:
    return inputs
  if not block.projection:
    return pad_shortcut(inputs, channels=channels, stride=block.stride)
  conv, norm = _layers(block, train=train)
  outputs = conv(channels, 1, stride=block.stride, name="shortcut_conv")(inputs)
  normalized: Array = norm(name="shortcut_norm")(outputs)
  return normalized


def check_images(images: Array) -> None:
  """Refuses what is no batch of floating-point images `[batch, height, width, channels]`."""
  if images.ndim != 4:
    raise ValueError(
      f"images have shape {images.shape}, expected four axes: [batch, height, width, channels]"
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f"images have dtype {images.dtype}, expected a floating-point one: normalize them first"
    )


# Depth 6n + 2 for n blocks in each of the three stages; 8 and 14 are for small CPU runs.
_CIFAR_STAGES = {
  f"resnet{depth}": ((depth - 2) // 6,) * 3 for depth in (8, 14, 20, 32, 44, 56, 110)
}

_IMAGENET_STAGES: dict[str, tuple[type[BasicBlock] | type[BottleneckBlock], tuple[int, ...]]] = {
  "resnet18": (BasicBlock, (2, 2, 2, 2)),
  "resnet34": (BasicBlock, (3, 4, 6, 3)),
  "resnet50": (BottleneckBlock, (3, 4, 6, 3)),
  "resnet101": (BottleneckBlock, (3, 4, 23, 3)),
  "resnet152": (BottleneckBlock, (3, 8, 36, 3)),
}

NAMES = (*_CIFAR_STAGES, *_IMAGENET_STAGES)  # what `build` knows, the CIFAR family first


def build(name: str, *, stem: str | None = None, **options: Any) -> ResNet:
  """Builds one of the published networks; `bce_jax.models.create` documents and checks the rest.

  Args:
    name: one of `NAMES`.
    stem: "imagenet", "cifar" or None, the family's own.
    **options: of `ResNet`: dtypes, `zero_init_last_norm`, `batch_norm_group`, `axis_name`.

  Returns:
    The network.

  Raises:
    ValueError: if a CIFAR model is to have the ImageNet stem.

  Example:
    >>> build("resnet20").stage_sizes
    (3, 3, 3)
  """
  if name in _CIFAR_STAGES:
    if stem == "imagenet":
      raise ValueError(
        f"stem='imagenet' does not fit {name!r}, a model for images of about 32x32: expected "
        f"stem='cifar' or none, or one of the models {', '.join(_IMAGENET_STAGES)}"
      )
    return ResNet(
      block=BasicBlock, stage_sizes=_CIFAR_STAGES[name], width=16, projection=False, **options
    )
  block, stages = _IMAGENET_STAGES[name]
  imagenet_stem = stem != "cifar"
  return ResNet(block=block, stage_sizes=stages, width=64, imagenet_stem=imagenet_stem, **options)
