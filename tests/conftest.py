"""Eight CPU devices and strict promotion for every test."""

import os
import pathlib

# Before JAX starts: eight devices on any machine, so that what is split over devices is tested.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(scope="session")
def official():
  """Numbers from the papers' released PyTorch code."""
  with np.load(ROOT / "tests" / "golden" / "official_losses.npz") as archive:
    return dict(archive)


@pytest.fixture(scope="session")
def brute_force():
  """Uniform metrics by brute force over all midpoints."""
  with np.load(ROOT / "tests" / "golden" / "uniform_metrics.npz") as archive:
    return dict(archive)
