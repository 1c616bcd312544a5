"""The public face of `bce_jax.config`, under the name that config files import."""

from bce_jax.config import (
  KEYS,
  PATHS,
  check,
  default,
  flatten,
  from_dict,
  may_change,
  refuse_unknown_keys,
  same_path,
  set_objective,
  set_value,
  with_absolute_paths,
)

__all__ = [
  "KEYS",
  "PATHS",
  "check",
  "default",
  "flatten",
  "from_dict",
  "may_change",
  "refuse_unknown_keys",
  "same_path",
  "set_objective",
  "set_value",
  "with_absolute_paths",
]
