"""Judging the network of a run, while it trains and at its end."""

from typing import Any, NamedTuple

import jax
import numpy as np

from bce_jax import losses
from bce_jax.report.evidence import Evidence, RocPoints
from bce_jax.training import embed, evaluate, parallel, verifying
from bce_jax.training.experiment import Experiment
from bce_jax.training.figures import (
  Figures,
  Judged,
  NonFiniteError,
  at_validation_threshold,
  summarize,
)
from bce_jax.training.observe import MOST_CLASSES, Observer
from bce_jax.training.state import TrainState
from bce_jax.training.step import jit_eval_step, make_eval_step


class Steps(NamedTuple):
  """What judging runs, compiled for the experiment's devices.

  Attributes:
    evaluate: (state, batch) → `Judged`.
    embed: (state, images) → embeddings; None where nothing is verified.
  """

  evaluate: Any
  embed: Any


def jit_steps(experiment: Experiment) -> Steps:
  """Compiles what the experiment judges with."""
  embed_step = None
  if experiment.dataset.unseen is not None:
    embed_step = embed.jit_embed_step(
      experiment.model,
      experiment.preprocess,
      experiment.layout,
      flip=experiment.config.verification.flip,
    )
  return Steps(jit_eval(experiment), embed_step)


def jit_eval(experiment: Experiment) -> Any:
  """Compiles the experiment's evaluation step for its devices."""
  temperature = experiment.config.eval_logit_adjustment
  offsets = None
  if temperature:
    offsets = losses.logit_adjustment(experiment.train_counts, temperature=temperature)
  eval_step = make_eval_step(
    experiment.model,
    experiment.preprocess,
    geometry=experiment.config.eval_geometry,
    flip=experiment.config.eval_flip,
    offsets=offsets,
    scores=len(experiment.dataset.class_names) <= MOST_CLASSES,
  )
  return jit_eval_step(eval_step, experiment.layout)


def head(experiment: Experiment, state: TrainState, name: str) -> np.ndarray:
  """A parameter of the head on the host, without padding."""
  array = parallel.to_host(state.params["head"][name])
  return array[: len(experiment.dataset.class_names)] if array.ndim else array


def _judge(
  experiment: Experiment,
  state: TrainState,
  eval_step: Any,
  split: str,
  observe: Observer | None = None,
) -> tuple[Judged, Any]:
  return evaluate.judge(
    eval_step,
    state,
    getattr(experiment.dataset, split),
    num_classes=len(experiment.dataset.class_names),
    batch_size=experiment.config.eval_batch_size,
    workers=experiment.config.data.workers,
    mesh=experiment.mesh,
    observe=observe,
  )


def _figures(
  experiment: Experiment, state: TrainState, judged: tuple[Judged, Any], split: str
) -> Figures:
  pairs, moments = judged
  return summarize(
    pairs,
    getattr(experiment.dataset, split).labels,
    head(experiment, state, "bias"),
    train_counts=experiment.train_counts,
    moments=moments,
    weights=None if moments is None else head(experiment, state, "weights"),
  )


def monitor(experiment: Experiment, state: TrainState, steps: Steps) -> Figures:
  """Figures during training: of the validation split, so that the test split stays unseen."""
  split = "test" if experiment.dataset.validation is None else "validation"
  figures = _figures(experiment, state, _judge(experiment, state, steps.evaluate, split), split)
  if steps.embed is not None:
    figures |= _verify(experiment, state, steps)[0]
  return figures


def _verify(
  experiment: Experiment, state: TrainState, steps: Steps
) -> tuple[Figures, RocPoints, np.ndarray]:
  """Figures of the unseen classes, the points of the curve, and their embeddings."""
  unseen, config = experiment.dataset.unseen, experiment.config
  assert unseen is not None
  embedded = embed.embeddings(
    steps.embed,
    state,
    unseen,
    batch_size=config.eval_batch_size,
    workers=config.data.workers,
    mesh=experiment.mesh,
  )
  bad = int(np.sum(~np.isfinite(embedded).all(axis=1)))
  if bad:
    raise NonFiniteError(f"{bad} of {len(embedded)} embeddings are not finite")
  threshold = unified_threshold(experiment, state)
  listed = experiment.dataset.listed
  if listed is None:
    found = verifying.verify_all_pairs(embedded, unseen.labels, threshold=threshold)
  else:
    found = verifying.verify_listed_pairs(embedded, listed, threshold=threshold)
  return *found, embedded


def unified_threshold(experiment: Experiment, state: TrainState) -> float | None:
  """The threshold on cosines that training itself has found, t = b/γ.

  None where the bias is diverse, or scores are no cosines.
  """
  network, bias = experiment.model.head, head(experiment, state, "bias")
  if bias.ndim or not (network.normalize_features and network.normalize_weights):
    return None
  return float(bias) / network.scale


class Seen(NamedTuple):
  """What is known of the test split.

  Attributes:
    figures: those of results.json but the time taken.
    evidence: what the report draws; None where nobody asked.
    embeddings: of the classes never trained on, [n, D]; None without any.
  """

  figures: Figures
  evidence: Evidence | None
  embeddings: np.ndarray | None


def of_test_split(
  experiment: Experiment, state: TrainState, steps: Steps, *, observed: bool = False
) -> Seen:
  """Judges the test split, also at the threshold that the validation split would choose.

  Args:
    experiment: of the run.
    state: the train state, on its devices.
    steps: as `jit_steps` returns them.
    observed: also keep what the report draws; of several processes the first keeps it.

  Returns:
    `Seen`.

  Raises:
    NonFiniteError: when a score is nan.
  """
  dataset, bias = experiment.dataset, head(experiment, state, "bias")
  observer = None
  if observed:
    observer = Observer(dataset.test.labels, bias, experiment.train_counts)
  judged, moments = _judge(experiment, state, steps.evaluate, "test", observer)
  figures = _figures(experiment, state, (judged, moments), "test")
  if dataset.validation is not None:
    validation, _ = _judge(experiment, state, steps.evaluate, "validation")
    figures["uniform_accuracy_at_validation_threshold"] = at_validation_threshold(
      judged, validation, dataset.validation.labels, len(dataset.class_names)
    )
  points = embedded = None
  if steps.embed is not None:
    verified, points, embedded = _verify(experiment, state, steps)
    figures |= verified
  kept = None
  if observer is not None:
    weights = None if moments is None else head(experiment, state, "weights")
    if jax.process_index() == 0:
      kept = observer.evidence(judged, moments, weights, dataset.test, dataset.class_names)
      kept = kept._replace(pairs=points)
  return Seen({"step": int(state.step), "split": "test", **figures}, kept, embedded)
