import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from bce_jax import losses
from bce_jax.losses import _chunks

B, D, N = 6, 5, 13
OPTIONS = ("bias", "scale", "margin", "negative_weight", "smoothing")


def close(actual, expected, rtol=1e-5):
  """Relative to the largest entry, as a float32 sum over classes deserves."""
  expected = np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def draw(seed=0, *, soft=False, diverse=True):
  """Everything that has a gradient, and labels."""
  rng = np.random.default_rng(seed)
  operands = {
    "features": rng.normal(size=(B, D)),
    "weights": rng.normal(size=(N, D)),
    "bias": rng.normal(size=N) if diverse else rng.normal(),
    "scale": 1.7,
    "margin": 0.0 if soft else 0.3,
    "negative_weight": 0.7,
    "smoothing": 0.1,
    "example_weights": rng.uniform(size=B),
  }
  operands = {name: jnp.asarray(x, jnp.float32) for name, x in operands.items()}
  labels = rng.integers(0, N, B).astype(np.int32)
  if soft:
    labels = jnp.asarray(rng.uniform(size=(B, N)), jnp.float32)
  return operands, labels


def full(operands, labels, *, normalize=False, class_mask=None):
  """[B] losses by way of all scores."""
  x, w = operands["features"], operands["weights"]
  x = losses.l2_normalize(x) if normalize in (True, "features") else x
  w = losses.l2_normalize(w) if normalize in (True, "weights") else w
  scores = jnp.matmul(x, w.T, precision="highest")
  options = {name: operands[name] for name in OPTIONS if name in operands}
  return losses.bce(scores, labels, class_mask=class_mask, **options)


def chunked(operands, labels, **options):
  operands = dict(operands)
  operands.pop("example_weights", None)
  x, w = operands.pop("features"), operands.pop("weights")
  return losses.linear_bce(x, w, labels, **operands, **options)


def chunked_mean(operands, labels, **options):
  operands = dict(operands)
  x, w = operands.pop("features"), operands.pop("weights")
  return losses.linear_bce_mean(x, w, labels, **operands, **options)


def same(operands, labels, *, jit=True, chunk_size=None, normalize=False, class_mask=None):
  """Both forms against all scores, in value and in the gradient of every operand."""
  soft = jnp.ndim(labels) == 2
  if soft:  # soft targets have a gradient too, and take no margin
    operands = {name: x for name, x in operands.items() if name != "margin"} | {"labels": labels}
  options = {"normalize": normalize, "class_mask": class_mask}
  cotangent = jnp.linspace(0.5, 2.0, operands["features"].shape[0])

  def everything(each, mean):
    def of(operands):
      values, pull_back = jax.vjp(each, operands)
      return values, pull_back(cotangent)[0], jax.value_and_grad(mean)(operands)

    return of

  def taken(operands):
    operands = dict(operands)
    return operands, operands.pop("labels", labels)

  def expected_each(operands):
    return full(*taken(operands), **options)

  def expected_mean(operands):
    return 3.0 * jnp.mean(operands["example_weights"] * expected_each(operands))

  def each(operands):
    return chunked(*taken(operands), chunk_size=chunk_size, **options)

  def mean(operands):
    return 3.0 * chunked_mean(*taken(operands), chunk_size=chunk_size, **options)

  expected = jax.jit(everything(expected_each, expected_mean))(operands)
  actual = everything(each, mean)
  actual = (jax.jit(actual) if jit else actual)(operands)
  jax.tree.map(close, actual, expected)
  jax.tree.map(lambda grad, x: np.testing.assert_equal(grad.dtype, x.dtype), actual[1], operands)


MASK = np.arange(N) % 3 != 1
MASKS = {"none": None, "classes": MASK, "each": np.random.default_rng(1).uniform(size=(B, N)) < 0.6}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 3, 50])
def test_equal_to_all_scores(chunk_size, soft, mask):
  operands, labels = draw(chunk_size, soft=soft, diverse=chunk_size != 3)
  same(operands, labels, chunk_size=chunk_size, class_mask=MASKS[mask])


@pytest.mark.parametrize("mask", ["none", "classes"])
@pytest.mark.parametrize("chunk_size", [7, N, None])
def test_other_chunks(chunk_size, mask):
  same(*draw(9, diverse=chunk_size == 7), chunk_size=chunk_size, class_mask=MASKS[mask])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("normalize", [True, "features", "weights"])
