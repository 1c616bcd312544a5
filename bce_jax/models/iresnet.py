"""Residual networks for faces: IR-18, 34, 50 and 100, as feature extractors.

They differ from the ImageNet family in what pictures of aligned faces need: the stem keeps the
resolution and every stage halves it, a block normalizes before its convolutions and adds without a
ReLU, and a linear layer over all that is left of the picture takes the place of the average over
the pixels, because where something is in an aligned face says what it is.

Sources: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019,
section 3.2; Duta et al., Improved Residual Networks for Image and Video Recognition, ICPR 2020; the
sizes, and what the papers leave open, are those of InsightFace's arcface_torch.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from bce_jax.models.norm import batch_norm
from bce_jax.models.resnet import check_images

_MIN_SIZE = 16  # four halvings, to one pixel
# U(±1/√fan_in), PyTorch's own for a linear layer.
_linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PReLU(nn.Module):
  """A rectifier with a learned slope for each channel: `x where x ≥ 0, slope * x elsewhere`.

  Args:
    param_dtype: dtype of the slopes, which start at 0.25.

  Example:
    >>> import jax
    >>> x = jnp.array([[-4.0, 2.0]])
    >>> PReLU().init_with_output(jax.random.key(0), x)[0].tolist()
    [[-1.0, 2.0]]

  References:
    He et al., Delving Deep into Rectifiers, ICCV 2015, equation 1.
  """

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, inputs: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    """Applies the rectifier, in the dtype of the inputs."""
    channels = inputs.shape[-1:]
    slope = self.param("slope", nn.initializers.constant(0.25), channels, self.param_dtype)
    return jnp.where(inputs >= 0, inputs, inputs * slope.astype(inputs.dtype))


class FaceBlock(nn.Module):
  """`norm(conv(prelu(norm(conv(norm(x)))))) + shortcut(x)`, 3x3 convolutions, no ReLU at the end.

  The second convolution carries the stride. The shortcut is the identity where the shape stays,
  else a 1x1 convolution with norm.

  Args:
    width: channels of the convolutions and of the output.
    stride: stride of the block.
    zero_init_last_norm: whether the scale of the last norm starts at zero, which makes the block
      its shortcut. (The switch of InsightFace zeroes the norm between the convolutions instead.)
    dtype: dtype of the computation; the inputs are expected in it.
    param_dtype: dtype of the parameters.
    batch_norm_group: see `bce_jax.models.create`.
    axis_name: see `bce_jax.models.create`.

  Example:
    >>> import jax
    >>> block = FaceBlock(width=16, stride=2)
    >>> images = jnp.ones((1, 8, 8, 8))
    >>> outputs, _ = jax.eval_shape(
    ...   lambda key: block.init_with_output(key, images, train=False), jax.random.key(0))
    >>> outputs.shape
    (1, 4, 4, 16)
  """

  width: int
  stride: int = 1
  zero_init_last_norm: bool = False
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  batch_norm_group: int | None = None
  axis_name: str | None = None

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
    outputs: Array = norm(name="norm1")(inputs)
    outputs = norm(name="norm2")(conv(self.width, 3, name="conv1")(outputs))
    outputs = PReLU(self.param_dtype, name="prelu")(outputs)
    outputs = conv(self.width, 3, stride=self.stride, name="conv2")(outputs)
    last = nn.initializers.zeros if self.zero_init_last_norm else nn.initializers.ones
    outputs = norm(name="norm3", scale_init=last)(outputs)
    shortcut = inputs
    if self.stride != 1 or inputs.shape[-1] != self.width:
      shortcut = conv(self.width, 1, stride=self.stride, name="shortcut_conv")(inputs)
      shortcut = norm(name="shortcut_norm")(shortcut)
    return outputs + shortcut


class IResNet(nn.Module):
  """A face network without classifier: stem, four stages of blocks, linear layer, norm.

  Every stage halves the resolution and, but for the first, doubles the channels. The scale of the
  last norm is fixed at 1: the length of the features is the classifier's matter. `build` makes the
  published ones by name.

  Args:
    stage_sizes: number of blocks of each stage.
    width: channels of the stem and of the first stage.
    dim: number of features.
    zero_init_last_norm: whether the scale of each block's last norm starts at zero.
    dtype: dtype of the convolutions; the linear layer and the features are float32 at least.
    param_dtype: dtype of the parameters; batch statistics are float32 always.
    batch_norm_group: see `bce_jax.models.create`.
    axis_name: see `bce_jax.models.create`.

  Example:
    >>> import jax
    >>> model = IResNet(stage_sizes=(1, 1), width=4, dim=6)
    >>> images = jnp.ones((2, 16, 16, 3))
    >>> variables = model.init(jax.random.key(0), images, train=False)
    >>> features, intermediates = model.apply(variables, images, train=False)
    >>> features.shape, list(intermediates)
    ((2, 6), ['stem', 'stage1', 'stage2', 'features'])
  """

  stage_sizes: tuple[int, ...]
  width: int = 64
  dim: int = 512
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
      images: `[batch, height, width, channels]`, floating-point, at least 16x16; of the size that
        the parameters were made for.
      train: whether to normalize by the batch's statistics, and update the running ones (pass
        `mutable=["batch_stats"]` to `apply`).

    Returns:
      Features `[batch, dim]`, and a dict of intermediates: "stem" (what enters the first stage),
      "stage1", "stage2", … `[batch, height, width, channels]`, and "features".

    Raises:
      ValueError: if the images have another rank, are not floating-point or are too small.
    """
    check_images(images)
    height, width = images.shape[1:3]
    if min(height, width) < _MIN_SIZE:
      raise ValueError(
        f"images are {height}x{width} pixels, expected at least {_MIN_SIZE}x{_MIN_SIZE}: every"
        " stage of a face network halves them"
      )
    conv, norm = _layers(self, train=train)
    intermediates = {}

    outputs = norm(name="stem_norm")(conv(self.width, 3, name="stem_conv")(images))
    outputs = PReLU(self.param_dtype, name="stem_prelu")(outputs)
    intermediates["stem"] = outputs
    for stage, num_blocks in enumerate(self.stage_sizes, start=1):
      for index in range(1, num_blocks + 1):
        outputs = FaceBlock(
          width=self.width * 2 ** (stage - 1),
          stride=2 if index == 1 else 1,
          zero_init_last_norm=self.zero_init_last_norm,
          dtype=self.dtype,
          param_dtype=self.param_dtype,
          batch_norm_group=self.batch_norm_group,
          axis_name=self.axis_name,
          name=f"stage{stage}_block{index}",
        )(outputs, train=train)
      intermediates[f"stage{stage}"] = outputs

    outputs = norm(name="norm")(outputs)
    wide = jnp.promote_types(jnp.float32, self.dtype)
    # Its bias starts at 0: the norm that follows takes any away.
    linear = nn.Dense(
      self.dim, kernel_init=_linear_init, dtype=wide, param_dtype=self.param_dtype, name="linear"
    )
    features = linear(outputs.reshape(len(images), -1))
    # As images of one pixel, which is what a norm over groups takes.
    features = norm(name="features_norm", use_scale=False, dtype=wide)(features[:, None, None])
    features = features[:, 0, 0]
    intermediates["features"] = features
    return features, intermediates


