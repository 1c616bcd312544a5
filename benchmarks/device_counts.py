"""How far training on other numbers of devices drifts apart, beside a change of one rounding.

  python benchmarks/device_counts.py [--seeds 0 1 2] [--kinds digits noise softplus]

Trains the config `digits` on 1, 2 and 8 devices (CPUs made up for it), and on one device with its
learning rate times 1 + 1e-7, which is one rounding of float32. After 1, 5, 20 and 100 steps it
prints ‖θ − θ₁‖ / ‖θ₁‖ over all parameters, where θ₁ are those of one device, and the relative
difference of the loss of that step; the least and the largest over the seeds. Kinds: digits; noise
for images; and digits with a smooth activation, softplus(4x)/4, in place of every ReLU, whose kink
is what makes rounding grow.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType
from ml_collections import ConfigDict

from bce_jax import sharding
from bce_jax.cli import configs
from bce_jax.data import loader, sources
from bce_jax.training import experiment, step

MARKS = (1, 5, 20, 100)


class Way(NamedTuple):
  """One way to run the same training: on so many devices, at a learning rate."""

  built: experiment.Experiment
  jitted: Callable[..., Any]


def build(config: ConfigDict, devices: int) -> Way:
  """Compiles the train step of a config for the first `devices` devices."""
  built = experiment.build(config)
  mesh = jax.make_mesh(
    (devices, 1),
    ("data", "class"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:devices],
  )
  built = built._replace(mesh=mesh)
  train_step = step.make_train_step(
    built.model, built.objective, built.optimizer, built.preprocess, built.key
  )
  return Way(built, step.jit_train_step(train_step, built.state_sharding))


def train(
  way: Way, seed: int, kind: str, marks: Sequence[int]
) -> dict[int, tuple[np.ndarray, float]]:
  """Trains; {step: (all parameters, loss of the step)} at the marks.

  The seed decides on the initial weights and the order of the images; what is drawn to augment
  them follows from the config's, so that a way is compiled once.
  """
  built = way.built
  source = built.dataset.train
  if kind == "noise":
    shape = (len(source), *source.image_shape)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    source = sources.ArraySource(pixels, source.labels)
  made = jax.device_get(jax.jit(built._replace(key=jax.random.key(seed)).init_state)())
  state = jax.device_put(made, built.state_sharding.shardings())
  found = {}
  batches = loader.train_batches(
    source,
    seed=seed,
    batch_size=built.config.batch_size,
    first_step=0,
    last_step=max(marks),
  )
  for number, batch in enumerate(batches, start=1):
    state, logs = way.jitted(state, sharding.put_batch(batch, built.mesh))
    if number in marks:
      leaves = [np.ravel(x).astype(np.float64) for x in jax.tree.leaves(state.params)]
      found[number] = (np.concatenate(leaves), float(logs["loss"]))
  return found


def ways() -> dict[str, Way]:
  """Compiles the ways to be compared; the first is what the others are compared with."""
  config = configs.load_config("digits")
  made = {
    "1 device": build(config, 1),
    "2 devices": build(config, 2),
    "8 devices": build(config, 8),
  }
  config = config.copy_and_resolve_references()
  config.optimizer.learning_rate *= 1 + 1e-7
  return made | {"1 device, learning rate × (1 + 1e-7)": build(config, 1)}


def differences(
  compared: dict[str, Way], seed: int, kind: str, marks: Sequence[int] = MARKS
) -> dict[str, dict[int, tuple[float, float]]]:
  """Relative differences of parameters and loss: {way: {step: (parameters, loss)}}."""
  one, *others = (train(way, seed, kind, marks) for way in compared.values())

  def apart(found: dict[int, tuple[np.ndarray, float]], k: int) -> tuple[float, float]:
    (theta, loss), (theta_1, loss_1) = found[k], one[k]
    norms = float(np.linalg.norm(theta - theta_1)), float(np.linalg.norm(theta_1))
    return norms[0] / norms[1], abs(loss - loss_1) / abs(loss_1)

  names = list(compared)[1:]
  return {n: {k: apart(f, k) for k in marks} for n, f in zip(names, others, strict=True)}


def main() -> None:
  """Prints two tables for each kind."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  kinds = ("digits", "noise", "softplus")
  parser.add_argument("--kinds", choices=kinds, nargs="+", default=kinds)
  args = parser.parse_args()
  compared: dict[str, Way] = {}
  for kind in (k for k in kinds if k in args.kinds):  # softplus last: it changes the networks
    if kind == "softplus":
      nn.relu = lambda x: jax.nn.softplus(4 * x) / 4  # the networks look it up when they are traced
      compared = {}
    compared = compared or ways()
    found = [differences(compared, seed, kind) for seed in args.seeds]
    for which, what in enumerate(("parameters", "loss")):
      print(f"| {kind}, {what} | {' | '.join(f'{k} step(s)' for k in MARKS)} |")
      print(f"|---|{'--:|' * len(MARKS)}")
      for name in found[0]:
        spans = [sorted(f[name][k][which] for f in found) for k in MARKS]
        print(f"| {name} | {' | '.join(f'{s[0]:.0e} … {s[-1]:.0e}' for s in spans)} |")
      print(flush=True)


if __name__ == "__main__":
  main()
