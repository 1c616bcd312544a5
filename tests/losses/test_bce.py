import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from bce_jax import losses

LOSSES = {"bce": losses.bce, "ce": losses.softmax_cross_entropy}


def close(actual, expected, rtol=1e-5):
  """Relative to the largest entry, as a float32 sum over classes deserves."""
  expected = np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def released_bias(array):
  """The released code keeps the unified bias as [1]."""
  return array.reshape(()) if array.shape == (1,) else array


@pytest.mark.core
@pytest.mark.parametrize("name", ["softmax", "bce_diverse", "bce_unified"])
def test_face_losses_equal_the_released_code(official, name):
  prefix = f"face/{name}/"
  loss = losses.softmax_cross_entropy if name == "softmax" else losses.bce
  bias = released_bias(official.get(prefix + "bias", np.zeros(1, np.float32)))

  def mean(features, weights, bias):
    cosine = losses.cosine(features, weights)
    scale, margin = float(official["face/scale"]), float(official["face/margin"])
    return jnp.mean(loss(cosine, official["face/labels"], bias=bias, scale=scale, margin=margin))

  args = (official["face/features"], official[prefix + "weights"], bias)
  value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*args)
  close(value, official[prefix + "loss"])
  close(grads[0], official[prefix + "grad_features"])
  close(grads[1], official[prefix + "grad_weights"])
  if name != "softmax":
    close(grads[2], released_bias(official[prefix + "grad_bias"]))


@pytest.mark.core
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias_kind", ["diverse", "unified"])
@pytest.mark.parametrize("family", ["bce", "ce"])
def test_linear_losses_equal_the_released_code(official, family, bias_kind, smoothing):
  prefix = f"linear/{family}_{bias_kind}_smooth{smoothing}/"

  def mean(features, weights, bias):
    logits = jnp.matmul(features, weights.T, precision="highest")
    return jnp.mean(LOSSES[family](logits, official["face/labels"], bias=bias, smoothing=smoothing))

  bias = released_bias(official[prefix + "bias"])
  args = (official["face/features"], official[prefix + "weights"], bias)
  value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*args)
  close(value, official[prefix + "loss"])
  close(grads[0], official[prefix + "grad_features"])
  close(grads[1], official[prefix + "grad_weights"])
  if (family, bias_kind) == ("ce", "unified"):
    assert grads[2] == 0.0  # exactly; the released code leaves a rounding error
  else:
    close(grads[2], released_bias(official[prefix + "grad_bias"]))


@pytest.mark.core
def test_sixty_steps_of_sgd_follow_the_released_code(official):
  features, labels = official["run/features"], official["run/labels"]

  @jax.jit
  def step(params, momentum):
    def mean(params):
      weights, bias = params
      logits = jnp.matmul(features, weights.T, precision="highest")
      return jnp.mean(losses.bce(logits, labels, bias=bias))

    loss, grads = jax.value_and_grad(mean)(params)
    grads = jax.tree.map(lambda g, p: g + 5e-4 * p, grads, params)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
    params = jax.tree.map(lambda p, m: p - 0.05 * m, params, momentum)
    return params, momentum, loss

  params = (jnp.asarray(official["run/weights0"]), jnp.zeros(()))
  momentum = jax.tree.map(jnp.zeros_like, params)
  trajectory = []
  for _ in range(60):
    params, momentum, loss = step(params, momentum)
    trajectory.append(loss)
  np.testing.assert_allclose(trajectory, official["run/losses"], rtol=1e-5)
  close(params[0], official["run/weights60"])
  close(params[1], official["run/bias60"][0])


def by_hand(logits, targets, bias, scale, margin, negative_weight, smoothing):
  """The formula in float64, with scipy's log_expit in place of a softplus."""
  hard = np.eye(logits.shape[-1])[targets] if targets.ndim < logits.ndim else targets
  z = scale * (logits - margin * hard) - bias
  n = logits.shape[-1]
  positive, negative = -scipy.special.log_expit(z), -scipy.special.log_expit(-z)
  plain = (hard * positive + negative_weight * (1 - hard) * negative).sum(-1)
  return (1 - smoothing) * plain + smoothing / n * (positive + (n - 1) * negative).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("negative_weight", [1.0, 0.6])