def _layers(
  module: FaceBlock | IResNet, *, train: bool
) -> tuple[Callable[..., nn.Conv], Callable[..., nn.Module]]:
  """The convolution and the norm of the family, in the dtypes of `module`."""

  def conv(features: int, size: int, *, stride: int = 1, name: str) -> nn.Conv:
    return nn.Conv(
      features,
      kernel_size=(size, size),
      strides=(stride, stride),
      padding=((size // 2, size // 2),) * 2,  # not 'SAME', which is lopsided with stride 2
      use_bias=False,
      kernel_init=nn.initializers.normal(0.1),
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


_STAGES = {
  "iresnet18": (2, 2, 2, 2),
  "iresnet34": (3, 4, 6, 3),
  "iresnet50": (3, 4, 14, 3),
  "iresnet100": (3, 13, 30, 3),
}

NAMES = tuple(_STAGES)  # what `build` knows


def build(name: str, *, stem: str | None = None, **options: Any) -> IResNet:
  """Builds one of the published networks; `bce_jax.models.create` documents and checks the rest.

  Args:
    name: one of `NAMES`.
    stem: "cifar" or None, which are the same here.
    **options: of `IResNet`: dtypes, `zero_init_last_norm`, `batch_norm_group`, `axis_name`.

  Returns:
    The network.

  Raises:
    ValueError: if it is to have the ImageNet stem.

  Example:
    >>> build("iresnet50").stage_sizes
    (3, 4, 14, 3)
  """
  if stem == "imagenet":
    raise ValueError(
      f"stem='imagenet' does not fit {name!r}, a model for faces of about 112x112: expected "
      "stem='cifar' or none"
    )
  return IResNet(stage_sizes=_STAGES[name], **options)
