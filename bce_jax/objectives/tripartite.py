"""BCE3S: sample against class, sample against sample and class against class, on mixed views.

  total = L_sc + λ_ss L_ss + λ_cc L_cc

L_sc is the mean over three views of a batch (source, MixUp and CutMix with a partner batch), L_ss
the sum over the two mixed views, whose projections are compared with the remembered projection of
each class, L_cc the mean over the classifier's rows.

In the released code the remembered projections are constants. Every projection then flees the mean
of the memory, the memory follows, and on real data all of them end in one point. Here the classes
of the batch take part with the projections they have now, so that the gradient reaches both sides
of a pair; `released` repeats the released code's choices.

Source: [T] Fan et al., "BCE3S", AAAI 2026, arXiv 2511.14097, §3, and its released code.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bce_jax import losses
from bce_jax.data import augment
from bce_jax.data.sources import CIFAR10_STATISTICS
from bce_jax.models import Outputs, Projector, Scores
from bce_jax.objectives import families
from bce_jax.objectives import rebalance as rebalance_lib
from bce_jax.objectives.families import NEUTRAL, LossFamily
from bce_jax.objectives.objective import Batch, Objective, Problem, Views
from bce_jax.objectives.rebalance import Rebalance
from bce_jax.results import Curve, Result

_PLAIN = Rebalance()

OPTIONS: dict[str, Any] = {
  "contrast_weight": 0.1,
  "uniform_weight": 1.0,
  "temperature": 1.0,
  "class_share": 1.0,
  "projection_size": 128,
  "partner_exponent": 0.0,
  "released": False,
}
MEANINGS = {
  "contrast_weight": "λ_ss, weight of the contrast of samples; 0: no projector and no memory",
  "uniform_weight": "λ_cc, weight of the classifier's uniformity",
  "temperature": "τ, temperature of the contrast",
  "class_share": "r, share of the classes in each step's first term; 1: all",
  "projection_size": "size of the projections that are contrasted",
  "partner_exponent": "q: partners to mix with are sampled by n^(1−q) from classes of n images",
  # Memory held constant, CutMix labels by λ, a share of the classes for the source view only,
  # which may drop positives, CIFAR-10's channel statistics.
  "released": "follow the released code where the paper differs, see objectives/tripartite.py",
}
RANGES = {
  "contrast_weight": (0, True, math.inf),
  "uniform_weight": (0, True, math.inf),
  "temperature": (0, False, math.inf),
  "class_share": (0, False, 1),
  "partner_exponent": (-math.inf, False, math.inf),
}
_CONTRAST, _TERMS = "Contrast: cosines to the memory", "Terms of the loss, without their weights"
RESULTS = (
  Result(
    "positive_cosine", "own cosine",
    "mean cosine of the projections to the remembered one of their own class",
    unit="mean cosine", column=True, curve=Curve(_CONTRAST, "own class"),
  ),
  Result(
    "negative_cosine", "others' cosine",
    "the same to the other classes; where both near 1 the contrast has collapsed",
    unit="mean cosine", column=True, curve=Curve(_CONTRAST, "other classes"),
  ),
  Result("sample_class", "L_sc", "of samples against classes", unit="loss",
         curve=Curve(_TERMS, "L_sc")),
  Result("sample_sample", "L_ss", "of samples against samples, the contrast", unit="loss",
         curve=Curve(_TERMS, "L_ss")),
  Result("class_class", "L_cc", "of classes against classes, the uniformity", unit="loss",
         curve=Curve(_TERMS, "L_cc")),
)  # fmt: skip


def check(config: Any) -> None:
  """Refuses a config that this method can't use."""
  for key in ("margin", "negative_weight", "smoothing"):
    if config[key] != NEUTRAL[key]:
      raise ValueError(
        f"config.{key} is {config[key]}, but the objective 'tripartite' has none: expected"
        f" {NEUTRAL[key]}"
      )
  families.check_class_share(config)
  if config.class_chunk is not None:
    raise ValueError(
      f"config.class_chunk is {config.class_chunk}, but the objective 'tripartite' forms all"
      " scores: expected none"
    )
  size = config.objective.projection_size
  if size < 1:
    raise ValueError(f"config.objective.projection_size must be at least 1, got {size}")


