"""One training step for every objective: a pure function, compiled here for a mesh of devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from bce_jax import sharding
from bce_jax.data.preprocess import Preprocess
from bce_jax.models import Classifier
from bce_jax.objectives import Batch, Objective
from bce_jax.sharding import StateSharding
from bce_jax.training import microbatch
from bce_jax.training.microbatch import Arrays, Microbatch, StepOutputs
from bce_jax.training.state import TrainState, trained

# What a record of training holds besides what the method logs.
_OF_RECORDS = (
  "step", "epoch", "split", "loss", "grad_norm", "learning_rate", "bias", "images_per_second",
)  # fmt: skip


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
  is normalized by its own statistics, whose mean over the micro-batches the running ones move to
  (batch norm groups are of successive images of a micro-batch); and a memory of images is handed
  from one micro-batch to the next.

  Args:
    model: a classifier.
    objective: the method.
    optimizer: as `create_state` was given.
    preprocess: augmentation and normalization.
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

  run = _make_gradients(model, objective, preprocess)

  def train_step(state: TrainState, arrays: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    part = (
      Microbatch(arrays) if axis_name is None else microbatch.share_of_device(arrays, axis_name)
    )
    if micro_batches == 1:
      found = run(state, part, state.memory, keys)
    else:
      found = microbatch.accumulate_gradients(
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


def _make_gradients(
  model: Classifier, objective: Objective, preprocess: Preprocess
) -> Callable[[TrainState, Microbatch, Any, jax.Array], StepOutputs]:
  """Returns the pure function (state, part of a batch, memory, keys) → its gradients and logs."""

  def run(state: TrainState, part: Microbatch, memory: Any, keys: jax.Array) -> StepOutputs:
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

    # Another one for each micro-batch and each device, by their first image.
    dropout_key = jax.random.fold_in(keys[0], 0 if rows is None else rows[0])

    def loss_fn(params: Any):
      params = state.params | params
      outputs, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        views.images,
        train=objective.batch_statistics,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
      )
      loss, new_memory, logs = objective.loss(params, outputs, views.targets, memory, state.step)
      _refuse_logged(logs)
      return loss, (new_memory, updated.get("batch_stats", {}), logs)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (memory, batch_stats, logs)), grads = grad_fn(trained(state.params, objective))
    return StepOutputs(grads, batch_stats, {"loss": loss, **logs}, memory)

  return run


def _refuse_logged(logs: Mapping[str, Any]) -> None:
  """Raises ValueError for a scalar of a method that is called like another word of a record."""
  for name in logs:
    if name in _OF_RECORDS:
      raise ValueError(
        f"config.objective.name: it logs {name!r}, which every record has already: expected another"
        " name"
      )


def jit_train_step(train_step: Callable, state_sharding: StateSharding) -> Callable:
  """Compiles a train step: batch split along 'data', classifier along 'class', state donated.

  The step itself sees the logical state. What it cuts off and adds again is padding that the
  compiler needs anyway, so nothing travels for it.
  """

  def padded_step(state: TrainState, batch: Arrays) -> tuple[TrainState, dict[str, jax.Array]]:
    state, logs = train_step(state_sharding.unpad(state), batch)
    return state_sharding.pad(state), logs

  mesh, of_state = state_sharding.mesh, state_sharding.shardings()
  return jax.jit(
    padded_step,
    in_shardings=(of_state, sharding.batch_sharded(mesh)),
    out_shardings=(of_state, sharding.replicated(mesh)),
    donate_argnums=0,
  )
