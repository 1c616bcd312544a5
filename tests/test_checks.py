"""Soft targets that left [0, 1] by a rounding, as mixed ones do."""

import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses

LOGITS = jnp.array([[2.0, -1.0, 0.5]])
SOFT = {
  "bce": losses.bce,
  "mixed_bce": losses.mixed_bce,
  "softmax_cross_entropy": losses.softmax_cross_entropy,
  "linear_bce": lambda z, t: losses.linear_bce(z, jnp.eye(3), t),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize(
  ("outside", "dtype"),
  [(1.0000001, np.float32), (1.0000001, np.float64), (-1e-8, np.float32), (-1e-8, np.float64)],
)
def test_a_rounding_outside_is_clipped(name, outside, dtype):
  targets = np.array([[outside, 0.25, 0.0]], dtype)
  clipped = np.clip(targets, 0, 1)
  assert (targets != clipped).any()
  np.testing.assert_array_equal(SOFT[name](LOGITS, targets), SOFT[name](LOGITS, clipped))


def test_shares_that_were_mixed_in_few_bits():
  for dtype in (jnp.bfloat16, jnp.float16):
    share = jnp.asarray(np.nextafter(1.0, 2.0), dtype) + jnp.finfo(dtype).eps
    targets = jnp.zeros((1, 3), dtype).at[0, 0].set(share)
    assert share > 1
    assert losses.bce(LOGITS, targets) == losses.bce(LOGITS, jnp.round(targets))


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("outside", [1.00001, -1e-5, 255.0, -1.0, np.nan])
def test_what_is_farther_outside_is_refused_with_its_value(name, outside):
  targets = np.array([[outside, 0.25, 0.0]], np.float32)
  with pytest.raises(ValueError, match=r"float targets must lie in \[0, 1\], got .*") as error:
    SOFT[name](LOGITS, targets)
  assert f"{np.float32(outside):.8g}" in str(error.value)
