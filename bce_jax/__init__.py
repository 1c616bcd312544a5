"""Training and evaluating image classifiers with binary cross-entropy, in JAX.

`losses` and `metrics` need jax, numpy and jaxtyping only; the rest is imported by its own name
(`bce_jax.models`, `bce_jax.training`, …), so that one loss can be used in other JAX code cheaply.
`load("runs/mine")` gives the network that bce-train has trained there.
"""

import importlib
from typing import Any

__all__ = ["load", "losses", "metrics"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  # When asked for, so that `bce-train --help` need not wait for JAX.
  if name == "load":
    return importlib.import_module("bce_jax.evaluation.run").load
  if name in __all__:
    return importlib.import_module(f"bce_jax.{name}")
  raise AttributeError(f"module 'bce_jax' has no attribute {name!r}")
