"""Methods: which views of a batch are run, the loss of their features, the memory carried along.

A config names one, `objective.name`: the module of that name in this folder, or one from outside.
"""

import importlib
import pkgutil
from typing import Any

from bce_jax import extensions
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


def module(name: str) -> extensions.Plugin:
  """Returns the plugin of a method, ours or from outside; see `objective`.

  Raises:
    ValueError: for an unknown name, with the nearest one; for a module that is missing.
  """
  found = extensions.find("objective.name", name, names(), _own, positional=2)
  if "name" in found.OPTIONS:
    raise ValueError(
      f"config.objective.name {name!r} has an option 'name', which is a key of config.objective"
      " already: expected another name"
    )
  return found


def _own(name: str) -> extensions.Plugin:
  found = importlib.import_module(f"{__name__}.{name}")
  return extensions.own(name, found.create, found)


def create(config: Any, problem: Problem) -> Objective:
  """Returns the method that a checked config names.

  Raises:
    ValueError: one line, for options that the data can't be used with.
  """
  found = module(config.objective.name)
  options = {name: config.objective[name] for name in found.OPTIONS} if found.outside else {}
  objective = extensions.make("objective.name", found, config, problem, given={}, options=options)
  if not isinstance(objective, Objective):
    raise ValueError(
      f"config.objective.name {found.name!r} made {objective!r}: expected an Objective"
    )
  return objective


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
