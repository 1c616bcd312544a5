"""Every key of a config, its default and what it may be.

A config file starts from `default()` and sets what differs, so an unknown key is refused where it
is written, and a file never lacks a key. `check` refuses what no run could use before anything is
read or written; what depends on the data is checked when they are there.
"""

from bce_jax.config.checking import check
from bce_jax.config.dataset import load_dataset
from bce_jax.config.doors import DOORS, complete, from_outside, set_name
from bce_jax.config.network import build_backbone, build_model
from bce_jax.config.paths import same_path, with_absolute_paths
from bce_jax.config.table import (
  KEYS,
  PATHS,
  default,
  flatten,
  from_dict,
  like,
  may_change,
  refuse_unknown_keys,
  set_objective,
  set_value,
)

__all__ = [
  "DOORS",
  "KEYS",
  "PATHS",
  "build_backbone",
  "build_model",
  "check",
  "complete",
  "default",
  "flatten",
  "from_dict",
  "from_outside",
  "like",
  "load_dataset",
  "may_change",
  "refuse_unknown_keys",
  "same_path",
  "set_name",
  "set_objective",
  "set_value",
  "with_absolute_paths",
]
