"""Counts of pairs over the threshold: the streaming half of open-set verification.

Genuine pairs are few and their scores are kept. Of impostors there are up to n²/2, and none is
kept: for each distinct genuine score it is counted how many lie above it and how many at or above
it. Between two genuine scores the share of genuine pairs accepted does not change, so these counts
are the ROC curve, every vertex of it. See `metrics.verification` for what follows from them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Int64

from bce_jax import checks
from bce_jax.metrics import _cosines


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

  thresholds: Float[np.ndarray, " k"]
  genuine_above: Int64[np.ndarray, " k"]
  genuine_at_or_above: Int64[np.ndarray, " k"]
  impostor_above: Int64[np.ndarray, " k"]
  impostor_at_or_above: Int64[np.ndarray, " k"]
  num_genuine: int
  num_impostor: int


def pair_counts(
  embeddings: Float[ArrayLike, "n D"],
  labels: Int[ArrayLike, " n"],
  *,
  thresholds: Float[ArrayLike, " k"] | Sequence[float] = (),
  block_size: int = _cosines.BLOCK,
  progress: Callable[[int, int], None] | None = None,
) -> PairCounts:
  r"""Counts all pairs i < j of a set of embeddings, scored by their cosine.

    s_ij = x̂_iᵀx̂_j,   x̂ = x / max(‖x‖, 1e-5),   genuine where y_i = y_j

  Of the matrix of cosines one tile of about `block_size` scores exists at a time. Beside it are
  held the embeddings in float64, twice, and the genuine scores. Scores are computed on the host in
  float64, by products that round nothing (`_cosines.rows`): they do not depend on the blocks or on
  the order of the embeddings, copies of an embedding are tied, and no float32 ties what differs.

  Args:
    embeddings: x, not normalized, any floating dtype.
    labels: identities, any integers.
    thresholds: further thresholds to count at, such as t = b/γ, learned on other identities.
    block_size: scores that exist at once.
    progress: called after each tile with the number of tiles done and of all.

  Returns:
    `PairCounts`, float64.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, inside a trace, or where no
      pair is genuine or none is an impostor.

  >>> embeddings = [[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]
  >>> counts = pair_counts(embeddings, [7, 7, 9], thresholds=[0.5])
  >>> counts.thresholds.round(3), counts.impostor_above
  (array([0.5  , 0.707]), array([1, 0]))
  >>> counts.num_genuine, counts.num_impostor
  (1, 2)
  """
  block_size = checks.integer("block_size", block_size, low=1)
  vectors = _cosines.rows("embeddings", embeddings)
  identities = _cosines.host("labels", labels, np.integer, (vectors.size,))
  _, ids, sizes = np.unique(identities, return_inverse=True, return_counts=True)
  n, num_genuine = vectors.size, sum(int(s) * (int(s) - 1) // 2 for s in sizes)
  num_impostor = n * (n - 1) // 2 - num_genuine
  for what, number in (("of one identity", num_genuine), ("of two identities", num_impostor)):
    if not number:
      raise ValueError(f"no pair of the {n} embeddings is {what}: expected at least one")
  extra = _cosines.thresholds(thresholds, np.dtype(np.float64))

  # With the identities in order, genuine pairs lie in the tiles along the diagonal only.
  order = np.argsort(ids, kind="stable")
  vectors, ids = vectors.take(order), ids[order]
  rows = -(-n // -(-n // math.isqrt(block_size)))  # tiles of about one size
  starts = range(0, n, rows)
  tiles = [(i, j) for i in starts for j in starts if i <= j]
  near = [(i, j) for i, j in tiles if i == j or ids[min(i + rows, n) - 1] == ids[j]]

  def scores(pairs: list[tuple[int, int]], *, genuine: bool) -> Iterator[np.ndarray]:
    for i, j in pairs:
      a, b = slice(i, i + rows), slice(j, j + rows)
      yield _tile(
        vectors.take(a), vectors.take(b), ids[a], ids[b], diagonal=i == j, genuine=genuine
      )

  counts = _no_impostors(np.concatenate(list(scores(near, genuine=True))), extra)
  above, at_or_above = counts.impostor_above, counts.impostor_at_or_above
  for done, tile in enumerate(scores(tiles, genuine=False), start=1):
    tile.sort()
    more = _count(tile, counts.thresholds)
    above += more[0]
    at_or_above += more[1]
    if progress is not None:
      progress(done, len(tiles))
  return counts._replace(num_impostor=num_impostor)


def pair_counts_from_scores(
  scores: Float[ArrayLike, " n"],
  same: Bool[ArrayLike, " n"],
  *,
  thresholds: Float[ArrayLike, " k"] | Sequence[float] = (),
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
  values = _cosines.scores(scores)
  genuine = _cosines.host("same", same, np.bool_, values.shape)
  counts = _no_impostors(values[genuine], _cosines.thresholds(thresholds, values.dtype))
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
) -> Float[np.ndarray, " m"]:
  """The cosines of listed pairs, for `pair_counts_from_scores` and `ten_fold_accuracy`.

  Args:
    embeddings: not normalized, any floating dtype.
    pairs: two row numbers each, in [0, n).

  Returns:
    The cosine of each pair, float64: the same for (a, b) and (b, a), and to the last bit the one
    that `pair_counts` counts.

  Raises:
    ValueError: for wrong shapes or dtypes, values that are not finite, a row number out of range,
      or inside a trace.

  >>> pair_scores([[1.0, 0.0], [3.0, 4.0]], [[0, 1], [1, 1]])
  array([0.6, 1. ])
  """
  vectors = _cosines.rows("embeddings", embeddings)
  rows = _cosines.host("pairs", pairs, np.integer, (None, 2))
  wrong = (rows < 0) | (rows >= vectors.size)
  if wrong.any():
    raise ValueError(f"pairs must lie in [0, {vectors.size}), got {rows[wrong].flat[0]}")
  out = np.empty(len(rows), np.float64)
  step = max(1, _cosines.BLOCK // max(vectors.high.shape[1], 1))
  for i in range(0, len(rows), step):
    a, b = rows[i : i + step].T
    out[i : i + step] = _cosines.of_pairs(vectors.take(a), vectors.take(b))
  return out


def _tile(
  a: _cosines.Rows,
  b: _cosines.Rows,
  a_ids: np.ndarray,
  b_ids: np.ndarray,
  *,
  diagonal: bool,
  genuine: bool,
) -> Float[np.ndarray, " m"]:
  """Cosines of the genuine pairs, or of the impostors; on the diagonal each pair once."""
  same = a_ids[:, None] == b_ids[None, :]
  counted = same if genuine else ~same
  if diagonal:
    counted = np.triu(counted, 1)
  cosines: np.ndarray = _cosines.of_all(a, b)[counted]
  return cosines


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
