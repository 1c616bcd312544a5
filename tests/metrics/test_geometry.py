import functools
import itertools
import math
import warnings

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.spatial.distance import pdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bce_jax import metrics
from bce_jax.metrics import _geometry


def unit(v):
  return v / max(math.sqrt(math.fsum(v * v)), 1e-5)


def separability(vectors):
  """100 (1 − mean cosine to the other rows), by pairs; None is an absent row."""
  units = [None if v is None else unit(v) for v in vectors]
  out = []
  for i, own in enumerate(units):
    others = [u for j, u in enumerate(units) if j != i and u is not None]
    there = own is not None and others
    out.append(100 * (1 - np.mean([own @ u for u in others])) if there else np.nan)
  return np.array(out)


def off_simplex(a, h):
  k = len(a)
  product = a @ h.T
  frame = (np.eye(k) - np.ones((k, k)) / k) / math.sqrt(k - 1)
  return np.linalg.norm(product / np.linalg.norm(product) - frame)


def by_definition(x, labels, weights):
  """All results in float64, by loops over samples and pairs and with NumPy's pseudo-inverse."""
  x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
  num_classes = len(weights)
  classes = [x[labels == i] for i in range(num_classes)]
  compactness = []
  for own in classes:
    cosines = [unit(a) @ unit(b) for a, b in itertools.combinations(own, 2)]
    compactness.append(100 * np.mean(cosines) if cosines else np.nan)
  directions = [sum(map(unit, own)) / len(own) if len(own) else None for own in classes]
  there = [i for i in range(num_classes) if len(classes[i])]
  nc = (np.nan,) * 3
  if len(there) > 1:
    means = np.stack([classes[i].mean(0) for i in there])
    h = means - means.mean(0)
    between = sum(np.outer(v, v) for v in h) / len(there)
    within = sum(
      np.outer(v - m, v - m) for i, m in zip(there, means, strict=True) for v in classes[i]
    )
    inverse = np.linalg.pinv(between, rcond=1e-9, hermitian=True)
    nc1 = np.trace(within / len(x) @ inverse) / len(there)
    nc = (nc1, off_simplex(h, h), off_simplex(weights[there], h))
  return metrics.Geometry(
    np.array(compactness), separability(directions), separability(weights), *nc
  )


def check(actual, expected, rtol, atol=0.0):
  for name, value, wanted in zip(metrics.Geometry._fields, actual, expected, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=rtol, atol=atol, err_msg=name)


