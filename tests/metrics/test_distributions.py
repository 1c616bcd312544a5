import math
import random

import hypothesis.extra.numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bce_jax import metrics
from bce_jax.metrics import _distributions

TRICKY = [0.0, -0.0, 1.0, -1.0, 0.1, 2.5, -7.25, 1e-3, 1e9, -1e9, 3e38, -3e38, 1e-40, -1e-40, 5e-45]
VALUES = st.sampled_from(TRICKY) | st.floats(-10, 10, width=32)


def bins_by_definition(values):
  """{(exponent, bin number): count} of finite values, in Python's exact integers."""
  exact = [x.as_integer_ratio() for x in map(float, values)]
  if not exact:
    return {}
  largest = max(abs(float(x)) for x in values)
  k = max(math.frexp(largest)[1] - 53, -1074) if largest else -1074  # all can tell 0 from others

  def number(ratio, k):  # ⌊v / 2^k⌋
    top, bottom = ratio
    return (top << -k) // bottom if k < 0 else top // (bottom << k)

  while True:
    numbers = [number(ratio, k) for ratio in exact]
    if max(numbers) - min(numbers) < 1024:
      return {(k, i): numbers.count(i) for i in set(numbers)}
    k += 1


def bins(histogram):
  return {
    (histogram.exponent, histogram.first + j): c
    for j, c in enumerate(histogram.counts.tolist())
    if c
  }


def same(a, b):
  """Equal counts and bins; sums to rounding."""
  for x, y in zip(a, b, strict=True):
    if isinstance(x, metrics.Histogram):
      assert bins(x) == bins(y)
      assert (x[:2], x[3:]) == (y[:2], y[3:])
    else:
      for name in ("count", "low", "high"):
        np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
      largest = np.where(x.count, np.maximum(np.abs(x.low), np.abs(x.high)), 0.0)
      assert (np.abs(x.total - y.total) <= 1e-14 * x.count * largest).all()
      assert (np.abs(x.scatter - y.scatter) <= 1e-13 * x.count * largest**2).all()


def spread_by_definition(sets):
  """A spread of sets of scores, one set per class, in exact sums."""
  out = []
  for values in sets:
    kept = [float(x) for x in values if np.isfinite(x)]
    total = math.fsum(kept)
    mean = total / len(kept) if kept else 0.0
    scatter = math.fsum((x - mean) ** 2 for x in kept)
    out.append((len(kept), total, scatter, min(kept, default=np.inf), max(kept, default=-np.inf)))
  return metrics.Spread(*(np.array(x) for x in zip(*out, strict=True)))


def by_definition(scores, labels):
  n, classes = scores.shape
  own = np.eye(classes, dtype=bool)[labels]
  hardest = [max(scores[k][~own[k]], default=-np.inf) for k in range(n)]
  others = [scores[labels == i][:, np.arange(classes) != i].ravel() for i in range(classes)]
  return (
    scores[own],
    scores[~own],
    np.array(hardest),
    spread_by_definition([scores[labels == i][:, i] for i in range(classes)]),
    spread_by_definition(others),
    spread_by_definition([scores[labels != i][:, i] for i in range(classes)]),
  )


CASES = st.tuples(st.integers(0, 12), st.integers(1, 5)).flatmap(
  lambda shape: st.tuples(
    hnp.arrays(np.float32, shape, elements=VALUES | st.sampled_from([np.inf, -np.inf])),
    hnp.arrays(np.int32, shape[0], elements=st.integers(0, shape[1] - 1)),
  )
)


@settings(deadline=None, max_examples=150)
@given(CASES)
def test_by_definition(case):
  scores, labels = case
  actual = metrics.score_distributions(scores, labels)
  *sets, positive, one, two = by_definition(scores, labels)
  for histogram, values in zip(actual[:3], sets, strict=True):
    assert bins(histogram) == bins_by_definition(values[np.isfinite(values)])
    assert histogram.minus_infinity == np.sum(values == -np.inf)
    assert histogram.plus_infinity == np.sum(values == np.inf)
    assert histogram.total == len(values)
    assert histogram.counts.size <= 1024
    if histogram.counts.size:
      inside = values[np.isfinite(values)].astype(np.float64)
      counted, _ = np.histogram(inside, np.append(histogram.edges[:-1], np.inf))
      np.testing.assert_array_equal(counted, histogram.counts)
      assert inside.max() < histogram.edges[-1]
  same(actual, (*actual[:3], positive, one, two))


