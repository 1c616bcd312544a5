import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses, models
from bce_jax.models import Head

FEATURES = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)


def init(**options):
  head = Head(num_classes=8, **options)
  params = head.init(jax.random.key(0), FEATURES)["params"]
  return head, params


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_metrics_by_numpy(features, weights):
  head, params = init(normalize_features=features, normalize_weights=weights, scale=3.0)
  scores = head.apply({"params": params}, FEATURES)
  x, w = FEATURES.astype(np.float64), np.asarray(params["weights"], np.float64)
  if features:
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
  if weights:
    w /= np.linalg.norm(w, axis=-1, keepdims=True)
  np.testing.assert_allclose(scores.similarities, x @ w.T, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(scores.scaled, 3 * (x @ w.T), rtol=1e-5, atol=1e-6)
  expected = 3 * (x @ w.T) - np.asarray(params["bias"])
  np.testing.assert_allclose(scores.decision, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("bias", "mode", "expected"),
  [
    ("unified", "prior", np.log(80)),
    ("unified", "zero", 0.0),
    ("diverse", "prior", np.full(8, np.log(80))),
    ("diverse", "zero", np.zeros(8)),
    *[("diverse", str(mode), losses.bias_init(mode, 8)) for mode in range(1, 8)],
  ],
)
def test_where_the_bias_starts(bias, mode, expected):
  _, params = init(bias=bias, bias_init=mode)
  np.testing.assert_allclose(params["bias"], expected, rtol=1e-6)
  _, shifted = init(bias=bias, bias_init=mode, bias_mean=2.5)
  np.testing.assert_allclose(shifted["bias"], np.asarray(expected) + 2.5, rtol=1e-6)


@pytest.mark.parametrize("bias", ["unified", "diverse"])
def test_mode_0_is_random_within_one_over_root_fan_in(bias):
  head = Head(num_classes=1000, bias=bias, bias_init="0")
  draws = [head.init(jax.random.key(k), FEATURES)["params"]["bias"] for k in range(2)]
  assert not np.array_equal(*draws)
  largest = max(float(np.abs(d).max()) for d in draws)
  assert largest <= 1 / 3
  if bias == "diverse":
    assert largest > 0.33
    assert abs(float(draws[0].mean())) < 0.03


def test_weights_start_as_those_of_torch_nn_linear():
  weights = Head(num_classes=1000).init(jax.random.key(0), FEATURES)["params"]["weights"]
  assert weights.shape == (1000, 9)
  assert float(np.abs(weights).max()) <= 1 / 3
  np.testing.assert_allclose(weights.std(), (1 / 3) / np.sqrt(3), rtol=0.02)


def test_no_bias_is_no_parameter():
  head, params = init(bias="none")
  assert set(params) == {"weights"}
  assert head.apply({"params": params}, FEATURES).bias == 0.0


@pytest.mark.parametrize("learnable", [True, False])
def test_gradient_of_the_bias(learnable):
  head, params = init(bias="diverse", bias_learnable=learnable)

  def loss(params):
    scores = head.apply({"params": params}, FEATURES)
    return losses.bce(scores.similarities, np.arange(6), bias=scores.bias).sum()

  assert np.any(jax.grad(loss)(params)["bias"] != 0) == learnable


def test_scores_of_bfloat16_features_are_float32():
  head, params = init(normalize_features=True, normalize_weights=True)
  scores = head.apply({"params": params}, jnp.asarray(FEATURES, jnp.bfloat16))
  assert scores.similarities.dtype == jnp.float32
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"bias": "both"}, "unknown bias 'both'"),
    ({"bias_init": "9"}, "unknown bias_init '9'"),
    ({"weight_init": "zeros"}, "unknown weight_init 'zeros'"),
    ({"bias": "unified", "bias_init": "3"}, "needs a diverse bias"),
  ],
)
def test_refused(options, message):
  with pytest.raises(ValueError, match=message):
    init(**options)


def test_classifier_gives_features_scores_and_intermediates():
  model = models.Classifier(models.create("resnet8"), Head(num_classes=5))
  images = jnp.zeros((2, 8, 8, 1))
  variables = model.init(jax.random.key(0), images, train=False)
  assert set(variables["params"]) == {"backbone", "head"}
  outputs = model.apply(variables, images, train=False)
  assert outputs.features.shape == (2, 64)
  assert outputs.scores.similarities.shape == (2, 5)
  assert {"stem", "stage1", "stage3"} <= set(outputs.intermediates)


@pytest.mark.parametrize(("start", "std"), [("uniform", 3**-0.5), ("normal", 1.0)])
def test_where_weights_start(start, std):
  head = Head(num_classes=200, weight_init=start)
  weights = head.init(jax.random.key(0), jnp.zeros((1, 256)))["params"]["weights"]
  np.testing.assert_allclose(np.std(weights), std / 16, rtol=0.02)
  assert (np.abs(weights).max() <= 1 / 16) == (start == "uniform")


def test_projector_is_two_layers_started_as_pytorch_does():
  projector = models.Projector(size=8)
  features = jax.random.normal(jax.random.key(1), (5, 64))
  params = projector.init(jax.random.key(0), features)["params"]
  hidden, out = params["hidden"], params["out"]
  assert (hidden["kernel"].shape, out["kernel"].shape) == ((64, 64), (64, 8))
  for leaf in jax.tree.leaves(params):
    assert 0.8 / 8 < np.abs(leaf).max() <= 1 / 8
  expected = np.maximum(features @ hidden["kernel"] + hidden["bias"], 0) @ out["kernel"]
  np.testing.assert_allclose(
    projector.apply({"params": params}, features), expected + out["bias"], rtol=1e-4, atol=1e-5
  )