def clusters(num_classes, dim, n, *, offset=0.0, radius=1.0, seed=0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  centers = offset + rng.normal(size=(num_classes, dim))
  labels = rng.integers(0, num_classes, n).astype(np.int32)
  x = centers[labels] + radius * rng.normal(size=(n, dim))
  return x.astype(dtype), labels, rng.normal(size=(num_classes, dim))


@functools.cache
def jit_moments(num_classes):
  return jax.jit(functools.partial(metrics.class_moments, num_classes=num_classes))


# Samples, features, classes: a few shapes only, for each is compiled once.
SHAPES = st.sampled_from([(1, 1, 1), (5, 4, 3), (12, 2, 6), (30, 7, 4)])
CASES = SHAPES.flatmap(
  lambda shape: st.tuples(
    st.just(shape),
    hnp.arrays(np.int32, shape[0], elements=st.integers(0, shape[2] - 1)),
    hnp.arrays(np.bool_, shape[0], elements=st.sampled_from([True, True, True, False])),
    hnp.arrays(np.int32, shape[0], elements=st.integers(0, 3)),
    st.integers(0, 2**32 - 1),
  )
)


@settings(deadline=None, max_examples=40)
@given(CASES)
def test_by_definition_and_in_any_split(case):
  (n, dim, num_classes), labels, not_zero, part, seed = case
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, dim)).astype(np.float32) + np.float32(0.5)
  x *= not_zero[:, None]
  weights = rng.normal(size=(num_classes, dim))
  # Where class means nearly lie in a plane, rounding says what a pseudo-inverse is.
  rank = min(len(np.unique(labels)) - 1, dim)
  assume((np.linalg.svd(class_means(x, labels), compute_uv=False)[:rank] > 1e-3).all())
  expected = by_definition(x, labels, weights)
  whole = metrics.class_moments(x, labels, num_classes=num_classes)
  check(metrics.geometry(whole, weights), expected, 1e-7, 1e-9)
  parts = [
    metrics.class_moments(x, labels, num_classes=num_classes, where=part == i) for i in range(4)
  ]
  for order in (parts, parts[::-1]):
    merged = functools.reduce(metrics.merge_moments, order)
    for name, value, wanted in zip(whole._fields, merged, whole, strict=True):
      np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-12, err_msg=name)
  moments = jit_moments(num_classes)(x, labels)
  assert all(a.dtype == jnp.float32 for a in moments[1:])
  for value, wanted in zip(moments, whole, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


def class_means(x, labels):
  means = np.stack([x[labels == i].astype(np.float64).mean(0) for i in np.unique(labels)])
  return means - means.mean(0)


def test_parts_of_any_size():
  x, labels, weights = clusters(5, 4, 40)
  whole = metrics.class_moments(x, labels, num_classes=5)
  cuts = [0, 0, 1, 9, 10, 40, 40]  # empty ones and one sample among them
  parts = [
    metrics.class_moments(x[a:b], labels[a:b], num_classes=5) for a, b in itertools.pairwise(cuts)
  ]
  merged = functools.reduce(metrics.merge_moments, parts)
  check(metrics.geometry(merged, weights), metrics.geometry(whole, weights), rtol=1e-12, atol=1e-12)
  np.testing.assert_array_equal(merged.counts, np.bincount(labels, minlength=5))
  # A part without samples is the neutral element, exactly.
  again = metrics.merge_moments(parts[0], whole)
  for value, wanted in zip(again, whole, strict=True):
    np.testing.assert_array_equal(value, wanted)


def test_many_samples_against_scikit_learn_and_scipy():
  x, labels, weights = clusters(6, 5, 900, radius=0.7)
  moments = metrics.class_moments(x.reshape(30, 30, 5), labels.reshape(30, 30), num_classes=6)
  reference = LinearDiscriminantAnalysis(solver="eigen", store_covariance=True).fit(x, labels)
  np.testing.assert_allclose(moments.scatter / 900, reference.covariance_, rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(moments.means, reference.means_, rtol=1e-12)
  results = metrics.geometry(moments, weights)
  for i in range(6):
    cosines = 1 - pdist(x[labels == i], "cosine")
    assert results.compactness[i] == pytest.approx(100 * cosines.mean(), rel=1e-11)
  rows = 1 - pdist(weights, "cosine")
  assert metrics.mean_and_std(results.classifier_separability)[0] == pytest.approx(
    100 * (1 - rows.mean()), rel=1e-12
  )
  check(results, by_definition(x, labels, weights), rtol=1e-9)


@pytest.mark.parametrize("batch", [4000, 128])
def test_tight_clusters_far_from_the_origin(batch):
  x, labels, weights = clusters(8, 16, 4000, offset=1e3, radius=1e-2, dtype=np.float32)
  exact = np.asarray(x, np.float64)
  expected = sum(
    (exact[labels == i] - exact[labels == i].mean(0)).T
    @ (exact[labels == i] - exact[labels == i].mean(0))
    for i in range(8)
  )
  h = class_means(x, labels)
  nc1 = np.trace(expected / 4000 @ np.linalg.pinv(h.T @ h / 8, rcond=1e-9, hermitian=True)) / 8
  size = np.abs(expected).max()
  for moments_of, scatter_error, nc1_error in (
    (functools.partial(metrics.class_moments, num_classes=8), 1e-11, 1e-11),
    (jit_moments(8), 5e-4, 1e-4),
  ):
    parts = [moments_of(x[i : i + batch], labels[i : i + batch]) for i in range(0, 4000, batch)]
    moments = functools.reduce(metrics.merge_moments, parts)
    np.testing.assert_allclose(moments.scatter, expected, rtol=0, atol=scatter_error * size)
    assert metrics.geometry(moments, weights).nc1 == pytest.approx(nc1, rel=nc1_error)


def test_long_float32_sums():
  # A plain float32 sum of so many is off by more than the clusters are wide.
  x, labels, _ = clusters(2, 3, 60_000, offset=1e3, radius=1e-2, dtype=np.float32)
  exact = metrics.class_moments(x, labels, num_classes=2)
  moments = jit_moments(2)(x, labels)
  np.testing.assert_allclose(moments.means, exact.means, rtol=0, atol=7e-5)  # one rounding of 1000
  np.testing.assert_allclose(
    moments.scatter, exact.scatter, rtol=0, atol=1e-3 * exact.scatter[0, 0]
  )


def test_float64_features_are_summed_in_float64():
  x, labels, weights = clusters(3, 4, 60, radius=1e-9)
  x += 1.0
  assert len(np.unique(np.float32(x), axis=0)) < 60
  moments = metrics.class_moments(x, labels, num_classes=3)
  assert all(a.dtype == np.float64 for a in moments[1:])
  assert isinstance(moments.scatter, np.ndarray)
  check(metrics.geometry(moments, weights), by_definition(x, labels, weights), rtol=1e-6)
  with jax.enable_x64(True):
    inside = jit_moments(3)(x, labels)
  assert inside.scatter.dtype == np.float64
  np.testing.assert_allclose(inside.scatter, moments.scatter, rtol=1e-6, atol=1e-24)


def test_half_precision_features():
  x, labels, _ = clusters(3, 4, 50, offset=5.0)
  half = jnp.asarray(x, jnp.bfloat16)
  expected = metrics.class_moments(np.asarray(half, np.float32), labels, num_classes=3)
  for value, wanted in zip(
    metrics.class_moments(half, labels, num_classes=3), expected, strict=True
  ):
    np.testing.assert_array_equal(value, wanted)
  inside = jit_moments(3)(half, labels)
  assert inside.means.dtype == jnp.float32
  np.testing.assert_allclose(inside.means, expected.means, rtol=1e-6)


def test_known_values():
  x = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])
  labels = np.array([0, 0, 1, 1, 2, 2])
  moments = metrics.class_moments(x, labels, num_classes=3)
  weights = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 5.0]])
  results = metrics.geometry(moments, weights)
  np.testing.assert_allclose(results.compactness, [100.0, -100.0, 0.0], atol=1e-12)
  np.testing.assert_allclose(results.classifier_separability, [150.0, 150.0, 100.0], atol=1e-12)
  np.testing.assert_array_equal(moments.counts, [2, 2, 2])
  np.testing.assert_allclose(moments.means, [[2.0, 0.0], [0.0, 0.5], [0.5, 0.5]])
  np.testing.assert_allclose(moments.scatter, [[2.5, -0.5], [-0.5, 5.0]])
  # The mean direction of class 1 is 0: at right angles to all.
  half = 50 * (2 - math.sqrt(0.5))
  np.testing.assert_allclose(results.separability, [half, 100.0, half], atol=1e-12)


