"""Stage 2 against the released code's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses
from bce_jax.models import Head, Outputs
from bce_jax.objectives import Batch
from bce_jax.objectives.balanced import balanced

N = 20


@pytest.mark.parametrize("beta", ["0.999", "0.9999"])
def test_loss_and_gradients_equal_the_released_code(official, beta):
  case = {k.split("/")[-1]: v for k, v in official.items() if k.startswith(f"balanced/beta{beta}/")}
  counts = official["balanced/counts"]
  objective = balanced(counts, steps_per_epoch=5, beta=float(beta))
  labels = jnp.asarray(official["face/labels"], jnp.int32)

  def total(weights, bias, features):
    params = {"head": {"weights": weights, "bias": -bias}}
    head = Head(N, normalize_weights=True, bias="diverse")
    outputs = Outputs(features, head.apply({"params": params["head"]}, features), {})
    return objective.loss(params, outputs, (labels, None), jnp.float32(1.0), jnp.int32(0))[0]

  args = (case["weights"], case["bias"], official["face/features"])
  loss, grads = jax.value_and_grad(total, argnums=(0, 1, 2))(*(jnp.asarray(x) for x in args))
  np.testing.assert_allclose(loss, case["loss"], rtol=1e-5)
  for actual, name in zip(grads, ("weights", "bias", "features"), strict=True):
    np.testing.assert_allclose(actual, case[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_rows_are_cut_to_the_first_limit_after_every_epoch(official):
  objective = balanced(np.arange(1, N + 1), steps_per_epoch=5)
  params = {"backbone": jnp.ones(2), "head": {"weights": jnp.asarray(official["maxnorm/before"])}}
  limit = objective.memory(params)
  np.testing.assert_allclose(limit, official["maxnorm/limit"], rtol=1e-5)
  for step in range(12):
    after = objective.after_update(params, limit, jnp.int32(step))
    expected = "after" if step in (4, 9) else "before"
    np.testing.assert_allclose(after["head"]["weights"], official[f"maxnorm/{expected}"], rtol=1e-5)
    np.testing.assert_array_equal(after["backbone"], params["backbone"])
  longer = {"head": {"weights": params["head"]["weights"] * 3}}
  cut = objective.after_update(longer, limit, jnp.int32(4))["head"]["weights"]
  assert np.linalg.norm(cut, axis=1).max() <= float(limit) * (1 + 1e-6)  # not a new limit


def test_a_share_of_the_classes_keeps_those_of_the_batch():
  labels = jnp.arange(10)
  objective = balanced(np.arange(1, N + 1), steps_per_epoch=5, class_share=0.4)
  batch = Batch(jnp.zeros((10, 4, 4, 3)), labels)
  views = objective.views(jax.random.key(0), batch, objective.memory)
  ids, mask = views.targets
  np.testing.assert_array_equal(ids, labels)
  assert np.asarray(mask)[:10].all()
  assert mask.sum() == 10
  everything = balanced(np.arange(1, N + 1), steps_per_epoch=5)
  assert everything.views(jax.random.key(0), batch, ()).targets[1] is None


def test_trains_the_head_alone_on_frozen_statistics_unless_asked():
  counts = np.arange(1, N + 1)
  assert balanced(counts, steps_per_epoch=1).trainable == ("head",)
  assert not balanced(counts, steps_per_epoch=1).batch_statistics
  assert balanced(counts, steps_per_epoch=1, drifting_statistics=True).batch_statistics


def test_a_class_without_images_is_refused():
  with pytest.raises(ValueError, match="every class needs at least one image"):
    balanced(np.array([3, 0]), steps_per_epoch=1)
  np.testing.assert_allclose(losses.class_weights([3, 1], beta=0.9).sum(), 2, rtol=1e-6)
