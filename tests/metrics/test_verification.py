import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from bce_jax import metrics
from bce_jax.metrics import _counting

FARS = (1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.5, 1.0)


def signs(n, dim=16, seed=0, dtype=np.float32):
  """Embeddings of ±1 in 16 dimensions: float32 cosines are exact, and many are equal."""
  return np.random.default_rng(seed).choice([-1.0, 1.0], (n, dim)).astype(dtype)


def listed(n=400, genuine=0.3, digits=None, seed=0):
  rng = np.random.default_rng(seed)
  same = rng.random(n) < genuine
  scores = np.tanh(rng.normal(size=n) + same)
  return (scores if digits is None else scores.round(digits)), same


def by_brute_force(scores, same, thresholds):
  t = np.unique(np.concatenate([scores[same], thresholds]))
  kinds = [
    (compare, scores[k]) for k in (same, ~same) for compare in (np.greater, np.greater_equal)
  ]
  rows = [[int(compare(values, x).sum()) for x in t] for compare, values in kinds]
  return metrics.PairCounts(
    t, *(np.array(row, np.int64) for row in rows), int(same.sum()), int((~same).sum())
  )


def assert_equal(actual, expected):
  for name, a, b in zip(type(actual)._fields, actual, expected, strict=True):
    np.testing.assert_array_equal(a, b, err_msg=name)
    assert np.asarray(a).dtype.kind == np.asarray(b).dtype.kind


def outcomes(scores, same):
  """(threshold, TAR, FAR) at every score and between and beyond them."""
  values = np.unique(scores)
  between = (values[1:] + values[:-1]) / 2
  t = np.concatenate([[values[0] - 1], values, between, [values[-1] + 1]])
  tar = (scores[same][None] > t[:, None]).mean(1)
  far = (scores[~same][None] > t[:, None]).mean(1)
  return t, tar, far


class TestPairCounts:
  @pytest.mark.parametrize(
    ("n", "block_size"), [(7, 1), (7, 2**22), (64, 50), (64, 400), (65, 50), (65, 400), (65, 2**22)]
  )
  def test_all_pairs_once_whatever_the_blocks(self, n, block_size):
    embeddings = signs(n)
    labels = np.random.default_rng(1).integers(-3, 5, n) * 10**9
    i, j = np.triu_indices(n, 1)
    scores = (embeddings @ embeddings.T)[i, j] / 16
    thresholds = [0.3, 0.25, -2.0]
    actual = metrics.pair_counts(embeddings, labels, thresholds=thresholds, block_size=block_size)
    assert_equal(actual, by_brute_force(scores, labels[i] == labels[j], np.array(thresholds)))

  def test_tiles_hold_no_more_than_the_block(self, monkeypatch):
    seen, tile = [], _counting._tile
    monkeypatch.setattr(_counting, "_tile", lambda *a, **k: seen.append(tile(*a, **k)) or seen[-1])
    done = []
    labels = np.arange(50) // 5  # genuine pairs along the diagonal only
    metrics.pair_counts(signs(50), labels, block_size=121, progress=lambda *x: done.append(x))
    assert {t.size for t in seen[:5]} == {2 * 10}  # genuine pairs of two identities of 5
    assert {t.size for t in seen[5:]} == {10 * 10, 5 * 5}  # impostors, each once
    assert done == [(k, 15) for k in range(1, 16)]
    assert len(seen) == 15 + 5

  def test_dtypes(self):
    x, labels = np.random.default_rng(0).normal(size=(12, 5)), np.arange(12) % 3
    wide = metrics.pair_counts(x, labels, block_size=30)
    i, j = np.triu_indices(12, 1)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    same = labels[i] == labels[j]
    cosines = (units @ units.T)[i, j]
    np.testing.assert_allclose(wide.thresholds, np.sort(cosines[same]), rtol=1e-14, atol=1e-15)
    for narrow in (x.astype(np.float32), jnp.asarray(x, jnp.bfloat16)):
      thresholds = metrics.pair_counts(narrow, labels).thresholds
      assert thresholds.dtype == wide.thresholds.dtype == np.float64
      np.testing.assert_allclose(thresholds, wide.thresholds, atol=1e-2)

  def test_zero_vectors_score_zero(self):
    counts = metrics.pair_counts(np.zeros((3, 4), np.float32), [0, 0, 1])
    assert [x.tolist() for x in counts[:5]] == [[0.0], [0], [1], [0], [2]]

  @pytest.mark.parametrize("digits", [None, 1])
  @pytest.mark.parametrize("dtype", [np.float32, np.float64])
  def test_of_listed_scores(self, digits, dtype):
    scores, same = listed(digits=digits)
    scores = scores.astype(dtype)
    thresholds = np.array([-0.5, 0.5, 3.0], dtype)
    assert_equal(
      metrics.pair_counts_from_scores(scores, same, thresholds=thresholds),
      by_brute_force(scores, same, thresholds),
    )

  def test_merged_parts_are_the_whole(self):
    scores, same = listed(digits=2)
    common = np.append(scores[same], 0.123)
    parts = [
      metrics.pair_counts_from_scores(scores[part], same[part], thresholds=common)
      for part in (slice(0, 3), slice(3, 150), slice(150, None))
    ]
    merged = metrics.merge_pair_counts(metrics.merge_pair_counts(*parts[:2]), parts[2])
    assert_equal(merged, metrics.pair_counts_from_scores(scores, same, thresholds=[0.123]))
    with pytest.raises(ValueError, match="counted at different thresholds, 2 and 3 of them"):
      metrics.merge_pair_counts(
        *(
          metrics.pair_counts_from_scores(scores[:0], same[:0], thresholds=range(n)) for n in (2, 3)
        )
      )

  def test_pair_scores(self):
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    pairs = np.array([[0, 1], [8, 8], [3, 0]])
    expected = [x[a] @ x[b] / np.linalg.norm(x[a]) / np.linalg.norm(x[b]) for a, b in pairs]
    np.testing.assert_allclose(metrics.pair_scores(x, pairs), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"pairs must lie in \[0, 9\), got 9"):
      metrics.pair_scores(x, [[0, 9]])


