"""Batches of a `Source`, read ahead by Grain.

What a step trains on is a function of (seed, step) alone: a run resumed at step k sees the batches
that an uninterrupted run would have seen, with any number of worker processes, and on any number of
hosts, each of which reads its own rows of every batch.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags
from jaxtyping import Int64

from bce_jax.data import sources, splits
from bce_jax.data.images import DamagedError
from bce_jax.data.source import images_at

Batch = dict[str, np.ndarray]

_TERMINAL = (signal.SIGINT, signal.SIGHUP)  # Ctrl-C; closing it


def order(seed: int, epoch: int, n: int) -> Int64[np.ndarray, " n"]:
  """Returns the order in which an epoch visits n images: a function of seed, epoch and n only.

  Args:
    seed: of the run, ≥ 0.
    epoch: ≥ 0.
    n: number of training images.

  Returns:
    A permutation of 0 … n − 1.

  Raises:
    ValueError: for a negative seed or epoch.
  """
  if seed < 0 or epoch < 0:
    raise ValueError(f"seed is {seed} and epoch is {epoch}; expected 0 or more")
  return splits.permutation((seed, epoch), n)


# Two, since batches are read ahead across the end of an epoch.
_recent_order = functools.lru_cache(maxsize=2)(order)


def batch_indices(step: int, *, seed: int, n: int, batch_size: int) -> Int64[np.ndarray, " b"]:
  """Returns which images the global step `step` trains on.

  It belongs to epoch ⌊step / ⌊n / batch_size⌋⌋. The images that do not fill a batch at the end of
  an epoch are dropped; they are others in every epoch.

  Args:
    step: ≥ 0, counted from the start of the run.
    seed: of the run, ≥ 0.
    n: number of training images.
    batch_size: images per step, 1 ≤ batch_size ≤ n.

  Returns:
    Indices, [batch_size].

  Raises:
    ValueError: when there are fewer images than a batch holds, or for a negative number.

  >>> sorted(int(i) for k in range(3) for i in batch_indices(k, seed=0, n=6, batch_size=2))
  [0, 1, 2, 3, 4, 5]
  """
  _check_batch_size(batch_size, n)
  if step < 0:
    raise ValueError(f"step is {step}; expected 0 or more")
  epoch, batch = divmod(step, n // batch_size)
  return _recent_order(seed, epoch, n)[batch * batch_size : (batch + 1) * batch_size].copy()


def train_batches(
  source: sources.Source,
  *,
  seed: int,
  batch_size: int,
  first_step: int,
  last_step: int,
  sampling_exponent: float = 0.0,
  partner_exponent: float | None = None,
  rows: np.ndarray | None = None,
  workers: int = 0,
  prefetch: int = 2,
) -> Iterator[Batch]:
  """Yields the batches of the steps first_step … last_step − 1.

  Args:
    source: the training images.
    seed: of the run, ≥ 0.
    batch_size: images per step, at most len(source).
    first_step: the first step to yield: 0, or the one at which a run is resumed.
    last_step: the step to stop before.
    sampling_exponent: q of class-weighted sampling, 0 visits every image once an epoch; else
      images are drawn with replacement, a class of n of them as likely as n^(1−q).
    partner_exponent: q of a second batch for each step, drawn like that; None for none.
    rows: which images of each batch to read, where several processes share it; None for all.
    workers: processes that decode; 0 decodes in threads of this one. An `ArraySource` has nothing
      to decode, and starts none.
    prefetch: batches read ahead, by each worker if there are any; 0 reads a batch when asked for.

  Returns:
    An iterator of {"images": uint8 [B, H, W, C], "labels": int32 [B]}, with "partner_images" and
    "partner_labels" of the same shapes where there is a second batch, and where damaged images are
    skipped, with "damaged": the indices, int64 [k], of those that others stand in for.

  Raises:
    ValueError: at once for an option out of range; from the iterator for an image that cannot be
      read, by name.
  """
  _check_batch_size(batch_size, len(source))
  if not 0 <= first_step <= last_step:
    raise ValueError(
      f"first_step is {first_step} and last_step is {last_step}; expected 0 ≤ first ≤ last"
    )
  if seed < 0:
    raise ValueError(f"seed is {seed}; expected 0 or more")
  steps = range(first_step, last_step)
  batches = _TrainBatches(
    source, seed, batch_size, steps, sampling_exponent, partner_exponent, rows
  )
  return _read(batches, workers, prefetch)


def evaluation_batches(
  source: sources.Source,
  *,
  batch_size: int,
  rows: np.ndarray | None = None,
  workers: int = 0,
  prefetch: int = 2,
) -> Iterator[Batch]:
  """Yields every image once, in order; copies of image 0 fill up the last batch.

  Args:
    source: the images, 1 or more.
    batch_size: images per batch, ≥ 1; it may exceed len(source).
    rows: as in `train_batches`.
    workers: as in `train_batches`.
    prefetch: as in `train_batches`.

  Returns:
    An iterator of {"images": uint8 [B, H, W, C], "labels": int32 [B], "where": bool [B]}, where
    `where` is False for the copies.

  Raises:
    ValueError: at once for an option out of range; from the iterator for an image that cannot be
      read, by name.
  """
  if batch_size < 1 or not len(source):
    raise ValueError(f"batch_size is {batch_size} with {len(source)} images; expected 1 or more")
  return _read(_EvaluationBatches(source, batch_size, rows), workers, prefetch)


def _check_batch_size(batch_size: int, n: int) -> None:
  if not 1 <= batch_size <= n:
    raise ValueError(f"batch_size is {batch_size} with {n} training images; expected 1 … {n}")


def _cumulative_weights(labels: np.ndarray, exponent: float) -> np.ndarray:
  """Of images drawn so that a class of n of them is as likely as n^(1−q)."""
  logs = np.log(np.bincount(labels)[labels])
  # In logs, less the largest: no exponent overflows, or leaves nothing to draw.
  weights = -exponent * logs
  return np.cumsum(np.exp(weights - weights.max()))


def _draw(cumulative: np.ndarray, seed: tuple[int, ...], count: int) -> np.ndarray:
  """Indices drawn with replacement, a function of the arguments only."""
  bits = np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)
  places = (bits >> np.uint64(11)) * 2.0**-53 * cumulative[-1]
  return np.minimum(np.searchsorted(cumulative, places, side="right"), len(cumulative) - 1)


class _TrainBatches:
  """Random access for Grain: element k is the batch of step steps[k]."""

  def __init__(
    self,
    source: sources.Source,
    seed: int,
    batch_size: int,
    steps: range,
    sampling_exponent: float,
    partner_exponent: float | None,
    rows: np.ndarray | None,
  ):
    self.source = source
    self._rows = slice(None) if rows is None else rows
    self._seed = seed
    self._batch_size = batch_size
    self._steps = steps
    self._sampling = self._partner = None
    if sampling_exponent:
      self._sampling = _cumulative_weights(source.labels, sampling_exponent)
    if partner_exponent is not None:
      self._partner = _cumulative_weights(source.labels, partner_exponent)

  def __len__(self) -> int:
    return len(self._steps)

  def __getitem__(self, k: int) -> Batch:
    step, seed, size = self._steps[k], self._seed, self._batch_size
    if self._sampling is None:
      indices = batch_indices(step, seed=seed, n=len(self.source), batch_size=size)
    else:
      indices = _draw(self._sampling, (seed, step, 1), size)
    indices = indices[self._rows]
    batch = {"images": self.source.images(indices), "labels": self.source.labels[indices]}
    if self._partner is not None:
      partners = _draw(self._partner, (seed, step, 2), size)[self._rows]
      batch["partner_images"] = self.source.images(partners)
      batch["partner_labels"] = self.source.labels[partners]
      indices = np.concatenate([indices, partners])
    if isinstance(self.source, sources.FolderSource) and self.source.skips_damaged:
      found = list(self.source.found_damaged())
      batch["damaged"] = np.unique(indices[np.isin(indices, found)])
    return batch


class _EvaluationBatches:
  """Random access for Grain: element k is the batch that starts at image k · batch_size."""

  def __init__(self, source: sources.Source, batch_size: int, rows: np.ndarray | None):
    self.source = source
    self._batch_size = batch_size
    self._rows = slice(None) if rows is None else rows

  def __len__(self) -> int:
    return -(-len(self.source) // self._batch_size)

  def __getitem__(self, k: int) -> Batch:
    indices = np.arange(k * self._batch_size, (k + 1) * self._batch_size)[self._rows]
    where = indices < len(self.source)
    images = images_at(self.source, indices[where])
    if not where.all():
      first = self.source.images(np.zeros(1, np.int64))
      images = np.concatenate([images, np.repeat(first, np.sum(~where), axis=0)])
    labels = self.source.labels[np.where(where, indices, 0)]
    return {"images": images, "labels": labels, "where": where}


def _read(
  batches: _TrainBatches | _EvaluationBatches, workers: int, prefetch: int
) -> Iterator[Batch]:
  """Checks the options at once, unlike a generator, and starts reading when the first is asked."""
  if workers < 0 or prefetch < 0:
    raise ValueError(f"workers is {workers} and prefetch is {prefetch}; expected 0 or more")
  if not len(batches):
    return iter(())
  if isinstance(batches.source, sources.ArraySource):
    workers = 0  # each would be sent a copy of all images, to save no work
  if workers:
    return _read_in_processes(batches, workers, prefetch)
  return _read_in_threads(batches, prefetch)


def _read_in_threads(batches: _TrainBatches | _EvaluationBatches, prefetch: int) -> Iterator[Batch]:
  options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
  yield from _drain(grain.MapDataset.source(batches).to_iter_dataset(options))


def _read_in_processes(
  batches: _TrainBatches | _EvaluationBatches, workers: int, prefetch: int
) -> Iterator[Batch]:
  # Grain asks absl for its flags, and absl gives them only once it has parsed a command line: not
  # under pytest, in a notebook, or in a program with a parser of its own.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  dataset = grain.MapDataset.source(batches).to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  # Batches come through pipes. Grain's shared memory is a little faster, but kills the worker where
  # /dev/shm is small (64 MB in a container), and holds a file open for every array that is kept.
  dataset = grain.experimental.WithOptionsIterDataset(
    dataset, grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
  )
  options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
  try:
    read = _drain(dataset.mp_prefetch(options, worker_init_fn=_start_worker))
    with _blocked_for_children():  # they start when the first batch is asked for
      first = next(read, None)
    if first is not None:
      yield first
    yield from read
  except RuntimeError as error:
    if "Worker process" not in str(error):
      raise
    raise ValueError(
      f"a process that reads images has died: {' '.join(str(error).split())} If there is none,"
      " memory may be spent; with data.workers=0 this process reads them"
    ) from error


def _drain(dataset: grain.IterDataset) -> Iterator[Batch]:
  iterator = iter(dataset)
  try:
    yield from iterator
  except DamagedError as error:
    # Anew, since Grain adds notes about tracebacks to what is to be one line.
    raise DamagedError(str(error)) from error
  except ValueError as error:
    raise ValueError(str(error)) from error
  finally:
    iterator.close()


@contextlib.contextmanager
def _blocked_for_children() -> Iterator[None]:
  """Context manager: Ctrl-C does not reach processes started in it; a thread notices it here."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(index: int, count: int) -> None:
  del index, count  # Grain passes them
  # What a terminal sends reaches the whole group of processes; the main one answers it, and ends
  # its workers.
  for number in _TERMINAL:
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  # A main process that is killed cannot tell its workers, which would wait for it forever.
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