def simplex(num_classes, dim, seed=0):
  """Class means that are a simplex frame in a random subspace."""
  rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
  return (np.eye(num_classes) - 1.0 / num_classes) @ rotation[:num_classes]


@pytest.mark.parametrize(("num_classes", "offset"), [(2, 0.0), (5, 0.0), (5, 100.0), (10, -3.0)])
def test_collapsed_features(num_classes, offset):
  frame = simplex(num_classes, 12)
  labels = np.arange(num_classes * 4) % num_classes
  moments = metrics.class_moments(3 * frame[labels] + offset, labels, num_classes=num_classes)
  results = metrics.geometry(moments, 0.1 * frame)
  assert results.nc1 < 1e-20
  assert results.nc2 < 1e-12
  assert results.nc3 < 1e-12
  np.testing.assert_allclose(results.compactness, 100.0, atol=1e-10)
  apart = 100 * (1 + 1 / (num_classes - 1))
  np.testing.assert_allclose(results.classifier_separability, apart, rtol=1e-12)
  if not offset:
    np.testing.assert_allclose(results.separability, apart, rtol=1e-12)
  assert metrics.geometry(moments, -frame).nc3 == pytest.approx(2.0)
  # Merged from two copies the means do not move, so nothing spreads.
  assert metrics.geometry(metrics.merge_moments(moments, moments), frame).nc1 < 1e-20
  other = np.random.default_rng(1).normal(size=frame.shape)
  assert metrics.geometry(moments, other).nc3 > 0.1
  if num_classes > 2:  # two means are a frame always
    moments = metrics.class_moments(other[labels], labels, num_classes=num_classes)
    assert metrics.geometry(moments, other).nc2 > 0.1


