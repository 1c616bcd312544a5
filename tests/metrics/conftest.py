"""No silent promotion of dtypes or ranks in the formulas."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _strict():
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield
