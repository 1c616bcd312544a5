"""Bytes that devices exchange for a classifier's loss, by how the classifier is split over them.

  python benchmarks/exchanged_bytes.py [--classes 100000] [--features 512] [--batch 512]

Counted from what XLA compiles for eight devices (CPUs made up for it; nothing is run), for a mesh
of 1 × 8 and of 2 × 4 (data × class). A device sends, in a ring of k: for an all-reduce
2 (k−1)/k · size, for an all-gather and an all-to-all (k−1)/k · size of the result, for a
reduce-scatter (k−1) · size of the result, for a permutation its size. Value: the loss alone. Step:
value and gradients w.r.t. features, weights and a diverse bias. Two parts of a step are due to the
split and not to the loss: the sum over 'class' of the features' gradient [B, D], and over 'data' of
the table's gradient.
"""

import argparse
import collections
import math
import os
import re
from collections.abc import Callable

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bce_jax import losses

DEVICES = 8
CUT = (P("data"), P("class"), P("class"), P("data"))  # features, weights, bias, labels
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COLLECTIVE = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(-start)?\(")
BYTES = {"pred": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


def ring_size(line: str) -> int:
  """How many devices a collective of the compiled text joins."""
  if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
    return groups[1].count(",") + 1
  if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
    return int(groups[1])
  if groups := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", groups[1])}
    return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", groups[2]))
  if "replica_groups={}" in line:
    return DEVICES
  raise NotImplementedError(f"whom does it join? {line}")


def sent(program: jax.stages.Compiled) -> dict[str, float]:
  """Bytes that one device sends, by the kind of collective of a compiled program."""
  found: dict[str, float] = collections.defaultdict(float)
  for line in (program.as_text() or "").splitlines():
    if not (match := COLLECTIVE.search(line)):
      continue
    if "while/body" in line:
      raise NotImplementedError(f"a collective in a loop would be counted once: {line}")
    kind, k = match["kind"], ring_size(line)
    for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match["result"]):
      size = BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
      share = {"all-reduce": 2 * (k - 1) / k, "reduce-scatter": k - 1, "collective-permute": 1}
      if k > 1:
        found[kind] += size * share.get(kind, (k - 1) / k)
  return dict(found)


def scores(x: jax.Array, w: jax.Array) -> jax.Array:
  """Metrics of the linear classifier."""
  return jnp.matmul(x, w.T, precision=lax.Precision.HIGHEST)


def linear_mean(x: jax.Array, w: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
  """The losses by chunks, with the mean taken before anything is exchanged."""
  mean = losses.linear_bce_mean(x, w, labels, bias=bias, axis_name="class")
  return lax.pmean(mean, "data")


def linear_each(x: jax.Array, w: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
  """The losses by chunks, summed over the devices for every example."""
  each = losses.linear_bce(x, w, labels, bias=bias, axis_name="class")
  return lax.pmean(jnp.mean(each), "data")


def softmax(x: jax.Array, w: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
  """The twin: every example needs the largest score and the normalizer of all devices."""
  z = scores(x, w) - bias
  top = lax.pmax(lax.stop_gradient(jnp.max(z, -1)), "class")
  ids = lax.axis_index("class") * w.shape[0] + jnp.arange(w.shape[0])
  own = jnp.sum(jnp.where(labels[:, None] == ids, z, 0.0), -1)
  total = jnp.sum(jnp.exp(z - top[:, None]), -1)
  total, own = lax.psum((total, own), "class")
  return lax.pmean(jnp.mean(jnp.log(total) + top - own), "data")


def by_compiler(mesh: Mesh, gather: str) -> Callable[..., jax.Array]:
  """`bce` of all scores under plain jit; `gather` names what every device is to hold whole."""

  def mean(x, w, bias, labels):
    if gather == "table":
      w = lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
      bias = lax.with_sharding_constraint(bias, NamedSharding(mesh, P()))
    z = scores(x, w)
    if gather in ("scores", "table"):
      z = lax.with_sharding_constraint(z, NamedSharding(mesh, P("data")))
    return jnp.mean(losses.bce(z, labels, bias=bias))

  return mean


def main() -> None:
  """Prints a table for each mesh."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--classes", type=int, default=100_000)
  parser.add_argument("--features", type=int, default=512)
  parser.add_argument("--batch", type=int, default=512)
  args = parser.parse_args()

  for shape in ((1, DEVICES), (2, DEVICES // 2)):
    mesh = jax.make_mesh(shape, ("data", "class"), axis_types=(AxisType.Auto,) * 2)
    arguments = [
      jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, spec))
      for size, dtype, spec in zip(
        (
          (args.batch, args.features),
          (args.classes, args.features),
          (args.classes,),
          (args.batch,),
        ),
        (jnp.float32, jnp.float32, jnp.float32, jnp.int32),
        CUT,
        strict=True,
      )
    ]

    def split(f: Callable[..., jax.Array], mesh: Mesh = mesh) -> Callable[..., jax.Array]:
      return jax.shard_map(f, mesh=mesh, in_specs=CUT, out_specs=P())

    ways = {
      "losses.linear_bce_mean, split by class": split(linear_mean),
      "losses.linear_bce, split by class": split(linear_each),
      "softmax, split by class": split(softmax),
      "losses.bce of all scores, split by the compiler": by_compiler(mesh, "nothing"),
      "losses.bce, the scores gathered": by_compiler(mesh, "scores"),
      "losses.bce, the classifier gathered": by_compiler(mesh, "table"),
    }
    batch, table = args.batch / shape[0], args.classes / shape[1] * (args.features + 1)
    ring = [2 * (k - 1) / k for k in shape]
    features_gradient = 4 * ring[1] * batch * args.features
    table_gradient = 4 * ring[0] * table
    print(
      f"\n### {shape[0]} × {shape[1]} devices (data × class), {args.classes:,} classes, batch"
      f" {args.batch}, {args.features} features, float32\n\nOf a step split by class:"
      f" {features_gradient:,.0f} bytes for the features' gradient, {table_gradient:,.0f} for the"
      " table's.\n"
    )
    print("| | value: bytes sent | step: bytes sent | beyond the two gradients | collectives |")
    print("|---|--:|--:|--:|---|")
    placed = tuple(NamedSharding(mesh, spec) for spec in CUT[:3])
    for name, mean in ways.items():
      value = sent(jax.jit(mean).lower(*arguments).compile())
      step = jax.jit(jax.value_and_grad(mean, (0, 1, 2)), out_shardings=(None, placed))
      whole = sent(step.lower(*arguments).compile())
      total = sum(whole.values())
      beyond = total - features_gradient - table_gradient
      parts = ", ".join(f"{kind} {size:,.0f}" for kind, size in whole.items())
      print(f"| {name} | {sum(value.values()):,.0f} | {total:,.0f} | {beyond:,.0f} | {parts} |")


if __name__ == "__main__":
  main()
