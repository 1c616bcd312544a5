import itertools
import math

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bce_jax import metrics
from bce_jax.metrics import _pairs


def covered(positive, negative, t):
  """Number of samples that threshold t classifies correctly, by definition."""
  return int(np.sum((negative < t) & (t < positive)))


def brute_force_results(logits, labels, num_classes):
  """All results by trying a threshold in every gap between scores, in float64."""
  logits = logits.astype(np.float64)
  n = len(labels)
  positive = logits[np.arange(n), labels]
  others = np.where(np.arange(logits.shape[1]) == labels[:, None], -np.inf, logits)
  negative = others.max(1)

  def candidates(p, q):
    ends = np.unique(np.concatenate([p, q])) + 0.0
    ends = ends[np.isfinite(ends)]
    inside = (ends[:-1] + ends[1:]) / 2
    return np.concatenate([[ends[0] - 1], inside, [ends[-1] + 1]]) if len(ends) else np.zeros(1)

  sample = np.mean(negative < positive)
  best = max(covered(positive, negative, t) for t in candidates(positive, negative))
  per_class = 0
  for c in range(num_classes):
    own = labels == c
    if own.any():
      p, q = positive[own], negative[own]
      per_class += max(covered(p, q, t) for t in candidates(p, q))
  # The open intervals of optimal thresholds lie between neighboring ends of right samples.
  right = negative < positive
  ends = np.unique(np.concatenate([positive[right], negative[right]]))
  cells = [
    (low, high)
    for low, high in itertools.pairwise(ends)
    if covered(positive, negative, _between(low, high)) == best
  ]
  return sample, per_class / n, best / n, cells


def _between(low, high):
  return high - 1 if math.isinf(low) else (low + high) / 2


def check_against_brute_force(logits, labels):
  num_classes = logits.shape[1]
  sample, per_class, best, cells = brute_force_results(logits, labels, num_classes)
  actual = metrics.uniform_accuracy(logits, labels)
  assert actual.sample_wise == pytest.approx(sample, abs=1e-15)
  assert actual.class_wise == pytest.approx(per_class, abs=1e-15)
  assert actual.uniform == pytest.approx(best, abs=1e-15)
  assert actual.uniform <= actual.class_wise <= actual.sample_wise
  if best == 0:
    assert math.isnan(actual.threshold)
    return
  widths = [high - low for low, high in cells]
  assert (actual.threshold_low, actual.threshold_high) == cells[int(np.argmax(widths))]
  assert actual.threshold_low < actual.threshold < actual.threshold_high
  at = metrics.accuracy_at(logits, labels, actual.threshold)
  assert at.accepted_right == actual.uniform
  jitted = jax.jit(metrics.uniform_accuracy)(logits, labels)
  np.testing.assert_allclose(jitted[:3], actual[:3], rtol=1e-6)
  np.testing.assert_array_equal(np.float64(jitted[4:]), actual[4:])
  traced_at = jax.jit(metrics.accuracy_at)(logits, labels, jitted.threshold)
  np.testing.assert_allclose(traced_at.accepted_right, actual.uniform, rtol=1e-6)


@pytest.mark.core
@pytest.mark.parametrize("case", range(5))
def test_golden_cases(brute_force, case):
  prefix = f"case{case}/"
  logits, labels = brute_force[prefix + "logits"], brute_force[prefix + "labels"]
  actual = metrics.uniform_accuracy(logits, labels)
  assert actual.sample_wise == brute_force[prefix + "sample_wise"]
  assert actual.class_wise == brute_force[prefix + "class_wise"]
  assert actual.uniform == brute_force[prefix + "uniform"]
  for end in ("first", "last"):
    at = metrics.accuracy_at(logits, labels, float(brute_force[prefix + f"threshold_{end}"]))
    assert at.accepted_right == actual.uniform
  check_against_brute_force(logits, labels)