@pytest.mark.parametrize(("inside", "rtol"), [(False, 1e-9), (True, 1e-2)])
def test_pseudo_inverse_where_the_means_lie_in_a_plane(inside, rtol):
  # Far from the origin rounding alone gives the means a little extent out of their plane.
  rng = np.random.default_rng(0)
  plane = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
  means = rng.normal(size=(5, 2)) @ plane
  noise = 0.1 * rng.normal(size=(20, 5, 6))
  x = np.concatenate([means + noise, means - noise]) + 1e3 * np.ones(6)
  labels = np.tile(np.arange(5), (40, 1))
  moments = (jit_moments(5) if inside else functools.partial(metrics.class_moments, num_classes=5))(
    x.astype(np.float32 if inside else np.float64), labels
  )
  h = (means - means.mean(0)) @ plane.T
  spread = np.concatenate([noise, -noise]).reshape(-1, 6) @ plane.T
  within, between = spread.T @ spread / 200, h.T @ h / 5
  expected = np.trace(within @ np.linalg.inv(between)) / 5
  assert metrics.geometry(moments, means).nc1 == pytest.approx(expected, rel=rtol)


def test_centered_means_have_one_rank_less_than_classes():
  # The mean of many equal numbers is rounded by more than each is, so that means less their mean
  # are not centered quite, and seem to have an extent in one direction more.
  far = 1e-6 * np.random.default_rng(0).normal(size=(400, 400)) + 0.7
  labels = np.arange(400) % 200
  actual, expected = (
    metrics.geometry(metrics.class_moments(x, labels, num_classes=200), np.eye(200, 400)).nc1
    for x in (far, far - 0.7)
  )
  assert actual == pytest.approx(expected, rel=1e-6)


def test_a_small_spread_between_means_is_not_cut():
  # Where Σ_B can be inverted, NC1 is the same in any coordinates.
  x, labels, weights = clusters(4, 3, 200)
  squeezed = x * np.array([1.0, 1e-4, 1e-7])
  plain, small = (
    metrics.geometry(metrics.class_moments(v, labels, num_classes=4), weights)
    for v in (x, squeezed)
  )
  assert small.nc1 == pytest.approx(plain.nc1, rel=1e-6)


def test_absent_classes():
  x, labels, weights = clusters(3, 4, 30)
  place = np.array([0, 2, 5])
  all_weights = np.random.default_rng(3).normal(size=(7, 4))
  all_weights[place] = weights
  few = metrics.geometry(metrics.class_moments(x, labels, num_classes=3), weights)
  moments = metrics.class_moments(x, place[labels], num_classes=7)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    many = metrics.geometry(moments, all_weights)
  for name in ("compactness", "separability"):
    expected = np.full(7, np.nan)
    expected[place] = getattr(few, name)
    np.testing.assert_allclose(getattr(many, name), expected, rtol=1e-12)
  np.testing.assert_allclose(many[3:], few[3:], rtol=1e-12)
  np.testing.assert_allclose(many.classifier_separability, separability(all_weights), rtol=1e-12)
  assert metrics.mean_and_std(many.separability) == pytest.approx(
    (few.separability.mean(), few.separability.std())
  )


