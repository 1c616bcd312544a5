import functools
import re

import jax
import jax.numpy as jnp
import linear_by_hand
import numpy as np
import pytest

from bce_jax import losses
from bce_jax.losses import _chunks

B, D, N = 6, 5, 13


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
    "margin": 0.3,
    "negative_weight": 0.7,
    "smoothing": 0.1,
    "example_weights": rng.uniform(size=B),
  }
  operands = {name: np.asarray(x, np.float32) for name, x in operands.items()}
  if soft:  # which take no margin
    del operands["margin"]
    return operands, rng.uniform(size=(B, N)).astype(np.float32)
  return operands, rng.integers(0, N, B).astype(np.int32)


def chunked(operands, labels, **options):
  operands = dict(operands)
  operands.pop("example_weights", None)
  x, w = operands.pop("features"), operands.pop("weights")
  return losses.linear_bce(x, w, labels, **operands, **options)


def chunked_mean(operands, labels, **options):
  operands = dict(operands)
  x, w = operands.pop("features"), operands.pop("weights")
  return losses.linear_bce_mean(x, w, labels, **operands, **options)


# One program for several tests: the labels and the mask are arguments.
@jax.jit
def each_step(operands, labels, class_mask):
  values, pull_back = jax.vjp(
    lambda operands: chunked(operands, labels, chunk_size=5, class_mask=class_mask), operands
  )
  return values, pull_back(jnp.ones_like(values))[0]


@jax.jit
def mean_step(operands, labels, class_mask):
  return jax.value_and_grad(
    lambda operands: chunked_mean(operands, labels, chunk_size=5, class_mask=class_mask)
  )(operands)


COTANGENT = np.linspace(0.5, 2.0, B)


def everything(operands, **options):
  """Values and all gradients of both forms; the labels are an operand."""

  def each(operands):
    operands = dict(operands)
    return chunked(operands, operands.pop("labels"), **options)

  def mean(operands):
    operands = dict(operands)
    return 3.0 * chunked_mean(operands, operands.pop("labels"), **options)

  labels = operands["labels"]
  fixed = {} if labels.ndim == 2 else {"labels": labels}
  operands = {name: x for name, x in operands.items() if name not in fixed}
  values, pull_back = jax.vjp(lambda x: each(x | fixed), operands)
  cotangent = jnp.asarray(COTANGENT, values.dtype)
  return values, pull_back(cotangent)[0], jax.value_and_grad(lambda x: mean(x | fixed))(operands)


def same(operands, labels, *, rtol=1e-5, chunk_size=None, **options):
  """Both forms against all scores in float64, in value and in the gradient of every operand."""
  step = jax.jit(functools.partial(everything, chunk_size=chunk_size, **options))
  values, by_each, (mean, by_mean) = step(operands | {"labels": labels})
  expected, gradients = linear_by_hand.each_and_gradients(operands, labels, COTANGENT, **options)
  close(values, expected, rtol)
  expected_mean, mean_gradients = linear_by_hand.mean_and_gradients(operands, labels, **options)
  close(mean, 3 * expected_mean, rtol)
  assert np.all(by_each.pop("example_weights") == 0.0)
  assert by_each.keys() == gradients.keys()
  assert by_mean.keys() == mean_gradients.keys()
  for name, grad in by_each.items():
    close(grad, gradients[name], rtol)
    assert grad.dtype == operands.get(name, labels).dtype
  for name, grad in by_mean.items():
    close(grad, 3 * mean_gradients[name], rtol)
    assert grad.dtype == operands.get(name, labels).dtype


MASK = np.arange(N) % 3 != 1
MASKS = {"none": None, "classes": MASK, "each": np.random.default_rng(1).uniform(size=(B, N)) < 0.6}


# Every two of the chunk (one class, with a rest, all at once), the mask, what is normalized and the
# kind of labels stand together somewhere; None and 50 are one chunk, as N is.
@pytest.mark.parametrize(
  ("chunk_size", "mask", "normalize", "soft", "diverse"),
  [
    (1, "none", False, False, True),
    (1, "classes", True, True, False),
    (1, "each", "weights", False, True),
    (3, "none", "features", True, False),
    (3, "classes", False, False, False),
    (3, "each", True, False, True),
    (7, "none", "weights", False, False),
    (7, "classes", "features", False, True),
    (7, "each", False, True, True),
    (None, "none", True, False, False),
    (50, "classes", "weights", True, True),
    (N, "each", "features", False, False),
    (None, "classes", False, True, True),
    (5, "none", True, True, True),
  ],
)
def test_equal_to_all_scores(chunk_size, mask, normalize, soft, diverse):
  operands, labels = draw(chunk_size or 0, soft=soft, diverse=diverse)
  same(operands, labels, chunk_size=chunk_size, normalize=normalize, class_mask=MASKS[mask])


