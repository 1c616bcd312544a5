"""Time of the three accuracies against one `max` over the same scores.

  python benchmarks/uniform_accuracy.py [--samples 50000] [--classes 1000] [--rounds 15]

The floor is reading the scores once.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from timing import measure

from bce_jax import metrics


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--samples", type=int, default=50_000)
  parser.add_argument("--classes", type=int, default=1_000)
  parser.add_argument("--rounds", type=int, default=15)
  args = parser.parse_args()

  rng = np.random.default_rng(0)
  labels = rng.integers(0, args.classes, args.samples)
  scores = rng.standard_normal((args.samples, args.classes), dtype=np.float32)
  scores[np.arange(args.samples), labels] += 4  # about what a trained network gives
  logits = jnp.asarray(scores)
  row_max = jax.jit(lambda x: jnp.max(x, -1))
  positive, negative = metrics.score_pairs(logits, labels)

  seconds = measure(
    {
      "jnp.max(scores, -1), jitted": lambda: row_max(logits),
      "numpy max(scores, -1)": lambda: scores.max(-1),
      "metrics.score_pairs": lambda: metrics.score_pairs(logits, labels),
      "metrics.uniform_accuracy_from_pairs": lambda: metrics.uniform_accuracy_from_pairs(
        positive, negative, labels, num_classes=args.classes
      ),
      "metrics.uniform_accuracy": lambda: metrics.uniform_accuracy(logits, labels),
    },
    args.rounds,
  )
  device = jax.devices()[0].device_kind
  print(f"{args.samples:,} × {args.classes:,} scores, jax {jax.__version__} on {device}")
  floor = seconds["jnp.max(scores, -1), jitted"]
  for name, value in seconds.items():
    print(f"{name:<38}{1e3 * value:9.2f} ms {value / floor:7.2f} × jnp.max")


if __name__ == "__main__":
  main()
