"""What a run records of code from outside, and how that has changed since."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bce_jax import extensions
from bce_jax.runs import provenance

# What is recorded of data or a model that were handed to `experiment.build`.
FROM_PYTHON = {"name": "given from Python"}


def recorded(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Returns {key of the config: what was recorded of it} of the run's last session."""
  sessions = provenance.read(workdir).get("sessions", [])
  found = sessions[-1].get("outside", {}) if sessions else {}
  return found if isinstance(found, dict) else {}


def changes(
  workdir: pathlib.Path,
  now: Mapping[str, Mapping[str, Any]],
  *,
  only: Collection[str] | None = None,
) -> list[str]:
  """Returns a line for each code from outside that has changed since the run has used it.

  Args:
    workdir: the run folder.
    now: what is used now, as `recorded` returns it.
    only: the keys of what is needed; None: of all.

  Raises:
    ValueError: where a part was given from Python and is not given now.
  """
  said, lacking = [], []
  for key, before in recorded(workdir).items():
    here = now.get(key, {})
    if only is not None and key not in only:
      continue
    if before == FROM_PYTHON:
      if here != FROM_PYTHON:
        lacking.append("model" if key == "model" else "dataset")
    elif here and here != FROM_PYTHON and (changed := extensions.changed(before, here)):
      said.append(f"config.{key}: since {workdir} has used it, {changed}; it is used as it is now")
  if lacking:
    what, given = " and a ".join(lacking), ", ".join(f"{part}=…" for part in lacking)
    raise ValueError(
      f"{workdir} was trained with a {what} given from Python: expected again, as in"
      f" experiment.build(config, {given})"
    )
  return said
