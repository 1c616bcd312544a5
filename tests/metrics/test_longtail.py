import functools
import math

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.metrics import accuracy_score

from bce_jax import metrics


def by_definition(correct, labels, train_counts):
  """Many, medium, few and all by going through the samples, in exact or float64 sums."""
  groups = {"many": [], "medium": [], "few": [], "all": []}
  for right, label in zip(correct, labels, strict=True):
    n = int(train_counts[label])
    name = "many" if n > 100 else "medium" if 20 <= n <= 100 else "few"
    groups[name].append(float(right))
    groups["all"].append(float(right))
  return metrics.ShotAccuracy(
    **{name: math.fsum(x) / len(x) if x else math.nan for name, x in groups.items()}
  )


def test_the_limits():
  assert (metrics.MANY, metrics.FEW) == (100, 20)
  # One sample per class, on both sides of both limits, each with a share of its own.
  counts = np.array([0, 1, 19, 20, 21, 99, 100, 101, 5000])
  correct = np.array([1.0, 0.5, 0.0, 0.25, 1.0, 0.0, 0.75, 0.5, 0.0])
  actual = metrics.shot_accuracy(correct, np.arange(9), counts)
  assert actual == (0.25, 0.5, 0.5, 4.0 / 9.0)
  assert all(type(x) is float for x in actual)


CASES = st.sampled_from([(0, 1), (1, 1), (7, 3), (40, 6)]).flatmap(
  lambda shape: st.tuples(
    hnp.arrays(np.bool_, shape[0]),
    hnp.arrays(np.int32, shape[0], elements=st.integers(0, shape[1] - 1)),
    hnp.arrays(np.int64, shape[1], elements=st.sampled_from([0, 3, 19, 20, 60, 100, 101, 900])),
    hnp.arrays(np.bool_, shape[0]),
  )
)


@settings(deadline=None, max_examples=100)
@given(CASES)
def test_by_definition(case):
  correct, labels, counts, where = case
  for mask in (None, where):
    kept = slice(None) if mask is None else mask
    expected = by_definition(correct[kept], labels[kept], counts)
    actual = metrics.shot_accuracy(correct, labels, counts, where=mask)
    np.testing.assert_array_equal(actual, expected)
    jitted = jax.jit(metrics.shot_accuracy)(correct, labels, counts, where=mask)
    assert all(x.dtype == jnp.float32 for x in jitted)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)


def test_against_scikit_learn():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 30, (25, 40))
  predictions = np.where(rng.random((25, 40)) < 0.6, labels, rng.integers(0, 30, (25, 40)))
  counts = rng.permutation(np.geomspace(5, 500, 30).astype(int))
  actual = metrics.shot_accuracy(predictions == labels, labels, counts)
  groups = (counts > 100, (counts <= 100) & (counts >= 20), counts < 20, counts >= 0)
  for value, group in zip(actual, groups, strict=True):
    own = group[labels]
    assert value == pytest.approx(accuracy_score(labels[own], predictions[own]), abs=1e-15)


def test_shares_are_summed_in_float64():
  rng = np.random.default_rng(1)
  share = rng.random(5000).astype(np.float32)
  labels = rng.integers(0, 3, 5000)
  counts = np.array([101, 100, 19])
  expected = by_definition(share, labels, counts)
  np.testing.assert_allclose(metrics.shot_accuracy(share, labels, counts), expected, rtol=1e-14)
  # float32 would round 1 − 1e-12 to 1.
  close = np.full(3, 1.0 - 1e-12)
  assert metrics.shot_accuracy(close, np.arange(3), counts).all == pytest.approx(
    close[0], abs=1e-15
  )
  assert metrics.shot_accuracy(close, np.arange(3), counts).all < 1.0
  half = jnp.asarray(share, jnp.bfloat16)
  expected = by_definition(np.asarray(half, np.float32), labels, counts)
  np.testing.assert_allclose(metrics.shot_accuracy(half, labels, counts), expected, rtol=1e-14)
  jitted = jax.jit(metrics.shot_accuracy)(half, labels, counts)
  np.testing.assert_allclose(jitted, expected, rtol=1e-5)


def test_a_group_without_samples_is_nan():
  counts = np.array([500, 50, 5])
  one = metrics.shot_accuracy(np.array([False]), np.array([1]), counts)
  np.testing.assert_array_equal(one, (np.nan, 0.0, np.nan, 0.0))
  none = metrics.shot_accuracy(np.zeros(2, bool), np.zeros(2, int), counts, where=np.zeros(2, bool))
  np.testing.assert_array_equal(none, [np.nan] * 4)


def test_what_stands_under_the_mask_is_not_looked_at():
  correct = np.array([1.0, np.nan, 7.0, 0.5], np.float32)
  labels, counts = np.array([0, 1, 99, 2]), np.array([500, 50, 5])
  where = np.array([True, False, False, True])
  for evaluate in (metrics.shot_accuracy, jax.jit(metrics.shot_accuracy)):
    np.testing.assert_array_equal(
      evaluate(correct, labels, counts, where=where), (1.0, np.nan, 0.5, 0.75)
    )


