"""How a train step runs on many devices: `jax.jit` over a mesh, or `jax.pmap` (config.parallel)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bce_jax import sharding
from bce_jax.training import pmap
from bce_jax.training.experiment import Experiment
from bce_jax.training.state import TrainState
from bce_jax.training.step import jit_train_step

Logs = dict[str, jax.Array]


class Execution(Protocol):
  """Protocol: what the loop needs of jit or pmap; `carried` is the train state in its form."""

  def rows(self) -> np.ndarray:
    """Returns which rows of a batch this process reads."""
    ...

  def put_batch(self, batch: Any) -> Any:
    """Places these rows on the devices."""
    ...

  def carry(self, state: TrainState) -> Any:
    """Returns a state on the mesh, padded, as the step takes it; the state may be donated."""
    ...

  def state(self, carried: Any) -> TrainState:
    """Returns the state on the mesh, padded: what is evaluated and saved."""
    ...

  def step(self, carried: Any, batch: Any) -> tuple[Any, Any]:
    """Trains on a batch; returns what to carry on and logs on the devices."""
    ...

  def fetch(self, logs: Sequence[Any]) -> list[dict[str, np.ndarray]]:
    """Returns the logs of steps on the host."""
    ...


class JitExecution:
  """One program over the mesh: the batch split along 'data', the classifier along 'class'."""

  def __init__(self, experiment: Experiment):
    self._mesh, self._batch_size = experiment.mesh, experiment.config.batch_size
    self.step = jit_train_step(experiment.train_step(), experiment.state_sharding)

  def rows(self) -> np.ndarray:
    """Returns which rows of a batch this process reads."""
    return sharding.local_rows(self._batch_size, self._mesh)

  def put_batch(self, batch: Any) -> Any:
    """Splits the batch along 'data'."""
    return sharding.put_batch(batch, self._mesh, self._batch_size)

  def carry(self, state: TrainState) -> TrainState:
    """Returns the state as it is."""
    return state

  def state(self, carried: TrainState) -> TrainState:
    """Returns the state as it is."""
    return carried

  def fetch(self, logs: Sequence[Logs]) -> list[dict[str, np.ndarray]]:
    """Returns the logs of steps on the host."""
    return jax.device_get(list(logs))


class PmapExecution:
  """One program per device: each has a copy of the state and its share of the batch."""

  def __init__(self, experiment: Experiment):
    self._batch_size = experiment.config.batch_size
    self._sharding = experiment.state_sharding
    self.step = experiment.train_step(pmap.make_pmap_train_step)

  def rows(self) -> np.ndarray:
    """Returns which rows of a batch this process reads: successive ones."""
    count = self._batch_size // jax.process_count()
    return jax.process_index() * count + np.arange(count)

  def put_batch(self, batch: Any) -> Any:
    """Cuts the rows into each device's share."""
    return pmap.split(batch)

  def carry(self, state: TrainState) -> TrainState:
    """Returns a copy of the state for each device."""
    return pmap.replicate(sharding.to_host(state))

  def state(self, carried: TrainState) -> TrainState:
    """Returns one of the copies, which are equal, on the mesh."""
    state = pmap.unreplicate(carried)
    if jax.process_count() == 1:
      return self._sharding.put(state)
    # A device can't hand it to another process': each has it from its own host.
    return jax.tree.map(
      lambda x, where: jax.make_array_from_callback(x.shape, where, x.__getitem__),
      jax.device_get(state),
      self._sharding.shardings(),
    )

  def fetch(self, logs: Sequence[Logs]) -> list[dict[str, np.ndarray]]:
    """Returns the first device's logs, which are those of all, on the host."""
    return jax.device_get([pmap.unreplicate(of_step) for of_step in logs])


FORMS: dict[str, Callable[[Experiment], Execution]] = {"jit": JitExecution, "pmap": PmapExecution}


def create(experiment: Experiment) -> Execution:
  """Returns the form that the config names, `config.parallel`."""
  return FORMS[experiment.config.parallel](experiment)