def test_normalized(normalize, mask):
  operands, labels = draw(2, diverse=mask != "none")
  same(operands, labels, chunk_size=5, normalize=normalize, class_mask=MASKS[mask])


def test_without_jit():
  same(*draw(3), jit=False, chunk_size=4, class_mask=MASK)


def test_normalize_true_is_the_cosine():
  operands, labels = draw(4)
  options = {name: operands[name] for name in OPTIONS}
  cosine = losses.cosine(operands["features"], operands["weights"])
  close(chunked(operands, labels, normalize=True), losses.bce(cosine, labels, **options))


@settings(deadline=None, max_examples=12)
@given(
  st.integers(0, 2**31 - 1),
  st.integers(1, 9),
  st.integers(1, 12),
  st.integers(1, 4),
  st.sampled_from([None, "classes", "each"]),
)
def test_any_shape_against_float64(seed, rows, chunk_size, batch, mask):
  """The formula in float64, by numpy, with its derivative written out."""
  rng = np.random.default_rng(seed)
  x, w, bias = rng.normal(size=(batch, 3)), rng.normal(size=(rows, 3)), rng.normal(size=rows)
  labels = rng.integers(0, rows, batch)
  kept = rng.uniform(size=(batch, rows) if mask == "each" else rows) < (0.5 if mask else 2.0)
  hot = np.eye(rows)[labels]
  z = 2.0 * (x @ w.T - 0.2 * hot) - bias
  positive, negative = -scipy.special.log_expit(z), -scipy.special.log_expit(-z)
  expected = (kept * (hot * positive + 0.6 * (1 - hot) * negative)).sum(-1)
  slope = kept * (0.6 * (1 - hot) * scipy.special.expit(z) - hot * scipy.special.expit(-z))

  def loss(x, w, bias):
    return losses.linear_bce(
      x,
      w,
      labels,
      bias=bias,
      scale=2.0,
      margin=0.2,
      negative_weight=0.6,
      chunk_size=chunk_size,
      class_mask=kept if mask else None,
    )

  @jax.jit
  def both(*args):
    value, pull_back = jax.vjp(loss, *args)
    return value, pull_back(jnp.ones(batch))

  value, grads = both(*(jnp.asarray(a, jnp.float32) for a in (x, w, bias)))
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
  for actual, wanted in zip(grads, (2 * slope @ w, 2 * slope.T @ x, -slope.sum(0)), strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["bce_diverse", "bce_unified"])
def test_equal_to_the_released_code(official, name):
  prefix = f"face/{name}/"
  bias = official[prefix + "bias"]
  bias = bias.reshape(()) if bias.shape == (1,) else bias
  scale, margin = float(official["face/scale"]), float(official["face/margin"])

  def mean(features, weights, bias):
    return losses.linear_bce_mean(
      features,
      weights,
      official["face/labels"],
      bias=bias,
      scale=scale,
      margin=margin,
      normalize=True,
      chunk_size=7,
    )

  args = (official["face/features"], official[prefix + "weights"], bias)
  value, grads = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*args)
  close(value, official[prefix + "loss"])
  close(grads[0], official[prefix + "grad_features"])
  close(grads[1], official[prefix + "grad_weights"])
  grad_bias = official[prefix + "grad_bias"]
  close(grads[2], grad_bias.reshape(np.shape(grads[2])))


