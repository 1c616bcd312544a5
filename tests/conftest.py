"""Eight CPU devices for every test, and data that several share."""

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


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
  """Digits as PNG files: FOLDER/{train,test}/<digit>/<number>.png, 12 and 4 of each class."""
  from PIL import Image
  from sklearn.datasets import load_digits

  root = tmp_path_factory.mktemp("images")
  grays, labels = load_digits(return_X_y=True)
  for digit in range(3):
    for number, index in enumerate(np.flatnonzero(labels == digit)[:16]):
      split = "train" if number < 12 else "test"
      folder = root / split / f"digit{digit}"
      folder.mkdir(parents=True, exist_ok=True)
      pixels = np.rint(grays[index] * (255 / 16)).astype(np.uint8).reshape(8, 8)
      Image.fromarray(pixels).save(folder / f"{number:02d}.png")
  return root
