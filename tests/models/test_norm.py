import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import models
from bce_jax.models import resnet
from bce_jax.models.norm import GhostBatchNorm

SHAPE = (12, 5, 3, 4)


@pytest.fixture
def images():
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(1.0, 2.0, SHAPE) + np.arange(12).reshape(-1, 1, 1, 1), jnp.float32)


@pytest.fixture
def variables():
  rng = np.random.default_rng(1)
  draw = lambda: jnp.asarray(rng.uniform(0.5, 2.0, SHAPE[-1:]), jnp.float32)  # noqa: E731
  return {
    "params": {"scale": draw(), "bias": draw()},
    "batch_stats": {"mean": draw(), "var": draw()},
  }


def norms(group, **options):
  options = {"momentum": 0.9, "epsilon": 1e-5, **options}
  return GhostBatchNorm(group=group, **options), nn.BatchNorm(**options)


def applied(norm, variables, images):
  """Outputs, new running statistics, and gradients of a function of the outputs."""

  def loss(params, images):
    outputs, updated = norm.apply({**variables, "params": params}, images, mutable=["batch_stats"])
    wave = jnp.sin(jnp.arange(outputs.size)).reshape(outputs.shape)  # else the sum is constant
    return jnp.sum(wave * outputs.astype(jnp.float32)), (outputs, updated["batch_stats"])

  grads, aux = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], images)
  return *aux, grads


def assert_close(actual, expected, tolerance=2e-6):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_group_of_the_whole_batch_is_batch_norm(images, variables, dtype):
  ghost, plain = norms(len(images), use_running_average=False, dtype=dtype)
  images = images.astype(dtype)
  tolerance = 2e-6 if dtype == jnp.float32 else 1e-2
  expected = applied(plain, variables, images)
  assert_close(applied(ghost, variables, images), expected, tolerance)
  assert_close(applied(ghost, variables, images)[1], expected[1])  # float32 whatever dtype


@pytest.mark.parametrize("group", [2, 3, 6])
def test_each_group_is_normalized_alone(images, variables, group):
  ghost, plain = norms(group, use_running_average=False)

  class Alone(nn.Module):
    """Batch norm, applied to one group after the other, each from the same running statistics."""

    @nn.compact
    def __call__(self, images):
      parts = images.reshape(-1, group, *images.shape[1:])
      results = [
        plain.apply(variables | {"params": self.variables["params"]}, x, mutable=["batch_stats"])
        for x in parts
      ]
      mean = jax.tree.map(lambda *x: sum(x) / len(x), *(r[1]["batch_stats"] for r in results))
      for name, value in mean.items():
        self.put_variable("batch_stats", name, value)
      return jnp.concatenate([r[0] for r in results])

  assert_close(applied(ghost, variables, images), applied(Alone(), variables, images), 5e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_evaluation_is_that_of_batch_norm(images, variables, dtype):
  ghost, plain = norms(5, use_running_average=True, dtype=dtype)  # 5 does not divide 12
  images = images.astype(dtype)
  outputs, statistics, _ = applied(ghost, variables, images)
  assert outputs.dtype == dtype
  np.testing.assert_array_equal(outputs, plain.apply(variables, images))
  jax.tree.map(np.testing.assert_array_equal, statistics, variables["batch_stats"])


def test_a_network_with_groups_has_the_variables_of_one_without():
  def shapes(**options):
    network = models.create("resnet8", param_dtype=jnp.bfloat16, **options)
    images = jnp.zeros((1, 8, 8, 1))  # fewer than the group
    return jax.eval_shape(lambda key: network.init(key, images, train=True), jax.random.key(0))

  assert shapes(batch_norm_group=4) == shapes()


def test_every_norm_of_a_network_has_the_group():
  images = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
  # With projections, so that shortcuts have norms too.
  options = {"block": resnet.BottleneckBlock, "stage_sizes": (1, 1), "width": 4}
  plain, ghost = resnet.ResNet(**options), resnet.ResNet(**options, batch_norm_group=4)
  variables = jax.jit(lambda: plain.init(jax.random.key(1), images, train=False))()

  def run(network, images):
    return network.apply(variables, images, train=True, mutable=["batch_stats"])

  run = jax.jit(run, static_argnums=0)
  (together, _), statistics = run(ghost, images)
  (first, _), of_first = run(plain, images[:4])
  (second, _), of_second = run(plain, images[4:])
  assert_close(together, jnp.concatenate([first, second]), 1e-5)
  assert_close(statistics, jax.tree.map(lambda a, b: (a + b) / 2, of_first, of_second), 1e-5)


@pytest.mark.parametrize("group", [0, 5, 24])
def test_a_group_that_does_not_fit_is_refused(images, variables, group):
  ghost, _ = norms(group, use_running_average=False)
  with pytest.raises(ValueError, match=f"group of {group} does not divide the 12 images that go"):
    applied(ghost, variables, images)