@pytest.mark.parametrize("form", [chunked, chunked_mean])
def test_gradients_by_differences_in_float64(form):
  with jax.enable_x64(True):
    operands, labels = draw(5)
    operands = {name: x.astype(jnp.float64) for name, x in operands.items()}

    @jax.jit
    def f(operands):
      return jnp.sum(form(operands, labels, chunk_size=4, normalize=True, class_mask=MASK))

    assert f(operands).dtype == jnp.float64
    check_grads(f, (operands,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def jaxprs_in(x):
  if isinstance(x, (tuple, list)):
    return [inner for each in x for inner in jaxprs_in(each)]
  inner = getattr(x, "jaxpr", x)
  return [inner] if hasattr(inner, "eqns") else []


def products(f, *args):
  """Matrix products in what JAX would run, loop bodies counted once."""

  def count(jaxpr):
    inside = sum(
      count(inner) for e in jaxpr.eqns for v in e.params.values() for inner in jaxprs_in(v)
    )
    return inside + sum(e.primitive.name == "dot_general" for e in jaxpr.eqns)

  # `make_jaxpr` of the differentiated function: custom_vjp is resolved, nothing is optimized.
  return count(jax.make_jaxpr(f)(*args).jaxpr)


def test_four_and_three_matrix_products():
  operands, labels = draw(6)
  x, w, bias = operands["features"], operands["weights"], operands["bias"]

  def each(x, w, bias):
    return jnp.mean(losses.linear_bce(x, w, labels, bias=bias, chunk_size=N))

  def mean(x, w, bias):
    return losses.linear_bce_mean(x, w, labels, bias=bias, chunk_size=N)

  all_three = (0, 1, 2)
  assert products(jax.value_and_grad(each, all_three), x, w, bias) == 4
  assert products(jax.value_and_grad(mean, all_three), x, w, bias) == 3
  assert products(jax.jit(each), x, w, bias) == 1
  assert products(jax.jit(mean), x, w, bias) == 1
  # Only what is asked for: frozen weights, or frozen features.
  assert products(jax.grad(mean, 0), x, w, bias) == 2
  assert products(jax.grad(mean, 1), x, w, bias) == 2
  assert products(jax.grad(mean, 2), x, w, bias) == 1


BIG = {"batch": 64, "features": 16, "classes": 40_000, "chunk": 400}


def compiled(form, *, dtype=jnp.float32, soft=False, normalize=False, mask=None):
  batch, features, classes, chunk = BIG.values()
  struct = jax.ShapeDtypeStruct
  labels = struct((batch, classes), jnp.float32) if soft else struct((batch,), jnp.int32)
  kept = {None: None, "classes": struct((classes,), bool), "each": struct((batch, classes), bool)}

  def mean(x, w, bias, labels, mask):
    return jnp.mean(
      form(x, w, labels, bias=bias, class_mask=mask, normalize=normalize, chunk_size=chunk)
    )

  args = (struct((batch, features), jnp.float32), struct((classes, features), dtype))
  args += (struct((classes,), jnp.float32), labels, kept[mask])
  return jax.jit(jax.value_and_grad(mean, (0, 1, 2))).lower(*args).compile()


FORMS = [losses.linear_bce, losses.linear_bce_mean]


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"normalize": True},
    {"mask": "classes", "normalize": True},
    {"mask": "each"},
    {"soft": True},
    {"dtype": jnp.bfloat16},
    {"dtype": jnp.bfloat16, "mask": "classes"},
  ],
)
@pytest.mark.parametrize("form", FORMS)
def test_memory_is_a_few_chunks(form, options):
  batch, features, classes, chunk = BIG.values()
  program = compiled(form, **options)
  temporary = program.memory_analysis().temp_size_in_bytes
  assert len(re.findall(r" dot\(", program.as_text())) == (4 if form is FORMS[0] else 3)
  chunk_bytes = 4 * chunk * (batch + features)
  allowed = 8 * chunk_bytes + 8 * 4 * classes  # what is one number per class may be kept
  assert allowed < 4 * classes * features  # so that not one more table would go unnoticed
  if options.get("dtype") == jnp.bfloat16:
    allowed += 2 * classes * features  # XLA on CPU copies it, but not to float32
  assert temporary < allowed