def test_bad_values_inside_a_trace_are_nan():
  evaluate = jax.jit(metrics.shot_accuracy)
  correct, labels = np.ones(3, bool), np.array([0, 1, 2])
  assert np.all(evaluate(correct, labels, np.array([500, 50, 5])) == np.ones(4))
  assert np.isnan(evaluate(correct, labels, np.array([500, 50]))).all()
  assert np.isnan(evaluate(correct, -labels, np.array([500, 50, 5]))).all()
  assert np.isnan(evaluate(correct, labels, np.array([500, 50, -5]))).all()
  # Of a class that nothing is evaluated of, the count decides nothing.
  assert evaluate(correct, np.zeros(3, int), np.array([500, 50, -5])).many == 1.0
  mixed = evaluate(np.array([1.0, np.nan, 1.0], np.float32), labels, np.array([500, 50, 5]))
  np.testing.assert_array_equal(mixed, (1.0, np.nan, 1.0, np.nan))


def test_constants_inside_a_trace():
  correct, labels, counts = np.array([True, False]), np.array([0, 1]), np.array([500, 5])

  def evaluate():
    return metrics.shot_accuracy(correct, labels, counts)

  np.testing.assert_array_equal(jax.jit(evaluate)(), (1.0, np.nan, 0.0, 0.5))


def test_wide_counts_do_not_wrap():
  counts = np.array([2**32 + 5, 2**31, 2**63 + 50], np.uint64)  # as int32: 5, negative, 50
  actual = metrics.shot_accuracy(np.ones(3, bool), np.arange(3), counts)
  np.testing.assert_array_equal(actual, (1.0, np.nan, np.nan, 1.0))
  bytes_ = jnp.array([101, 100, 19], jnp.uint8)
  assert metrics.shot_accuracy(np.ones(3, bool), np.arange(3), bytes_) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("form", ["jit", "pmap", "shard_map", "jit_sharded", "two_axes"])
def test_over_devices(form, exact):
  rng = np.random.default_rng(2)
  counts = np.array([500, 101, 100, 30, 19, 2])
  # Sorted, so that most devices hold samples of one group only.
  labels = np.sort(rng.integers(0, 6, 64)).astype(np.int32)
  correct = rng.random(64) < 0.6 if exact else rng.random(64).astype(np.float32)
  where = rng.random(64) < 0.8
  expected = metrics.shot_accuracy(correct, labels, counts, where=where)
  assert 0 < expected.few < 1
  evaluate = functools.partial(metrics.shot_accuracy, train_counts=counts)

  def per_device(correct, labels, where, axis_name):
    return evaluate(correct, labels, where=where, axis_name=axis_name)

  arrays = (correct, labels, where)
  if form == "jit":
    actual = jax.jit(evaluate)(correct, labels, where=where)
  elif form == "pmap":
    body = functools.partial(per_device, axis_name="batch")
    actual = jax.pmap(body, axis_name="batch")(*(x.reshape(8, 8) for x in arrays))
  else:
    axes, sizes = (("a", "b"), (4, 2)) if form == "two_axes" else (("batch",), (8,))
    mesh = jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes))
    if form == "jit_sharded":
      split = NamedSharding(mesh, PartitionSpec("batch"))
      correct, labels, where = (jax.device_put(x, split) for x in arrays)
      assert evaluate(correct, labels, where=where) == expected  # outside a trace too
      actual = jax.jit(evaluate)(correct, labels, where=where)
    else:
      body = functools.partial(per_device, axis_name=axes if form == "two_axes" else axes[0])
      actual = jax.jit(
        jax.shard_map(body, mesh=mesh, in_specs=PartitionSpec(axes), out_specs=PartitionSpec())
      )(*arrays)
  for value, wanted in zip(actual, expected, strict=True):
    np.testing.assert_allclose(
      value, np.full(np.shape(value), wanted), rtol=2e-7 if exact else 1e-6
    )


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((np.ones(3, int), np.zeros(3, int), [1]), "correct must be bool or floating point"),
    ((np.ones(3), np.zeros(2, int), [1]), r"must have shape \(3,\), got \(2,\)"),
    ((np.ones(3), np.zeros(3), [1]), "labels must be integers"),
    ((np.ones(3), np.full(3, 2), [1, 5]), r"must lie in \[0, 2\), got 2"),
    ((np.ones(3), np.zeros(3, int), [1.0]), "train_counts must be integers"),
    ((np.ones(3), np.zeros(3, int), [[1]]), r"shape \[classes\], got \(1, 1\)"),
    ((np.ones(3), np.zeros(3, int), np.zeros(0, int)), r"shape \[classes\], got \(0,\)"),
    ((np.ones(3), np.zeros(3, int), [5, -1]), "at least 0, got -1"),
    ((np.array([0.5, np.nan]), np.zeros(2, int), [5]), r"in \[0, 1\], got nan"),
    ((np.array([0.5, 1.5]), np.zeros(2, int), [5]), r"in \[0, 1\], got 1.5"),
    ((np.array([0.5, -1.0]), np.zeros(2, int), [5]), r"in \[0, 1\], got -1.0"),
  ],
)
def test_refused(args, message):
  with pytest.raises(ValueError, match=message):
    metrics.shot_accuracy(*args)


@pytest.mark.parametrize(
  ("where", "message"), [(np.ones(3), "a bool mask"), (np.ones(2, bool), r"shape \(3,\)")]
)
def test_masks_refused(where, message):
  with pytest.raises(ValueError, match=message):
    metrics.shot_accuracy(np.ones(3), np.zeros(3, int), [5], where=where)


def test_an_axis_that_is_not_there_is_refused():
  with pytest.raises(NameError, match="batch"):
    metrics.shot_accuracy(np.ones(3), np.zeros(3, int), [5], axis_name="batch")
