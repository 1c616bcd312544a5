"""Open-set verification, exact and streaming: are two samples of one identity, at one threshold?

A pair is accepted when its score is > t, strictly, as everywhere in this package. Pairs of one
identity are genuine, all others impostors. Genuine pairs are few and their scores are kept. Of
impostors there are up to n²/2, and none is kept: for each distinct genuine score it is counted how
many lie above it and how many at or above it. Between two genuine scores the share of genuine pairs
accepted does not change, so these counts are the ROC curve, every vertex of it; the area under it,
the TAR at a FAR and the equal error rate follow exactly.

The streaming half is `pair_counts` (of embeddings, by tiles of the matrix of cosines) or
`pair_counts_from_scores` (of a list of pairs); `merge_pair_counts` adds parts that were counted at
the same thresholds. The final halves are `roc`, `verification` and `verify_at`; the last judges one
threshold fixed beforehand, which is what a deployed system has.

Sources: Li et al., "Rediscovering BCE Loss for Uniform Classification", arXiv 2403.07289, for the
one unified threshold; Huang et al., "Labeled Faces in the Wild", 2007, for the folds.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Int64

from bce_jax import checks

_MIN_NORM = 1e-5  # as in the losses: a shorter vector is divided by this
_BLOCK = 2**22  # scores that exist at once
_ROWS = 4096  # vectors that are normalised at once, in float64


class PairCounts(NamedTuple):
  """What is kept of all pairs; k thresholds, ascending and distinct.

  Attributes:
    thresholds: the distinct genuine scores and the thresholds asked for, in the scores' dtype.
    genuine_above: genuine pairs with score > threshold.
    genuine_at_or_above: genuine pairs with score ≥ threshold.
    impostor_above: impostor pairs with score > threshold.
    impostor_at_or_above: impostor pairs with score ≥ threshold.
    num_genuine: genuine pairs in all.
    num_impostor: impostor pairs in all.
  """

  thresholds: Float[np.ndarray, "k"]
  genuine_above: Int64[np.ndarray, "k"]
  genuine_at_or_above: Int64[np.ndarray, "k"]
  impostor_above: Int64[np.ndarray, "k"]
  impostor_at_or_above: Int64[np.ndarray, "k"]
  num_genuine: int
  num_impostor: int


class RocCurve(NamedTuple):
  """The curve from (0, 0) to (1, 1), by its vertices; thresholds descend.

  Attributes:
    far: false accept rate, the share of impostor pairs with score > threshold.
    tar: true accept rate, the share of genuine pairs with score > threshold.
    thresholds: one at which the vertex is reached, the highest of those known; +inf … −inf.
  """

  far: Float[np.ndarray, "n"]
  tar: Float[np.ndarray, "n"]
  thresholds: Float[np.ndarray, "n"]


class Verification(NamedTuple):
  """Figures of a verification experiment. FAR steps by 1 / num_impostor, TAR by 1 / num_genuine.

  Attributes:
    tar_at_far: for each FAR asked for, the largest TAR of a threshold whose FAR is not above it;
      nothing is interpolated. Below 1 / num_impostor that means: no impostor accepted.
    thresholds_at_far: the highest threshold that reaches it; +inf where none but that is known to.
    equal_error_rate: where the curve, drawn with straight lines, meets FAR = 1 − TAR.
    eer_threshold: of the vertex nearest to it, by |FAR − (1 − TAR)|; the highest of equals.
    auc: area under the curve, the probability that a genuine pair scores higher than an impostor
      (Mann–Whitney), ties counted half.
    best_accuracy: the largest share of all pairs judged right by one threshold. It is chosen on the
      data it is judged on, and where impostors abound refusing everything is hard to beat.
    best_threshold: the highest threshold that reaches it; +inf: to refuse everything is best.
  """

  tar_at_far: Float[np.ndarray, "n"]
  thresholds_at_far: Float[np.ndarray, "n"]
  equal_error_rate: float
  eer_threshold: float
  auc: float
  best_accuracy: float
  best_threshold: float


class VerificationAt(NamedTuple):
  """What one fixed threshold makes of all pairs.

  Attributes:
    true_accept: TAR, the share of genuine pairs accepted.
    false_accept: FAR, the share of impostor pairs accepted.
    accuracy: the share of all pairs judged right.
    balanced_accuracy: (TAR + 1 − FAR) / 2.
  """

  true_accept: float
  false_accept: float
  accuracy: float
  balanced_accuracy: float


class FoldAccuracy(NamedTuple):
  """Accuracy by folds, each judged at the threshold that is best on the others.

  Attributes:
    mean: over the folds.
    std: √(mean (a − mean)²) over the folds. The standard error of the mean, which the tables of LFW
      give, is std / √(folds − 1).
    thresholds: of each fold, the folds in ascending order of their ids.
    accuracies: of each fold.
  """

  mean: float
  std: float
  thresholds: Float[np.ndarray, "k"]
  accuracies: Float[np.ndarray, "k"]


class Identification(NamedTuple):
  """What one fixed threshold makes of probes, some of which are strangers to the gallery.

  Attributes:
    identified: share of the probes with a mate in the gallery that are accepted and named right;
      nan without such probes.
    false_alarm: share of the probes without a mate that are accepted as somebody; nan without them.
  """

  identified: float
  false_alarm: float


def pair_counts(
  embeddings: Float[ArrayLike, "n D"],
  labels: Int[ArrayLike, "n"],
  *,
  thresholds: Float[ArrayLike, "k"] | Sequence[float] = (),
  block_size: int = _BLOCK,
  progress: Callable[[int, int], None] | None = None,
) -> PairCounts:
  r"""Counts all pairs i < j of a set of embeddings, scored by their cosine.

    s_ij = x̂_iᵀx̂_j,   x̂ = x / max(‖x‖, 1e-5),   genuine where y_i = y_j

  Of the matrix of cosines one tile of about `block_size` scores exists at a time. Beside it are
  held a normalised copy of the embeddings and the genuine scores. A tile is computed on the device
  in float32 (float64 for numpy float64 embeddings) and counted on the host. The counts are exact
  for these scores; another block size may round a score's last bit otherwise.

  Args:
    embeddings: x, not normalised, any floating dtype.
    labels: identities, any integers.
    thresholds: further thresholds to count at, such as t = b/γ, learned on other identities.
    block_size: scores that exist at once.
    progress: called after each tile with the number of tiles done and of all.

  Returns:
    `PairCounts`.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, inside a trace, or where no
      pair is genuine or none is an impostor.

  >>> embeddings = [[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]
  >>> counts = pair_counts(embeddings, [7, 7, 9], thresholds=[0.5])
  >>> counts.thresholds, counts.impostor_above
  (array([0.5       , 0.70710677], dtype=float32), array([1, 0]))
  >>> counts.num_genuine, counts.num_impostor
  (1, 2)
  """
  block_size = checks.integer("block_size", block_size, low=1)
  units = _unit_rows("embeddings", embeddings)
  identities = _host("labels", labels, np.integer, units.shape[:1])
  _, ids, sizes = np.unique(identities, return_inverse=True, return_counts=True)
  n, num_genuine = len(units), sum(int(s) * (int(s) - 1) // 2 for s in sizes)
  num_impostor = n * (n - 1) // 2 - num_genuine
  for what, number in (("of one identity", num_genuine), ("of two identities", num_impostor)):
    if not number:
      raise ValueError(f"no pair of the {n} embeddings is {what}: expected at least one")
  extra = _thresholds(thresholds, units.dtype)

  # With the identities in order, genuine pairs lie in the tiles along the diagonal only.
  order = np.argsort(ids, kind="stable")
  side = math.isqrt(block_size)
  units, ids = _padded(units[order], side, 0.0), _padded(ids[order].astype(np.int32), side, -1)
  rows = len(units) // (-(-n // side))
  starts = range(0, len(units), rows)
  tiles = [(i, j) for i in starts for j in starts if i <= j]
  near = [(i, j) for i, j in tiles if i == j or ids[min(i + rows, n) - 1] == ids[j]]

  def scores(pairs: list[tuple[int, int]], *, genuine: bool) -> Iterator[np.ndarray]:
    for i, j in pairs:
      a, b = slice(i, i + rows), slice(j, j + rows)
      with _precision(units.dtype):
        tile = _tile(units[a], units[b], ids[a], ids[b], diagonal=i == j, genuine=genuine)
      yield np.asarray(tile)

  # What a tile has of the other kind, or twice, is −inf.
  kept = np.concatenate([tile[tile > -np.inf] for tile in scores(near, genuine=True)])
  counts = _no_impostors(kept, extra)
  above, at_or_above = counts.impostor_above, counts.impostor_at_or_above
  for done, tile in enumerate(scores(tiles, genuine=False), start=1):
    ordered = np.sort(tile, axis=None)
    more = _count(ordered[np.searchsorted(ordered, -np.inf, "right") :], counts.thresholds)
    above += more[0]
    at_or_above += more[1]
    if progress is not None:
      progress(done, len(tiles))
  return counts._replace(num_impostor=num_impostor)


def pair_counts_from_scores(
  scores: Float[ArrayLike, "n"],
  same: Bool[ArrayLike, "n"],
  *,
  thresholds: Float[ArrayLike, "k"] | Sequence[float] = (),
) -> PairCounts:
  """Counts the pairs of a list, such as a published protocol's.

  Of a part of the pairs, for `merge_pair_counts`, give the genuine scores of all parts as
  `thresholds`: then every part is counted at the same ones. A part may lack either kind.

  Args:
    scores: of each pair, any floating dtype; what is no cosine is welcome too.
    same: whether the pair is genuine.
    thresholds: further thresholds to count at.

  Returns:
    `PairCounts`.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, or inside a trace.

  >>> import numpy as np
  >>> counts = pair_counts_from_scores(np.array([0.9, 0.4, 0.4, 0.1]), [True, True, False, False])
  >>> counts.thresholds, counts.impostor_above, counts.impostor_at_or_above
  (array([0.4, 0.9]), array([0, 0]), array([1, 0]))
  """
  values = _scores(scores)
  genuine = _host("same", same, np.bool_, values.shape)
  counts = _no_impostors(values[genuine], _thresholds(thresholds, values.dtype))
  impostors = np.sort(values[~genuine])
  above, at_or_above = _count(impostors, counts.thresholds)
  return counts._replace(
    impostor_above=above, impostor_at_or_above=at_or_above, num_impostor=len(impostors)
  )


def merge_pair_counts(a: PairCounts, b: PairCounts) -> PairCounts:
  """The counts of two parts of the pairs together, which is exact at common thresholds only.

  Args:
    a: as of `pair_counts_from_scores`.
    b: the same, with the same thresholds.

  Returns:
    `PairCounts`.

  Raises:
    ValueError: for different thresholds.

  >>> a = pair_counts_from_scores([0.9, 0.2], [True, False], thresholds=[0.5, 0.9])
  >>> b = pair_counts_from_scores([0.5, 0.6], [True, False], thresholds=[0.5, 0.9])
  >>> merge_pair_counts(a, b).impostor_above, merge_pair_counts(a, b).num_impostor
  (array([1, 0]), 2)
  """
  if not np.array_equal(a.thresholds, b.thresholds):
    raise ValueError(
      f"the parts were counted at different thresholds, {len(a.thresholds)} and"
      f" {len(b.thresholds)} of them: give each the genuine scores of all parts as thresholds"
    )
  return PairCounts(
    a.thresholds,
    a.genuine_above + b.genuine_above,
    a.genuine_at_or_above + b.genuine_at_or_above,
    a.impostor_above + b.impostor_above,
    a.impostor_at_or_above + b.impostor_at_or_above,
    a.num_genuine + b.num_genuine,
    a.num_impostor + b.num_impostor,
  )


def pair_scores(
  embeddings: Float[ArrayLike, "n D"], pairs: Int[ArrayLike, "m 2"]
) -> Float[np.ndarray, "m"]:
  """The cosines of listed pairs, for `pair_counts_from_scores` and `ten_fold_accuracy`.

  Args:
    embeddings: not normalised, any floating dtype.
    pairs: two row numbers each, in [0, n).

  Returns:
    The cosine of each pair: float32, or float64 for numpy float64 embeddings.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, a row number out of range,
      or inside a trace.

  >>> pair_scores([[1.0, 0.0], [3.0, 4.0]], [[0, 1], [1, 1]])
  array([0.6, 1. ], dtype=float32)
  """
  units = _unit_rows("embeddings", embeddings)
  rows = _host("pairs", pairs, np.integer, (None, 2))
  wrong = (rows < 0) | (rows >= len(units))
  if wrong.any():
    raise ValueError(f"pairs must lie in [0, {len(units)}), got {rows[wrong].flat[0]}")
  out = np.empty(len(rows), units.dtype)
  step = max(1, _BLOCK // units.shape[1])
  for i in range(0, len(rows), step):
    a, b = rows[i : i + step].T
    out[i : i + step] = np.einsum("nd,nd->n", units[a], units[b], dtype=np.float64)
  return out


def roc(counts: PairCounts) -> RocCurve:
  """The ROC curve, exact: every vertex, horizontal runs as one.

  Args:
    counts: as of `pair_counts`.

  Returns:
    `RocCurve`. A threshold below which a vertex lies is given as the next smaller number of the
    scores' dtype.

  Raises:
    ValueError: where no pair is genuine or none is an impostor.

  >>> import numpy as np
  >>> counts = pair_counts_from_scores(np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False])
  >>> curve = roc(counts)
  >>> curve.far, curve.tar
  (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
  """
  _check_both(counts)
  # At t, and just below it: in that order for every threshold from the highest down.
  accepted_genuine = _interleaved(counts.genuine_above, counts.genuine_at_or_above)
  accepted_impostor = _interleaved(counts.impostor_above, counts.impostor_at_or_above)
  below = _just_below(counts.thresholds)
  t = np.concatenate([[np.inf], _interleaved(counts.thresholds, below), [-np.inf]])
  genuine = np.concatenate([[0], accepted_genuine, [counts.num_genuine]])
  impostor = np.concatenate([[0], accepted_impostor, [counts.num_impostor]])
  new = np.concatenate([[True], (np.diff(genuine) > 0) | (np.diff(impostor) > 0)])
  return RocCurve(
    impostor[new] / counts.num_impostor, genuine[new] / counts.num_genuine, t[new].astype(float)
  )


def verification(
  counts: PairCounts, *, far: Sequence[float] | Float[ArrayLike, "n"] = (1e-4, 1e-3, 1e-2, 1e-1)
) -> Verification:
  r"""TAR at given FARs, equal error rate, area under the curve and best accuracy.

    AUC = 1/(G·I) Σ_genuine s (#{impostors < s} + ½ #{impostors = s})

  Args:
    counts: as of `pair_counts`.
    far: false accept rates, each in [0, 1].

  Returns:
    `Verification`.

  Raises:
    ValueError: for a FAR out of range, or where no pair is genuine or none is an impostor.

  >>> import numpy as np
  >>> counts = pair_counts_from_scores(np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False])
  >>> figures = verification(counts, far=[0.1, 0.5])
  >>> figures.tar_at_far, figures.equal_error_rate, figures.auc, figures.best_accuracy
  (array([0.5, 1. ]), 0.5, 0.75, 0.75)
  """
  _check_both(counts)
  limits = _host("far", np.asarray(far, np.float64), np.floating, (None,))
  if not ((limits >= 0) & (limits <= 1)).all():
    raise ValueError(f"far must lie in [0, 1], got {limits.tolist()}")
  G, I = counts.num_genuine, counts.num_impostor  # noqa: E741

  # The best of what is accepted is reached just below a genuine score, at the fewest impostors.
  own = counts.genuine_at_or_above > counts.genuine_above
  s, above, at = (
    counts.thresholds[own],
    counts.impostor_above[own],
    counts.impostor_at_or_above[own],
  )
  genuine, below = counts.genuine_at_or_above[own], _just_below(s)
  # FAR rises as t falls, so the first score that is not too low is the one.
  first = np.array([np.count_nonzero(at / I > limit) for limit in limits], np.int64)
  tar = np.append(genuine, 0)[first] / G
  at_far = np.append(below, np.inf)[first]

  right = np.append(genuine - at, 0) + I  # last: everything refused
  best = len(right) - 1 - int(np.argmax(right[::-1]))
  weights = (genuine - counts.genuine_above[own]).astype(np.float64)
  area = math.fsum(weights / G * (1.0 - (above / I + at / I) / 2))
  eer, eer_threshold = _equal_error_rate(roc(counts))
  return Verification(
    tar,
    at_far.astype(np.float64),
    eer,
    eer_threshold,
    area,
    float(right[best] / (G + I)),
    float(np.append(below, np.inf)[best]),
  )


def verify_at(counts: PairCounts, threshold: float | Float[ArrayLike, ""]) -> VerificationAt:
  """Judges one FIXED threshold, such as t = b/γ that was learned on other identities.

  Args:
    counts: as of `pair_counts`, best with this threshold among its `thresholds`. Another one is
      judged where the counts leave no doubt: no impostor between it and the tracked ones around it.
    threshold: t; a pair is accepted when its score is > t.

  Returns:
    `VerificationAt`, exact.

  Raises:
    ValueError: for a threshold that is not finite, one the counts do not determine, or where no
      pair is genuine or none is an impostor.

  >>> import numpy as np
  >>> scores, same = np.array([0.9, 0.4, 0.5, 0.1]), [True, True, False, False]
  >>> verify_at(pair_counts_from_scores(scores, same, thresholds=[0.3]), 0.3)
  VerificationAt(true_accept=1.0, false_accept=0.5, accuracy=0.75, balanced_accuracy=0.75)
  """
  _check_both(counts)
  t = _threshold(threshold, counts.thresholds.dtype)
  # Between tracked thresholds nothing is known but that the counts do not rise.
  k = int(np.searchsorted(counts.thresholds, t, "right"))
  above = counts.impostor_above[k - 1] if k else counts.num_impostor
  least = counts.impostor_at_or_above[k] if k < len(counts.thresholds) else 0
  if above != least and not (k and counts.thresholds[k - 1] == t):
    raise ValueError(
      f"threshold {threshold} was not counted at, and {above - least} impostors lie around it:"
      f" expected it among the thresholds given to pair_counts"
    )
  accepted = int(counts.genuine_above[k - 1] if k else counts.num_genuine)
  G, I = counts.num_genuine, counts.num_impostor  # noqa: E741
  tar, far = accepted / G, int(above) / I
  return VerificationAt(tar, far, (accepted + I - int(above)) / (G + I), (tar + 1.0 - far) / 2)


def ten_fold_accuracy(
  scores: Float[ArrayLike, "n"], same: Bool[ArrayLike, "n"], folds: Int[ArrayLike, "n"]
) -> FoldAccuracy:
  """The protocol of LFW: each fold is judged at the threshold that is best on the other folds.

  The best threshold is exact. Of the intervals between two neighbouring scores of the other folds
  it lies in one where most of their pairs are judged right, the widest (the lowest of equals), in
  the middle; beyond all scores, by max(1, |score|), only where no such interval is as good.

  Args:
    scores: of each pair, any floating dtype.
    same: whether the pair is genuine.
    folds: the fold each pair belongs to, any integers, usually ten of them.

  Returns:
    `FoldAccuracy`.

  Raises:
    ValueError: for wrong shapes or dtypes, scores that are not finite, fewer than two folds, or
      inside a trace.

  >>> import numpy as np
  >>> scores, same = np.array([0.9, 0.1, 0.8, 0.6]), np.array([True, False, True, False])
  >>> result = ten_fold_accuracy(scores, same, np.array([0, 0, 1, 1]))
  >>> result.mean, result.thresholds.round(2).tolist(), result.accuracies.tolist()
  (0.75, [0.7, 0.5], [1.0, 0.5])
  """
  values = _scores(scores).astype(np.float64)
  genuine = _host("same", same, np.bool_, values.shape)
  ids = _host("folds", folds, np.integer, values.shape)
  names = np.unique(ids)
  if len(names) < 2:
    raise ValueError(f"folds must name at least two, got {len(names)}: {names.tolist()}")
  found = []
  for name in names:
    inside = ids == name
    t = _best_threshold(values[~inside], genuine[~inside])
    found.append((t, np.mean((values[inside] > t) == genuine[inside])))
  thresholds, accuracies = np.array(found).T
  return FoldAccuracy(
    float(accuracies.mean()), float(accuracies.std()), thresholds.copy(), accuracies.copy()
  )


def rank_one(
  gallery: Float[ArrayLike, "n D"],
  gallery_labels: Int[ArrayLike, "n"],
  probes: Float[ArrayLike, "m D"],
  probe_labels: Int[ArrayLike, "m"],
  *,
  block_size: int = _BLOCK,
) -> float:
  """Closed-set identification: the share of probes whose nearest gallery item is of their identity.

  Nearest by cosine. A tie with an item of another identity is wrong, whatever the order.

  Args:
    gallery: embeddings of known identities, not normalised, any floating dtype.
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
  gallery_labels: Int[ArrayLike, "n"],
  probes: Float[ArrayLike, "m D"],
  probe_labels: Int[ArrayLike, "m"],
  *,
  threshold: float,
  block_size: int = _BLOCK,
) -> Identification:
  """Open-set identification at one fixed threshold, with probes that are in no gallery.

  A probe is accepted, and named after its nearest gallery item, when their cosine is > t.

  Args:
    gallery: embeddings of known identities, not normalised, any floating dtype.
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
  t = _threshold(threshold, own.dtype)
  known = ~np.isneginf(own)
  named, alarmed = (own > other) & (own > t), other > t
  return Identification(
    float(np.mean(named[known])) if known.any() else math.nan,
    float(np.mean(alarmed[~known])) if not known.all() else math.nan,
  )


def _host(name: str, x: Any, kind: Any, shape: tuple[int | None, ...]) -> np.ndarray:
  """`x` as a numpy array of that kind and shape, in which None is any length."""
  value = checks.known(x)
  if value is None:
    raise ValueError(f"{name} must be at hand: call this outside jit, on what jit returned")
  if not jnp.issubdtype(value.dtype, kind):
    raise ValueError(f"{name} must be of kind {kind.__name__}, got dtype {value.dtype}")
  fits = value.ndim == len(shape) and all(
    want in (None, have) for want, have in zip(shape, value.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join("n" if length is None else str(length) for length in shape)
    raise ValueError(f"{name} must have shape [{wanted}], got {value.shape}")
  return value


def _scores(scores: Any) -> np.ndarray:
  values = _host("scores", scores, np.floating, (None,))
  values = values if values.dtype == np.float64 else values.astype(np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f"scores must be finite: {np.count_nonzero(~np.isfinite(values))} are not")
  return values


def _unit_rows(name: str, vectors: Any) -> np.ndarray:
  """x / max(‖x‖, 1e-5), divided in float64: float32, or float64 where the vectors are."""
  x = _host(name, vectors, np.floating, (None, None))
  wide = x.dtype == np.float64 and hasattr(vectors, "dtype")  # a list of numbers is not meant so
  out = np.empty(x.shape, np.float64 if wide else np.float32)
  for i in range(0, len(x), _ROWS):
    block = x[i : i + _ROWS].astype(np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", block, block))[:, None]
    if not np.isfinite(norm).all():
      raise ValueError(f"{name} must be finite, and their squares too")
    out[i : i + _ROWS] = block / np.maximum(norm, _MIN_NORM)
  return out


def _thresholds(values: Any, dtype: np.dtype) -> np.ndarray:
  """The largest numbers of `dtype` that are ≤ the values: scores compare with them alike."""
  exact = np.asarray([float(v) for v in np.asarray(values).reshape(-1)], np.float64)
  if not np.isfinite(exact).all():
    raise ValueError(f"a threshold must be a finite number, got {exact[~np.isfinite(exact)][0]}")
  with np.errstate(over="ignore"):
    rounded = exact.astype(dtype)
  return np.where(rounded.astype(np.float64) > exact, _just_below(rounded), rounded)


def _threshold(value: Any, dtype: np.dtype) -> np.floating:
  if np.shape(value):
    raise ValueError(f"threshold must be a scalar, got shape {np.shape(value)}")
  return _thresholds(value, dtype)[0]


def _just_below(values: np.ndarray) -> np.ndarray:
  return np.nextafter(values, np.array(-np.inf, values.dtype))


def _precision(dtype: np.dtype):
  return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def _padded(x: np.ndarray, side: int, value: float) -> np.ndarray:
  """`x` with rows of `value` at the end, so that it is a whole number of tiles of ≤ `side` rows."""
  tiles = -(-len(x) // side)
  rows = -(-len(x) // tiles)
  fill = np.full((tiles * rows - len(x), *x.shape[1:]), value, x.dtype)
  return np.concatenate([x, fill])


@functools.partial(jax.jit, static_argnames=("diagonal", "genuine"))
def _tile(
  a: Array, b: Array, a_ids: Array, b_ids: Array, *, diagonal: bool, genuine: bool
) -> Array:
  """Cosines of the genuine pairs, or of the impostors; −inf elsewhere."""
  # Accelerators would multiply float32 in fewer bits if not told.
  scores = jnp.matmul(a, b.T, precision="highest")
  same = a_ids[:, None] == b_ids[None, :]
  counted = (same if genuine else ~same) & (a_ids >= 0)[:, None] & (b_ids >= 0)[None, :]
  if diagonal:
    counted &= jnp.triu(jnp.ones_like(counted), 1)
  return jnp.where(counted, scores, -jnp.inf)


def _no_impostors(genuine: np.ndarray, extra: np.ndarray) -> PairCounts:
  """The counts of the genuine scores, at each of these and at `extra`."""
  ordered = np.sort(genuine)
  thresholds = np.unique(np.concatenate([ordered, extra]))
  zeros = np.zeros(len(thresholds), np.int64)
  above, at_or_above = _count(ordered, thresholds)
  return PairCounts(thresholds, above, at_or_above, zeros, zeros.copy(), len(ordered), 0)


def _count(ordered: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """How many of the ascending scores are > each threshold, and how many ≥."""
  above, at_or_above = (
    len(ordered) - np.searchsorted(ordered, thresholds, side).astype(np.int64)
    for side in ("right", "left")
  )
  return above, at_or_above


def _check_both(counts: PairCounts) -> None:
  if not counts.num_genuine or not counts.num_impostor:
    raise ValueError(
      f"the counts hold {counts.num_genuine} genuine and {counts.num_impostor} impostor pairs:"
      " expected some of both"
    )


def _interleaved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """a, b, a, b, … from the last to the first."""
  return np.stack([a[::-1], b[::-1]], 1).reshape(-1)


def _equal_error_rate(curve: RocCurve) -> tuple[float, float]:
  excess = curve.far + curve.tar - 1.0  # FAR − (1 − TAR), from −1 to 1 without falling
  k = int(np.argmax(excess >= 0))
  share = -excess[k - 1] / (excess[k] - excess[k - 1])
  rate = curve.far[k - 1] + share * (curve.far[k] - curve.far[k - 1])
  nearest = k if abs(excess[k]) < abs(excess[k - 1]) else k - 1
  return float(rate), float(curve.thresholds[nearest])


def _best_threshold(scores: np.ndarray, genuine: np.ndarray) -> float:
  """The threshold that judges most pairs right, by the rule of `ten_fold_accuracy`."""
  values, place = np.unique(scores, return_inverse=True)
  change = np.bincount(place, np.where(genuine, -1, 1), len(values))
  # How many are judged right by t in [v_i, v_i+1), less those right by t below all.
  right = np.concatenate([[0], np.cumsum(change)])
  best = right == right.max()
  if best[1:-1].any():
    width = np.where(best[1:-1], np.diff(values), -1.0)
    low, high = values[np.argmax(width)], values[np.argmax(width) + 1]
    middle = 0.5 * low + 0.5 * high
    return float(middle if low < middle < high else low)
  edge = values[0] if best[0] else values[-1]
  return float(edge - max(1.0, abs(edge)) if best[0] else edge + max(1.0, abs(edge)))


@jax.jit
def _best_of(probes: Array, gallery: Array, probe_ids: Array, ids: Array) -> tuple[Array, Array]:
  """Each probe's best score of its own identity, and of the others; −inf where there is none."""
  scores = jnp.matmul(probes, gallery.T, precision="highest")
  same, there = probe_ids[:, None] == ids[None, :], (ids >= 0)[None, :]
  own, other = (jnp.where(mask & there, scores, -jnp.inf) for mask in (same, ~same))
  return jnp.max(own, -1), jnp.max(other, -1)