def test_a_mask_of_classes_saves_work(monkeypatch):
  original, calls = _chunks.class_losses, []

  def counted(z, *args, **options):
    jax.debug.callback(lambda: calls.append(z.shape))
    return original(z, *args, **options)

  monkeypatch.setattr(_chunks, "class_losses", counted)
  operands, labels = draw(7)
  for kept in (0, 1, 3, 4, 7, N):
    mask = np.random.default_rng(0).permutation(np.arange(N) < kept)
    calls.clear()
    jax.block_until_ready(chunked(operands, labels, chunk_size=3, class_mask=mask))
    jax.effects_barrier()
    assert calls == [(B, 3)] * -(-kept // 3)


@pytest.mark.parametrize("form", FORMS)
def test_finite_at_extreme_scores(form):
  features = jnp.array([[1e9, 0.0], [-1e9, 0.0], [1.0, 1.0], [0.0, 1e9]])
  weights = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
  labels = np.array([0, 0, 1, 2])

  def total(features, weights, bias, scale):
    options = {"bias": bias, "scale": scale, "smoothing": 0.1, "chunk_size": 2}
    return jnp.sum(form(features, weights, labels, **options))

  step = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))
  value, grads = step(features, weights, 0.5, 64.0)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)
  each = losses.linear_bce(features, weights, labels, chunk_size=2)
  np.testing.assert_allclose(each, losses.bce(features @ weights.T, labels), rtol=1e-6)
  np.testing.assert_allclose(each[:2], [np.log(2), 2e9], rtol=1e-6)  # by hand


@pytest.mark.parametrize("normalize", [True, "features", "weights", False])
def test_zero_vectors_have_finite_gradients(normalize):
  def total(x, w):
    return losses.linear_bce_mean(x, w, np.array([0, 1]), normalize=normalize, scale=64.0)

  step = jax.jit(jax.value_and_grad(total, (0, 1)))
  value, grads = step(jnp.zeros((2, 4)), jnp.zeros((3, 4)))
  np.testing.assert_allclose(value, 3 * np.log(2), rtol=1e-6)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("chunk_size", [1, 5, 50])
@pytest.mark.parametrize("form", [chunked, chunked_mean])
def test_removed_classes_may_hold_anything(form, chunk_size):
  operands, labels = draw(8)
  poisoned = dict(operands)
  for name in ("weights", "bias"):
    poisoned[name] = poisoned[name].at[~MASK].set(jnp.nan)
  options = {"chunk_size": chunk_size, "class_mask": MASK}

  def total(operands):
    return jnp.sum(form(operands, labels, **options))

  step = jax.jit(jax.value_and_grad(total))
  clean, dirty = step(operands), step(poisoned)
  jax.tree.map(np.testing.assert_array_equal, dirty, clean)
  assert np.all(dirty[1]["weights"][~MASK] == 0.0)
  assert np.all(dirty[1]["weights"][MASK] != 0.0)


def test_no_class_left():
  operands, labels = draw(8)

  def total(operands):
    return jnp.sum(chunked_mean(operands, labels, class_mask=np.zeros(N, bool)))

  value, grads = jax.jit(jax.value_and_grad(total))(operands)
  assert value == 0.0
  assert all(np.all(g == 0.0) for g in grads.values())


@pytest.mark.parametrize("class_mask", [None, MASK])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_computed_in_float32(dtype, class_mask):
  operands, labels = draw(10)
  narrow = {name: operands[name].astype(dtype) for name in ("features", "weights", "bias")}

  def total(operands):
    return chunked_mean(operands, labels, chunk_size=4, class_mask=class_mask, normalize="weights")

  step = jax.jit(jax.value_and_grad(total))
  value, grads = step(narrow)
  wide, wide_grads = step({name: x.astype(jnp.float32) for name, x in narrow.items()})
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, wide, rtol=1e-6)
  for name, grad in grads.items():
    assert grad.dtype == dtype
    close(grad.astype(jnp.float32), wide_grads[name], rtol=2**-7)


def test_rows_beyond_the_classes_are_padding():
  operands, labels = draw(11)
  padded = dict(operands)
  padded["weights"] = jnp.pad(operands["weights"], ((0, 4), (0, 0)), constant_values=jnp.nan)
  padded["bias"] = jnp.pad(operands["bias"], (0, 4), constant_values=jnp.inf)

  def total(operands):
    return chunked_mean(operands, labels, chunk_size=3, num_classes=N)

  step = jax.jit(jax.value_and_grad(total))
  expected, actual = step(operands), step(padded)
  close(actual[0], expected[0])
  assert np.all(actual[1]["weights"][N:] == 0.0)
  close(actual[1]["weights"][:N], expected[1]["weights"])
  close(actual[1]["features"], expected[1]["features"])
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 12\)"):
    chunked(padded, np.full(B, 12), num_classes=12)


