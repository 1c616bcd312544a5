"""Devices as a mesh, and how arrays are sharded over it, on one host or on many.

The batch is split along the mesh's axis 'data', the classifier's rows along 'class'. The rows of a
stored state are padded with zeros to a number that the devices share evenly; the step, the
checkpoints and everything else see them without.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64


def make_mesh(class_devices: int = 1) -> Mesh:
  """Returns all devices of all processes as a mesh ('data', 'class').

  The axes are Auto: the compiler places what is between the arguments.

  Args:
    class_devices: how many devices share the classifier's rows.

  Raises:
    ValueError: when they don't divide the devices.
  """
  devices = jax.device_count()
  if class_devices < 1 or devices % class_devices:
    fits = ", ".join(str(n) for n in range(1, devices + 1) if devices % n == 0)
    raise ValueError(
      f"config.class_devices is {class_devices}, which does not divide {devices} device(s):"
      f" expected one of {fits}"
    )
  shape = (devices // class_devices, class_devices)
  return jax.make_mesh(shape, ("data", "class"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds as a whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its first axis split along 'data'."""
  return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
  """Refuses a batch that the devices cannot split evenly.

  Raises:
    ValueError: naming the nearest sizes that fit.
  """
  devices = mesh.shape["data"]
  if size % devices:
    below = size - size % devices
    fits = " or ".join(str(n) for n in (below, below + devices) if n)
    raise ValueError(f"config.{name} is {size}, which {devices} devices can't split; {fits} fits")


def local_rows(size: int, mesh: Mesh) -> Int64[np.ndarray, " k"]:
  """Returns which rows of a batch the devices of this process hold, in ascending order."""
  indices = batch_sharded(mesh).addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def put_batch(batch: Any, mesh: Mesh, size: int | None = None) -> Any:
  """Places a batch on the mesh, split along the first axis.

  Args:
    batch: arrays of the rows that this process holds, `local_rows(size, mesh)`.
    mesh: the devices.
    size: rows of the batch on all processes; on one alone the batch tells.
  """
  sharding = batch_sharded(mesh)
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  assert size is not None
  rows = local_rows(size, mesh)

  def put(array: np.ndarray) -> jax.Array:
    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
      assert index is not None
      start, stop, _ = index[0].indices(size)
      first = np.searchsorted(rows, start)
      return array[first : first + stop - start]

    return jax.make_array_from_callback((size, *array.shape[1:]), sharding, shard)

  return jax.tree.map(put, batch)


def to_host(tree: Any) -> Any:
  """Returns arrays of any sharding as numpy; every process gets all of them."""

  def whole(x: Any) -> Any:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
      return x
    assert isinstance(x.sharding, NamedSharding)
    assert isinstance(x.sharding.mesh, Mesh)
    return jax.jit(lambda a: a, out_shardings=replicated(x.sharding.mesh))(x)

  return jax.device_get(jax.tree.map(whole, tree))


class StateSharding(NamedTuple):
  """How a train state is sharded: the classifier's rows along 'class', the rest replicated.

  The rows are those of the head's weights, of its diverse bias, and what the optimizer keeps of
  both. With one device along 'class' a stored state is the logical one.

  Attributes:
    mesh: the devices.
    like: shapes and dtypes of the logical state, rows not padded.
  """

  mesh: Mesh
  like: Any

  def shardings(self) -> Any:
    """Returns the sharding of each array of a padded state."""
    return self._map(
      lambda x, rows: self._sharding("class") if rows else self._sharding(), self.like
    )

  def pad(self, state: Any) -> Any:
    """Pads the classifier's rows with zeros, to a number that the devices share evenly."""
    devices = self.mesh.shape["class"]

    def padded(x: jax.Array, rows: bool) -> jax.Array:
      missing = -len(x) % devices if rows else 0
      return jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1)) if missing else x

    return self._map(padded, state)

  def unpad(self, state: Any) -> Any:
    """Removes the padding of the classifier's rows."""
    return jax.tree.map(
      lambda x, like: x if x.shape == like.shape else x[: like.shape[0]], state, self.like
    )

  def put(self, state: Any) -> Any:
    """Places an unpadded state on the devices, padded."""
    if not self._padded():
      return jax.device_put(state, self.shardings())
    return jax.jit(self.pad, out_shardings=self.shardings())(state)

  def to_save(self, state: Any) -> Any:
    """Returns a padded state without padding, in arrays that are split evenly."""
    if not self._padded():
      return state
    shardings = jax.tree.map(lambda x: x.sharding, self.to_restore())
    return jax.jit(self.unpad, out_shardings=shardings)(state)

  def to_restore(self) -> Any:
    """Returns what a checkpoint is restored into: the unpadded state, split as in `to_save`."""
    return self.abstract(self.like)

  def abstract(self, tree: Any) -> Any:
    """Returns shapes, dtypes and shardings of an unpadded state, or of a tree like it.

    Where neither the rows nor the features can be split evenly every device holds all of them.
    """
    devices = self.mesh.shape["class"]

    def abstract(x: Any, rows: bool) -> jax.ShapeDtypeStruct:
      # Padding can't be saved, and an array can't be split unevenly: then along another axis.
      axes = [axis for axis, n in enumerate(x.shape) if n % devices == 0] if rows else []
      spec = (*(None,) * axes[0], "class") if axes else ()
      return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding(*spec))

    return self._map(abstract, tree)

  def _padded(self) -> bool:
    stored = jax.eval_shape(self.pad, self.like)
    return any(
      a.shape != b.shape
      for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(self.like), strict=True)
    )

  def _sharding(self, *spec: str | None) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec(*spec))

  def _map(self, function: Any, tree: Any) -> Any:
    split = self.mesh.shape["class"] > 1
    return jax.tree_util.tree_map_with_path(
      lambda path, x: function(x, split and _is_classifier_rows(path, x)), tree
    )


def _is_classifier_rows(path: tuple[Any, ...], leaf: Any) -> bool:
  """Whether a part of a train state has a row for each class: the head's, or its optimizer's."""
  names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
  return names[-2:-1] == ["head"] and names[-1] in ("weights", "bias") and len(leaf.shape) > 0
