"""Labeled images: scikit-learn's digits, a folder of image files, or a module of your own.

A `Source` gives uint8 images by index. Small sets are decoded once and held in memory
(`ArraySource`), large ones are decoded when asked (`FolderSource`). Every split made here is
fixed: the same files give the same split on every machine and in every run.

A config names one, `data.name`: the module of that name in this folder (behind a "_"), or one from
outside, see `bce_jax.extensions`. It has `OPTIONS`, its keys in a config's group `data_options` and
their defaults; `RANGES` of the numbers among them; `check(config)`, which refuses what can't be
used before data are read; and `create(config, progress)`, which returns a `Dataset`.
"""

import importlib
import pkgutil

from bce_jax import extensions
from bce_jax.data.array_source import ArraySource
from bce_jax.data.folder_source import FolderSource, split_source
from bce_jax.data.reading import Progress
from bce_jax.data.source import Dataset, Source
from bce_jax.data.sources._digits import digits
from bce_jax.data.sources._folder import folder

MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images up to which `folder` holds a set in memory

# (mean, standard deviation) of CIFAR-10's channels, as much published code has them.
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def names() -> tuple[str, ...]:
  """Returns the names of the sources there are.

  >>> {"digits", "folder"} <= set(names())
  True
  """
  return tuple(sorted(found.name.removeprefix("_") for found in pkgutil.iter_modules(__path__)))


def module(name: str) -> extensions.Plugin:
  """Returns the plugin of a source, ours or from outside.

  Raises:
    ValueError: for one that there is not, with the nearest.
  """
  return extensions.find("data.name", name, names(), _own, positional=1, given=("progress",))


def _own(name: str) -> extensions.Plugin:
  found = importlib.import_module(f"{__name__}._{name}")
  return extensions.own(name, found.create, found)


__all__ = [
  "CIFAR10_STATISTICS",
  "MEMORY_LIMIT",
  "ArraySource",
  "Dataset",
  "FolderSource",
  "Progress",
  "Source",
  "digits",
  "folder",
  "module",
  "names",
  "split_source",
]