def scores(elements):
  # A few shapes only: each is compiled once.
  shapes = st.sampled_from([(1, 4), (6, 1), (6, 2), (25, 9)])
  return shapes.flatmap(
    lambda shape: st.tuples(
      hnp.arrays(np.float32, shape, elements=elements),
      hnp.arrays(np.int32, shape[0], elements=st.integers(0, shape[1] - 1)),
    )
  )


@settings(deadline=None, max_examples=150)
@given(scores(st.integers(-3, 3).map(float)))
def test_with_many_ties(case):
  check_against_brute_force(*case)


@settings(deadline=None, max_examples=100)
@given(scores(st.floats(-1e9, 1e9, width=32, allow_subnormal=False)))
def test_with_any_floats(case):
  check_against_brute_force(*case)


def test_one_sample_one_class_and_equal_scores():
  one = metrics.uniform_accuracy(np.array([[2.0, 1.0]], np.float32), np.array([0]))
  assert one == (1.0, 1.0, 1.0, 1.5, 1.0, 2.0)
  # One class has no negatives: any threshold below the smallest score will do.
  single = metrics.uniform_accuracy(np.array([[2.0], [-3.0]], np.float32), np.array([0, 0]))
  assert single[:3] == (1.0, 1.0, 1.0)
  assert (single.threshold_low, single.threshold_high) == (-math.inf, -3.0)
  assert math.isfinite(single.threshold)
  assert single.threshold < -3.0
  equal = metrics.uniform_accuracy(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]))
  assert equal[:3] == (0.0, 0.0, 0.0)
  assert all(math.isnan(t) for t in equal[3:])


def test_an_interval_closes_before_the_next_opens():
  logits = np.array([[1.0, 0.0], [1.0, 2.0]], np.float32)  # (0, 1) and (1, 2) share no point
  actual = metrics.uniform_accuracy(logits, np.array([0, 1]))
  assert actual.uniform == 0.5
  assert (actual.threshold_low, actual.threshold_high) == (0.0, 1.0)  # the lowest of equals


def test_negative_zero_is_zero():
  logits = np.array([[-0.0, 0.0], [0.0, -0.0]], np.float32)
  assert metrics.uniform_accuracy(logits, np.array([0, 0]))[:3] == (0.0, 0.0, 0.0)


def test_infinite_scores():
  logits = np.array([[np.inf, 0.0], [-np.inf, 1.0], [5.0, -np.inf]], np.float32)
  actual = metrics.uniform_accuracy(logits, np.array([0, 1, 0]))
  assert actual[:3] == (1.0, 1.0, 1.0)
  assert (actual.threshold_low, actual.threshold_high) == (0.0, 1.0)
  alone = metrics.uniform_accuracy(logits[:1], np.array([0]))
  assert (alone.threshold_low, alone.threshold_high) == (0.0, math.inf)
  assert 0.0 < alone.threshold < math.inf


def test_threshold_between_float32_neighbors_is_float64():
  low = np.float32(1.0)
  high = np.nextafter(low, np.float32(2.0))
  logits = np.array([[high, low]])
  actual = metrics.uniform_accuracy(logits.astype(np.float32), np.array([0]))
  assert float(low) < actual.threshold < float(high)
  at = metrics.accuracy_at(logits.astype(np.float32), np.array([0]), actual.threshold)
  assert at.accepted_right == 1.0
  # Inside a trace there is no such number: the lower end is still right about the same samples.
  jitted = jax.jit(metrics.uniform_accuracy)(logits.astype(np.float32), np.array([0]))
  assert jitted.threshold == low
  assert metrics.accuracy_at(logits.astype(np.float32), np.array([0]), 1.0).accepted_right == 1.0


@pytest.mark.core
def test_float64_scores_are_not_rounded_to_ties():
  logits = np.array([[1.0 + 1e-12, 1.0]])
  actual = metrics.uniform_accuracy(logits, np.array([0]))
  assert actual.sample_wise == 1.0
  assert 1.0 < actual.threshold < 1.0 + 1e-12
  assert metrics.accuracy_at(logits, np.array([0]), actual.threshold).accepted_right == 1.0
  positive, negative = logits[:, 0], logits[:, 1]
  again = metrics.uniform_accuracy_from_pairs(positive, negative, np.array([0]), num_classes=2)
  assert again == actual


