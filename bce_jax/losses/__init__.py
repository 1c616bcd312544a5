"""Loss functions: formulas, one value per example, float32, summed over classes."""

from bce_jax.losses._bce import bce, cosine, naive, softmax_cross_entropy
from bce_jax.losses._bias import bias_init, converged_bias, prior_bias
from bce_jax.losses._linear import linear_bce, linear_bce_mean
from bce_jax.losses._longtail import (
  balanced_softmax,
  class_weights,
  classifier_uniformity,
  contrast,
  logit_adjustment,
  max_norm,
  max_norm_limit,
  mixed_bce,
)
from bce_jax.losses._sampling import sample_classes
from bce_jax.norms import l2_normalize

unit = l2_normalize  # its older name

__all__ = [
  "balanced_softmax",
  "bce",
  "bias_init",
  "class_weights",
  "classifier_uniformity",
  "contrast",
  "converged_bias",
  "cosine",
  "l2_normalize",
  "linear_bce",
  "linear_bce_mean",
  "logit_adjustment",
  "max_norm",
  "max_norm_limit",
  "mixed_bce",
  "naive",
  "prior_bias",
  "sample_classes",
  "softmax_cross_entropy",
  "unit",
]
