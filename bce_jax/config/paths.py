"""Keys of a config that name files and folders."""

import os
import pathlib

from ml_collections import ConfigDict

from bce_jax.config.table import PATHS, flatten, set_value


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
  """Returns a copy whose relative paths start from the root instead of from the current folder."""
  config = ConfigDict(config.to_dict(), convert_dict=True)
  for key, path in flatten(config).items():
    if key in PATHS and path:
      set_value(config, key, os.path.abspath(path))
  return config


def same_path(before: str, now: str) -> bool:
  """Whether two values of a key of `PATHS` may name one place.

  Older versions kept a path as it was typed; what that was relative to is not known.

  >>> same_path("runs/a/", "/home/me/runs/a"), same_path("/x/runs/a", "/home/me/runs/a")
  (True, False)
  """
  if not before or not now:
    return before == now
  parts = pathlib.PurePath(os.path.normpath(before)).parts
  ends = pathlib.PurePath(os.path.abspath(now)).parts
  return ends == parts if os.path.isabs(before) else ends[-len(parts) :] == parts