@pytest.mark.parametrize("margin", [0.0, 0.35])
@pytest.mark.parametrize("diverse", [False, True])
def test_every_option_together(diverse, margin, negative_weight, smoothing):
  rng = np.random.default_rng(0)
  logits = rng.uniform(-1, 1, (3, 5, 7))
  labels = rng.integers(0, 7, (3, 5))
  bias = rng.normal(size=7) if diverse else np.float64(0.4)
  expected = by_hand(logits, labels, bias, 8.0, margin, negative_weight, smoothing)
  actual = losses.bce(
    logits.astype(np.float32),
    labels,
    bias=bias,
    scale=8.0,
    margin=margin,
    negative_weight=negative_weight,
    smoothing=smoothing,
  )
  assert actual.shape == (3, 5)
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


def test_soft_targets():
  rng = np.random.default_rng(1)
  logits, targets = rng.normal(size=(4, 6)) * 3, rng.uniform(size=(4, 6))
  expected = by_hand(logits, targets, 0.2, 1.0, 0.0, 0.7, 0.1)
  actual = losses.bce(
    logits.astype(np.float32), targets, bias=0.2, negative_weight=0.7, smoothing=0.1
  )
  np.testing.assert_allclose(actual, expected, rtol=2e-6)
  targets /= targets.sum(-1, keepdims=True)
  expected = -(targets * scipy.special.log_softmax(logits - 0.2, -1)).sum(-1)
  actual = losses.softmax_cross_entropy(logits.astype(np.float32), targets, bias=0.2)
  np.testing.assert_allclose(actual, expected, rtol=2e-6)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_one_hot_targets_equal_labels(loss):
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(5, 4)).astype(np.float32)
  labels = rng.integers(0, 4, 5)
  one_hot = np.eye(4, dtype=np.float32)[labels]
  np.testing.assert_allclose(
    loss(logits, one_hot, smoothing=0.1), loss(logits, labels, smoothing=0.1), rtol=1e-6
  )


EXTREMES = np.array(
  [[1e9, -1e9, 0.0], [-1e9, 1e9, 1e9], [1e9, 1e9, 1e9], [-1e9, -1e9, -1e9]], np.float32
)


@pytest.mark.core
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ["bce", "ce", "naive"])
def test_finite_at_extreme_logits(name, soft, smoothing):
  labels = np.array([0, 0, 1, 2])
  targets = np.eye(3, dtype=np.float32)[labels] if soft else labels

  def total(logits, bias):
    if name == "naive":
      return jnp.sum(losses.naive(logits, targets, threshold=bias))
    return jnp.sum(LOSSES[name](logits, targets, bias=bias, scale=64.0, smoothing=smoothing))

  value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(EXTREMES, np.float32(0.0))
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)
  if name == "bce" and smoothing == 0.0:
    # Right by far, and wrong by far: no term is a difference of large numbers.
    each = losses.bce(EXTREMES, targets)
    np.testing.assert_allclose(each, [np.log(2), 3e9, 2e9, 1e9], rtol=1e-6)


def test_gradient_at_extremes_is_the_sigmoid():
  logits = jnp.array([[1e9, -1e9, 0.0, 30.0]])
  grad = jax.jit(jax.grad(lambda x: losses.bce(x, np.array([0])).sum()))(logits)
  np.testing.assert_allclose(grad, [[0.0, 0.0, 0.5, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_cosine_of_one_with_margin_is_finite(loss):
  features = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]], np.float32)
  weights = np.array([[3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], np.float32)

  def total(features, weights):
    cosine = losses.cosine(features, weights)
    return jnp.sum(loss(cosine, np.array([0, 0, 2]), scale=64.0, margin=0.5, bias=2.0))

  value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(features, weights)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_bfloat16_is_computed_in_float32(loss):
  logits = (np.random.default_rng(3).normal(size=(6, 300)) * 5).astype(jnp.bfloat16)
  labels = np.arange(6)
  bias = np.asarray(0.3, jnp.bfloat16)

  @jax.jit
  def step(logits, bias):
    values, pull_back = jax.vjp(lambda x: loss(x, labels, bias=bias), logits)
    return values, pull_back(jnp.ones_like(values))[0]

  actual, grad = step(logits, bias)
  assert actual.dtype == jnp.float32
  wide, _ = step(logits.astype(np.float32), bias.astype(np.float32))
  np.testing.assert_array_equal(actual, wide)
  assert grad.dtype == jnp.bfloat16
  assert np.isfinite(np.asarray(grad, np.float32)).all()


def test_float64_stays_float64():
  with jax.enable_x64(True):
    logits = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3)))
    for loss in LOSSES.values():
      assert loss(logits, np.array([0, 1])).dtype == jnp.float64
    np.testing.assert_allclose(
      losses.bce(logits, np.array([0, 1])),
      by_hand(np.asarray(logits), np.array([0, 1]), 0.0, 1.0, 0.0, 1.0, 0.0),
      rtol=1e-14,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES.values())