def create(config: Any, problem: Problem) -> Objective:
  """Returns the method with the options of a config."""
  options = config.objective
  return tripartite(
    families.of(config),
    len(problem.train_counts),
    warmup_steps=problem.steps_per_epoch,
    contrast_weight=options.contrast_weight,
    uniform_weight=options.uniform_weight,
    temperature=options.temperature,
    class_share=options.class_share,
    projection_size=options.projection_size,
    partner_exponent=options.partner_exponent,
    released=options.released,
    rebalance=rebalance_lib.from_config(config, problem.train_counts),
  )


class MixedTargets(NamedTuple):
  """The labels of the source view, and the class shares of the MixUp and CutMix views.

  Attributes:
    labels: classes of the source view.
    mixed: shares of the classes in the MixUp and the CutMix view.
    class_mask: classes that the first term looks at; None for all.
    partner_labels: classes of the images that were mixed in.
    shares: of the source's class in the two mixed views; of the partner's it is 1 − share.
  """

  labels: Int[Array, " b"]
  mixed: Float[Array, "b 2 N"]
  class_mask: Bool[Array, " N"] | None
  partner_labels: Int[Array, " b"] | None = None
  shares: Float[Array, "b 2"] | None = None


class _Method(NamedTuple):
  """The arguments of `tripartite`, and the network of its projections; None without contrast."""

  family: LossFamily
  num_classes: int
  warmup_steps: int
  contrast_weight: float
  uniform_weight: float
  temperature: float
  class_share: float
  projection_size: int
  released: bool
  rebalance: Rebalance
  projector: Projector | None


def tripartite(
  loss: str | LossFamily,
  num_classes: int,
  *,
  warmup_steps: int,
  contrast_weight: float = 0.1,
  uniform_weight: float = 1.0,
  temperature: float = 1.0,
  class_share: float = 1.0,
  projection_size: int = 128,
  partner_exponent: float = 0.0,
  released: bool = False,
  rebalance: Rebalance = _PLAIN,
) -> Objective:
  """The three losses of BCE3S on mixed views; scale and bias are the head's.

  Args:
    loss: of L_sc, or its name: one of `LOSSES`, of which a softmax one takes mixed targets for
      comparison, or "package.module:function", see `families`.
    num_classes: N.
    warmup_steps: updates that only fill the memory, without L_ss: an epoch.
    contrast_weight: λ_ss ≥ 0; 0 runs without projector and memory.
    uniform_weight: λ_cc ≥ 0; 0 leaves the term out.
    temperature: τ > 0 of the contrast.
    class_share: r in (0, 1], of the classes that L_sc looks at in a step; every class of the batch
      and of its partners is among them.
    projection_size: of the projections.
    partner_exponent: q; see `Objective.partner`.
    released: the released code's choices: the memory is held constant, CutMix labels go by λ and
      not by the pasted area, r is for the source view only and drops positives where a batch holds
      more classes, channel statistics are CIFAR-10's.
    rebalance: weights and offsets of the classes.

  Returns:
    The objective. Its logs hold "accuracy", top-1 of the source view; the three terms
    "sample_class", "sample_sample" and "class_class", those that weigh anything; and
    "positive_cosine" and "negative_cosine", the mean cosines of a projection to the remembered
    ones of the classes in its image and of the others: with both near 1 the contrast has collapsed.

  Raises:
    ValueError: for an unknown name; for a share of the classes of a loss that looks at all.

  Source: [T] §3 and its released code, stage 1.
  """
  family = families.resolve(loss) if isinstance(loss, str) else loss
  if class_share < 1:
    family.refuse_unknown(class_mask="a share of the classes")
  method = _Method(
    family=family,
    num_classes=num_classes,
    warmup_steps=warmup_steps,
    contrast_weight=contrast_weight,
    uniform_weight=uniform_weight,
    temperature=temperature,
    class_share=class_share,
    projection_size=projection_size,
    released=released,
    rebalance=rebalance,
    projector=Projector(projection_size) if contrast_weight else None,
  )
  return Objective(
    views=functools.partial(_views, method),
    loss=functools.partial(_loss, method),
    memory=functools.partial(_empty_memory, method),
    parameters=functools.partial(_parameters, method.projector) if method.projector else None,
    partner=partner_exponent,
    num_views=3,
    memory_of_images=method.projector is not None,
    channel_statistics=CIFAR10_STATISTICS if released else None,
  )


