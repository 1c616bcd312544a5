"""One training step for every objective, and one evaluation step; pure functions, jitted here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from bce_jax import metrics
from bce_jax.data import augment, autoaugment
from bce_jax.models import Classifier, Outputs
from bce_jax.objectives import Batch, Objective
from bce_jax.training import parallel
from bce_jax.training.state import TrainState, trained

Arrays = dict[str, jax.Array]


class Preprocess(NamedTuple):
  """What happens to a batch of uint8 images on the device.

  Attributes:
    mean: of each channel, on 0 … 1.
    std: of each channel, on 0 … 1.
    crop_padding: random shifts by up to so many pixels, in training.
    flip: mirror half of the images, in training.
    auto_augment: apply AutoAugment's CIFAR-10 policy, in training.
    cutout: side of the square that is blacked out, in training; 0 for none.
  """

  mean: Any
  std: Any
  crop_padding: int
  flip: bool
  auto_augment: bool = False
  cutout: int = 0

  def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
    """Augments and normalises."""
    crop_key, flip_key, policy_key, cutout_key = jax.random.split(key, 4)
    varied: Any = augment.random_crop(crop_key, images, padding=self.crop_padding)
    if self.flip:
      varied = augment.random_flip(flip_key, varied)
    if self.auto_augment:
      varied = autoaugment.auto_augment(policy_key, varied)
    varied = augment.cutout(cutout_key, varied, size=self.cutout)
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
) -> Callable[[TrainState, Arrays], tuple[TrainState, dict[str, jax.Array]]]:
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

  def train_step(state: TrainState, arrays: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    augment_key, views_key, partner_key = keys
    batch = Batch(preprocess.train(augment_key, arrays["images"]), arrays["labels"])
    if objective.partner is not None:
      batch = batch._replace(
        partner_images=preprocess.train(partner_key, arrays["partner_images"]),
        partner_labels=arrays["partner_labels"],
      )
    views = objective.views(views_key, batch, state.memory)

    def loss_fn(params: Any):
      params = state.params | params
      outputs, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.images,
        train=objective.batch_statistics,
        mutable=["batch_stats"],
      )
      loss, memory, logs = objective.loss(params, outputs, views.targets, state.memory, state.step)
      return loss, (memory, updated.get("batch_stats", {}), logs)

    before = trained(state.params, objective)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (memory, batch_stats, logs)), grads = grad_fn(before)
    updates, opt_state = optimizer.update(grads, state.opt_state, before)
    params = state.params | optax.apply_updates(before, updates)
    logs = {"loss": loss, "grad_norm": optax.tree.norm(grads), **logs}
    state = state.replace(
      step=state.step + 1,
      params=objective.after_update(params, memory, state.step),
      batch_stats=batch_stats,
      opt_state=opt_state,
      memory=memory,
    )
    return state, logs

  return train_step


class Judged(NamedTuple):
  """What evaluation keeps of a batch: a few numbers a sample, and its features.

  Attributes:
    positive: score of the own class, on z = scale · c − bias.
    hardest_negative: largest score of another class, on z.
    scaled_positive: the same on scale · c, where a diverse bias makes them differ.
    scaled_hardest_negative: likewise.
    flipped: (positive, hardest negative) of z averaged over image and mirror image; or None.
    adjusted: (positive, hardest negative) of z − τ log π, post-hoc logit adjustment; or None.
    features: [batch, D]; None where nobody wants them, or once they are summed up.
  """

  positive: Any
  hardest_negative: Any
  scaled_positive: Any
  scaled_hardest_negative: Any
  flipped: tuple[Any, Any] | None = None
  adjusted: tuple[Any, Any] | None = None
  features: Any = None


def make_eval_step(
  model: Classifier,
  preprocess: Preprocess,
  *,
  geometry: bool = True,
  flip: bool = False,
  offsets: jax.Array | None = None,
) -> Callable[[TrainState, Arrays], Judged]:
  """Returns the pure function (state, batch) → `Judged`.

  Args:
    model: a classifier.
    preprocess: normalisation.
    geometry: also give the features.
    flip: also judge the average over image and mirror image.
    offsets: also judge z − offsets, [N].
  """

  def eval_step(state: TrainState, arrays: Arrays) -> Judged:
    def run(images: jax.Array) -> Outputs:
      outputs = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, images, train=False
      )
      assert isinstance(outputs, Outputs)
      return outputs

    def pairs(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
      return metrics.score_pairs(scores, arrays["labels"])

    images = preprocess.evaluate(arrays["images"])
    outputs = run(images)
    z = outputs.scores.decision
    mirrored = run(images[:, :, ::-1]).scores.decision if flip else None
    return Judged(
      *pairs(z),
      *pairs(outputs.scores.scaled),
      flipped=None if mirrored is None else pairs((z + mirrored) / 2),
      adjusted=None if offsets is None else pairs(z - offsets),
      features=outputs.features if geometry else None,
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
