"""One training step for every objective, and one evaluation step; pure functions, jitted here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from bce_jax import metrics
from bce_jax.data import augment
from bce_jax.models import Classifier, Outputs
from bce_jax.objectives import Objective
from bce_jax.training import parallel
from bce_jax.training.state import TrainState

Batch = dict[str, jax.Array]


class Preprocess(NamedTuple):
  """What happens to a batch of uint8 images on the device.

  Attributes:
    mean: of each channel, on 0 … 1.
    std: of each channel, on 0 … 1.
    crop_padding: random shifts by up to so many pixels, in training.
    flip: mirror half of the images, in training.
  """

  mean: Any
  std: Any
  crop_padding: int
  flip: bool

  def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Augments and normalises."""
    crop_key, flip_key = jax.random.split(key)
    moved = augment.random_crop(crop_key, images, padding=self.crop_padding)
    varied = augment.random_flip(flip_key, moved) if self.flip else moved
    return augment.normalize(varied, self.mean, self.std)

  def evaluate(self, images: jax.Array) -> jax.Array:
    """Normalises."""
    return augment.normalize(images, self.mean, self.std)


def make_train_step(
  model: Classifier,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  preprocess: Preprocess,
  key: jax.Array,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the pure function (state, batch) → (next state, logs).

  Args:
    model: a classifier.
    objective: the method.
    optimizer: as `create_state` was given.
    preprocess: augmentation and normalisation.
    key: the run's; step keys are `fold_in(key, step)`, so a resumed run draws what it would have.

  Returns:
    A step that is the same under jit over any mesh; the logs are scalars: "loss", "grad_norm" and
    the objective's own.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    augment_key, views_key = jax.random.split(jax.random.fold_in(key, state.step))
    images = preprocess.train(augment_key, batch["images"])
    views = objective.views(views_key, images, batch["labels"], state.memory)

    def loss_fn(params: Any):
      outputs, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.images,
        train=True,
        mutable=["batch_stats"],
      )
      loss, memory, logs = objective.loss(outputs, views.targets, state.memory)
      return loss, (memory, updated.get("batch_stats", {}), logs)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (memory, batch_stats, logs)), grads = grad_fn(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    logs = {"loss": loss, "grad_norm": optax.tree.norm(grads), **logs}
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
      memory=memory,
    )
    return state, logs

  return train_step


class Judged(NamedTuple):
  """What evaluation keeps of a batch: a few numbers a sample.

  Attributes:
    positive: score of the own class, on z = scale · c − bias.
    hardest_negative: largest score of another class, on z.
    scaled_positive: the same on scale · c, where a diverse bias makes them differ.
    scaled_hardest_negative: likewise.
  """

  positive: jax.Array
  hardest_negative: jax.Array
  scaled_positive: jax.Array
  scaled_hardest_negative: jax.Array


def make_eval_step(
  model: Classifier, preprocess: Preprocess
) -> Callable[[TrainState, Batch], Judged]:
  """Returns the pure function (state, batch) → `Judged`."""

  def eval_step(state: TrainState, batch: Batch) -> Judged:
    outputs = model.apply(
      {"params": state.params, "batch_stats": state.batch_stats},
      preprocess.evaluate(batch["images"]),
      train=False,
    )
    assert isinstance(outputs, Outputs)
    scores = outputs.scores
    return Judged(
      *metrics.score_pairs(scores.decision, batch["labels"]),
      *metrics.score_pairs(scores.scaled, batch["labels"]),
    )

  return eval_step


def jit_train_step(train_step: Callable, mesh: Mesh) -> Callable:
  """Compiles a train step over a mesh: batch split along 'data', state replicated and donated."""
  whole, split = parallel.replicated(mesh), parallel.batch_sharded(mesh)
  return jax.jit(
    train_step, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0
  )


def jit_eval_step(eval_step: Callable, mesh: Mesh) -> Callable:
  """Compiles an evaluation step over a mesh; what it returns stays split along 'data'."""
  whole, split = parallel.replicated(mesh), parallel.batch_sharded(mesh)
  return jax.jit(eval_step, in_shardings=(whole, split), out_shardings=split)