def test_in_float64():
  """As closely as float64 gives it, so that no derivative is a little off."""
  with jax.enable_x64(True):
    operands, labels = draw(5)
    operands = {name: x.astype(np.float64) for name, x in operands.items()}
    same(operands, labels, rtol=1e-12, chunk_size=4, normalize=True, class_mask=MASK)


def test_without_jit():
  operands, labels = draw(3)

  def mean(x, w):
    mine = operands | {"features": x, "weights": w}
    return chunked_mean(mine, labels, chunk_size=4, class_mask=MASK)

  value, grads = jax.value_and_grad(mean, (0, 1))(operands["features"], operands["weights"])
  wanted, gradients = linear_by_hand.mean_and_gradients(operands, labels, class_mask=MASK)
  close(value, wanted)
  close(grads[0], gradients["features"])
  close(grads[1], gradients["weights"])
  expected, _ = linear_by_hand.each_and_gradients(operands, labels, class_mask=MASK)
  close(chunked(operands, labels, chunk_size=4, class_mask=MASK), expected)


@pytest.mark.parametrize(
  ("batch", "rows", "chunk_size", "mask"),
  [
    (1, 1, 1, None),
    (4, 1, 12, "classes"),
    (1, 8, 4, "classes"),
    (3, 2, 3, "each"),
    (2, 9, 8, "classes"),
    (4, 9, 4, "each"),
  ],
)
def test_any_shape_without_margin_and_smoothing(batch, rows, chunk_size, mask):
  rng = np.random.default_rng(rows)
  shapes = {"features": (batch, 3), "weights": (rows, 3), "bias": (rows,)}
  operands = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
  labels = rng.integers(0, rows, batch)
  kept = rng.uniform(size=(batch, rows) if mask == "each" else rows) < (0.5 if mask else 2.0)

  @jax.jit
  def both(operands, kept):
    options = {"scale": 2.0, "negative_weight": 0.6, "chunk_size": chunk_size}
    options["class_mask"] = kept if mask else None
    value, pull_back = jax.vjp(lambda x: chunked(x, labels, **options), operands)
    return value, pull_back(jnp.ones(batch))[0]

  fixed = {"scale": 2.0, "negative_weight": 0.6}
  for drawn in (kept, ~kept) if mask else (kept,):
    value, grads = both(operands, drawn)
    expected, wanted = linear_by_hand.each_and_gradients(operands | fixed, labels, class_mask=drawn)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for name, grad in grads.items():
      np.testing.assert_allclose(grad, wanted[name], rtol=1e-4, atol=2e-5)


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
    {"mask": "each", "soft": True, "normalize": True},
    {"mask": "classes", "normalize": True},
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
  features = np.array([[1e9, 0.0], [-1e9, 0.0], [1.0, 1.0], [0.0, 1e9]], np.float32)
  weights = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], np.float32)
  labels = np.array([0, 0, 1, 2])

  def total(features, weights, bias, scale, smoothing):
    options = {"bias": bias, "scale": scale, "smoothing": smoothing, "chunk_size": 2}
    losses = form(features, weights, labels, **options)
    return jnp.sum(losses), losses

  step = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3, 4), has_aux=True))
  (value, _), grads = step(features, weights, 0.5, 64.0, 0.1)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in grads)
  (_, each), _ = step(features, weights, 0.0, 1.0, 0.0)
  expected = [np.log(2), 2e9, 3 * np.log1p(np.e), 2 * np.log(2)]  # by hand
  np.testing.assert_allclose(each, np.mean(expected) if np.ndim(each) == 0 else expected, rtol=1e-6)


def test_zero_vectors_have_finite_gradients():
  def total(x, w):
    return losses.linear_bce_mean(x, w, np.array([0, 1]), normalize=True, scale=64.0)

  value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(np.zeros((2, 4)), np.zeros((3, 4)))
  np.testing.assert_allclose(value, 3 * np.log(2), rtol=1e-6)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("step", [each_step, mean_step])
