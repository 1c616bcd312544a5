"""Exact evaluation of a split: every image counts once, on any number of devices."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bce_jax import metrics, sharding
from bce_jax.data.sources import Source
from bce_jax.evaluation import inference
from bce_jax.evaluation.inference import Network, Variables
from bce_jax.evaluation.summary import EvalOutputs

Arrays = dict[str, jax.Array]


def make_eval_step(
  network: Network,
  *,
  features: bool = True,
  flip: bool = False,
  offsets: jax.Array | None = None,
  scores: bool = False,
) -> Callable[[Variables, Arrays], EvalOutputs]:
  """Returns the pure function (variables, batch) → `EvalOutputs`.

  Args:
    network: to be evaluated.
    features: also give the features.
    flip: also evaluate with test-time horizontal flip: scores averaged over image and flipped
      image.
    offsets: also evaluate z − offsets, [N].
    scores: also give all scores.
  """

  def eval_step(variables: Variables, arrays: Arrays) -> EvalOutputs:
    def pairs(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
      return metrics.score_pairs(scores, arrays["labels"])

    pixels = network.pixels(arrays["images"])
    outputs = network.outputs(variables, pixels)
    z = outputs.scores.decision
    flipped = None
    if flip:
      flipped = network.outputs(variables, inference.flipped(pixels)).scores.decision
    return EvalOutputs(
      *pairs(z),
      *pairs(outputs.scores.scaled),
      flipped=None if flipped is None else pairs((z + flipped) / 2),
      adjusted=None if offsets is None else pairs(z - offsets),
      features=outputs.features if features else None,
      scores=outputs.scores.scaled if scores else None,
    )

  return eval_step


def evaluate(
  eval_step: Callable[[Variables, Any], EvalOutputs],
  variables: Variables,
  source: Source,
  *,
  num_classes: int,
  batch_size: int,
  workers: int,
  mesh: Mesh,
  collect: Callable[[int, EvalOutputs], None] | None = None,
  keep: Collection[str] = (),
) -> tuple[EvalOutputs, metrics.ClassMoments | None]:
  """Runs a network over a split; returns its outputs for every image, and class moments.

  Args:
    eval_step: of `make_eval_step`, compiled by `Network.jit`.
    variables: the network's, on the devices.
    source: the split.
    num_classes: N.
    batch_size: images at once; the last batch is filled up and its filling left out again.
    workers: processes that read images.
    mesh: the devices.
    collect: is called with the number of the first image of each batch and all there is of it;
      without it scores are not brought to the host, unless they are kept.
    keep: "features", "scores" or both, of all images.

  Returns:
    (the numbers of each image, in the split's order: numpy [n]; what is kept of the features,
    None where the step gives none).
  """
  parts = []
  moments = None
  for start, where, batch in inference.batches(
    source, batch_size=batch_size, workers=workers, mesh=mesh
  ):
    outputs = eval_step(variables, batch)
    if collect is None and "scores" not in keep:
      outputs = outputs._replace(scores=None)
    outputs = sharding.to_host(outputs)
    outputs = jax.tree.map(lambda x, where=where: x[where], outputs)
    # A score that is nan is reported by `summarize`.
    if collect is not None and not np.isnan(outputs.positive + outputs.hardest_negative).any():
      collect(start, outputs)
    features = outputs.features
    parts.append(outputs._replace(**{k: None for k in ("features", "scores") if k not in keep}))
    # Where one is not finite `summarize` says how many scores are nan.
    if features is not None and np.isfinite(features).all():
      labels = source.labels[start : start + batch_size]
      with jax.default_device(jax.local_devices(backend="cpu")[0]):  # in float64
        part = metrics.class_moments(features, labels, num_classes=num_classes)
        moments = part if moments is None else metrics.merge_moments(moments, part)
  return jax.tree.map(lambda *x: np.concatenate(x), *parts), moments