def _parameters(projector: Projector, key: jax.Array, num_features: int) -> Any:
  return projector.init(key, jnp.zeros((1, num_features)))["params"]


def _empty_memory(method: _Method, params: Any) -> Any:
  del params
  return jnp.zeros((method.num_classes, method.projection_size)) if method.projector else ()


def _views(method: _Method, key: jax.Array, batch: Batch, memory: Any) -> Views:
  del memory
  assert batch.partner_images is not None
  assert batch.partner_labels is not None
  share_key, box_key, class_key = jax.random.split(key, 3)
  share = jax.random.uniform(share_key)
  mixed = augment.mixup(batch.images, batch.partner_images, share)
  pasted, kept = augment.cutmix(box_key, batch.images, batch.partner_images, share, rows=batch.rows)
  if method.released:
    kept = jnp.full_like(kept, share)
  shares = jnp.stack([jnp.full_like(kept, share), kept], 1)
  own = jax.nn.one_hot(batch.labels, method.num_classes)[:, None]
  other = jax.nn.one_hot(batch.partner_labels, method.num_classes)[:, None]
  return Views(
    _interleave(batch.images, mixed, pasted),
    MixedTargets(
      batch.labels,
      shares[..., None] * own + (1 - shares[..., None]) * other,
      _class_mask(method, class_key, batch),
      batch.partner_labels,
      shares,
    ),
  )


def _class_mask(method: _Method, key: jax.Array, batch: Batch) -> Bool[Array, " N"] | None:
  """The classes that the first term of a step looks at; None for all."""
  if method.class_share >= 1:
    return None
  labels, partner_labels = batch.whole()
  if method.released:
    return _released_classes(key, labels, method.num_classes, method.class_share)
  assert partner_labels is not None
  all_labels = jnp.concatenate([labels, partner_labels])
  return losses.sample_classes(key, all_labels, method.num_classes, share=method.class_share)


