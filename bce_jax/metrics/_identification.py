"""Open-set identification: whom of a gallery does a probe show, if anybody?

Nearest is by cosine. The matrix of probes and gallery is walked in tiles.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from bce_jax import checks
from bce_jax.metrics import _cosines


class Identification(NamedTuple):
  """What one fixed threshold makes of probes, some of which are strangers to the gallery.

  Attributes:
    identified: share of the probes with a mate in the gallery that are accepted and named right;
      nan without such probes.
    false_alarm: share of the probes without a mate that are accepted as somebody; nan without them.
  """

  identified: float
  false_alarm: float


def rank_one(
  gallery: Float[ArrayLike, "n D"],
  gallery_labels: Int[ArrayLike, " n"],
  probes: Float[ArrayLike, "m D"],
  probe_labels: Int[ArrayLike, " m"],
  *,
  block_size: int = _cosines.BLOCK,
) -> float:
  """Closed-set identification: the share of probes whose nearest gallery item is of their identity.

  Nearest by cosine. A tie with an item of another identity is wrong, whatever the order.

  Args:
    gallery: embeddings of known identities, not normalized, any floating dtype.
    gallery_labels: their identities, any integers.
    probes: embeddings to identify.
    probe_labels: their identities, all of which must be in the gallery.
    block_size: scores that exist at once.

  Returns:
    The share, in [0, 1].

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, a probe without its identity
      in the gallery, no probe, or inside a trace.

  >>> rank_one([[1.0, 0.0], [0.0, 1.0]], [3, 8], [[2.0, 1.0], [3.0, 1.0]], [3, 8])
  0.5
  """
  own, other = _own_and_other(gallery, gallery_labels, probes, probe_labels, block_size)
  strangers = np.isneginf(own)
  if strangers.any():
    label = np.asarray(probe_labels)[strangers][0]
    raise ValueError(
      f"probe label {label} is not in the gallery ({strangers.sum()} of {len(own)} probes):"
      " expected known identities only, or open_set_identification"
    )
  return float(np.mean(own > other))


def open_set_identification(
  gallery: Float[ArrayLike, "n D"],
  gallery_labels: Int[ArrayLike, " n"],
  probes: Float[ArrayLike, "m D"],
  probe_labels: Int[ArrayLike, " m"],
  *,
  threshold: float,
  block_size: int = _cosines.BLOCK,
) -> Identification:
  """Open-set identification at one fixed threshold, with probes that are in no gallery.

  A probe is accepted, and named after its nearest gallery item, when their cosine is > t.

  Args:
    gallery: embeddings of known identities, not normalized, any floating dtype.
    gallery_labels: their identities, any integers.
    probes: embeddings to identify or to refuse.
    probe_labels: their identities; one that is not in the gallery is a stranger's.
    threshold: t.
    block_size: scores that exist at once.

  Returns:
    `Identification`. A tie with an item of another identity is wrong.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, no probe, or inside a trace.

  >>> probes, labels = [[2.0, 1.0], [3.0, 1.0], [1.0, 1.2]], [3, 5, 5]
  >>> open_set_identification([[1.0, 0.0]], [3], probes, labels, threshold=0.8)
  Identification(identified=1.0, false_alarm=0.5)
  """
  own, other = _own_and_other(gallery, gallery_labels, probes, probe_labels, block_size)
  t = _cosines.threshold(threshold, own.dtype)
  known = ~np.isneginf(own)
  named, alarmed = (own > other) & (own > t), other > t
  return Identification(
    float(np.mean(named[known])) if known.any() else math.nan,
    float(np.mean(alarmed[~known])) if not known.all() else math.nan,
  )


def _own_and_other(
  gallery: Any, gallery_labels: Any, probes: Any, probe_labels: Any, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Each probe's best score of its own identity, and of the others; −inf where there is none."""
  side = math.isqrt(checks.integer("block_size", block_size, low=1))
  items, unknown = _cosines.rows("gallery", gallery), _cosines.rows("probes", probes)
  if items.high.shape[1] != unknown.high.shape[1]:
    raise ValueError(
      f"probes must have the gallery's dimension {items.high.shape[1]}, got {unknown.high.shape}"
    )
  if not items.size or not unknown.size:
    raise ValueError(f"expected a gallery and probes, got {items.size} and {unknown.size}")
  labels = _cosines.host("gallery_labels", gallery_labels, np.integer, (items.size,))
  wanted = _cosines.host("probe_labels", probe_labels, np.integer, (unknown.size,))
  best = np.full((2, unknown.size), -np.inf)
  for i in range(0, unknown.size, side):
    for j in range(0, items.size, side):
      a, b = slice(i, i + side), slice(j, j + side)
      scores = _cosines.of_all(unknown.take(a), items.take(b))
      same = wanted[a, None] == labels[None, b]
      found = [np.where(mask, scores, -np.inf).max(1) for mask in (same, ~same)]
      best[:, a] = np.maximum(best[:, a], found)
  return best[0], best[1]