def test_removed_classes_may_hold_anything(step):
  operands, labels = draw(8)
  poisoned = dict(operands)
  for name in ("weights", "bias"):
    poisoned[name] = poisoned[name].copy()
    poisoned[name][~MASK] = np.nan
  clean, dirty = step(operands, labels, MASK), step(poisoned, labels, MASK)
  jax.tree.map(np.testing.assert_array_equal, dirty, clean)
  assert np.all(dirty[1]["weights"][~MASK] == 0.0)
  assert np.all(dirty[1]["weights"][MASK] != 0.0)


def test_no_class_left():
  operands, labels = draw(8)
  value, grads = mean_step(operands, labels, np.zeros(N, bool))
  assert value == 0.0
  assert all(np.all(g == 0.0) for g in grads.values())


@pytest.mark.parametrize(
  ("dtype", "class_mask"), [(jnp.bfloat16, MASK), (jnp.bfloat16, None), (jnp.float16, None)]
)
def test_narrow_floats_are_computed_in_float32(dtype, class_mask):
  operands, labels = draw(10)
  narrow = {name: operands[name].astype(dtype) for name in ("features", "weights", "bias")}

  def total(operands):
    return chunked_mean(operands, labels, chunk_size=4, class_mask=class_mask, normalize="weights")

  value, grads = jax.jit(jax.value_and_grad(total))(narrow)
  wide, wide_grads = linear_by_hand.mean_and_gradients(
    narrow, labels, class_mask=class_mask, normalize="weights"
  )
  assert value.dtype == jnp.float32
  np.testing.assert_allclose(value, wide, rtol=1e-6)
  for name, grad in grads.items():
    assert grad.dtype == dtype
    close(np.float32(grad), wide_grads[name], rtol=2**-7)


def test_rows_beyond_the_classes_are_padding():
  operands, labels = draw(11)
  padded = dict(operands)
  padded["weights"] = np.pad(operands["weights"], ((0, 4), (0, 0)), constant_values=np.nan)
  padded["bias"] = np.pad(operands["bias"], (0, 4), constant_values=np.inf)

  @jax.jit
  def step(operands):
    return jax.value_and_grad(
      lambda operands: chunked_mean(operands, labels, chunk_size=3, num_classes=N)
    )(operands)

  value, grads = step(padded)
  expected, wanted = linear_by_hand.mean_and_gradients(operands, labels)
  close(value, expected)
  assert np.all(grads["weights"][N:] == 0.0)
  close(grads["weights"][:N], wanted["weights"])
  close(grads["features"], wanted["features"])
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 12\)"):
    chunked(padded, np.full(B, 12), num_classes=12)


def test_label_out_of_range_is_nan_for_that_example_only():
  operands, labels = draw(12)
  wrong = labels.copy()
  wrong[[1, 4]] = N, -1
  right = np.isin(np.arange(B), (1, 4), invert=True)
  value, _ = each_step(operands, wrong, MASK)
  np.testing.assert_array_equal(np.isnan(value), ~right)
  each, _ = linear_by_hand.each_and_gradients(operands, labels, class_mask=MASK)
  close(value[right], each[right])
  with pytest.raises(ValueError, match=r"labels must lie in \[0, 13\)"):
    chunked(operands, wrong)
  value, grads = mean_step(operands, wrong, MASK)
  assert np.isnan(value)
  counted = operands | {"example_weights": operands["example_weights"] * right}
  _, wanted = linear_by_hand.mean_and_gradients(counted, labels, class_mask=MASK)
  for name in ("features", "weights", "bias", "scale"):
    close(grads[name], wanted[name])


def test_under_vmap_and_checkpoint():
  operands, labels = draw(14)
  operands = {"features": operands["features"], "weights": operands["weights"]}
  tables = np.stack([operands["weights"], 2 * operands["weights"]])

  def loss(weights):
    return losses.linear_bce_mean(operands["features"], weights, labels, chunk_size=5)

  values, grads = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(tables)
  for value, grad, table in zip(values, grads, tables, strict=True):
    expected, wanted = linear_by_hand.mean_and_gradients(operands | {"weights": table}, labels)
    close(value, expected)
    close(grad, wanted["weights"])


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