@settings(deadline=None, max_examples=100)
@example((np.float32([[1e-14], [0.0]]), np.zeros(2, int)), random.Random(0), 0, 1)
@given(CASES, st.randoms(use_true_random=False), st.integers(0, 12), st.integers(0, 12))
def test_order_and_split_do_not_matter(case, chance, first, second):
  scores, labels = case
  whole = metrics.score_distributions(scores, labels)
  order = list(range(len(labels)))
  chance.shuffle(order)
  first, second = sorted((first, second))
  a, b, c = (
    metrics.score_distributions(scores[part], labels[part])
    for part in (order[:first], order[first:second], order[second:])
  )
  merge = metrics.merge_distributions
  same(whole, merge(merge(a, b), c))
  same(whole, merge(c, merge(b, a)))


def test_many_blocks_and_parts(monkeypatch):
  rng = np.random.default_rng(0)
  scores = rng.normal(0, 3, (500, 7)).astype(np.float32)
  labels = rng.integers(0, 6, 500)  # class 6 has no sample
  whole = metrics.score_distributions(scores, labels)
  monkeypatch.setattr(_distributions, "_BLOCK", 40)
  same(whole, metrics.score_distributions(scores, labels))
  *_, positive, one, two = by_definition(scores, labels)
  same(whole, (*whole[:3], positive, one, two))
  pairs = metrics.score_pairs(scores, labels)
  for histogram, values in zip((whole.positive, whole.hardest_negative), pairs, strict=True):
    assert bins(histogram) == bins_by_definition(np.asarray(values))
  own = scores[labels == 2][:, 2].astype(np.float64)
  assert whole.positive_by_class.mean()[2] == pytest.approx(own.mean(), rel=1e-12)
  assert whole.positive_by_class.std()[2] == pytest.approx(own.std(), rel=1e-12)
  assert np.isnan([whole.positive_by_class.mean()[6], whole.type_one_by_class.std()[6]]).all()
  assert whole.type_two_by_class.count[6] == 500


def test_a_small_deviation_beside_a_large_mean():
  rng = np.random.default_rng(1)
  scores = 1e8 + rng.normal(0, 1e-3, (400, 3))
  labels = rng.integers(0, 3, 400)
  parts = [
    metrics.score_distributions(scores[i : i + 9], labels[i : i + 9]) for i in range(0, 400, 9)
  ]
  merged = parts[0]
  for part in parts[1:]:
    merged = metrics.merge_distributions(merged, part)
  *_, positive, one, two = by_definition(scores, labels)
  for actual, exact in zip(merged[3:], (positive, one, two), strict=True):
    np.testing.assert_allclose(actual.std(), np.sqrt(exact.scatter / exact.count), rtol=1e-4)


def test_dtypes_and_what_is_given_stays():
  rng = np.random.default_rng(2)
  labels = rng.integers(0, 4, 30)
  scores = rng.normal(size=(30, 4))
  kept = scores.copy()
  metrics.score_distributions(scores, labels)
  np.testing.assert_array_equal(scores, kept)
  for dtype in (np.float16, jnp.bfloat16):
    half = scores.astype(dtype)
    same(
      metrics.score_distributions(half, labels),
      metrics.score_distributions(half.astype(np.float64), labels),
    )
  same(
    metrics.score_distributions(jnp.asarray(scores, jnp.float32), jnp.asarray(labels)),
    metrics.score_distributions(np.asfortranarray(scores.astype(np.float32)), labels),
  )


