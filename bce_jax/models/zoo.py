"""Every backbone by its name."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bce_jax import extensions
from bce_jax.models import iresnet, resnet
from bce_jax.names import nearest

# Modules with `NAMES` and `build(name, *, stem, dtype, …)`.
_FAMILIES = (resnet, iresnet)
_STEMS = ("imagenet", "cifar")


def names() -> tuple[str, ...]:
  """Names that `create` knows, family by family.

  Returns:
    The names, each family by depth: CIFAR, ImageNet, faces.

  Example:
    >>> names()[:3]
    ('resnet8', 'resnet14', 'resnet20')
  """
  return tuple(name for family in _FAMILIES for name in family.NAMES)


# What a model from outside is created with too, as far as it takes it.
GIVEN = ("stem", "dtype", "param_dtype", "zero_init_last_norm", "batch_norm_group", "axis_name")


def module(name: str) -> extensions.Plugin:
  """Returns the few names of a backbone, ours or from outside.

  One from outside has `create(**options)`, which returns a flax module of our backbones' interface
  (see `create`); it gets those of `GIVEN` that it takes.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a module that is missing.
  """
  return extensions.find(
    "model", name, names(), lambda own: extensions.own(own, _family(own).build), given=GIVEN
  )


def _family(name: str) -> Any:
  return next(family for family in _FAMILIES if name in family.NAMES)


def create(
  name: str,
  *,
  options: Mapping[str, Any] | None = None,
  stem: str | None = None,
  dtype: Any = jnp.float32,
  param_dtype: Any = jnp.float32,
  zero_init_last_norm: bool = False,
  batch_norm_group: int | None = None,
  axis_name: str | None = None,
) -> nn.Module:
  """Builds a backbone by name: a residual network of ours, or one from outside.

  resnet8, 14, 20, 32, 44, 56 and 110 are the CIFAR family: 16, 32 and 64 channels, basic blocks,
  shortcuts without parameters, 64 features. resnet18 and 34 (basic blocks, 512 features), 50, 101
  and 152 (bottlenecks, 2048 features) are the ImageNet family, with projection shortcuts.
  iresnet18, 34, 50 and 100 are the face family, with 512 features: no average over the pixels but
  a linear layer, so that one set of parameters serves images of one size.

  Args:
    name: one of `names()`, or "package.module:object".
    options: of a network from outside, its own.
    stem: for the ImageNet family "imagenet" (7x7 convolution and max pool, resolution divided by
      4; the default) or "cifar" (3x3 convolution, resolution kept). The other families have the
      latter only.
    dtype: dtype of the computation; features are float32 at least.
    param_dtype: dtype of the parameters; batch statistics are float32 always.
    zero_init_last_norm: whether each block starts as its shortcut (as the ReLU of it, where the
      family has a ReLU after the sum).
    batch_norm_group: images, one after the other, that are normalized by common statistics in
      training (see `GhostBatchNorm`); None: all of them. It changes neither parameters nor
      evaluation.
    axis_name: of the `jax.pmap` or `jax.shard_map` that training runs in, whose devices' images are
      then normalized together; None under plain jit, where they are anyway. Groups lie within a
      device's images and don't need it.

  Returns:
    A module to call as `module(images, train=…)` with images `[batch, height, width, channels]`
    of any number of channels and any size (the face family: of at least 16x16); it returns
    features `[batch, dim]` and a dict of intermediates.

  Raises:
    ValueError: if the name or the stem is unknown, or a model without the ImageNet stem is to have
      it.

  Example:
    >>> import jax
    >>> model = create("resnet20")
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> (features, _), variables = jax.eval_shape(
    ...   lambda key: model.init_with_output(key, images, train=False), jax.random.key(0))
    >>> features.shape, sorted(variables)
    ((2, 64), ['batch_stats', 'params'])

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2 (CIFAR) and
    table 1 (ImageNet). Deng et al., ArcFace, CVPR 2019, section 3.2 (faces).
  """
  standard: dict[str, Any] = {
    "stem": stem,
    "dtype": dtype,
    "param_dtype": param_dtype,
    "zero_init_last_norm": zero_init_last_norm,
    "batch_norm_group": batch_norm_group,
    "axis_name": axis_name,
  }
  if name not in names():
    if not extensions.is_outside(name):
      raise ValueError(_unknown("model", name, names()))
    made = extensions.make("model", module(name), given=standard, options=options or {})
    if not isinstance(made, nn.Module):
      raise ValueError(f"config.model {name!r} made {made!r}: expected a flax.linen.Module")
    return made
  if stem is not None and stem not in _STEMS:
    raise ValueError(_unknown("stem", stem, _STEMS))
  built: nn.Module = _family(name).build(name, **standard)
  return built


def _unknown(what: str, value: object, valid: tuple[str, ...]) -> str:
  near = nearest(str(value).lower(), valid)
  return f"unknown {what} {value!r}: did you mean {near!r}? Expected one of {', '.join(valid)}"
