"""Training and judging image classifiers with binary cross-entropy, in JAX.

`losses` and `metrics` need jax, numpy and jaxtyping only; the rest is imported by its own name
(`bce_jax.models`, `bce_jax.training`, …), so that one loss can be used in other JAX code cheaply.
"""

from bce_jax import losses, metrics

__all__ = ["losses", "metrics"]
__version__ = "0.1.0"
