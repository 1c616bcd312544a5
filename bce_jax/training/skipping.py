"""The damaged images that a run has skipped: each is reported once, to its records and the user."""

import json
import os
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.experimental import multihost_utils

from bce_jax.data import reading
from bce_jax.data.reading import Skipped
from bce_jax.data.sources import FolderSource
from bce_jax.runs import records
from bce_jax.training.experiment import Experiment


class Skipping:
  """Counts the damaged images of a run, over all its splits and processes.

  What was skipped before a checkpoint is in its records, and so is not named again.
  """

  def __init__(
    self,
    experiment: Experiment,
    writer: records.RecordWriter,
    say: Callable[[str], None],
    step: int,
  ):
    """Names what was found on reading the data.

    Raises:
      DamagedError: for more than config.data.skip_damaged.
    """
    data = experiment.config.data
    self._most, self._folder = data.skip_damaged, data.folder
    self._steps_per_epoch = experiment.steps_per_epoch
    self._source, self._writer, self._say = experiment.dataset.train, writer, say
    self._named = dict(_skipped_before(writer.lines))
    self._found: dict[str, str] = {}
    for one in experiment.dataset.skipped:
      self._name(one, step)

  def note(self, indices: Iterable[int], step: int) -> None:
    """Reports the damaged training images that others have stood in for, at a step.

    Raises:
      DamagedError: for more than config.data.skip_damaged.
    """
    for index in indices:
      assert isinstance(self._source, FolderSource)
      file = os.path.relpath(self._source.paths[int(index)], self._folder)
      if file not in self._named and file not in self._found:
        self._found[file] = self._source.damage_of(int(index))
    if jax.process_count() == 1:
      self._name_found(step)

  def exchange(self, step: int) -> None:
    """Reports what any of several processes has found; all must call it at the same steps.

    Raises:
      DamagedError: for more than config.data.skip_damaged, in all of them.
    """
    if jax.process_count() > 1 and self._most:
      self._found = dict(sorted(_of_all_processes(self._found).items()))
      self._name_found(step)

  def _name_found(self, step: int) -> None:
    found, self._found = self._found, {}
    for file, reason in found.items():
      self._name(Skipped(file, reason), step)

  def _name(self, one: Skipped, step: int) -> None:
    if one.file in self._named:
      return
    self._named[one.file] = one.reason
    reading.check_count(self._named.values(), self._most)
    place = {"step": step, "epoch": step / self._steps_per_epoch}
    self._writer.write({**place, "split": records.SKIPPED, "file": one.file, "reason": one.reason})
    self._say(f"skipped, {len(self._named)} of at most {self._most}: {one.reason}")


def _skipped_before(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
  for line in lines:
    record = json.loads(line)
    if record.get("split") == records.SKIPPED:
      yield record["file"], record["reason"]


def _of_all_processes(found: dict[str, str]) -> dict[str, str]:
  """What each process gives, put together."""
  text = np.frombuffer(json.dumps(found).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([len(text)]))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(text)] = text
  rows = multihost_utils.process_allgather(padded)
  parts = zip(rows, sizes.ravel(), strict=True)
  return {k: v for row, size in parts for k, v in json.loads(row[:size].tobytes()).items()}
