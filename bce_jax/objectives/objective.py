"""The interface of a method: all that the train step, the loop and the config know of it.

A method is one module of this folder with five names: `OPTIONS`, its keys in a config's group
`objective` and their defaults; `MEANINGS`, a line for people on each; `RANGES`, {key: (low, whether
low itself is allowed, high)} of the numbers among them; `check(config)`, which refuses what can't
be used before data are read; and `create(config, problem)`, which returns an `Objective`. It may
have `RESULTS` too, a row (see `bce_jax.results`) for each scalar it logs, which says how the report
shows it. There is nothing to register.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from bce_jax.models import Head, Outputs


class Problem(NamedTuple):
  """What a method may know of the data when it is created.

  Attributes:
    train_counts: training images of each class: int [N].
    steps_per_epoch: updates until every training image was seen about once, ≥ 1.
    head: the classifier.
    mesh: the devices; None under pmap, where a program sees one.
  """

  train_counts: Int[np.ndarray, " N"]
  steps_per_epoch: int
  head: Head
  mesh: Mesh | None


class Batch(NamedTuple):
  """Augmented and normalized images of a step, or a part of them: a microbatch, a device's share.

  What a method draws for an image must follow from the image's row alone, and what it draws for the
  step from the key and `step_labels`, so that no cut changes it.

  Attributes:
    images: [batch, height, width, channels].
    labels: [batch].
    partner_images: a second batch, of an objective with a `partner`; else None.
    partner_labels: likewise.
    rows: numbers of the images in the whole batch of the step; None: they are all of it, in order.
    step_labels: labels of the whole batch of the step; None: those here.
    step_partner_labels: likewise.
  """

  images: Float[Array, "b height width channels"]
  labels: Int[Array, " b"]
  partner_images: Float[Array, "b height width channels"] | None = None
  partner_labels: Int[Array, " b"] | None = None
  rows: Int[Array, " b"] | None = None
  step_labels: Int[Array, " n"] | None = None
  step_partner_labels: Int[Array, " n"] | None = None

  def whole(self) -> tuple[Int[Array, " n"], Int[Array, " n"] | None]:
    """Returns labels and partners' labels of the whole batch of the step."""
    if self.step_labels is None:
      return self.labels, self.partner_labels
    return self.step_labels, self.step_partner_labels


class Views(NamedTuple):
  """The images that go through the network in one forward pass, and their targets.

  Attributes:
    images: [batch · views, height, width, channels]. The views of an image are neighbors, so that
      a batch split over devices stays where it is.
    targets: whatever the objective's own loss wants to know of them; labels for most.
  """

  images: Float[Array, "views_b height width channels"]
  targets: Any


def _no_memory(params: Any) -> Any:
  del params
  return ()


def _unchanged(params: Any, memory: Any, step: jax.Array) -> Any:
  del memory, step
  return params


class Objective(NamedTuple):
  """A method, as a few pure functions and what it asks of the rest.

  Attributes:
    views: (key, `Batch`, memory) → `Views`.
    loss: (params, outputs, targets, memory, step) → (loss, new memory, logs): a scalar, and named
      scalars that every line of the log shows.
    memory: params → the arrays carried from step to step; () for none. They are part of the train
      state, so they are saved, restored and donated with it.
    parameters: (key, number of features) → parameters of its own, trained as params["objective"];
      None for none.
    after_update: (params, memory, step) → params, applied after each update of the optimizer.
    partner: exponent q of the class-weighted sampler that draws a partner batch for each step, in
      which a class of n training images is as likely as n^(1−q); None for no partner.
    trainable: the top-level groups of params that are trained; None for all. The others get no
      gradient, no decay and no update.
    batch_statistics: whether training normalizes by the batch's own statistics and updates the
      running ones; False leaves them as they are.
    num_views: images that go through the network for each image of a batch.
    memory_of_images: whether what a step sees changes the memory, so that a device can't do with
      its share of a batch; microbatches hand the memory on.
    channel_statistics: (mean, std) of the three channels of color images on 0 … 1, in place of the
      training images' own; gray ones keep theirs.
    continues_head: whether a head trained before is what it goes on from, so that a fresh one is
      refused.
  """

  views: Callable[[jax.Array, Batch, Any], Views]
  loss: Callable[[Any, Outputs, Any, Any, jax.Array], tuple[jax.Array, Any, dict[str, jax.Array]]]
  memory: Callable[[Any], Any] = _no_memory
  parameters: Callable[[jax.Array, int], Any] | None = None
  after_update: Callable[[Any, Any, jax.Array], Any] = _unchanged
  partner: float | None = None
  trainable: tuple[str, ...] | None = None
  batch_statistics: bool = True
  num_views: int = 1
  memory_of_images: bool = False
  channel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  continues_head: bool = False
