import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bce_jax import optim
from bce_jax.training import config as config_lib

PARAMS = {
  "backbone": {"conv": {"kernel": jnp.full((2, 2), 2.0)}, "norm": {"scale": jnp.full((2,), 3.0)}},
  "head": {"weights": jnp.full((3, 2), 4.0), "bias": jnp.float32(5.0)},
}


def settings(**changes):
  config = config_lib.default().optimizer
  config.learning_rate = 0.1
  config.weight_decay, config.norm_weight_decay = 0.01, 0.02
  config.head_weight_decay, config.bias_weight_decay = 0.03, 0.04
  config.update(changes)
  return config


def updated(config, grads, *, steps=1, bias_learnable=True):
  optimizer = optim.create_optimizer(
    config, optax.constant_schedule(config.learning_rate), bias_learnable=bias_learnable
  )
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_groups():
  names = jax.tree_util.tree_map_with_path(optim.parameter_group, PARAMS)
  assert names == {
    "backbone": {"conv": {"kernel": "kernel"}, "norm": {"scale": "norm"}},
    "head": {"weights": "head", "bias": "bias"},
  }


def test_sgd_decays_each_group_by_its_own_rate_as_pytorch_does():
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  actual = updated(settings(momentum=0.9), grads, steps=3)

  def by_hand(p, decay):
    v = 0.0
    for _ in range(3):
      v = 0.9 * v + (1.0 + decay * p)
      p = p - 0.1 * v
    return p

  np.testing.assert_allclose(actual["backbone"]["conv"]["kernel"], by_hand(2.0, 0.01), rtol=1e-6)
  np.testing.assert_allclose(actual["backbone"]["norm"]["scale"], by_hand(3.0, 0.02), rtol=1e-6)
  np.testing.assert_allclose(actual["head"]["weights"], by_hand(4.0, 0.03), rtol=1e-6)
  np.testing.assert_allclose(actual["head"]["bias"], by_hand(5.0, 0.04), rtol=1e-6)


def test_nesterov_differs_and_no_momentum_is_plain_sgd():
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  plain = updated(settings(momentum=0.0, bias_weight_decay=0.0), grads, steps=2)
  np.testing.assert_allclose(plain["head"]["bias"], 5.0 - 2 * 0.1, rtol=1e-6)
  nesterov = updated(settings(nesterov=True, bias_weight_decay=0.0), grads)
  np.testing.assert_allclose(nesterov["head"]["bias"], 5.0 - 0.1 * 1.9, rtol=1e-6)


def test_a_bias_that_is_not_learnable_does_not_decay():
  grads = jax.tree.map(jnp.zeros_like, PARAMS)
  assert updated(settings(), grads, bias_learnable=False)["head"]["bias"] == 5.0
  assert updated(settings(), grads, bias_learnable=True)["head"]["bias"] < 5.0


def test_clipping_bounds_the_step():
  grads = jax.tree.map(lambda p: 1e6 * jnp.ones_like(p), PARAMS)
  none = {f"{group}weight_decay": 0.0 for group in ("", "norm_", "head_", "bias_")}
  actual = updated(settings(clip_norm=0.5, momentum=0.0, **none), grads)
  moved = jax.tree.map(lambda a, b: a - b, actual, PARAMS)
  np.testing.assert_allclose(optax.tree.norm(moved), 0.1 * 0.5, rtol=1e-5)


def test_adamw_decay_is_decoupled():
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  actual = updated(settings(name="adamw"), grads)
  np.testing.assert_allclose(actual["head"]["weights"], 4.0 - 0.1 * (1.0 + 0.03 * 4.0), rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_cosine_schedule_with_warm_up(warmup):
  schedule = optim.learning_rate(settings(), total_steps=100, warmup_steps=warmup)
  for step in range(warmup):
    np.testing.assert_allclose(schedule(step), 0.1 * (step + 1) / warmup, rtol=1e-6)
  for step in (warmup, 50, 99, 100):
    done = (step - warmup) / (100 - warmup)
    expected = 0.1 * 0.5 * (1 + np.cos(np.pi * done))
    np.testing.assert_allclose(schedule(step), expected, rtol=1e-4, atol=1e-8)


def test_constant_schedule():
  schedule = optim.learning_rate(settings(schedule="constant"), total_steps=10, warmup_steps=2)
  np.testing.assert_allclose([schedule(s) for s in (0, 1, 2, 9)], [0.05, 0.1, 0.1, 0.1], rtol=1e-6)
