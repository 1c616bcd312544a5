"""Writers of records from outside: config.writers = "package.module:function, …".

Each is a function or a class, or a module with such a `create`: it is called with the run folder
(`pathlib.Path`) and the config, and returns an object with `write(record)`, which gets every record
as metrics.jsonl does ("step", "epoch", "split" and named values), and, if it likes, `close()`. On
several hosts the first has it. A run that goes on calls `create` again: records after the
checkpoint that it goes on from are written once more.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from bce_jax import extensions
from bce_jax.config.names import listed, refuse_repeated


class Writer(Protocol):
  """Protocol: a writer from outside, which gets every record of a run."""

  def write(self, record: Mapping[str, Any]) -> object:
    """Takes one record."""
    ...


def check(config: ConfigDict) -> None:
  """Refuses writers that can't be imported, or are named twice."""
  for name in listed(config, "writers"):
    _find(name)
  refuse_repeated(config, "writers")


def create(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[str, Writer]]:
  """Creates the writers that a config names; returns each with its name.

  Raises:
    ValueError: one line: a missing module or function, or what it raises.
  """
  made = []
  for name in listed(config, "writers"):
    said = f"config.writers {name!r}"
    writer = extensions.calling(said, _find(name), workdir, config)
    if not callable(getattr(writer, "write", None)):
      raise ValueError(f"{said} returned {writer!r}: expected an object with write(record)")
    made.append((name, writer))
  return made


def _find(name: str) -> Callable[..., Any]:
  return extensions.load_function(f"config.writers {name!r}", name, "create")[1]
