"""Devices as a mesh, and where arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
  """Returns all devices as a mesh ('data', 'class') with the batch along 'data'.

  The axes are Auto: the compiler places what is between the arguments.
  """
  shape = (jax.device_count(), 1)
  return jax.make_mesh(shape, ("data", "class"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
  """The first axis is split over the devices along 'data'."""
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


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Lays a batch of host arrays out over the mesh, split along the first axis."""
  return jax.device_put(batch, batch_sharded(mesh))