SETS = pytest.mark.parametrize(
  ("digits", "genuine", "seed"), [(None, 0.3, 0), (1, 0.3, 1), (0, 0.5, 2), (2, 0.02, 3)]
)


class TestAgainstScikitLearn:
  @SETS
  def test_roc(self, digits, genuine, seed):
    scores, same = listed(digits=digits, genuine=genuine, seed=seed)
    curve = metrics.roc(metrics.pair_counts_from_scores(scores, same))
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    theirs, ours = set(zip(far, tar, strict=True)), list(zip(curve.far, curve.tar, strict=True))
    assert set(ours) <= theirs
    assert len(ours) == len(set(ours)) <= 2 * same.sum() + 2
    # What we leave out lies inside horizontal runs.
    for x, y in theirs - set(ours):
      run = curve.far[curve.tar == y]
      assert run.min() < x < run.max()
    for t, x, y in zip(curve.thresholds, curve.far, curve.tar, strict=True):
      assert ((scores[~same] > t).mean(), (scores[same] > t).mean()) == (x, y)
    assert (np.diff(curve.thresholds) < 0).all()

  @SETS
  def test_area_and_equal_error_rate(self, digits, genuine, seed):
    scores, same = listed(digits=digits, genuine=genuine, seed=seed)
    results = metrics.verification(metrics.pair_counts_from_scores(scores, same))
    assert results.auc == pytest.approx(roc_auc_score(same, scores), rel=1e-13)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    expected = brentq(lambda x: 1.0 - x - interp1d(far, tar)(x), 0.0, 1.0, xtol=1e-13)
    assert results.equal_error_rate == pytest.approx(expected, abs=1e-10)
    # No genuine score, nor a threshold just below one, comes nearer to FAR = 1 − TAR.
    tracked = np.concatenate([scores[same], np.nextafter(scores[same], -np.inf)])

    def gap(t):
      return abs((scores[~same] > t).mean() - (scores[same] <= t).mean())

    assert gap(results.eer_threshold) == pytest.approx(min(map(gap, tracked)), abs=1e-12)

  @SETS
  def test_tar_at_far_and_best_accuracy(self, digits, genuine, seed):
    scores, same = listed(digits=digits, genuine=genuine, seed=seed)
    results = metrics.verification(metrics.pair_counts_from_scores(scores, same), far=FARS)
    _, tar, far = outcomes(scores, same)
    for f, got, at in zip(FARS, results.tar_at_far, results.thresholds_at_far, strict=True):
      assert got == tar[far <= f].max()
      assert (scores[same] > at).mean() == got
      assert (scores[~same] > at).mean() <= f
    share = same.mean()
    accuracy = share * tar + (1 - share) * (1 - far)
    assert results.best_accuracy == pytest.approx(accuracy.max(), abs=1e-12)
    best = results.best_threshold
    assert ((scores > best) == same).mean() == pytest.approx(accuracy.max(), abs=1e-12)
    tracked = np.append(np.nextafter(scores[same], -np.inf), np.inf)
    right = np.array([((scores > x) == same).sum() for x in tracked])
    assert best == tracked[right == right.max()].max()

  @settings(max_examples=40, deadline=None)
  @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=14))
  def test_small_sets_with_ties(self, pairs):
    scores, same = np.array([p[0] / 4 for p in pairs]), np.array([p[1] for p in pairs])
    if same.all() or not same.any():
      return
    counts = metrics.pair_counts_from_scores(scores, same)
    results = metrics.verification(counts, far=FARS)
    assert results.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-14)
    _, tar, far = outcomes(scores, same)
    assert results.tar_at_far.tolist() == [tar[far <= f].max() for f in FARS]
    assert results.best_accuracy == pytest.approx(
      (same.mean() * tar + (1 - same.mean()) * (1 - far)).max(), abs=1e-14
    )