def test_special_histograms():
  def positives(*values):
    return metrics.score_distributions(
      np.array(values)[:, None], np.zeros(len(values), int)
    ).positive

  equal = positives(0.1, 0.1, 0.1)
  assert equal.counts.tolist() == [3]
  assert equal.edges[0] <= 0.1 < equal.edges[1] == np.nextafter(0.1, 1)
  none = positives()
  assert (none.total, none.edges.size, none.counts.size) == (0, 0, 0)
  # The whole range of float64, and the end of it: ± the largest, and the least above 0.
  wide = positives(1.7e308, -1.7e308, 5e-324, -5e-324)
  assert wide.total == 4
  assert wide.counts.size <= 1024
  # On both sides of 0.
  assert wide.counts[[-wide.first - 1, -wide.first]].tolist() == [1, 1]
  assert bins(positives(5e-324, 0.0)) == {(-1074, 0): 1, (-1074, 1): 1}
  coarse = positives(*np.linspace(-3, 3, 999)).coarser(8)
  assert 4 < coarse.counts.size <= 8
  assert coarse.total == 999
  counted, _ = np.histogram(np.linspace(-3, 3, 999), np.append(coarse.edges[:-1], np.inf))
  np.testing.assert_array_equal(counted, coarse.counts)
  assert none.coarser(8).total == 0


@settings(deadline=None, max_examples=60)
@given(
  st.sampled_from([1, 7, 20]).flatmap(
    lambda n: st.tuples(
      hnp.arrays(np.float32, n, elements=VALUES), hnp.arrays(np.float32, n, elements=VALUES)
    )
  ),
  st.lists(st.sampled_from(TRICKY) | st.floats(-10, 10), min_size=1, max_size=5),
)
def test_curve_at_each_threshold(pairs, thresholds):
  positive, negative = pairs
  thresholds = np.array([*thresholds, np.inf, -np.inf])
  actual = metrics.uniform_accuracy_curve(positive, negative, thresholds)
  for t, value in zip(thresholds, actual, strict=True):
    at = metrics.accuracy_at_from_pairs(positive, negative, float(t))
    assert value == at.accepted_right


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_of_the_curve_is_uniform_accuracy(dtype):
  rng = np.random.default_rng(3)
  logits, labels = rng.normal(size=(300, 5)).astype(dtype), rng.integers(0, 5, 300)
  logits[np.arange(300), labels] += 1.5
  pairs = tuple(map(np.asarray, metrics.score_pairs(logits, labels)))
  best = metrics.uniform_accuracy(logits, labels)
  fine = np.linspace(-4, 6, 20_000)
  assert metrics.uniform_accuracy_curve(*pairs, fine).max() <= best.uniform
  assert metrics.uniform_accuracy_curve(*pairs, pairs[1].astype(np.float64)).max() == best.uniform
  assert metrics.uniform_accuracy_curve(*pairs, np.array([best.threshold])) == [best.uniform]
  assert np.isnan(metrics.uniform_accuracy_curve(np.zeros(0), np.zeros(0), np.zeros(2))).all()


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((np.zeros((2, 3), int), [0, 1]), "scores must be floating point, got dtype int64"),
    ((np.zeros(3), [0, 1]), r"shape \[n, N\] with N ≥ 1, got \(3,\)"),
    ((np.zeros((2, 0)), [0, 1]), r"got \(2, 0\)"),
    ((np.zeros((2, 3)), [0, 1, 2]), r"must have shape \(2,\), got \(3,\)"),
    ((np.zeros((2, 3)), [0, 3]), r"in \[0, 3\), got 3"),
    ((np.array([[0.0, np.nan], [1.0, 0.0]]), [0, 1]), "1 of 2 samples have a nan score"),
    ((np.array([[np.nan, 1.0], [1.0, 0.0]]), [0, 1]), "1 of 2 samples have a nan score"),
  ],
)
def test_refused(args, message):
  with pytest.raises(ValueError, match=message):
    metrics.score_distributions(*args)


def test_refused_merge_and_curve():
  two, three = (metrics.score_distributions(np.zeros((1, n)), [0]) for n in (2, 3))
  with pytest.raises(ValueError, match="2 and 3 classes"):
    metrics.merge_distributions(two, three)
  with pytest.raises(ValueError, match=r"positive's shape \(2,\), got \(3,\)"):
    metrics.uniform_accuracy_curve(np.zeros(2), np.zeros(3), np.zeros(1))
  with pytest.raises(ValueError, match="thresholds must not be nan, got 1 of 1"):
    metrics.uniform_accuracy_curve(np.zeros(2), np.zeros(2), np.array([np.nan]))
  with pytest.raises(ValueError, match="floats of one dimension"):
    metrics.uniform_accuracy_curve(np.zeros(2), np.zeros(2), 0.0)
