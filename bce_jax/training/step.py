"""One training step for every objective, and one evaluation step; pure functions, jitted here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from bce_jax import metrics
from bce_jax.data import augment, autoaugment
from bce_jax.models import Classifier, Outputs
from bce_jax.objectives import Batch, Objective
from bce_jax.training import parallel, parts
from bce_jax.training.figures import Judged
from bce_jax.training.parts import Arrays, Found, Part
from bce_jax.training.state import TrainState, trained


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

  def train(self, key: jax.Array, images: jax.Array, rows: jax.Array | None = None) -> jax.Array:
    """Augments and normalises; `rows` are the images' numbers in the step's batch, if a part."""
    crop_key, flip_key, policy_key, cutout_key = jax.random.split(key, 4)
    varied: Any = augment.random_crop(crop_key, images, padding=self.crop_padding, rows=rows)
    if self.flip:
      varied = augment.random_flip(flip_key, varied, rows=rows)
    if self.auto_augment:
      varied = autoaugment.auto_augment(policy_key, varied, rows=rows)
    varied = augment.cutout(cutout_key, varied, size=self.cutout, rows=rows)
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
  *,
  micro_batches: int = 1,
  unrolled: bool | None = None,
  axis_name: str | None = None,
) -> Callable[[TrainState, Arrays], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the pure function (state, batch) → (next state, logs).

  Micro-batch i of k is rows i, i + k, i + 2k, …, so that each device goes on with images it has.
  Images are augmented, and classes drawn, as in one batch. What differs from one: each micro-batch
  is normalised by its own statistics, whose mean over the micro-batches the running ones move to
  (batch norm groups are of successive images of a micro-batch); and a memory of images is handed
  from one micro-batch to the next.

  Args:
    model: a classifier.
    objective: the method.
    optimizer: as `create_state` was given.
    preprocess: augmentation and normalisation.
    key: the run's; step keys are `fold_in(key, step)`, so a resumed run draws what it would have.
    micro_batches: k: parts of the batch that are run one after the other, each with a k-th of the
      activations; their gradients are averaged for one update.
    unrolled: whether they are written out or loop on the device; None: on CPU, where convolutions
      in a loop are many times slower, written out.
    axis_name: of the `jax.pmap` that the step is for, see `pmap.make_pmap_train_step`.

  Returns:
    A step that is the same under jit over any mesh; the logs are scalars: "loss", "grad_norm" and
    the objective's own, means over the micro-batches.
  """

  def run(state: TrainState, part: Part, memory: Any, keys: jax.Array) -> Found:
    augment_key, views_key, partner_key = keys
    arrays, rows = part.arrays, part.rows
    batch = Batch(
      preprocess.train(augment_key, arrays["images"], rows),
      arrays["labels"],
      rows=rows,
      step_labels=part.step_labels,
    )
    if objective.partner is not None:
      batch = batch._replace(
        partner_images=preprocess.train(partner_key, arrays["partner_images"], rows),
        partner_labels=arrays["partner_labels"],
        step_partner_labels=part.step_partner_labels,
      )
    views = objective.views(views_key, batch, memory)

    def loss_fn(params: Any):
      params = state.params | params
      outputs, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.images,
        train=objective.batch_statistics,
        mutable=["batch_stats"],
      )
      loss, new_memory, logs = objective.loss(params, outputs, views.targets, memory, state.step)
      return loss, (new_memory, updated.get("batch_stats", {}), logs)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (memory, batch_stats, logs)), grads = grad_fn(trained(state.params, objective))
    return Found(grads, batch_stats, {"loss": loss, **logs}, memory)

  def train_step(state: TrainState, arrays: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    part = Part(arrays) if axis_name is None else parts.share_of_device(arrays, axis_name)
    if micro_batches == 1:
      found = run(state, part, state.memory, keys)
    else:
      found = parts.mean_of(
        lambda part, memory: run(state, part, memory, keys),
        part,
        state.memory,
        micro_batches,
        unrolled=jax.default_backend() == "cpu" if unrolled is None else unrolled,
      )
    if axis_name is not None:
      means = jax.lax.pmean(found._replace(memory=()), axis_name)
      found = means._replace(memory=found.memory)
    before = trained(state.params, objective)
    updates, opt_state = optimizer.update(found.grads, state.opt_state, before)
    params = state.params | optax.apply_updates(before, updates)
    logs = {"loss": found.logs["loss"], "grad_norm": optax.tree.norm(found.grads), **found.logs}
    state = state.replace(
      step=state.step + 1,
      params=objective.after_update(params, found.memory, state.step),
      batch_stats=found.batch_stats,
      opt_state=opt_state,
      memory=found.memory,
    )
    return state, logs

  return train_step


def make_eval_step(
  model: Classifier,
  preprocess: Preprocess,
  *,
  geometry: bool = True,
  flip: bool = False,
  offsets: jax.Array | None = None,
  scores: bool = False,
) -> Callable[[TrainState, Arrays], Judged]:
  """Returns the pure function (state, batch) → `Judged`.

  Args:
    model: a classifier.
    preprocess: normalisation.
    geometry: also give the features.
    flip: also judge the average over image and mirror image.
    offsets: also judge z − offsets, [N].
    scores: also give all scores.
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
      scores=outputs.scores.scaled if scores else None,
    )

  return eval_step


def jit_train_step(train_step: Callable, layout: parallel.Layout) -> Callable:
  """Compiles a train step: batch split along 'data', classifier along 'class', state donated.

  The step itself sees the logical state. What it cuts off and adds again is padding that the
  compiler needs anyway, so nothing travels for it.
  """

  def padded_step(state: TrainState, batch: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
    state, logs = train_step(layout.logical(state), batch)
    return layout.stored(state), logs

  mesh, of_state = layout.mesh, layout.shardings()
  return jax.jit(
    padded_step,
    in_shardings=(of_state, parallel.batch_sharded(mesh)),
    out_shardings=(of_state, parallel.replicated(mesh)),
    donate_argnums=0,
  )


def jit_eval_step(eval_step: Callable, layout: parallel.Layout) -> Callable:
  """Compiles an evaluation step; what it returns stays split along 'data' on a single host.

  On several every host gets all of it: a few numbers a sample.
  """
  mesh = layout.mesh
  split, whole = parallel.batch_sharded(mesh), parallel.replicated(mesh)
  return jax.jit(
    lambda state, batch: eval_step(layout.logical(state), batch),
    in_shardings=(layout.shardings(), split),
    out_shardings=split if jax.process_count() == 1 else whole,
  )
