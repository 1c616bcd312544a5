import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from bce_jax import losses


@pytest.mark.parametrize("mode", range(1, 8))
def test_modes_equal_the_released_code(official, mode):
  n = int(official["bias_init/num_classes"])
  np.testing.assert_allclose(losses.bias_init(mode, n), official[f"bias_init/mode{mode}"], 1e-6)
  shifted = losses.bias_init(mode, n, mean=1.5)
  np.testing.assert_allclose(shifted, official[f"bias_init/mode{mode}"] + 1.5, rtol=1e-6)


@pytest.mark.parametrize(("mode", "first"), [(6, np.log(96 * 7)), (7, 0.0)])
def test_quarters_of_a_number_that_four_does_not_divide(mode, first):
  values = np.asarray(losses.bias_init(mode, 7))
  second = np.log(96 * 7) - first
  expected = [first] + [second] * 2 + [first] * 2 + [second] * 2  # split at 1, 3 and 5
  np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_prior_bias():
  np.testing.assert_allclose(losses.prior_bias(1000), np.log(1e4), rtol=1e-6)
  np.testing.assert_allclose(losses.prior_bias(1000, share=0.4), np.log(4e3), rtol=1e-6)


@pytest.mark.parametrize("difference", [0.1, 1.0, 5.0, 20.0, 64.0, 200.0])
@pytest.mark.parametrize("n", [2, 3, 10, 1000, 10**6])
@pytest.mark.parametrize("lower", [-100.0, 0.0, 3.0])
def test_converged_bias_is_the_root_of_the_stationarity_condition(n, difference, lower):
  upper = lower + difference

  def stationarity(b):  # log σ(b − B) − log[(N − 1) σ(A − b)]
    log_sigmoid = scipy.special.log_expit
    return log_sigmoid(b - upper) - np.log(n - 1) - log_sigmoid(lower - b)

  root = scipy.optimize.brentq(stationarity, lower - 50, upper + 50, xtol=1e-12)
  actual = losses.converged_bias(lower, upper, n)
  np.testing.assert_allclose(actual, root, rtol=2e-6, atol=2e-6)
  with jax.enable_x64(True):
    wide = losses.converged_bias(np.float64(lower), np.float64(upper), n)
    np.testing.assert_allclose(wide, root, rtol=1e-9, atol=1e-9)
  assert actual >= lower
  assert (actual < upper) == (difference > np.log(2 * n - 3))


def test_converged_bias_is_where_bce_is_stationary():
  n, lower, upper = 7, -3.0, 4.0
  logits = np.full((1, n), lower, np.float32)
  logits[0, 2] = upper
  bias = losses.converged_bias(lower, upper, n)
  grad = jax.grad(lambda b: losses.bce(logits, np.array([2]), bias=b).sum())(bias)
  np.testing.assert_allclose(grad, 0.0, atol=1e-6)


def test_converged_bias_of_arrays_under_jit_with_gradient():
  lower, upper = np.array([-1.0, 0.0], np.float32), np.array([1.0, 50.0], np.float32)
  value = jax.jit(losses.converged_bias, static_argnums=2)(lower, upper, 2)
  np.testing.assert_allclose(value, (lower + upper) / 2, rtol=1e-6)  # N = 2 is symmetric
  grad = jax.grad(lambda a: losses.converged_bias(a, 50.0, 2))(0.0)
  np.testing.assert_allclose(grad, 0.5, rtol=1e-5)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: losses.bias_init(0, 10), "mode of bias_init must be one of 1, 2, …, 7, got 0"),
    (lambda: losses.bias_init(8, 10), "got 8"),
    (lambda: losses.bias_init("prior", 10), "got 'prior'"),
    (lambda: losses.bias_init(1, 0), "num_classes must be at least 1, got 0"),
    (lambda: losses.bias_init(1, 2.5), "num_classes must be an integer, got 2.5"),
    (lambda: losses.prior_bias(10, share=0.0), r"share must be a number in \(0, 1\], got 0.0"),
    (lambda: losses.prior_bias(10, share=1.1), "got 1.1"),
    (lambda: losses.converged_bias(1.0, 1.0, 10), "lower < upper"),
    (lambda: losses.converged_bias(0.0, float("inf"), 10), "both finite"),
    (lambda: losses.converged_bias(0.0, 1.0, 1), "num_classes must be at least 2, got 1"),
    (lambda: losses.converged_bias(np.zeros(2), np.ones(3), 5), "must have one shape"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
