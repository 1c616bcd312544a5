"""Time of a loss and its gradients against PyTorch's, on the same scores.

  python benchmarks/losses.py [--batch 512] [--classes 1000] [--rounds 30]

Needs the extra [bench]. PyTorch has no BCE of labels: it is given the one-hot targets it needs,
made inside the measured call, as the papers' released code does. The floor is reading the scores
and writing their gradient.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from timing import measure

from bce_jax import losses

SCALE = 32.0


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=512)
  parser.add_argument("--classes", type=int, default=1000)
  parser.add_argument("--rounds", type=int, default=30)
  args = parser.parse_args()

  rng = np.random.default_rng(0)
  scores = rng.uniform(-1, 1, (args.batch, args.classes)).astype(np.float32)
  ids = rng.integers(0, args.classes, args.batch)
  logits, labels, start = jnp.asarray(scores), jnp.asarray(ids), jnp.float32(9.0)

  def step(loss: Callable[..., jax.Array]) -> Callable[[], object]:
    def mean(logits: jax.Array, bias: jax.Array) -> jax.Array:
      return jnp.mean(loss(logits, labels, bias=bias, scale=SCALE))

    compiled = jax.jit(jax.value_and_grad(mean, (0, 1)))
    return lambda: compiled(logits, start)

  their_logits = torch.from_numpy(scores).requires_grad_()
  their_labels = torch.from_numpy(ids)
  their_bias = torch.tensor(9.0, requires_grad=True)
  functional = torch.nn.functional

  def torch_bce() -> object:
    one_hot = functional.one_hot(their_labels, args.classes).float()
    z = SCALE * their_logits - their_bias
    loss = functional.binary_cross_entropy_with_logits(z, one_hot, reduction="sum") / args.batch
    return torch.autograd.grad(loss, (their_logits, their_bias))

  def torch_softmax() -> object:
    loss = functional.cross_entropy(SCALE * their_logits, their_labels)
    return torch.autograd.grad(loss, their_logits)

  copy = jax.jit(lambda x: 2 * x)
  seconds = measure(
    {
      "read the scores, write as much": lambda: copy(logits),
      "losses.bce": step(losses.bce),
      "torch binary_cross_entropy_with_logits": torch_bce,
      "losses.softmax_cross_entropy": step(losses.softmax_cross_entropy),
      "torch cross_entropy": torch_softmax,
    },
    args.rounds,
  )
  print(
    f"value and gradients, {args.batch} × {args.classes:,} scores, jax {jax.__version__},"
    f" torch {torch.__version__} with {torch.get_num_threads()} threads"
  )
  for name, value in seconds.items():
    print(f"{name:<42}{1e3 * value:9.3f} ms")


if __name__ == "__main__":
  main()
