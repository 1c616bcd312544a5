"""Which checkpoint is the best, by a metric of which less is better, too."""

import math

import flax.struct
import jax.numpy as jnp
import pytest

from bce_jax.runs import checkpoint


@flax.struct.dataclass
class State:
  step: jnp.ndarray
  weights: jnp.ndarray


@pytest.mark.parametrize(
  ("better", "risks", "best"),
  [
    ("down", [0.9, 0.2, 0.5, None, 0.4], 2),
    ("up", [0.5, 0.9, math.nan, None, 0.4], 2),
    ("down", [math.nan, 0.9, 0.3, None, math.nan], 3),
    ("down", [math.nan, math.nan], None),
  ],
)
def test_the_best_is_kept_and_found_again(tmp_path, better, risks, best):
  store = checkpoint.Checkpoints(tmp_path, best_metric="risk", better=better)
  for number, risk in enumerate(risks, start=1):
    state = State(jnp.int32(number), jnp.ones(2))
    store.save(state, {}, None if risk is None else {"risk": risk, "other": 1.0})
  store.close()
  # Who reads need not know which way is better.
  again = checkpoint.Checkpoints(tmp_path, best_metric="risk", read_only=True)
  assert again.best_step() == best
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
  assert kept == {len(risks) - 1, len(risks)} | ({best} if best else set())
