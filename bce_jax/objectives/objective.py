"""What a method is to the train step, which knows nothing else of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from bce_jax.models import Outputs


class Views(NamedTuple):
  """The images that go through the network in one forward pass, and what they should give.

  Attributes:
    images: [views · batch, height, width, channels].
    targets: whatever the objective's own loss wants to know of them; labels for most.
  """

  images: Float[Array, "views_batch height width channels"]
  targets: Any


class Objective(NamedTuple):
  """A method, as three pure functions.

  Attributes:
    memory: () → the arrays carried from step to step; () for none. They are part of the train
      state, so they are saved, restored and donated with it.
    views: (key, images, labels, memory) → `Views`.
    loss: (outputs, targets, memory) → (loss, new memory, logs): a scalar, and named scalars that
      the log shows.
  """

  memory: Callable[[], Any]
  views: Callable[[jax.Array, jax.Array, jax.Array, Any], Views]
  loss: Callable[[Outputs, Any, Any], tuple[jax.Array, Any, dict[str, jax.Array]]]
