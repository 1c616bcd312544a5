"""Loss functions: formulas, one value per example, float32, summed over classes."""

from bce_jax.losses.bce import bce, cosine, naive, softmax_cross_entropy, unit
from bce_jax.losses.bias import bias_init, converged_bias, prior_bias

__all__ = [
  "bce",
  "bias_init",
  "converged_bias",
  "cosine",
  "naive",
  "prior_bias",
  "softmax_cross_entropy",
  "unit",
]
