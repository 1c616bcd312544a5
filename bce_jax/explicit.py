"""Sharding rules for formulas over a mesh whose axes are Explicit.

`jax.make_mesh` makes such meshes by default. JAX then refuses what it cannot shard in one way only
(a scatter, a slice along a split axis); a formula knows what is meant, and says so here.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

Formula = TypeVar("Formula", bound=Callable[..., Any])
# From the spec of every argument that is an array, by its place, to the spec of the results.
Specs = Callable[..., PartitionSpec]


def replicated(*_: PartitionSpec) -> PartitionSpec:
  """Sharding rule: the results are the same on every device."""
  return PartitionSpec()


def alike(spec: PartitionSpec, *_: PartitionSpec) -> PartitionSpec:
  """Sharding rule: the results have the first argument's axes, sharded like them."""
  return spec


def leading(spec: PartitionSpec, *_: PartitionSpec) -> PartitionSpec:
  """Sharding rule: the results have the first argument's axes but for the last."""
  return PartitionSpec(*spec[:-1])


def outer(rows: PartitionSpec, columns: PartitionSpec, *_: PartitionSpec) -> PartitionSpec:
  """Sharding rule: [..., D] and [N, D] to [..., N]; classes on the examples' axis are gathered."""
  used = {name for part in rows[:-1] for name in _names(part)}
  own = columns[0] if columns and not used & set(_names(columns[0])) else None
  return PartitionSpec(*rows[:-1], own)


def auto(specs: Specs) -> Callable[[Formula], Formula]:
  """Decorator: a formula computes with Explicit axes as if these were Auto, by a sharding rule.

  Args:
    specs: from the specs of the positional arguments (full length, () for what is no array) to
      that of every array returned.
  """

  def decorate(function: Formula) -> Formula:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
      leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=lambda x: x is None)
      mesh = _mesh(leaves)
      if mesh is None:
        return function(*args, **kwargs)
      places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]
      others: list[Any] = []

      def compute(*arrays: jax.Array) -> list[jax.Array]:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
          filled[place] = array
        inner_args, inner_kwargs = jax.tree.unflatten(tree, filled)
        results, out_tree = jax.tree.flatten(function(*inner_args, **inner_kwargs))
        others.extend((out_tree, results))
        return [x for x in results if isinstance(x, jax.Array)]

      spec = specs(*(_spec(x) for x in args))
      arrays = jax.sharding.auto_axes(
        compute, axes=mesh.explicit_axes, out_sharding=NamedSharding(mesh, spec)
      )(*(leaves[i] for i in places))
      out_tree, results = others
      placed = iter(arrays)
      return jax.tree.unflatten(
        out_tree, [next(placed) if isinstance(x, jax.Array) else x for x in results]
      )

    return cast("Formula", wrapped)

  return decorate


def _mesh(leaves: list[Any]) -> Any:
  """The mesh with Explicit axes that an array among `leaves` is split over, or None."""
  for x in leaves:
    if isinstance(x, jax.Array):
      mesh = jax.typeof(x).sharding.mesh
      if mesh.explicit_axes:
        return mesh
  return None


def _spec(x: Any) -> PartitionSpec:
  """The spec of an array, one entry an axis."""
  if not isinstance(x, jax.Array):
    return PartitionSpec()
  spec = jax.typeof(x).sharding.spec
  return PartitionSpec(*spec, *[None] * (x.ndim - len(spec)))


def _names(part: Any) -> tuple[str, ...]:
  """The mesh axes that one entry of a spec names."""
  return () if part is None else part if isinstance(part, tuple) else (part,)
