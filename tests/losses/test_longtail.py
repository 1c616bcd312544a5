import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from bce_jax import losses


def close(actual, expected, rtol=1e-5):
  expected = np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.fixture(params=["a", "b"])
def tripartite(request, official):
  prefix = f"tripartite/{request.param}/"
  return {k.removeprefix(prefix): v for k, v in official.items() if k.startswith(prefix)}


def projector(params, features):
  matmul = lambda x, w: jnp.matmul(x, w, precision="highest")  # noqa: E731
  hidden = jax.nn.relu(matmul(features, params["proj0/kernel"]) + params["proj0/bias"][None])
  return matmul(hidden, params["proj1/kernel"]) + params["proj1/bias"][None]


TRAINED = (
  "features",
  "weights",
  "bias",
  "proj0/kernel",
  "proj0/bias",
  "proj1/kernel",
  "proj1/bias",
)


@jax.jit
def tripartite_loss(params, case):
  """The released objective of the three losses, and what it is made of."""
  labels, weights = case["labels"], params["weights"]
  one_hot = jax.nn.one_hot(labels, len(weights))
  targets = jnp.concatenate([one_hot, case["mixed_targets"], case["mixed_targets"]])

  def total(params):
    features, weights = params["features"], params["weights"]
    scores = jnp.matmul(features, losses.l2_normalize(weights).T, precision="highest")
    joint = jnp.mean(losses.mixed_bce(scores + params["bias"][None], targets))
    uniform = jnp.mean(losses.classifier_uniformity(weights))
    projected = projector(params, features)
    contrast = losses.contrast(
      projected[len(labels) :],
      case["memory"],
      targets[len(labels) :],
      temperature=case["temperature"],
    )
    per_view = jnp.sum(jnp.mean(contrast.reshape(2, -1), -1))
    loss = joint + case["cc_weight"] * uniform
    return loss + case["ss_weight"] * per_view, (loss, uniform, projected)

  return jax.value_and_grad(total, has_aux=True)(params)


def test_tripartite_loss_and_gradients_equal_the_released_code(tripartite):
  case = tripartite
  given = ("labels", "mixed_targets", "memory", "temperature", "cc_weight", "ss_weight")
  (value, parts), grads = tripartite_loss(
    {name: case[name] for name in TRAINED}, {name: case[name] for name in given}
  )
  close(value, case["loss"])
  close(parts[0], case["loss_without_contrast"])
  close(parts[1], case["uniform_loss"])
  for name in TRAINED:
    close(grads[name], case[f"grad_{name}"])
  # The memory after the update: the last projection of each class in the source view.
  memory = case["memory"].copy()
  memory[case["labels"]] = np.asarray(parts[2][: len(case["labels"])])
  close(memory, case["memory_after"])


@pytest.mark.parametrize("beta", [0.999, 0.9999])
def test_balanced_bce_equals_the_released_code(official, beta):
  prefix = f"balanced/beta{beta}/"
  labels = official["face/labels"]
  weights_of_classes = losses.class_weights(official["balanced/counts"], beta=beta)
  np.testing.assert_allclose(weights_of_classes.sum(), 20.0, rtol=1e-6)

  def mean(features, weights, bias):
    scores = jnp.matmul(features, losses.l2_normalize(weights).T, precision="highest") + bias[None]
    return jnp.mean(weights_of_classes[labels] * losses.bce(scores, labels))

  args = (official["face/features"], official[prefix + "weights"], official[prefix + "bias"])
  value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*args)
  close(value, official[prefix + "loss"])
  for grad, name in zip(grads, ("features", "weights", "bias"), strict=True):
    close(grad, official[f"{prefix}grad_{name}"])


def test_max_norm_equals_the_released_code(official):
  before, fraction = official["maxnorm/before"], float(official["maxnorm/thresh"])
  limit = losses.max_norm_limit(before, fraction=fraction)
  np.testing.assert_allclose(limit, official["maxnorm/limit"], rtol=1e-6)
  after = losses.max_norm(before, limit=limit)
  np.testing.assert_allclose(after, official["maxnorm/after"], rtol=1e-5)
  norms = np.linalg.norm(before, axis=1)
  inside = norms <= float(limit)
  assert inside.any()
  np.testing.assert_array_equal(np.asarray(after)[inside], before[inside])
  assert np.linalg.norm(after, axis=1).max() <= float(limit) * (1 + 1e-6)