def test_class_mask_deletes_columns(loss, smoothing):
  rng = np.random.default_rng(5)
  logits = rng.normal(size=(4, 6)).astype(np.float32)
  bias = rng.normal(size=6).astype(np.float32)
  mask = np.array([True, False, True, True, False, True])
  kept = np.flatnonzero(mask)
  labels = np.array([0, 2, 3, 5])
  inside = np.searchsorted(kept, labels)

  per_example = np.broadcast_to(mask, logits.shape)

  @jax.jit
  def step(logits, bias):
    def masked(logits, bias, mask=mask):
      return loss(logits, labels, bias=bias, class_mask=mask, smoothing=smoothing)

    values, pull_back = jax.vjp(masked, logits, bias)
    expected = loss(logits[:, kept], inside, bias=bias[kept], smoothing=smoothing)
    each = masked(logits, bias, per_example)
    return values, each, expected, pull_back(jnp.ones_like(values))

  values, each, expected, grads = step(logits, bias)
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  np.testing.assert_array_equal(each, values)
  for grad in grads:
    assert np.all(np.asarray(grad)[..., ~mask] == 0.0)
    assert np.any(np.asarray(grad)[..., mask] != 0.0)


def test_class_mask_removes_the_positive_too():
  logits = np.array([[4.0, 1.0, -2.0]], np.float32)
  mask = np.array([False, True, True])
  expected = np.log1p(np.exp(1.0)) + np.log1p(np.exp(-2.0))
  np.testing.assert_allclose(losses.bce(logits, np.array([0]), class_mask=mask), [expected], 1e-6)
  assert losses.softmax_cross_entropy(logits, np.array([0]), class_mask=mask) == 0.0
  none = np.zeros(3, bool)
  for loss in LOSSES.values():
    value, grad = jax.jit(
      jax.value_and_grad(lambda x, f=loss: f(x, np.array([0]), class_mask=none).sum())
    )(logits)
    assert value == 0.0
    assert np.all(grad == 0.0)


def test_masked_logits_may_be_anything():
  logits = np.array([[1.0, np.inf, 2.0], [1.0, np.nan, 2.0]], np.float32)
  mask = np.array([True, False, True])
  for loss in LOSSES.values():
    value, grads = jax.jit(
      jax.value_and_grad(
        lambda x, s, f=loss: f(x, np.array([0, 2]), scale=s, class_mask=mask).sum(), (0, 1)
      )
    )(logits, 2.0)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_bce_bounds_the_naive_loss():
  rng = np.random.default_rng(6)
  logits = rng.normal(size=(50, 9)).astype(np.float32) * 4
  labels = rng.integers(0, 9, 50)
  naive, bce = jax.jit(
    lambda x: (losses.naive(x, labels, threshold=0.3), losses.bce(x, labels, bias=0.3))
  )(logits)
  own = logits[np.arange(50), labels]
  expected = np.maximum(0, 0.3 - own) + np.maximum(0, logits - 0.3).sum(-1)
  expected -= np.maximum(0, own - 0.3)
  np.testing.assert_allclose(naive, expected, rtol=1e-5, atol=1e-6)
  assert np.all(naive <= bce)