def test_widths_that_differ_by_less_than_a_rounding():
  # Widths 1 − 2⁻²⁵ and 1, which float32 subtraction rounds to the same number.
  low = np.float32(-(1.0 - 2.0**-24))
  tiny = np.float32(2.0**-25)
  logits = np.array([[tiny, low], [10.0, 9.0]], np.float32)
  assert np.float32(tiny - low) == np.float32(1.0)
  assert float(tiny) - float(low) < 1.0
  actual = metrics.uniform_accuracy(logits, np.array([0, 0]))
  assert (actual.threshold_low, actual.threshold_high) == (9.0, 10.0)


def test_where_leaves_samples_out_whatever_they_hold():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(60, 7)).astype(np.float32)
  labels = rng.integers(0, 7, 60)
  where = rng.uniform(size=60) < 0.6
  expected = metrics.uniform_accuracy(logits[where], labels[where])
  expected_at = metrics.accuracy_at(logits[where], labels[where], 0.5)
  logits[~where] = np.nan
  labels[~where] = 99
  assert metrics.uniform_accuracy(logits, labels, where=where) == expected
  assert metrics.accuracy_at(logits, labels, 0.5, where=where) == expected_at
  jitted = jax.jit(metrics.uniform_accuracy)(logits, labels, where=where)
  np.testing.assert_allclose(jitted, expected, rtol=1e-6)


def test_nothing_to_evaluate_is_nan():
  logits, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int32)
  nothing = np.zeros(3, bool)
  assert all(math.isnan(x) for x in metrics.uniform_accuracy(logits, labels, where=nothing))
  assert all(math.isnan(x) for x in metrics.uniform_accuracy(logits[:0], labels[:0]))
  assert all(math.isnan(x) for x in metrics.accuracy_at(logits, labels, 0.0, where=nothing))
  assert np.isnan(jax.jit(metrics.uniform_accuracy)(logits, labels, where=nothing)).all()


def test_nan_is_an_error_outside_a_trace_and_poison_inside():
  logits = np.zeros((3, 4), np.float32)
  logits[1, 2] = np.nan
  labels = np.array([0, 1, 2])
  for evaluate in (metrics.uniform_accuracy, lambda x, y: metrics.accuracy_at(x, y, 0.0)):
    with pytest.raises(ValueError, match="1 of 3 samples have a nan score"):
      evaluate(logits, labels)
    assert np.isnan(jax.jit(evaluate)(logits, labels)).all()
  positive, negative = metrics.score_pairs(logits, labels)
  assert np.isnan(positive[1]) or np.isnan(negative[1])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 64, 97, 100, 360])
def test_score_pairs_for_any_number_of_classes(n):
  rng = np.random.default_rng(n)
  logits = rng.normal(size=(4, 50, n)).astype(np.float32)
  labels = rng.integers(0, n, (4, 50))
  positive, negative = metrics.score_pairs(logits, labels)
  np.testing.assert_array_equal(positive, np.take_along_axis(logits, labels[..., None], -1)[..., 0])
  np.put_along_axis(logits, labels[..., None], -np.inf, -1)
  np.testing.assert_array_equal(negative, logits.max(-1))


@pytest.mark.parametrize("n", [5, 12])
def test_nan_anywhere_in_a_row_is_seen(n):
  for column in range(n):
    logits = np.zeros((1, n), np.float32)
    logits[0, column] = np.nan
    for label in range(n):
      pair = metrics.score_pairs(logits, np.array([label]))
      assert np.isnan(pair).any()