def test_label_out_of_range_is_nan_for_that_example_only():
  operands, labels = draw(12)
  wrong = labels.copy()
  wrong[[1, 4]] = N, -1
  right = np.isin(np.arange(B), (1, 4), invert=True)
  value = jax.jit(chunked)(operands, wrong)
  np.testing.assert_array_equal(np.isnan(value), ~right)
  close(value[right], chunked(operands, labels)[right])
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 13\)"):
    chunked(operands, wrong)

  def expected(operands, labels):
    return jnp.mean(operands["example_weights"] * full(operands, labels))

  value, grads = jax.jit(jax.value_and_grad(chunked_mean))(operands, wrong)
  wanted, wanted_grads = jax.jit(jax.value_and_grad(expected))(operands, wrong)
  assert np.isnan(value)
  assert np.isnan(wanted)
  for name in ("features", "weights", "bias", "scale"):
    close(grads[name], wanted_grads[name])


def test_the_mean_divides_by_the_batch():
  operands, labels = draw(13)
  each = chunked(operands, labels)
  weights = operands.pop("example_weights")
  close(chunked_mean(operands, labels), np.mean(each))
  close(chunked_mean(operands | {"example_weights": weights}, labels), np.sum(weights * each) / B)


def test_under_vmap_and_checkpoint():
  operands, labels = draw(14)
  tables = jnp.stack([operands["weights"], 2 * operands["weights"]])

  def loss(weights):
    return losses.linear_bce_mean(operands["features"], weights, labels, chunk_size=5)

  values, grads = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(tables)
  for i in range(2):
    value, grad = jax.jit(jax.value_and_grad(loss))(tables[i])
    close(values[i], value)
    close(grads[i], grad)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"features": np.zeros((3, 4), np.int32)}, "features must be floating point, got dtype int32"),
    ({"weights": np.zeros((5, 4), np.int32)}, "weights must be floating point, got dtype int32"),
    ({"features": np.zeros((3, 2), np.float32)}, r"got \(3, 2\) and \(5, 4\)"),
    ({"features": np.zeros(4, np.float32)}, "features must have shape"),
    ({"weights": np.zeros((0, 4), np.float32)}, "N ≥ 1"),
    ({"labels": np.array([0, 1, 5])}, r"labels must lie in \[0, 5\), got 5"),
    ({"labels": np.zeros(2, int)}, r"integer labels must have shape \(3,\)"),
    ({"labels": np.zeros((3, 4), np.float32)}, "float targets must have"),
    ({"labels": np.full((3, 5), 2.0, np.float32)}, r"float targets must lie in \[0, 1\]"),
    ({"labels": np.zeros((3, 5), np.float32), "margin": 0.1}, "a margin needs integer labels"),
    ({"bias": np.zeros(4, np.float32)}, "bias must be a scalar"),
    ({"scale": -1.0}, "scale must be a finite number"),
    ({"margin": np.nan}, "margin must be a finite number"),
    ({"negative_weight": -1.0}, "negative_weight must be a finite number"),
    ({"smoothing": 1.5}, r"smoothing must be a finite number in \[0.0, 1.0\], got 1.5"),
    ({"class_mask": np.ones(4, bool)}, "class_mask must be bool of shape"),
    ({"class_mask": np.ones(5)}, "class_mask must be bool of shape"),
    ({"normalize": "both"}, "normalize must be False, True, 'features' or 'weights', got 'both'"),
    ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ({"chunk_size": 2.0}, "chunk_size must be an integer"),
    ({"num_classes": 6}, "num_classes must be at most 5"),
    ({"num_classes": 0}, "num_classes must be at least 1"),
  ],
)
@pytest.mark.parametrize("form", FORMS)
def test_refused(form, change, message):
  arguments = {
    "features": np.zeros((3, 4), np.float32),
    "weights": np.zeros((5, 4), np.float32),
    "labels": np.array([0, 1, 2]),
  }
  with pytest.raises(ValueError, match=message):
    form(**(arguments | change))


@pytest.mark.parametrize("wrong", [np.ones(4, np.float32), np.ones(3, np.int32)])
def test_example_weights_refused(wrong):
  with pytest.raises(ValueError, match=r"example_weights must be floating of shape \(3,\)"):
    losses.linear_bce_mean(
      jnp.zeros((3, 4)), jnp.zeros((5, 4)), np.array([0, 1, 2]), example_weights=wrong
    )
