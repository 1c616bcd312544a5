"""Methods: which views of a batch are run, the loss of what comes out, the memory carried along.

A config names one, `objective.name`: the module of that name in this folder.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from bce_jax.names import nearest
from bce_jax.objectives.families import LOSSES, Joint, LossFamily, parse
from bce_jax.objectives.joint import Targets
from bce_jax.objectives.objective import Batch, Objective, Problem, Views
from bce_jax.objectives.rebalance import Rebalance

_NOT_METHODS = ("families", "objective", "rebalance")


def names() -> tuple[str, ...]:
  """Returns the names of the methods there are.

  >>> "joint" in names()
  True
  """
  found = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in found if name not in _NOT_METHODS))


def module(name: str) -> ModuleType:
  """Returns the module of a method; see `objective`.

  Raises:
    ValueError: for an unknown name, with the nearest one.
  """
  if name not in names():
    raise ValueError(
      f"unknown config.objective.name {name!r}; did you mean {nearest(name, names())!r}?"
      f" expected one of {', '.join(names())}"
    )
  return importlib.import_module(f"{__name__}.{name}")


def create(config: Any, problem: Problem) -> Objective:
  """Returns the method that a checked config names.

  Raises:
    ValueError: one line, for options that the data can't be used with.
  """
  return module(config.objective.name).create(config, problem)


__all__ = [
  "LOSSES",
  "Batch",
  "Joint",
  "LossFamily",
  "Objective",
  "Problem",
  "Rebalance",
  "Targets",
  "Views",
  "create",
  "module",
  "names",
  "parse",
]
