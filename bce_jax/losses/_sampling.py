"""A random share of the classes for a step, so that the others cost nothing.

Source: [F] Zhou et al., "UniFace", ICCV 2023, §3.4; An et al., "Partial FC", CVPR 2022.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Key, UInt32

from bce_jax import checks, explicit


@explicit.auto(explicit.replicated)
def sample_classes(
  key: Key[Array, ""] | UInt32[Array, "2"],
  labels: Int[ArrayLike, "*batch"],
  num_classes: int,
  *,
  share: float,
) -> Bool[Array, " N"]:
  r"""Draws a random share r of the classes, with every class of the batch among them.

  max(⌊r · N⌋, number of classes in the batch) classes in all: no positive is ever dropped, however
  many classes a batch holds.

  Args:
    key: of the step.
    labels: class ids in [0, N) of the whole batch, its mixed partners included.
    num_classes: N ≥ 1.
    share: r in (0, 1].

  Returns:
    A mask for the losses' `class_mask`: [N].

  Raises:
    ValueError: for a share or a known label out of range.

  >>> import jax, jax.numpy as jnp
  >>> mask = sample_classes(jax.random.key(0), jnp.array([2, 7]), 10, share=0.5)
  >>> int(mask.sum()), bool(mask[2] & mask[7])
  (5, True)

  Source: [F] §3.4.
  """
  num_classes = checks.integer("num_classes", num_classes, low=1)
  if not 0 < share <= 1:
    raise ValueError(f"share must be a number in (0, 1], got {share}")
  ids, valid = checks.int_labels(labels, np.shape(labels), num_classes)
  present = jnp.zeros(num_classes, bool).at[ids.reshape(-1)].max(valid.reshape(-1))
  rank = jax.random.uniform(key, (num_classes,)) + jnp.where(present, 1.0, 0.0)
  chosen = jnp.argsort(rank, descending=True)[: max(1, math.floor(num_classes * share + 1e-9))]
  return jnp.zeros(num_classes, bool).at[chosen].set(True) | present