def test_max_norm_at_zero_and_far_out():
  weights = np.array([[0.0, 0.0], [1e9, 0.0], [3.0, 4.0]], np.float32)

  @jax.jit
  def project(weights, limit):
    projected, pull_back = jax.vjp(lambda w: losses.max_norm(w, limit=limit), weights)
    return projected, pull_back(jnp.ones_like(projected))[0]

  projected, grad = project(weights, 1.0)
  np.testing.assert_allclose(projected, [[0, 0], [1, 0], [0.6, 0.8]], rtol=1e-6)
  assert np.isfinite(grad).all()
  np.testing.assert_array_equal(project(weights, 0.0)[0], np.zeros((3, 2)))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999, 0.99999, 0.9999999])
def test_class_weights_against_extended_precision(beta):
  counts = np.array([500, 100, 37, 5, 1])
  b = np.longdouble(beta)
  expected = (1 - b) / (1 - b**counts)
  expected *= len(counts) / expected.sum()
  actual = losses.class_weights(counts, beta=beta)
  np.testing.assert_allclose(actual, expected.astype(np.float64), rtol=3e-7)


def test_mixed_bce_by_definition():
  rng = np.random.default_rng(0)
  z, t = rng.normal(size=(3, 4, 6)) * 4, rng.uniform(size=(3, 4, 6))
  t[rng.uniform(size=t.shape) < 0.5] = 0.0
  log_sigmoid = scipy.special.log_expit
  expected = -(t * log_sigmoid(z) + (t == 0) * log_sigmoid(-z)).sum(-1)
  actual = losses.mixed_bce(z.astype(np.float32), t.astype(np.float32))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  one_hot = np.eye(6, dtype=np.float32)[[0, 3, 5, 5]]
  scores = z[0].astype(np.float32)
  expected = losses.bce(scores, np.array([0, 3, 5, 5]))
  np.testing.assert_allclose(losses.mixed_bce(scores, one_hot), expected, rtol=1e-6)


def test_contrast_takes_labels_and_reaches_both_sides():
  rng = np.random.default_rng(1)
  projections = rng.normal(size=(5, 3)).astype(np.float32)
  memory = rng.normal(size=(4, 3)).astype(np.float32)
  labels = np.array([0, 1, 2, 3, 3])
  unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (projections, memory)]
  z, one_hot = np.float64(unit[0] @ unit[1].T) / 0.2, np.eye(4, dtype=np.float32)[labels]
  log_sigmoid = scipy.special.log_expit
  expected = -(one_hot * log_sigmoid(z) + (1 - one_hot) * log_sigmoid(-z)).sum(-1)

  @jax.jit
  def both(projections, memory):
    soft = losses.contrast(projections, memory, one_hot, temperature=0.2)
    hard, pull_back = jax.vjp(
      lambda g, m: losses.contrast(g, m, labels, temperature=0.2), projections, memory
    )
    return hard, soft, pull_back(jnp.ones_like(hard))

  hard, soft, grads = both(projections, memory)
  np.testing.assert_allclose(hard, expected, rtol=1e-5)
  np.testing.assert_allclose(soft, expected, rtol=1e-5)
  assert all(np.abs(g).max() > 0.01 for g in grads)


def test_uniformity_is_least_when_the_classes_are_a_simplex():
  simplex = np.eye(4, dtype=np.float32) - 0.25
  best = losses.classifier_uniformity(simplex)
  expected = np.log1p(np.exp(-1)) + 3 * np.log1p(np.exp(-1 / 3))
  np.testing.assert_allclose(best, np.full(4, expected), rtol=1e-5)
  others = np.random.default_rng(2).normal(size=(20, 4, 4)).astype(np.float32)
  assert all(losses.classifier_uniformity(w).mean() >= best.mean() for w in others)


def test_finite_at_the_edges():
  targets = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float32)

  def total(x, w):
    return (
      losses.mixed_bce(x, targets).sum()
      + losses.contrast(x, w, targets, temperature=0.01).sum()
      + losses.classifier_uniformity(w).sum()
    )

  step = jax.jit(jax.value_and_grad(total, (0, 1)))
  for size in (0.0, 1e9):
    value, grads = step(np.full((2, 3), size, np.float32), -np.full((3, 3), size, np.float32))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_bfloat16_gives_float32():
  x, targets = (jax.ShapeDtypeStruct((2, 3), jnp.bfloat16) for _ in range(2))
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  assert jax.eval_shape(losses.mixed_bce, x, targets).dtype == jnp.float32
  assert jax.eval_shape(losses.contrast, x, x, labels).dtype == jnp.float32
  assert jax.eval_shape(losses.classifier_uniformity, x).dtype == jnp.float32
  assert jax.eval_shape(lambda x: losses.max_norm(x, limit=0.5), x).dtype == jnp.float32


