"""Further measures of a split, a module each: per shot group, with flip, geometry.

A module has one function, `compute`: `SplitOutputs` → named numbers; there are none where the split
lacks what they need. A new one needs its file here, and a row in `bce_jax.results` for each number.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from bce_jax.evaluation.split_outputs import SplitOutputs


@functools.cache
def _all() -> list[Callable[[SplitOutputs], dict[str, Any]]]:
  names = sorted(module.name for module in pkgutil.iter_modules(__path__))
  return [importlib.import_module(f"{__name__}.{name}").compute for name in names]


def compute(split: SplitOutputs) -> dict[str, Any]:
  """Returns the results of all measures of a split."""
  return {key: value for measure in _all() for key, value in measure(split).items()}
