"""The joint method: one loss of one view, of samples against classes, as in the uniform paper.

Source: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Int

from bce_jax import losses
from bce_jax.models import ChunkedBCE, Outputs
from bce_jax.objectives import families
from bce_jax.objectives import rebalance as rebalance_lib
from bce_jax.objectives.families import LossFamily
from bce_jax.objectives.objective import Batch, Objective, Problem, Views
from bce_jax.objectives.rebalance import Rebalance

_PLAIN = Rebalance()

OPTIONS: dict[str, Any] = {"class_share": 1.0}
# UniFace's prior bias is log(10 · N · r) where r < 1: add log r by bias_mean.
MEANINGS = {
  "class_share": "r, share of the classes in each step's loss, those of the batch included; 1: all"
}
RANGES: dict[str, tuple[float, bool, float]] = {"class_share": (0, False, 1)}


def check(config: Any) -> None:
  """Refuses a config that this method can't use."""
  families.check_options(config)


def create(config: Any, problem: Problem) -> Objective:
  """Returns the method with the options of a config."""
  rebalance = rebalance_lib.from_config(config, problem.train_counts)
  return from_config(config, problem, rebalance)


def from_config(config: Any, problem: Problem, rebalance: Rebalance) -> Objective:
  """Returns `joint` with the loss of a config, and weights and offsets of the caller's."""
  chunked = None
  if config.class_chunk is not None:
    chunked = ChunkedBCE(problem.head, problem.mesh, config.class_chunk or None)
  base = joint(
    families.of(config),
    margin=config.margin,
    negative_weight=config.negative_weight,
    smoothing=config.smoothing,
    rebalance=rebalance,
    chunked=chunked,
  )
  return sampled(base, len(problem.train_counts), class_share=config.objective.class_share)


class Targets(NamedTuple):
  """The labels of a batch, and the classes that its loss looks at.

  Attributes:
    labels: its classes.
    class_mask: classes that the loss looks at; None for all.
  """

  labels: Int[Array, " b"]
  class_mask: Bool[Array, " N"] | None = None


def joint(
  loss: str | LossFamily,
  *,
  margin: float = 0.0,
  negative_weight: float = 1.0,
  smoothing: float = 0.0,
  rebalance: Rebalance = _PLAIN,
  chunked: ChunkedBCE | None = None,
) -> Objective:
  """The mean over the batch of one loss; scale and bias are the head's.

  Args:
    loss: the loss, or its name: one of `LOSSES`, or "package.module:function".
    margin: m ≥ 0, of a loss that has one.
    negative_weight: λ ≥ 0, likewise (softmax losses have no negative terms).
    smoothing: ε in [0, 1], likewise.
    rebalance: weights and offsets of the classes.
    chunked: forms the loss, one of BCE, without all scores of the batch; None: from them.

  Returns:
    The objective; its logs hold "accuracy", top-1 on the training batch, where scores are formed.

  Raises:
    ValueError: for an unknown name; for an option or a `chunked` that the loss does not know.
  """
  family = families.resolve(loss) if isinstance(loss, str) else loss
  options = {"margin": margin, "negative_weight": negative_weight, "smoothing": smoothing}
  family.refuse_unknown(**options)
  if chunked is not None and family.needs_all_scores:
    raise ValueError(f"the loss {family.name!r} needs all scores at once: expected chunked=None")

  def views(key: jax.Array, batch: Batch, memory: Any) -> Views:
    del key, memory
    return Views(batch.images, Targets(batch.labels))

  def mean_loss(params: Any, outputs: Outputs, targets: Targets, memory: Any, step: jax.Array):
    del step
    labels, class_mask = targets
    similarities, scale, bias = rebalance.adjusted(outputs.scores)
    if chunked is not None:  # nobody uses the scores then, and the compiler leaves them out
      value = chunked(
        outputs.features,
        params["head"]["weights"],
        labels,
        bias=bias,
        class_mask=class_mask,
        example_weights=rebalance.of_examples(labels),
        **options,
      )
      return value, memory, {}
    values = family(similarities, labels, bias=bias, scale=scale, class_mask=class_mask, **options)
    logs = {"accuracy": outputs.scores.accuracy(labels)}
    return rebalance.mean(values, labels), memory, logs

  return Objective(views=views, loss=mean_loss)


def sampled(base: Objective, num_classes: int, *, class_share: float) -> Objective:
  """Returns the method `base` with a random share of the classes in each step.

  Args:
    base: an objective with `Targets`.
    num_classes: N.
    class_share: r in (0, 1]; the classes of the step's batch are always among them.
  """
  if class_share == 1:
    return base

  def views(key: jax.Array, batch: Batch, memory: Any) -> Views:
    plain = base.views(key, batch, memory)
    labels, _ = batch.whole()
    mask = losses.sample_classes(key, labels, num_classes, share=class_share)
    return plain._replace(targets=plain.targets._replace(class_mask=mask))

  return base._replace(views=views)
