import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses, objectives
from bce_jax.models import Outputs, Scores
from bce_jax.objectives.joint import joint

RNG = np.random.default_rng(0)
SIMILARITIES = RNG.uniform(-1, 1, (5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0])


def outputs(bias):
  return Outputs(jnp.zeros((5, 2)), Scores(jnp.asarray(SIMILARITIES), 6.0, bias), {})


@pytest.mark.parametrize("name", objectives.LOSSES)
def test_the_loss_is_the_mean_of_the_named_one(name):
  bias = jnp.arange(4.0) if name.endswith("d") else jnp.float32(1.5)
  objective = joint(name, margin=0.1, smoothing=0.2)
  loss, memory, logs = objective.loss({}, outputs(bias), objectives.Targets(LABELS), (), 0)
  formula = losses.bce if name.startswith("bce") else losses.softmax_cross_entropy
  expected = formula(SIMILARITIES, LABELS, bias=bias, scale=6.0, margin=0.1, smoothing=0.2)
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-6)
  assert memory == ()
  z = 6.0 * SIMILARITIES - np.asarray(bias)
  np.testing.assert_allclose(logs["accuracy"], np.mean(z.argmax(1) == LABELS), rtol=1e-6)


def test_negative_weight_reaches_the_loss():
  objective = joint("bce-nu", negative_weight=0.5)
  loss, _, _ = objective.loss({}, outputs(jnp.float32(1.5)), objectives.Targets(LABELS), (), 0)
  expected = losses.bce(SIMILARITIES, LABELS, bias=1.5, scale=6.0, negative_weight=0.5)
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-6)


def test_views_are_the_batch_itself():
  objective = joint("bce-u")
  images = jnp.ones((5, 8, 8, 1))
  batch = objectives.Batch(images, jnp.asarray(LABELS))
  views = objective.views(jax.random.key(0), batch, objective.memory({}))
  assert views.images is images
  np.testing.assert_array_equal(views.targets.labels, LABELS)


def test_names_taken_apart():
  assert objectives.parse("soft-nd") == ("soft", True, "diverse")
  assert objectives.parse("bce-u") == ("bce", False, "unified")
  with pytest.raises(ValueError, match="did you mean 'bce-nu'"):
    objectives.parse("bce-nu2")
