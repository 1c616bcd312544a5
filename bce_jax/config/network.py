"""The network that a config names."""

import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from bce_jax import models
from bce_jax.models import Classifier
from bce_jax.objectives import families


def build_model(config: ConfigDict, num_classes: int, given: nn.Module | None = None) -> Classifier:
  """Builds the network that a config names; of the data it needs the number of classes only.

  Args:
    config: checked.
    num_classes: N.
    given: in place of the backbone that it names, or of the whole `Classifier`.

  Returns:
    Backbone and head.

  Raises:
    ValueError: one line, for what the model refuses.
  """
  if isinstance(given, Classifier):
    return given
  loss = families.of(config)
  normalize_weights = config.normalize_weights
  head = models.Head(
    num_classes=num_classes,
    normalize_features=loss.normalized,
    normalize_weights=loss.normalized if normalize_weights is None else normalize_weights,
    scale=config.scale if loss.normalized else 1.0,
    weight_init=config.weight_init,
    bias=loss.bias,
    bias_init=config.bias_init,
    bias_mean=config.bias_mean,
    bias_learnable=config.bias_learnable,
  )
  return Classifier(build_backbone(config, given), head)


def build_backbone(config: ConfigDict, given: nn.Module | None = None) -> nn.Module:
  """Builds the network below the head, which needs nothing of the data.

  Args:
    config: checked.
    given: in place of the one that it names; an embedding is put on top of it too.

  Raises:
    ValueError: one line, for what the model refuses.
  """
  backbone = given or models.create(
    config.model,
    options=config.model_options,
    stem=config.stem,
    dtype=jnp.dtype(config.dtype),
    zero_init_last_norm=config.zero_init_last_norm,
    batch_norm_group=config.batch_norm_group,
  )
  if not config.embedding:
    return backbone
  return models.Embedding(
    backbone,
    config.embedding,
    dtype=jnp.dtype(config.dtype),
    batch_norm_group=config.batch_norm_group,
  )
