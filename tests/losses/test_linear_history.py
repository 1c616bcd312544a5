"""Gradients of the chunked losses depend on their arguments only, not on what was traced before.

JAX keeps one traced program a shape. Every test differentiates it by several arguments in turn, and
compares with the derivatives written out, or with `bce` of all scores, which JAX differentiates by
itself.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import linear_by_hand
import numpy as np
import pytest

from bce_jax import losses

pytestmark = pytest.mark.slow

B = D = N = 4  # square: gradients of another argument have the right shape
RNG = np.random.default_rng(0)
X, W, BIAS, EACH = (
  jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((B, D), (N, D), (N,), (B,))
)
Y = np.arange(B) % N
ARGUMENTS = (X, W, BIAS, EACH)


def reference(x, w, bias=BIAS, each=EACH):
  scores = jnp.matmul(x, w.T, precision="highest")
  return jnp.mean(each * losses.bce(scores, Y, bias=bias))


def by_example(x, w, bias=BIAS, each=EACH):
  return jnp.mean(each * losses.linear_bce(x, w, Y, bias=bias, chunk_size=3))


def by_mean(x, w, bias=BIAS, each=EACH):
  return losses.linear_bce_mean(x, w, Y, bias=bias, example_weights=each, chunk_size=3)


FORMS = pytest.mark.parametrize("form", [by_example, by_mean])


def close(actual, expected):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-5 * np.abs(e).max())


# A walk that steps from every subset of the arguments to every other one.
FIRST, SECOND, LAST, ALL = (0,), (1,), (2, 3), (0, 1, 2, 3)
WALK = (FIRST, SECOND, FIRST, LAST, FIRST, ALL, SECOND, LAST, SECOND, ALL, LAST, ALL, FIRST)
assert len(set(itertools.pairwise(WALK))) == 4 * 3


@FORMS
@pytest.mark.parametrize("jit", [False, True])
def test_every_order_of_arguments(form, jit):
  """Every subset of the arguments right after every other one."""
  operands = dict(zip(("features", "weights", "bias", "example_weights"), ARGUMENTS, strict=True))
  _, gradients = linear_by_hand.mean_and_gradients(operands, Y)
  expected = [gradients[name] for name in operands]
  for wanted in WALK:
    by = jax.grad(form, wanted)
    close((jax.jit(by) if jit else by)(*ARGUMENTS), [expected[i] for i in wanted])


def fast_gradient_sign(f):
  def attacked(w):
    return f(X, w) + f(X + 0.1 * jnp.sign(jax.grad(f, 0)(X, w)), w)

  return jax.grad(attacked)(W)


def gradient_penalty(f):
  def penalized(x, w):
    by_x, by_w = jax.grad(f, 0)(x, w), jax.grad(f, 1)(x, w)
    return f(x, w) + jnp.sum(by_x**2) + jnp.sum(by_w**2)

  return jax.grad(penalized, (0, 1))(X, W)


def inner_steps_in_a_scan(f):
  def adapted(w):
    def step(inner, _):
      return inner - 0.1 * jax.grad(f, 1)(X, inner), f(X, inner)

    last, values = jax.lax.scan(step, w, None, length=2)
    return f(X + 0.1, last) + values.sum()

  return jax.grad(adapted)(W)


def rematerialized(f):
  again = jax.checkpoint(f)
  return [jax.grad(again, wanted)(X, W) for wanted in (1, 0, (0, 1), 1)]


def branches(f):
  stop = jax.lax.stop_gradient

  def chosen(x, w, flag):
    return jax.lax.cond(flag, lambda x, w: f(x, stop(w)), lambda x, w: f(stop(x), w), x, w)

  return [jax.grad(chosen, (0, 1))(X, W, flag) for flag in (True, False)]


def two_stages(f):
  """Joint training, the head alone, joint again, of one compiled loss."""
  shared = jax.jit(f)
  return [jax.grad(shared, wanted)(X, W) for wanted in ((0, 1), 1, (0, 1), 0, 1)]


def batched(f):
  stacked = jnp.stack([X, 2 * X])
  return [jax.vmap(jax.grad(f, wanted), (0, None))(stacked, W) for wanted in (1, 0, 1)]


def partly_frozen(f):
  stop = jax.lax.stop_gradient
  return jax.grad(lambda x, w: f(stop(x), w) + f(x, w) + f(x, stop(w)), (0, 1))(X, W)


PATTERNS = [
  fast_gradient_sign,
  gradient_penalty,
  inner_steps_in_a_scan,
  rematerialized,
  branches,
  two_stages,
  batched,
  partly_frozen,
]


@functools.cache
def expected_of(pattern):
  return jax.jit(lambda: pattern(reference))()


@pytest.mark.core
@FORMS
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda f: f.__name__)
def test_patterns_of_training(pattern, form):
  close(jax.jit(lambda: pattern(form))(), expected_of(pattern))


@FORMS
def test_patterns_without_jit(form):
  close(fast_gradient_sign(form), expected_of(fast_gradient_sign))
  close(two_stages(form), expected_of(two_stages))
