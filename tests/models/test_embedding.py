"""The embedding behind a backbone: a linear layer and batch norm, by numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import models


class Pixels(nn.Module):
  """A backbone whose features are the pixels."""

  @nn.compact
  def __call__(self, images, *, train):
    features = images.reshape(len(images), -1)
    return features, {"features": features}


IMAGES = np.random.default_rng(0).normal(3, 2, (12, 2, 2, 1)).astype(np.float32)


def embedded(**options):
  model = models.Embedding(Pixels(), 3, **options)
  variables = model.init(jax.random.key(0), IMAGES, train=False)
  return model, variables


@pytest.mark.parametrize("group", [None, 4])
def test_training_normalizes_by_the_batch_or_its_groups(group):
  model, variables = embedded(batch_norm_group=group)
  (found, intermediates), changed = model.apply(
    variables, IMAGES, train=True, mutable=["batch_stats"]
  )
  linear = IMAGES.reshape(12, 4).astype(np.float64) @ variables["params"]["linear"]["kernel"]
  parts = linear.reshape(-1, group or 12, 3)
  mean, variance = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
  expected = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(12, 3)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  np.testing.assert_array_equal(intermediates["features"], IMAGES.reshape(12, 4))
  # Nothing is learned but the linear layer and where 0 lies.
  assert {k: sorted(v) for k, v in variables["params"].items()} == {
    "linear": ["kernel"],
    "norm": ["bias"],
  }
  running = 0.1 * mean.mean(0).ravel()
  np.testing.assert_allclose(changed["batch_stats"]["norm"]["mean"], running, rtol=1e-4)


def test_evaluation_normalizes_by_the_running_statistics():
  model, variables = embedded()
  found, _ = model.apply(variables, IMAGES, train=False)
  linear = IMAGES.reshape(12, 4) @ variables["params"]["linear"]["kernel"]
  np.testing.assert_allclose(found, linear / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_embeddings_are_float32_behind_a_bfloat16_network():
  model, variables = embedded(dtype=jnp.bfloat16)
  assert model.apply(variables, IMAGES, train=False)[0].dtype == jnp.float32
  assert variables["params"]["linear"]["kernel"].dtype == jnp.float32