X, M = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: losses.mixed_bce(X, np.array([0, 1])), "targets must be floating point"),
    (lambda: losses.mixed_bce(X, np.ones(3, np.float32)), "must have the logits' shape"),
    (lambda: losses.mixed_bce(X, 2 * X), r"must lie in \[0, 1\]"),
    (lambda: losses.contrast(X, M, np.array([0, 4])), r"labels must lie in \[0, 4\), got 4"),
    (lambda: losses.contrast(X, M[:, :2], np.array([0, 1])), "features must have shape"),
    (lambda: losses.contrast(X, M, np.array([0, 1]), temperature=0.0), "temperature must be > 0"),
    (lambda: losses.classifier_uniformity(X[0]), r"weights must have shape \[N, D\]"),
    (lambda: losses.class_weights([3, 0], beta=0.9), "every class needs at least one image"),
    (lambda: losses.class_weights([3.0], beta=0.9), "counts must be integers"),
    (lambda: losses.class_weights([3], beta=1.0), r"beta must be a number in \[0, 1\), got 1.0"),
    (lambda: losses.max_norm(X, limit=-1.0), "limit must be a finite number"),
    (lambda: losses.max_norm_limit(X, fraction=1.5), "fraction must be a finite number"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


COUNTS = np.array([90, 9, 1])


def test_logit_adjustment_moves_the_scores_by_the_prior():
  offsets = losses.logit_adjustment(COUNTS, temperature=2.0)
  np.testing.assert_allclose(offsets, 2 * np.log([0.9, 0.09, 0.01]), rtol=1e-6)
  assert not np.any(losses.logit_adjustment(COUNTS, temperature=0.0))


def test_balanced_softmax_is_its_published_formula_and_its_gradient():
  rng = np.random.default_rng(0)
  z, labels = rng.normal(size=(6, 3)) * 3, np.array([0, 1, 2, 0, 1, 2])
  weighted = COUNTS * np.exp(z)
  expected = -np.log(weighted[np.arange(6), labels] / weighted.sum(1))
  z32 = z.astype(np.float32)

  @jax.jit
  def step(z):
    values, pull_back = jax.vjp(lambda z: losses.balanced_softmax(z, labels, COUNTS), z)
    return values, pull_back(jnp.ones_like(values))[0]

  values, gradient = step(z32)
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  by_hand = weighted / weighted.sum(1, keepdims=True) - np.eye(3)[labels]
  np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-6)


def test_mixed_bce_of_some_classes_is_that_of_the_columns_left():
  rng = np.random.default_rng(1)
  z = rng.normal(size=(4, 5)).astype(np.float32)
  t = rng.dirichlet(np.ones(5), 4).astype(np.float32) * (rng.random((4, 5)) < 0.5)
  mask = np.array([True, False, True, True, False])
  each = np.broadcast_to(mask, z.shape)

  @jax.jit
  def by_mask(z):
    values, pull_back = jax.vjp(lambda z: losses.mixed_bce(z, t, class_mask=mask), z)
    return values, losses.mixed_bce(z, t, class_mask=each), pull_back(jnp.ones_like(values))[0]

  expected = jax.jit(losses.mixed_bce)(z[:, mask], t[:, mask])
  values, by_each, _ = by_mask(z)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  np.testing.assert_allclose(by_each, expected, rtol=1e-6)
  _, _, gradient = by_mask(np.where(mask, z, np.nan))
  assert np.isfinite(gradient).all()
  assert not np.any(gradient[:, ~mask])


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: losses.logit_adjustment([3, 0]), "every class needs at least one image"),
    (lambda: losses.logit_adjustment([3.0]), "counts must be integers"),
    (lambda: losses.logit_adjustment([3], temperature=np.nan), "temperature must be a finite"),
    (lambda: losses.balanced_softmax(X, np.array([0, 1]), [1, 2]), "bias must be a scalar"),
    (lambda: losses.mixed_bce(X, X, class_mask=np.ones(2, bool)), "class_mask must be bool"),
  ],
)
def test_adjustments_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