def test_a_class_of_one_sample_has_no_compactness():
  x, labels, weights = clusters(3, 4, 30)
  labels = np.where(labels == 1, 0, labels)
  labels[4] = 1
  results = metrics.geometry(metrics.class_moments(x, labels, num_classes=3), weights)
  np.testing.assert_array_equal(np.isnan(results.compactness), [False, True, False])
  assert np.isfinite(results.separability).all()
  check(results, by_definition(x, labels, weights), rtol=1e-9)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_fewer_than_two_classes(n):
  moments = metrics.class_moments(np.ones((n, 3)), np.full(n, 2), num_classes=4)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    results = metrics.geometry(moments, np.eye(4)[:, :3])
  assert np.isnan(results.separability).all()
  assert np.isnan(results[3:]).all()
  assert results.compactness[2] == pytest.approx(100.0) or n < 2
  assert np.isfinite(results.classifier_separability).all()
  one = metrics.geometry(
    metrics.class_moments(np.ones((n, 3)), np.zeros(n, int), num_classes=1), np.ones((1, 3))
  )
  assert np.isnan(one.classifier_separability).all()


def test_coinciding_means_have_no_collapse_measures():
  x = np.array([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [1.0, 2.0]])
  moments = metrics.class_moments(x + 0.1, np.array([0, 0, 1, 1]), num_classes=2)
  results = metrics.geometry(moments, np.eye(2))
  assert np.isnan(results[3:]).all()
  np.testing.assert_allclose(results.separability, 0.0, atol=1e-10)
  # A classifier at right angles to all means leaves nothing to compare.
  moments = metrics.class_moments(np.array([[1.0, 0.0], [2.0, 0.0]]), np.arange(2), num_classes=2)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert math.isnan(metrics.geometry(moments, np.array([[0.0, 1.0], [0.0, 2.0]])).nc3)


