"""Sample against classes: one loss of one view, the eight losses of the uniform paper.

Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bce_jax import losses
from bce_jax.models import Outputs
from bce_jax.names import nearest
from bce_jax.objectives.objective import Objective, Views

LOSSES = ("bce-u", "bce-d", "bce-nu", "bce-nd", "soft-u", "soft-d", "soft-nu", "soft-nd")


class Joint(NamedTuple):
  """A loss name taken apart: family-[n]bias.

  Attributes:
    family: "bce" or "soft".
    normalized: whether the metric is the cosine (n) or wᵀx.
    bias: "unified" (u) or "diverse" (d).
  """

  family: str
  normalized: bool
  bias: str


def parse(name: str) -> Joint:
  """Takes a loss name apart.

  Args:
    name: one of `LOSSES`.

  Returns:
    `Joint`.

  Raises:
    ValueError: for another name, with the nearest one.

  >>> parse("bce-nu")
  Joint(family='bce', normalized=True, bias='unified')
  """
  if name not in LOSSES:
    raise ValueError(
      f"unknown loss {name!r}; did you mean {nearest(name, LOSSES)!r}?"
      f" expected one of {', '.join(LOSSES)}"
    )
  family, kind = name.split("-")
  return Joint(family, kind.startswith("n"), "unified" if kind.endswith("u") else "diverse")


def joint(
  name: str, *, margin: float = 0.0, negative_weight: float = 1.0, smoothing: float = 0.0
) -> Objective:
  """The mean over the batch of one of the eight losses; scale and bias are the head's.

  Args:
    name: one of `LOSSES`.
    margin: m ≥ 0.
    negative_weight: λ ≥ 0, for the BCE losses only.
    smoothing: ε in [0, 1].

  Returns:
    The objective; its logs hold "accuracy", top-1 on the training batch.

  Raises:
    ValueError: for an unknown name, or negative_weight ≠ 1 with a softmax loss.
  """
  family = parse(name).family
  if family == "soft" and negative_weight != 1.0:
    raise ValueError(
      f"negative_weight weighs the negative terms of BCE, but the loss is {name!r}:"
      f" expected 1.0, got {negative_weight}"
    )

  def views(key: jax.Array, images: jax.Array, labels: jax.Array, memory: Any) -> Views:
    del key, memory
    return Views(images, labels)

  def loss(outputs: Outputs, labels: jax.Array, memory: Any):
    metrics, scale, bias = outputs.scores
    if family == "bce":
      values = losses.bce(
        metrics,
        labels,
        bias=bias,
        scale=scale,
        margin=margin,
        negative_weight=negative_weight,
        smoothing=smoothing,
      )
    else:
      values = losses.softmax_cross_entropy(
        metrics, labels, bias=bias, scale=scale, margin=margin, smoothing=smoothing
      )
    hit = jnp.argmax(outputs.scores.decision, -1) == labels
    return jnp.mean(values), memory, {"accuracy": jnp.mean(hit.astype(jnp.float32))}

  return Objective(memory=lambda: (), views=views, loss=loss)
