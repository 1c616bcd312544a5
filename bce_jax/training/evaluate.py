"""Exact evaluation: every image counts once, on any number of devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bce_jax import metrics
from bce_jax.data import loader
from bce_jax.data.sources import Source
from bce_jax.training import parallel
from bce_jax.training.figures import Judged
from bce_jax.training.state import TrainState


def judge(
  eval_step: Callable[[TrainState, Any], Judged],
  state: TrainState,
  source: Source,
  *,
  num_classes: int,
  batch_size: int,
  workers: int,
  mesh: Mesh,
  observe: Callable[[int, Judged], None] | None = None,
) -> tuple[Judged, metrics.ClassMoments | None]:
  """Runs the network over a split.

  Args:
    eval_step: as `jit_eval_step` returns it.
    state: the train state.
    source: the split.
    num_classes: N.
    batch_size: images at once; the last batch is filled up and its filling left out again.
    workers: processes that read images.
    mesh: the devices.
    observe: is called with the number of the first image of each batch and all there is of it;
      without it scores are not brought to the host.

  Returns:
    (the numbers of each image, in the split's order: numpy [n]; what is kept of the features,
    None where the step gives none).
  """
  parts = []
  moments = None
  batches = loader.evaluation_batches(
    source,
    batch_size=batch_size,
    rows=parallel.local_rows(batch_size, mesh),
    workers=workers,
  )
  for k, batch in enumerate(batches):
    labels = source.labels[k * batch_size : (k + 1) * batch_size]
    where = np.arange(batch_size) < len(labels)  # of the whole batch, all processes' rows
    batch.pop("where")
    judged = eval_step(state, parallel.put_batch(batch, mesh, batch_size))
    if observe is None:
      judged = judged._replace(scores=None)
    judged = parallel.to_host(judged)
    judged = jax.tree.map(lambda x, where=where: x[where], judged)
    # What is nan is told by `figures`.
    if observe is not None and not np.isnan(judged.positive + judged.hardest_negative).any():
      observe(k * batch_size, judged)
    features = judged.features
    parts.append(judged._replace(features=None, scores=None))
    # Where one is not finite `figures` says how many scores are nan.
    if features is not None and np.isfinite(features).all():
      with jax.default_device(jax.local_devices(backend="cpu")[0]):  # in float64
        part = metrics.class_moments(features, labels, num_classes=num_classes)
        moments = part if moments is None else metrics.merge_moments(moments, part)
  return jax.tree.map(lambda *x: np.concatenate(x), *parts), moments
