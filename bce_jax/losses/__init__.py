"""Loss functions: formulas, one value per example, float32, summed over classes."""

from bce_jax.losses.bce import bce, cosine, naive, softmax_cross_entropy, unit
from bce_jax.losses.bias import bias_init, converged_bias, prior_bias
from bce_jax.losses.longtail import (
  class_weights,
  classifier_uniformity,
  contrast,
  max_norm,
  max_norm_limit,
  mixed_bce,
)

__all__ = [
  "bce",
  "bias_init",
  "class_weights",
  "classifier_uniformity",
  "contrast",
  "converged_bias",
  "cosine",
  "max_norm",
  "max_norm_limit",
  "mixed_bce",
  "naive",
  "prior_bias",
  "softmax_cross_entropy",
  "unit",
]
