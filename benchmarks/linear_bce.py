"""Time and peak memory of a linear classifier's loss and gradients, for ever more classes.

  python benchmarks/linear_bce.py [--classes 1000 10000 100000 1000000] [--features 512]
    [--batch 512] [--seconds 20]

Value and gradients w.r.t. features, weights and a diverse bias. Needs the extra [bench]. Floors:
for time three bare matrix products of this size, for memory the weights and their gradient.
Times: the calls take turns in one process. Memory: each call alone in its own process, what its
resident set grew by at its highest, arguments and results included; beside it what the compiler
plans, arguments + results + temporaries.
"""

import argparse
import functools
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax_cce import linear_cross_entropy
from timing import measure

from bce_jax import losses

MIB = 2**20
HIGHEST = lax.Precision.HIGHEST
SHARE = 0.1


def even_chunk(batch: int, classes: int) -> int:
  """What losses.linear_bce chooses on CPU, up to rounding: the same chunk for the others."""
  return math.ceil(classes / math.ceil(classes * batch / 2**20))


@jax.custom_vjp
def softmax_mean(x: jax.Array, w: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean softmax cross-entropy by chunks: the normalizer first, gradients in a second pass."""
  return _softmax_forward(x, w, bias, labels)[0]


def _scores(x, w, bias, start, size):
  w = lax.dynamic_slice_in_dim(w, start, size)
  return w, jnp.matmul(x, w.T, precision=HIGHEST) - lax.dynamic_slice_in_dim(bias, start, size)


def _chunks(x, w, body, carry):
  chunk = even_chunk(x.shape[0], w.shape[0])
  full, rest = divmod(w.shape[0], chunk)
  carry = lax.fori_loop(0, full, lambda i, carry: body(i * chunk, chunk, carry), carry)
  return body(full * chunk, rest, carry) if rest else carry


def _softmax_forward(x, w, bias, labels):
  def body(start, size, carry):
    top, total, own = carry
    _, z = _scores(x, w, bias, start, size)
    higher = jnp.maximum(top, jnp.max(z, -1))
    total = total * jnp.exp(top - higher) + jnp.sum(jnp.exp(z - higher[:, None]), -1)
    hot = labels[:, None] == start + jnp.arange(size)
    return higher, total, own + jnp.sum(jnp.where(hot, z, 0.0), -1)

  zero = jnp.zeros(x.shape[0])
  top, total, own = _chunks(x, w, body, (zero - jnp.inf, zero, zero))
  log_total = top + jnp.log(total)
  return jnp.mean(log_total - own), (x, w, bias, labels, log_total)


def _softmax_backward(residuals, cotangent):
  x, w, bias, labels, log_total = residuals
  share = cotangent / x.shape[0]

  def body(start, size, carry):
    dx, dw, dbias = carry
    part, z = _scores(x, w, bias, start, size)
    hot = labels[:, None] == start + jnp.arange(size)
    slope = share * (jnp.exp(z - log_total[:, None]) - hot)
    dx = dx + jnp.matmul(slope, part, precision=HIGHEST)
    rows = jnp.matmul(slope.T, x, precision=HIGHEST)
    dw = lax.dynamic_update_slice_in_dim(dw, rows, start, 0)
    return dx, dw, lax.dynamic_update_slice_in_dim(dbias, -jnp.sum(slope, 0), start, 0)

  start = (jnp.zeros_like(x), jnp.zeros_like(w), jnp.zeros_like(bias))
  return *_chunks(x, w, body, start), None


softmax_mean.defvjp(_softmax_forward, _softmax_backward)


def _bare(x, w, bias, labels):
  scores = jnp.matmul(x, w.T, precision=HIGHEST)
  return jnp.matmul(scores, w, precision=HIGHEST), jnp.matmul(scores.T, x, precision=HIGHEST)


def _differentiated(mean: Callable[..., jax.Array]) -> Callable[..., Any]:
  return jax.value_and_grad(mean, (0, 1, 2))


def _full(x, w, bias, labels):
  return jnp.mean(losses.bce(jnp.matmul(x, w.T, precision=HIGHEST), labels, bias=bias))


def _each(x, w, bias, labels):
  return jnp.mean(losses.linear_bce(x, w, labels, bias=bias))


def _mean(x, w, bias, labels):
  return losses.linear_bce_mean(x, w, labels, bias=bias)


def _sampled(x, w, bias, labels):
  mask = losses.sample_classes(jax.random.key(0), labels, w.shape[0], share=SHARE)
  return losses.linear_bce_mean(x, w, labels, bias=bias, class_mask=mask)


def _jax_cce(x, w, bias, labels):  # it has no bias
  return linear_cross_entropy(x, w, labels, chunk_size=even_chunk(x.shape[0], w.shape[0]))


FLOOR = "three bare products"
CALLS: dict[str, Callable[..., Any]] = {
  FLOOR: _bare,
  "losses.linear_bce_mean": _differentiated(_mean),
  "losses.linear_bce": _differentiated(_each),
  f"losses.linear_bce_mean, {SHARE:.0%} of classes": _differentiated(_sampled),
  "losses.bce of all scores": _differentiated(_full),
  "softmax by chunks, two passes": _differentiated(softmax_mean),
  "jax-cce (softmax, no bias)": _differentiated(_jax_cce),
}


def compiled_call(name: str, batch: int, features: int, classes: int) -> Any:
  """The call, compiled for these shapes."""
  struct = jax.ShapeDtypeStruct
  return (
    jax.jit(CALLS[name])
    .lower(
      struct((batch, features), jnp.float32),
      struct((classes, features), jnp.float32),
      struct((classes,), jnp.float32),
      struct((batch,), jnp.int32),
    )
    .compile()
  )


def make_arguments(batch: int, features: int, classes: int) -> tuple[jax.Array, ...]:
  """Features, weights, bias and labels, made without a temporary array."""

  def wave(shape, scale, step):
    i, j = (lax.broadcasted_iota(jnp.float32, shape, axis) for axis in (0, 1))
    return scale * jnp.sin(step * i + (0.7 + 0.01 * step) * j)

  def make():
    x, w = wave((batch, features), 1.0, 1.3), wave((classes, features), 0.05, 0.9)
    return x, w, jnp.full(classes, 5.0), jnp.arange(batch, dtype=jnp.int32) * 7919 % classes

  return jax.block_until_ready(jax.jit(make)())


def resident_bytes() -> int:
  """What this process holds in memory now."""
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * resource.getpagesize()


def print_memory(name: str, batch: int, features: int, classes: int) -> None:
  """Prints in bytes what one call takes at its highest, and what the compiler plans for it."""
  call = compiled_call(name, batch, features, classes)
  plan = call.memory_analysis()
  before = resident_bytes()
  arguments = make_arguments(batch, features, classes)
  jax.block_until_ready(call(*arguments))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
  planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
  print(peak, planned)


def memory_of(name: str, shape: list[int]) -> tuple[float, float]:
  """`print_memory` in a process of its own; nan where it does not fit."""
  command = [sys.executable, __file__, "--memory-of", name, "--shape", *map(str, shape)]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    return math.nan, math.nan
  peak, planned = done.stdout.split()[-2:]
  return int(peak) / MIB, int(planned) / MIB


def main() -> None:
  """Prints one table for every number of classes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--classes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
  parser.add_argument("--features", type=int, default=512)
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, for each size")
  parser.add_argument("--memory-of", choices=CALLS, help=argparse.SUPPRESS)
  parser.add_argument("--shape", type=int, nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.memory_of:
    print_memory(args.memory_of, *args.shape)
    return

  for classes in args.classes:
    shape = [args.batch, args.features, classes]
    memory = {name: memory_of(name, shape) for name in CALLS}
    arguments = make_arguments(*shape)
    calls: dict[str, Callable[[], object]] = {
      name: functools.partial(compiled_call(name, *shape), *arguments)
      for name in CALLS
      if not math.isnan(memory[name][0])
    }
    # 2 · B · D · N multiplications and additions a product, at some 100 GFLOP/s.
    estimate = len(calls) * 3 * 2 * math.prod(shape) / 1e11
    seconds = measure(calls, rounds=min(30, max(1, round(args.seconds / estimate))))
    floor = 2 * classes * args.features * 4 / MIB
    print(f"\n### {classes:,} classes, batch {args.batch}, {args.features} features, float32\n")
    print("| | ms | × three products | peak MiB | × floor | planned MiB | × floor |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, (peak, planned) in memory.items():
      time = seconds.get(name, math.nan)
      cells = [
        name,
        f"{1e3 * time:,.1f}",
        f"{time / seconds[FLOOR]:.2f}",
        f"{peak:,.0f}",
        f"{peak / floor:.2f}",
        f"{planned:,.0f}",
        f"{planned / floor:.2f}",
      ]
      print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
  main()