def _own_and_other(
  gallery: Any, gallery_labels: Any, probes: Any, probe_labels: Any, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """`_best_of` of all probes, by tiles."""
  side = math.isqrt(checks.integer("block_size", block_size, low=1))
  items, unknown = _unit_rows("gallery", gallery), _unit_rows("probes", probes)
  if items.shape[1] != unknown.shape[1]:
    raise ValueError(
      f"probes must have the gallery's dimension {items.shape[1]}, got {unknown.shape}"
    )
  if not len(items) or not len(unknown):
    raise ValueError(f"expected a gallery and probes, got {len(items)} and {len(unknown)}")
  labels = _host("gallery_labels", gallery_labels, np.integer, items.shape[:1])
  wanted = _host("probe_labels", probe_labels, np.integer, unknown.shape[:1])
  _, ids = np.unique(
    np.concatenate([labels.astype(np.int64), wanted.astype(np.int64)]), return_inverse=True
  )
  ids = ids.astype(np.int32)
  m, dtype = len(unknown), np.result_type(items, unknown)
  item_ids, probe_ids = _padded(ids[: len(labels)], side, -1), _padded(ids[len(labels) :], side, -2)
  items, unknown = (_padded(x.astype(dtype), side, 0.0) for x in (items, unknown))
  best = np.full((2, len(unknown)), -np.inf, dtype)
  rows, columns = (len(x) // -(-size // side) for x, size in ((unknown, m), (items, len(labels))))
  for i in range(0, len(unknown), rows):
    for j in range(0, len(items), columns):
      a, b = slice(i, i + rows), slice(j, j + columns)
      with _precision(dtype):
        found = _best_of(unknown[a], items[b], probe_ids[a], item_ids[b])
      best[:, a] = np.maximum(best[:, a], np.asarray(found))
  return best[0, :m], best[1, :m]
