"""Stage 2 against the released code's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses
from bce_jax.models import Head, Outputs
from bce_jax.objectives import Batch, Rebalance, Targets
from bce_jax.objectives.balanced import balanced
from bce_jax.objectives.joint import joint, sampled

N = 20
COUNTS = np.arange(1, N + 1)


def second_stage(counts=COUNTS, *, steps_per_epoch=5, beta=0.9, **options):
  rebalance = Rebalance(weights=losses.class_weights(counts, beta=beta))
  base = joint("bce-d", rebalance=rebalance)
  return balanced(base, steps_per_epoch=steps_per_epoch, **options)


@pytest.mark.parametrize("beta", ["0.999", "0.9999"])
def test_loss_and_gradients_equal_the_released_code(official, beta):
  case = {k.split("/")[-1]: v for k, v in official.items() if k.startswith(f"balanced/beta{beta}/")}
  counts = official["balanced/counts"]
  objective = second_stage(counts, beta=float(beta))
  labels = jnp.asarray(official["face/labels"], jnp.int32)

  def total(weights, bias, features):
    params = {"head": {"weights": weights, "bias": -bias}}
    head = Head(N, normalize_weights=True, bias="diverse")
    outputs = Outputs(features, head.apply({"params": params["head"]}, features), {})
    return objective.loss(params, outputs, Targets(labels), jnp.float32(1.0), jnp.int32(0))[0]

  args = (case["weights"], case["bias"], official["face/features"])
  loss, grads = jax.value_and_grad(total, argnums=(0, 1, 2))(*(jnp.asarray(x) for x in args))
  np.testing.assert_allclose(loss, case["loss"], rtol=1e-5)
  for actual, name in zip(grads, ("weights", "bias", "features"), strict=True):
    np.testing.assert_allclose(actual, case[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_rows_are_cut_to_the_first_limit_after_every_epoch(official):
  objective = second_stage()
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
  objective = sampled(second_stage(), N, class_share=0.4)
  batch = Batch(jnp.zeros((10, 4, 4, 3)), labels)
  views = objective.views(jax.random.key(0), batch, objective.memory)
  ids, mask = views.targets
  np.testing.assert_array_equal(ids, labels)
  assert np.asarray(mask)[:10].all()
  assert mask.sum() == 10
  everything = sampled(second_stage(), N, class_share=1.0)
  assert everything.views(jax.random.key(0), batch, ()).targets.class_mask is None


def test_trains_the_head_alone_on_frozen_statistics_unless_asked():
  assert second_stage().trainable == ("head",)
  assert not second_stage().batch_statistics
  assert second_stage(drifting_statistics=True).batch_statistics