def exact_order(x, i, j):
  """Places of cosines among each other, by fractions: sign and square, nothing rounded."""
  whole = [[int(v) for v in row] for row in x]
  dot = lambda a, b: sum(u * v for u, v in zip(whole[a], whole[b], strict=True))  # noqa: E731
  values = []
  for a, b in zip(i, j, strict=True):
    product = dot(a, b)
    square = fractions.Fraction(product * abs(product), max(dot(a, a) * dot(b, b), 1))
    values.append(square)
  places = {value: place for place, value in enumerate(sorted(set(values)))}
  return np.array([float(places[value]) for value in values])


class TestTies:
  @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
  def test_cosines_that_are_equal_are_tied_and_no_others(self, dtype):
    rng = np.random.default_rng(5)
    base = rng.integers(-3, 4, (30, 3))
    x = (base[rng.integers(0, 30, 90)] * rng.choice([1, 2, 3, 7], (90, 1))).astype(dtype)
    labels = rng.integers(0, 12, 90)
    i, j = np.triu_indices(90, 1)
    places, same = exact_order(x, i, j), labels[i] == labels[j]
    for block_size in (300, 2**22):
      counts = metrics.pair_counts(x, labels, block_size=block_size)
      assert_equal(
        counts._replace(thresholds=np.unique(places[same])), by_brute_force(places, same, [])
      )
    scores = metrics.pair_scores(x, np.stack([i, j], 1))
    _, ours = np.unique(scores, return_inverse=True)
    np.testing.assert_array_equal(ours, places)
    np.testing.assert_array_equal(metrics.pair_scores(x, np.stack([j, i], 1)), scores)
    results = metrics.verification(counts)
    assert results.auc == pytest.approx(roc_auc_score(same, places), rel=1e-13)

  @pytest.mark.parametrize("dtype", [np.float32, np.float64])
  def test_copies_wherever_they_stand(self, dtype):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(23, 37)).astype(dtype)
    rows = rng.permutation(np.repeat(np.arange(23), 5))
    i, j = np.triu_indices(len(rows), 1)
    once = metrics.pair_scores(base, np.stack([rows[i], rows[j]], 1))
    same = rows[i] // 2 == rows[j] // 2
    expected = by_brute_force(once, same, [])
    for block_size in (400, 3000, 2**22):
      assert_equal(metrics.pair_counts(base[rows], rows // 2, block_size=block_size), expected)
    assert (once[rows[i] == rows[j]] == 1.0).all()
    # A copy in the gallery under another name is a tie, which is wrong.
    gallery = np.concatenate([base, base[:1]])
    names = np.append(np.arange(23), 99)
    assert metrics.rank_one(gallery, names, base, names[:23], block_size=60) == 22 / 23

  def test_embeddings_that_float32_cosines_would_tie(self):
    # All of them point almost the same way, as when a network has nearly collapsed.
    rng = np.random.default_rng(1)
    labels = np.arange(60) // 4
    centers = rng.normal(size=(15, 8))[labels]
    x = (1 + 1e-4 * (centers + rng.normal(size=(60, 8)))).astype(np.float32)
    i, j = np.triu_indices(60, 1)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    scores, same = (unit @ unit.T)[i, j], labels[i] == labels[j]
    assert len(np.unique(scores.astype(np.float32))) < 10
    results = metrics.verification(metrics.pair_counts(x, labels))
    assert results.auc == pytest.approx(roc_auc_score(same, scores), rel=1e-12)

  @pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
  def test_lengths_do_not_matter(self, scale):
    x, labels = np.random.default_rng(2).normal(size=(12, 5)), np.arange(12) % 3
    plain = metrics.pair_counts(x, labels)
    if scale < 1e-5:  # shorter than 1e-5: no direction to speak of
      assert (np.abs(metrics.pair_counts(x * scale, labels).thresholds) < 1e-40).all()
      return
    scaled = metrics.pair_counts(x * scale, labels)
    np.testing.assert_allclose(scaled.thresholds, plain.thresholds, rtol=1e-13, atol=1e-15)


def test_float32_scores_have_float32_thresholds():
  # Between neighboring float32 scores lie float64 numbers that in float32 would be a score again.
  scores = np.float32(0.5) + np.arange(12, dtype=np.float32) * np.float32(2**-24)
  same = np.arange(12) % 3 > 0
  counts = metrics.pair_counts_from_scores(scores, same)
  curve, results = metrics.roc(counts), metrics.verification(counts, far=FARS)
  for t, x, y in zip(curve.thresholds[1:-1], curve.far[1:-1], curve.tar[1:-1], strict=True):
    accepted = scores > np.float32(t)
    assert (accepted[~same].mean(), accepted[same].mean()) == (x, y)
  at = np.float32(results.thresholds_at_far[-1])
  assert (scores[same] > at).mean() == results.tar_at_far[-1] == 1.0


def test_a_far_is_compared_as_a_quotient():
  # 0.29 · 100 is 28.999…: a product would allow 28 impostors only.
  scores = np.concatenate([np.arange(100.0), [70.5]])
  counts = metrics.pair_counts_from_scores(scores, np.arange(101) == 100)
  assert metrics.verification(counts, far=[0.29, 0.28]).tar_at_far.tolist() == [1.0, 0.0]
  assert metrics.verification(counts, far=[0.28]).thresholds_at_far.tolist() == [np.inf]


def test_of_equally_good_thresholds_the_highest():
  # Just below 3 and just below 1 two of three pairs are classified correctly.
  counts = metrics.pair_counts_from_scores([1.0, 2.0, 3.0], [True, False, True])
  assert metrics.verification(counts).best_threshold == np.nextafter(3.0, 0.0)
  # And here nothing is better than to refuse all.
  counts = metrics.pair_counts_from_scores([1.0, 2.0, 3.0], [True, False, False])
  assert metrics.verification(counts).best_threshold == np.inf


class TestVerifyAt:
  @SETS
  def test_tracked_thresholds(self, digits, genuine, seed):
    scores, same = listed(digits=digits, genuine=genuine, seed=seed)
    tracked = [-3.0, -0.11, 0.0, 0.1, 0.5, 3.0]
    for dtype in (np.float32, np.float64):
      values = scores.astype(dtype)
      counts = metrics.pair_counts_from_scores(values, same, thresholds=tracked)
      for t in tracked:
        accepted = values.astype(np.float64) > t  # 0.1 in float32 is more than 0.1
        tar, far = accepted[same].mean(), accepted[~same].mean()
        result = metrics.verify_at(counts, t)
        assert (result.true_accept, result.false_accept) == (tar, far)
        assert result.accuracy == (accepted == same).mean()
        assert result.balanced_accuracy == (tar + 1 - far) / 2

  @SETS
  def test_thresholds_that_are_given_are_evaluated(self, digits, genuine, seed):
    scores, same = listed(digits=digits, genuine=genuine, seed=seed)
    counts = metrics.pair_counts_from_scores(scores, same)
    curve, results = metrics.roc(counts), metrics.verification(counts, far=FARS)
    for t, far, tar in zip(curve.thresholds[1:-1], curve.far[1:-1], curve.tar[1:-1], strict=True):
      assert metrics.verify_at(counts, t)[:2] == (tar, far)
    for t, tar in zip(results.thresholds_at_far, results.tar_at_far, strict=True):
      assert np.isinf(t) or metrics.verify_at(counts, t).true_accept == tar

  def test_others_only_where_the_counts_determine_them(self):
    scores, same = np.array([0.2, 0.4, 0.6, 0.8, 0.3]), np.array([True, True, True, True, False])
    counts = metrics.pair_counts_from_scores(scores, same)
    assert metrics.verify_at(counts, 0.5) == (0.5, 0.0, 0.6, 0.75)
    assert metrics.verify_at(counts, 0.1) == (1.0, 1.0, 0.8, 0.5)
    assert metrics.verify_at(counts, 0.9).accuracy == 0.2
    with pytest.raises(ValueError, match=r"threshold 0\.25 was not counted at, and 1 impostors"):
      metrics.verify_at(counts, 0.25)


class TestFolds:
  @pytest.mark.parametrize("digits", [None, 1])
  def test_against_a_loop(self, digits):
    scores, same = listed(n=200, genuine=0.5, digits=digits, seed=4)
    folds = np.empty(200, int)
    expected = []
    for fold, (rest, own) in enumerate(KFold(10, shuffle=True, random_state=0).split(scores)):
      folds[own] = fold
      values = np.unique(scores[rest])
      middles = (values[1:] + values[:-1]) / 2
      right = ((scores[rest][None] > middles[:, None]) == same[rest][None]).sum(1)
      widths = [np.diff(values)[k] if right[k] == right.max() else -1 for k in range(len(right))]
      t = middles[int(np.argmax(widths))]
      expected.append((t, ((scores[own] > t) == same[own]).mean()))
    result = metrics.ten_fold_accuracy(scores, same, folds * 7 - 3)
    thresholds, accuracies = np.array(expected).T
    np.testing.assert_allclose(result.thresholds, thresholds, rtol=1e-14)
    np.testing.assert_array_equal(result.accuracies, accuracies)
    assert result.mean == pytest.approx(np.mean(accuracies), abs=1e-15)
    assert result.std == pytest.approx(np.std(accuracies), abs=1e-15)

  def test_a_threshold_beyond_all_scores_only_where_none_between_is_as_good(self):
    def thresholds(scores, same):
      folds = [0] * len(scores) + [1]
      return metrics.ten_fold_accuracy([*scores, 0.0], [*same, True], folds).thresholds[1]

    assert thresholds([1.0, 3.0], [True, True]) == 0.0
    assert thresholds([1.0, 3.0], [False, False]) == 6.0
    assert thresholds([-2.0, 3.0], [True, False]) == -4.0  # one right beyond, none between
    assert thresholds([1.0, 2.0, 4.0], [True, False, True]) == 3.0  # as good as to accept all
    assert thresholds([1.0, 2.0, 3.0, 4.0], [False, True, False, True]) == 1.5  # equal widths


class TestIdentification:
  @pytest.mark.parametrize("block_size", [4, 60, 2**22])
  def test_against_a_loop(self, block_size):
    gallery, probes = signs(23), signs(31, seed=1)
    rng = np.random.default_rng(2)
    labels, wanted = rng.integers(0, 3, 23), rng.integers(0, 4, 31)
    cosines = probes.astype(np.float64) @ gallery.T / 16
    known = np.isin(wanted, labels)
    assert known.any()
    assert not known.all()
    named, highest = [], cosines.max(1)
    for row, top, label in zip(cosines, highest, wanted, strict=True):
      named.append(set(labels[row == top]) == {label})
    named = np.array(named)
    arguments = {"block_size": block_size}
    actual = metrics.rank_one(gallery, labels, probes[known], wanted[known], **arguments)
    assert actual == named[known].mean()
    assert 0 < actual < 1
    for t in (0.5, 0.6, 0.75):
      result = metrics.open_set_identification(
        gallery, labels, probes, wanted, threshold=t, **arguments
      )
      assert result.identified == (named & (highest > t))[known].mean()
      assert result.false_alarm == (highest > t)[~known].mean()

  def test_a_tie_is_wrong_unless_all_are_right(self):
    gallery, probe = np.float32([[1, 0], [1, 0], [0, 1]]), np.float32([[1, 0]])
    assert metrics.rank_one(gallery, [5, 5, 6], probe, [5]) == 1.0
    for labels in ([5, 6, 5], [6, 5, 5]):
      assert metrics.rank_one(gallery, labels, probe, [5]) == 0.0

  def test_a_stranger_is_refused(self):
    with pytest.raises(ValueError, match=r"probe label 8 is not in the gallery \(1 of 2 probes\)"):
      metrics.rank_one(signs(2), [1, 2], signs(2), [1, 8])


class TestErrors:
  @pytest.mark.parametrize(
    ("call", "message"),
    [
      (lambda: metrics.pair_counts(signs(3), [1, 2, 3]), "no pair of the 3 embeddings is of one"),
      (lambda: metrics.pair_counts(signs(3), [1, 1, 1]), "no pair of the 3 embeddings is of two"),
      (lambda: metrics.pair_counts(signs(3), [1.0, 1.0, 2.0]), "labels must be of kind integer"),
      (lambda: metrics.pair_counts(signs(3), [1, 1]), r"labels must have shape \[3\], got \(2,\)"),
      (lambda: metrics.pair_counts(signs(3)[0], [1]), r"embeddings must have shape \[n, n\]"),
      (lambda: metrics.pair_counts([[np.nan], [1], [1]], [1, 1, 2]), "embeddings must be finite"),
      (
        lambda: metrics.pair_counts(signs(3), [1, 1, 2], thresholds=[np.inf]),
        "a threshold must be a finite number, got inf",
      ),
      (lambda: metrics.pair_counts(signs(3), [1, 1, 2], block_size=0), "must be at least 1, got 0"),
      (lambda: metrics.pair_counts_from_scores([0.5, np.nan], [True, False]), "1 are not"),
      (lambda: metrics.pair_counts_from_scores([0.5], [1]), "same must be of kind bool"),
      (lambda: metrics.ten_fold_accuracy([0.5], [True], [1]), "at least two, got 1"),
    ],
  )
  def test_wrong_arguments(self, call, message):
    with pytest.raises(ValueError, match=message):
      call()

  def test_one_kind_of_pair_has_no_curve(self):
    for same in ([True, True], [False, False]):
      counts = metrics.pair_counts_from_scores([0.1, 0.2], same)
      for final in (metrics.roc, metrics.verification, lambda c: metrics.verify_at(c, 0.1)):
        with pytest.raises(ValueError, match=r"(2 genuine and 0|0 genuine and 2) impostor pairs"):
          final(counts)

  def test_far_out_of_range(self):
    counts = metrics.pair_counts_from_scores([0.1, 0.2], [True, False])
    for far in (-0.1, 1.1, np.nan):
      with pytest.raises(ValueError, match=r"far must lie in \[0, 1\]"):
        metrics.verification(counts, far=[far])

  def test_inside_a_trace(self):
    with pytest.raises(ValueError, match="embeddings must be at hand: call this outside jit"):
      jax.jit(lambda x: metrics.pair_counts(x, np.array([0, 0, 1])).thresholds)(signs(3))