def test_zero_and_short_features():
  x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 1e-6]], np.float32)
  for moments in (
    metrics.class_moments(x, np.array([0, 0, 1, 1]), num_classes=2),
    jit_moments(2)(x, np.array([0, 0, 1, 1])),
  ):
    np.testing.assert_allclose(moments.unit_sums, [[0.6, 0.8], [0.0, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(moments.unit_squares, [1.0, 0.01], rtol=1e-5)
    results = metrics.geometry(moments, np.zeros((2, 2)))
    np.testing.assert_allclose(results.compactness, 0.0, atol=1e-5)  # cosines with 0 are 0
    np.testing.assert_array_equal(results.classifier_separability, 100.0)


def test_what_stands_under_the_mask_is_not_looked_at():
  x, labels, _ = clusters(3, 4, 20, dtype=np.float32)
  where = np.arange(20) % 4 != 0
  expected = metrics.class_moments(x[where], labels[where], num_classes=3)
  x[~where], labels[~where] = np.nan, 99
  actual = metrics.class_moments(x, labels, num_classes=3, where=where)
  for value, wanted in zip(actual, expected, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-12, atol=1e-14)
  inside = jit_moments(3)(x, labels, where=where)
  for value, wanted in zip(inside, expected, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


def test_a_wrong_label_or_feature_inside_a_trace():
  x, labels, weights = clusters(3, 4, 20, dtype=np.float32)
  for wrong in (3, -1):
    labels[5] = wrong
    moments = jit_moments(3)(x, labels)
    assert all(np.isnan(a).all() for a in moments[1:])
    assert moments.counts.sum() == 19
    with pytest.raises(ValueError, match="means must be finite"):
      metrics.geometry(moments, weights)
  labels[5] = 0
  for wrong in (np.inf, np.nan, 3e19):  # the last is finite, but its square is not
    x[5, 1] = wrong
    moments = jit_moments(3)(x, labels)
    assert all(np.isnan(a).all() for a in moments[1:])


def test_constants_inside_a_trace():
  x, labels, _ = clusters(3, 4, 20)
  expected = metrics.class_moments(x, labels, num_classes=3)
  inside = jax.jit(lambda: metrics.class_moments(x, labels, num_classes=3))()
  assert inside.scatter.dtype == jnp.float32
  np.testing.assert_allclose(inside.scatter, expected.scatter, rtol=1e-4, atol=1e-5)


def test_merging_inside_a_trace():
  x, labels, weights = clusters(4, 3, 64, offset=50.0, dtype=np.float32)
  expected = metrics.class_moments(x, labels, num_classes=4)

  @jax.jit
  def merged(x, labels):
    a, b = (metrics.class_moments(x[s], labels[s], num_classes=4) for s in (slice(9), slice(9, 64)))
    return metrics.merge_moments(a, b)

  moments = merged(x, labels)
  assert moments.scatter.dtype == jnp.float32
  np.testing.assert_array_equal(moments.counts, expected.counts)
  for value, wanted in zip(moments[1:], expected[1:], strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
  check(metrics.geometry(moments, weights), metrics.geometry(expected, weights), 1e-3, 1e-3)


@pytest.mark.parametrize("form", ["jit", "pmap", "shard_map", "jit_sharded", "two_axes"])
def test_over_devices(form):
  x, labels, weights = clusters(5, 4, 64, offset=20.0, radius=0.1, dtype=np.float32)
  order = np.argsort(labels)  # so that most devices lack most classes
  where = np.random.default_rng(5).random(64) < 0.8
  arrays = (x[order], labels[order], where)
  expected = metrics.class_moments(*arrays[:2], num_classes=5, where=where)

  def per_device(x, labels, where, axis_name=None):
    return metrics.class_moments(x, labels, num_classes=5, where=where, axis_name=axis_name)

  if form == "jit":
    moments = jax.jit(per_device)(*arrays)
  elif form == "pmap":
    body = functools.partial(per_device, axis_name="batch")
    each = jax.pmap(body, axis_name="batch")(*(a.reshape(8, 8, *a.shape[1:]) for a in arrays))
    for a in each:
      np.testing.assert_array_equal(a, np.broadcast_to(np.asarray(a)[:1], a.shape))
    moments = jax.tree.map(lambda a: a[0], each)
  else:
    axes, sizes = (("a", "b"), (4, 2)) if form == "two_axes" else (("batch",), (8,))
    mesh = jax.make_mesh(sizes, axes, axis_types=(AxisType.Auto,) * len(axes))
    if form == "jit_sharded":
      split = NamedSharding(mesh, PartitionSpec("batch"))
      arrays = [jax.device_put(a, split) for a in arrays]
      for value, wanted in zip(per_device(*arrays), expected, strict=True):  # outside a trace too
        np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-12)
      moments = jax.jit(per_device)(*arrays)
    else:
      body = functools.partial(per_device, axis_name=axes if form == "two_axes" else axes[0])
      moments = jax.jit(
        jax.shard_map(body, mesh=mesh, in_specs=PartitionSpec(axes), out_specs=PartitionSpec())
      )(*arrays)
  np.testing.assert_array_equal(moments.counts, expected.counts)
  size = np.abs(expected.scatter).max()
  np.testing.assert_allclose(moments.scatter, expected.scatter, rtol=0, atol=1e-5 * size)
  for value, wanted in zip(moments, expected, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
  check(metrics.geometry(moments, weights), metrics.geometry(expected, weights), 1e-4, 1e-4)


def test_moments_of_devices_merge_to_the_whole():
  x, labels, _ = clusters(5, 4, 64, offset=20.0, radius=0.1, dtype=np.float32)
  parts = jax.pmap(functools.partial(metrics.class_moments, num_classes=5))(
    x.reshape(8, 8, 4), labels.reshape(8, 8)
  )
  each = [jax.tree.map(lambda a, i=i: a[i], parts) for i in range(8)]
  merged = functools.reduce(metrics.merge_moments, each)
  expected = metrics.class_moments(x, labels, num_classes=5)
  assert merged.means.dtype == np.float64
  np.testing.assert_allclose(
    merged.scatter, expected.scatter, rtol=0, atol=1e-4 * expected.scatter[0, 0]
  )
  np.testing.assert_allclose(merged.means, expected.means, rtol=1e-6)


def test_nothing_of_samples_by_samples_is_formed():
  n = 20_000
  shapes = jax.ShapeDtypeStruct((n, 8), np.float32), jax.ShapeDtypeStruct((n,), np.int32)
  compiled = jit_moments(10).lower(*shapes).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 200 * n  # n² numbers: 80,000 n


def test_products_in_full_precision():
  # CPU multiplies float32 in full always; TPU and GPU only if told.
  args = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
  moments = jit_moments(2)(*args)
  for text in (
    jax.make_jaxpr(jit_moments(2))(*args),
    jax.make_jaxpr(metrics.merge_moments)(moments, moments),
  ):
    assert str(text).count("dot_general") == 1
    assert "HIGHEST" in str(text)


def test_blocks_of_classes(monkeypatch):
  x, labels, weights = clusters(7, 5, 60)
  moments = metrics.class_moments(x, labels, num_classes=7)
  expected = metrics.geometry(moments, weights)
  for size in (1, 3, 7):
    monkeypatch.setattr(_geometry, "_BLOCK", size)
    check(metrics.geometry(moments, weights), expected, rtol=1e-12)


def test_mean_and_std():
  assert metrics.mean_and_std(np.array([np.nan, 1.0, 2.0, 6.0])) == (3.0, math.sqrt(14 / 3))
  assert metrics.mean_and_std(jnp.array([4.0])) == (4.0, 0.0)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    for nothing in (np.array([np.nan]), np.zeros(0)):
      assert all(math.isnan(x) for x in metrics.mean_and_std(nothing))


X, Y = np.ones((3, 2)), np.zeros(3, int)
MOMENTS = metrics.class_moments(X, Y, num_classes=2)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: metrics.class_moments(X, Y[:2], num_classes=2), r"must have shape \(3,\)"),
    (lambda: metrics.class_moments(X, Y + 2, num_classes=2), r"in \[0, 2\), got 2"),
    (lambda: metrics.class_moments(X, Y * 1.0, num_classes=2), "labels must be integers"),
    (lambda: metrics.class_moments(X.astype(int), Y, num_classes=2), "features must be floating"),
    (lambda: metrics.class_moments(1.0, 0, num_classes=2), "D ≥ 1"),
    (lambda: metrics.class_moments(X[:, :0], Y, num_classes=2), "D ≥ 1"),
    (lambda: metrics.class_moments(X, Y, num_classes=0), "num_classes must be at least 1"),
    (lambda: metrics.class_moments(X, Y, num_classes=2, where=X[:, 0]), "a bool mask"),
    (lambda: metrics.class_moments(X * np.nan, Y, num_classes=2), "features must be finite"),
    (lambda: metrics.class_moments(X * 1e200, Y, num_classes=2), "features must be finite"),
    (
      lambda: metrics.merge_moments(MOMENTS, metrics.class_moments(X, Y, num_classes=1)),
      r"counts differ in shape: \(2,\) and \(1,\)",
    ),
    (lambda: metrics.geometry(MOMENTS, np.ones((3, 2))), r"means' shape \(2, 2\), got \(3, 2\)"),
    (lambda: metrics.geometry(MOMENTS, np.ones((2, 2), int)), "weights must be floating point"),
    (lambda: metrics.geometry(MOMENTS, np.full((2, 2), np.nan)), "weights must be finite"),
    (lambda: jax.jit(metrics.geometry)(MOMENTS, np.ones((2, 2))), "outside jit"),
    (lambda: metrics.mean_and_std(np.ones((2, 2))), r"shape \[N\], got float64 of \(2, 2\)"),
    (lambda: metrics.mean_and_std(np.ones(2, int)), "floats of shape"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_an_axis_that_is_not_there_is_refused():
  with pytest.raises(NameError, match="batch"):
    metrics.class_moments(X, Y, num_classes=2, axis_name="batch")