def test_cosine_against_numpy_and_at_zero():
  rng = np.random.default_rng(7)
  x, w = rng.normal(size=(2, 5, 8)), rng.normal(size=(3, 8))
  x[0, 0] = 0.0
  expected = x @ w.T / np.linalg.norm(w, axis=-1)
  norms = np.linalg.norm(x, axis=-1, keepdims=True)
  expected = np.divide(expected, norms, out=np.zeros_like(expected), where=norms > 0)

  @jax.jit
  def step(x, w):
    values, pull_back = jax.vjp(losses.cosine, x, w)
    return values, pull_back(jnp.ones_like(values))

  x, w = x.astype(np.float32), w.astype(np.float32)
  np.testing.assert_allclose(step(x, w)[0], expected, atol=1e-6)
  _, grads = step(0 * x, 0 * w)
  assert all(np.isfinite(g).all() for g in grads)
  huge, _ = step(np.full_like(x, 1e9), np.full_like(w, -1e9))
  np.testing.assert_allclose(huge, np.full_like(huge, -1.0), rtol=1e-6)


@jax.jit
def softmax_gradients(logits, labels, bias):
  def total(logits, bias):
    return losses.softmax_cross_entropy(logits, labels, bias=bias).sum()

  return jax.grad(total, (0, 1))(logits, bias)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([1, 2, 6]), st.integers(0, 2**31 - 1))
def test_softmax_gradient_sums_to_zero_and_bias_gradient_is_exactly_zero(n, seed):
  rng = np.random.default_rng(seed)
  logits = np.float32(rng.normal(size=(3, n)) * 10)
  grads = softmax_gradients(logits, rng.integers(0, n, 3), np.float32(3.0))
  assert grads[1] == 0.0
  np.testing.assert_allclose(np.asarray(grads[0]).sum(-1), np.zeros(3), atol=1e-5)


LOGITS = np.zeros((3, 3), np.float32)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"labels": np.zeros(3, np.float32)}, r"float targets must have the logits' shape \(3, 3\)"),
    ({"labels": np.zeros((3, 1), np.float32)}, "float targets must have"),
    ({"labels": np.eye(3, dtype=np.int32)}, r"integer labels must have shape \(3,\)"),
    ({"labels": np.array([0, 1, 3])}, r"labels must lie in \[0, 3\), got 3"),
    ({"labels": np.array([0, 1, -1])}, r"labels must lie in \[0, 3\), got -1"),
    ({"labels": np.array([0, 1, 2**32])}, r"labels must lie in \[0, 3\), got 4294967296"),
    ({"labels": np.zeros(3, bool)}, "labels must be integers, got dtype bool"),
    ({"labels": np.full((3, 3), 1.5, np.float32)}, r"float targets must lie in \[0, 1\]"),
    ({"labels": np.full((3, 3), np.nan, np.float32)}, r"float targets must lie in \[0, 1\]"),
    ({"logits": np.zeros((3, 3), np.int32)}, "logits must be floating point, got dtype int32"),
    ({"logits": np.zeros((3, 0), np.float32)}, "classes ≥ 1"),
    ({"bias": np.zeros(2, np.float32)}, r"bias must be a scalar .* got float32 of shape \(2,\)"),
    ({"bias": np.zeros((3, 1), np.float32)}, "bias must be a scalar"),
    ({"scale": np.ones(3)}, "scale must be a scalar"),
    ({"scale": -1.0}, "scale must be a finite number"),
    ({"margin": -0.1}, "margin must be a finite number"),
    ({"margin": np.nan}, "margin must be a finite number"),
    ({"smoothing": 1.5}, r"smoothing must be a finite number in \[0.0, 1.0\], got 1.5"),
    ({"smoothing": "a lot"}, "smoothing must be a real number"),
    ({"scale": 2j}, "scale must be a real number"),
    ({"scale": True}, "scale must be a real number"),
    ({"scale": 1e39}, "scale must be a finite number"),
    ({"bias": "prior"}, "bias must be a scalar"),
    ({"labels": np.eye(3, dtype=np.float32), "margin": 0.1}, "a margin needs integer labels"),
    ({"class_mask": np.ones(2, bool)}, "class_mask must be bool of shape"),
    ({"class_mask": np.ones(3)}, "class_mask must be bool of shape"),
  ],
)
@pytest.mark.parametrize("loss", LOSSES.values())
def test_refused(loss, change, message):
  arguments = {"logits": LOGITS, "labels": np.array([0, 1, 2])} | change
  with pytest.raises(ValueError, match=message):
    loss(**arguments)