@settings(deadline=None, max_examples=60)
@given(scores(st.integers(-3, 3).map(float)), st.randoms(use_true_random=False))
def test_parts_merge_in_any_order(case, random):
  logits, labels = case
  whole = metrics.uniform_accuracy(logits, labels)
  rows = list(range(len(labels)))
  random.shuffle(rows)
  cut = random.choice([0, len(rows) // 2, len(rows)])
  parts = [
    (*metrics.score_pairs(logits[r], labels[r]), labels[r]) for r in (rows[:cut], rows[cut:])
  ]
  positive, negative, ids = (np.concatenate(x) for x in zip(*parts, strict=True))
  merged = metrics.uniform_accuracy_from_pairs(positive, negative, ids, num_classes=logits.shape[1])
  np.testing.assert_equal(merged, whole)


def test_many_classes_take_the_sort_by_two_keys(monkeypatch):
  rng = np.random.default_rng(3)
  positive = rng.integers(-5, 5, 300).astype(np.float32)
  negative = rng.integers(-5, 5, 300).astype(np.float32)
  labels = rng.integers(0, 20, 300).astype(np.int32)
  packed = metrics.uniform_accuracy_from_pairs(positive, negative, labels, num_classes=20)
  # 4 · 300 · N no longer fits into 32 bits.
  keyed = metrics.uniform_accuracy_from_pairs(positive, negative, labels, num_classes=4_000_000)
  assert keyed == packed
  expected = sum(
    max(covered(positive[own], negative[own], t) for t in np.arange(-6, 6, 0.5))
    for own in (labels == c for c in range(20))
  )
  assert packed.class_wise == expected / 300


@settings(deadline=None, max_examples=60)
@given(scores(st.integers(-3, 3).map(float)), st.integers(-8, 8).map(lambda t: t / 2))
def test_accuracy_at_by_counting_scores_above(case, threshold):
  logits, labels = case
  above = logits > threshold
  own = np.arange(logits.shape[1]) == labels[:, None]
  right = (above == own).all(1).mean()
  none = (~above).all(1).mean()
  at = metrics.accuracy_at(logits, labels, threshold)
  assert at == pytest.approx((right, none, 1 - right - none), abs=1e-12)
  np.testing.assert_allclose(jax.jit(metrics.accuracy_at)(logits, labels, threshold), at, atol=1e-6)


def neighboring_floats():
  """Scores of which many are next to each other, where a rounded threshold is a wrong one."""
  one = np.float32(1.0)
  up, down = np.nextafter(one, np.float32(2)), np.nextafter(one, np.float32(0))
  return st.sampled_from([float(down), 1.0, float(up), float(np.nextafter(up, np.float32(2)))])


@settings(deadline=None, max_examples=100)
@given(scores(neighboring_floats()))
def test_the_best_threshold_is_evaluated_as_the_best_one(case):
  logits, labels = case
  best = metrics.uniform_accuracy(logits, labels)
  if best.uniform:
    at = metrics.accuracy_at(logits, labels, best.threshold)
    assert at.accepted_right == best.uniform


@pytest.mark.parametrize("threshold", [0.1, 1e39, -1e39, 1 + 2**-40, 1 - 2**-40])
def test_a_python_threshold_is_compared_in_float64(threshold):
  values = np.array([0.1, 1.0, np.inf, -np.inf, 0.0], np.float32)
  above = metrics.accuracy_at_from_pairs(values, np.full(5, -np.inf, np.float32), threshold)
  assert above.accepted_right == np.mean(values.astype(np.float64) > threshold)


def test_subnormal_scores_count_as_zero():
  logits = np.array([[2e-40, 0, 1e-40, 3e-40], [1.0, 1e-40, 0, -1e-40]], np.float32)
  expected = metrics.uniform_accuracy(np.round(logits), np.array([0, 0]))
  for evaluate in (metrics.uniform_accuracy, jax.jit(metrics.uniform_accuracy)):
    np.testing.assert_allclose(evaluate(logits, np.array([0, 0])), expected, rtol=1e-6)
  tiny = np.finfo(np.float32).tiny  # nothing but subnormal numbers between 0 and this
  logits = np.array([[tiny, 0.0]], np.float32)
  best = metrics.uniform_accuracy(logits, np.array([0]))
  assert 0.0 < best.threshold < tiny
  assert metrics.accuracy_at(logits, np.array([0]), best.threshold).accepted_right == 1.0
  best = metrics.uniform_accuracy(-logits[:, ::-1], np.array([0]))
  assert metrics.accuracy_at(-logits[:, ::-1], np.array([0]), best.threshold).accepted_right == 1.0
  jitted = jax.jit(metrics.uniform_accuracy)(-logits[:, ::-1], np.array([0]))
  at = jax.jit(metrics.accuracy_at)(-logits[:, ::-1], np.array([0]), jitted.threshold)
  assert at.accepted_right == 1.0


def test_ends_of_the_float_range():
  largest = np.finfo(np.float32).max
  logits = np.array([[np.inf, largest], [-largest, -np.inf]], np.float32)
  for row in logits:
    best = metrics.uniform_accuracy(row[None], np.array([0]))
    assert best.threshold_low < best.threshold < best.threshold_high
    assert metrics.accuracy_at(row[None], np.array([0]), best.threshold).accepted_right == 1.0
    jitted = jax.jit(metrics.uniform_accuracy)(row[None], np.array([0]))
    assert jitted.threshold == jitted.threshold_low  # no float32 lies inside


def test_pairs_of_float64_scores_are_float64():
  logits = np.array([[1.0, 1.0 + 1e-12]])
  pairs = metrics.score_pairs(logits, np.array([1]))
  assert all(x.dtype == np.float64 for x in pairs)
  again = metrics.uniform_accuracy_from_pairs(*pairs, np.array([1]), num_classes=2)
  assert again == metrics.uniform_accuracy(logits, np.array([1]))
  assert again.uniform == 1.0


def test_half_precision_scores():
  logits = np.random.default_rng(4).normal(size=(40, 6))
  labels = np.arange(40) % 6
  half = jnp.asarray(logits, jnp.bfloat16)
  expected = metrics.uniform_accuracy(np.asarray(half, np.float32), labels)
  assert metrics.uniform_accuracy(half, labels) == expected


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: metrics.uniform_accuracy(np.zeros((3, 2)), np.zeros(2, int)),
      r"must have shape \(3,\)",
    ),
    (lambda: metrics.uniform_accuracy(np.zeros((3, 2)), np.full(3, 2)), r"in \[0, 2\), got 2"),
    (lambda: metrics.uniform_accuracy(np.zeros((3, 2)), np.zeros(3)), "must be integers"),
    (lambda: metrics.uniform_accuracy(np.zeros((3, 2), int), np.zeros(3, int)), "floating point"),
    (lambda: metrics.uniform_accuracy(np.zeros((3, 0)), np.zeros(3, int)), "classes ≥ 1"),
    (
      lambda: metrics.uniform_accuracy(np.zeros((3, 2)), np.zeros(3, int), where=np.ones(3)),
      "where must be a bool mask",
    ),
    (
      lambda: metrics.uniform_accuracy(np.zeros((3, 2)), np.zeros(3, int), where=np.ones(2, bool)),
      r"where must have shape \(3,\)",
    ),
    (
      lambda: metrics.uniform_accuracy_from_pairs(
        np.zeros(3), np.zeros(2), np.zeros(3, int), num_classes=2
      ),
      "hardest_negative must have positive's shape",
    ),
    (lambda: metrics.accuracy_at(np.zeros((3, 2)), np.zeros(3, int), np.zeros(2)), "a scalar"),
    (lambda: metrics.accuracy_at(np.zeros((3, 2)), np.zeros(3, int), math.nan), "threshold is nan"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_group_size_divides():
  assert _pairs.group_size(1000) == 125
  assert _pairs.group_size(100) == 50
  for n in (64, 100, 360, 998, 1000):
    assert n % _pairs.group_size(n) == 0
  for n in (1, 2, 10, 97, 1009):  # few classes, or a prime number of them
    assert _pairs.group_size(n) is None


def test_pairs_of_a_sharded_batch_move_nothing():
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("batch"))
  for classes in (97, 100):
    logits = jax.device_put(jnp.zeros((16, classes)), split)
    labels = jax.device_put(jnp.zeros(16, jnp.int32), split)
    text = jax.jit(metrics.score_pairs).lower(logits, labels).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
      assert collective not in text