def _loss(
  method: _Method, params: Any, outputs: Outputs, targets: MixedTargets, memory: Any, step: Any
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  total = sample_class = _sample_class(method, outputs.scores, targets)
  guess = jnp.argmax(outputs.scores.decision.reshape(-1, 3, method.num_classes)[:, 0], -1)
  logs = {
    "accuracy": jnp.mean((guess == targets.labels).astype(jnp.float32)),
    "sample_class": sample_class,
  }
  if method.uniform_weight:  # else not formed: it takes N² cosines
    class_class = jnp.mean(losses.classifier_uniformity(params["head"]["weights"]))
    total += method.uniform_weight * class_class
    logs["class_class"] = class_class
  if method.projector is None:
    return total, memory, logs

  projections = method.projector.apply({"params": params["objective"]}, outputs.features)
  assert isinstance(projections, jax.Array)
  projections = projections.reshape(-1, 3, method.projection_size)
  newest = _remember(memory, projections[:, 0], targets.labels)
  remembered = jax.lax.stop_gradient(memory) if method.released else newest
  compared = losses.contrast(
    projections[:, 1:], remembered, targets.mixed, temperature=method.temperature
  )
  sample_sample = 2 * jnp.mean(compared)  # the sum of the two views' means
  total += jnp.where(step >= method.warmup_steps, method.contrast_weight * sample_sample, 0.0)
  positive, negative = _mean_cosines(projections[:, 1:], remembered, targets.mixed)
  logs |= {
    "sample_sample": sample_sample,
    "positive_cosine": positive,
    "negative_cosine": negative,
  }
  return total, newest, logs


def _sample_class(method: _Method, scores: Scores, targets: MixedTargets) -> jax.Array:
  """L_sc, the mean over the three views."""
  family, scores = method.family, method.rebalance.adjusted(scores)
  z = scores.decision.reshape(-1, 3, method.num_classes)
  c, scale, bias = z, 1.0, jnp.float32(0)
  if family.outside:  # which may do with a similarity what it can't with a score
    c, scale, bias = scores.similarities.reshape(z.shape), scores.scale, scores.bias
  of_mixed = None if method.released else targets.class_mask

  def losses_of(c: jax.Array, labels: Any, class_mask: Any = of_mixed) -> jax.Array:
    return family(c, labels, scale=scale, bias=bias, class_mask=class_mask)

  plain = losses_of(c[:, 0], targets.labels, targets.class_mask)
  if family.mixed is None:
    mixed = _by_shares(losses_of, c[:, 1:], targets)
  else:
    mixed = family.mixed(z[:, 1:], targets.mixed, class_mask=of_mixed)
  mean = method.rebalance.mean
  return (mean(plain, targets.labels) + 2 * mean(mixed, targets.mixed)) / 3


def _by_shares(
  losses_of: Callable[[Any, Any], jax.Array], c: Float[Array, "b 2 N"], targets: MixedTargets
) -> Float[Array, "b 2"]:
  """Losses of mixed images, linear in the labels: λ · loss(c, y) + (1 − λ) · loss(c, y′)."""
  assert targets.shares is not None
  own, other = (
    jnp.stack([losses_of(c[:, 0], labels), losses_of(c[:, 1], labels)], 1)
    for labels in (targets.labels, targets.partner_labels)
  )
  return targets.shares * own + (1 - targets.shares) * other


def _interleave(*views: jax.Array) -> jax.Array:
  """[B, …] of each view to [B · views, …] with the views of an image side by side."""
  stacked = jnp.stack(views, 1)
  return stacked.reshape(-1, *stacked.shape[2:])


def _remember(
  memory: Float[Array, "N P"], projections: Float[Array, "b P"], labels: Int[Array, " b"]
) -> Float[Array, "N P"]:
  """The memory with the projections of a batch, of each class its last sample's.

  A scatter with repeated indices has no defined order, so the last is found first.
  """
  last = jax.ops.segment_max(jnp.arange(len(labels)), labels, num_segments=len(memory))
  present = (last >= 0)[:, None]
  return jnp.where(present, projections[jnp.maximum(last, 0)], memory)


def _mean_cosines(
  projections: Float[Array, "b 2 P"],
  remembered: Float[Array, "N P"],
  targets: Float[Array, "b 2 N"],
) -> tuple[jax.Array, jax.Array]:
  """Mean cosines to the classes in an image, weighted by their shares, and to the others.

  Classes that the memory does not hold yet are left out.
  """
  cosines = losses.cosine(projections, remembered)
  held = jnp.any(remembered != 0, -1)

  def mean(weights: jax.Array) -> jax.Array:
    weights = weights * held
    return jnp.sum(weights * cosines) / jnp.maximum(jnp.sum(weights), 1e-9)

  return mean(targets), mean((targets == 0).astype(cosines.dtype))


def _released_classes(
  key: jax.Array, labels: Int[Array, " b"], num_classes: int, share: float
) -> Bool[Array, " N"]:
  """⌊r · N⌋ classes, those of the batch first; when they are more, some of them are dropped."""
  present = jnp.zeros(num_classes, bool).at[labels].set(True)
  rank = jax.random.uniform(key, (num_classes,)) + jnp.where(present, 1.0, 0.0)
  chosen = jnp.argsort(rank, descending=True)[: max(1, int(num_classes * share))]
  return jnp.zeros(num_classes, bool).at[chosen].set(True)