def test_negative_weight_refused():
  with pytest.raises(ValueError, match="negative_weight must be a finite number"):
    losses.bce(LOGITS, np.array([0, 1, 2]), negative_weight=-1.0)


def test_integer_labels_on_square_logits_are_labels():
  assert losses.bce(LOGITS, np.array([0, 1, 2])).shape == (3,)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_label_out_of_range_under_jit_is_nan_for_that_example_only(loss):
  value = jax.jit(loss)(LOGITS, np.array([0, 3, -1]))
  np.testing.assert_array_equal(np.isnan(value), [False, True, True])
  unsigned = jax.jit(loss)(LOGITS, np.array([0, 255, 1], np.uint8))
  np.testing.assert_array_equal(np.isnan(unsigned), [False, True, False])
  with pytest.raises(ValueError, match="labels must lie"):  # a constant's value is known
    jax.jit(lambda x: loss(x, np.array([0, 1, 3])))(LOGITS)


def test_int8_labels_address_more_classes_than_int8_holds():
  logits = np.zeros((2, 300), np.float32)
  for dtype in (np.int8, np.uint8, np.int16, np.int32, np.int64):
    np.testing.assert_allclose(
      jax.jit(losses.bce)(logits, np.array([0, 127], dtype)), 300 * np.log(2), rtol=1e-5
    )


def test_options_may_be_traced():
  @jax.jit
  def loss(scale, margin, smoothing, bias):
    return losses.bce(
      LOGITS, np.array([0, 1, 2]), scale=scale, margin=margin, smoothing=smoothing, bias=bias
    )

  np.testing.assert_allclose(
    loss(8.0, 0.2, 0.1, 0.5),
    losses.bce(LOGITS, np.array([0, 1, 2]), scale=8.0, margin=0.2, smoothing=0.1, bias=0.5),
    rtol=1e-6,
  )


def softmax_by_hand(z, labels, kept):
  """Σ t (log Σ exp(z − top) − (z − top)) of the classes that count."""
  targets = labels if labels.ndim == z.ndim else jax.nn.one_hot(labels, z.shape[-1])
  top = jnp.max(jnp.where(kept, z, jnp.finfo(z.dtype).min), -1, keepdims=True)
  shifted = jnp.where(kept, z - jax.lax.stop_gradient(top), 0.0)
  total = jnp.sum(jnp.where(kept, jnp.exp(shifted), 0.0), -1, keepdims=True)
  total = jnp.where(jnp.any(kept, -1, keepdims=True), total, 1.0)
  return jnp.sum(jnp.where(kept, targets * (jnp.log(total) - shifted), 0.0), -1)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mask", ["none", "some", "all of one example"])
def test_softmax_is_that_of_the_formula_to_the_last_bit(soft, mask):
  rng = np.random.default_rng(3)
  z = jnp.asarray(rng.normal(0, 9, (40, 11)), jnp.float32)
  labels = rng.integers(0, 11, 40)
  if soft:
    labels = jnp.asarray(rng.dirichlet(np.ones(11), 40), jnp.float32)
  kept = rng.random((40, 11)) < (2 if mask == "none" else 0.6)
  kept[7] &= mask != "all of one example"
  options = {} if mask == "none" else {"class_mask": kept}
  expected, actual = softmax_by_hand(z, labels, kept), losses.softmax_cross_entropy
  np.testing.assert_array_equal(actual(z, labels, **options), expected)
  grads = [
    jax.grad(lambda z, f=f: jnp.sum(jnp.arange(1.0, 41.0) * f(z)))(z)
    for f in (
      lambda z: softmax_by_hand(z, labels, kept),
      lambda z: actual(z, labels, **options),
    )
  ]
  # JAX compiles its log_softmax as one, with products and sums joined: the last bits differ.
  np.testing.assert_allclose(grads[1], grads[0], rtol=1e-5, atol=1e-5)
  if mask == "none" and not soft:  # a plain step, compiled, does not change
    both = [
      jax.jit(jax.value_and_grad(lambda z, f=f: jnp.mean(f(z))))(z)
      for f in (lambda z: softmax_by_hand(z, labels, kept), lambda z: actual(z, labels))
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)
