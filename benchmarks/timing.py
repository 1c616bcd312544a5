"""How the benchmarks measure: calls take turns in one process, and medians are compared."""

import statistics
import time
from collections.abc import Callable

import jax


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
  """Median seconds of each call.

  They take turns, so that whatever else the machine does meets all of them.
  """
  times: dict[str, list[float]] = {name: [] for name in calls}
  for call in calls.values():
    jax.block_until_ready(call())
  for _ in range(rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in times.items()}
