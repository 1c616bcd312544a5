"""scikit-learn's digits, which need no download."""

from typing import Any

import numpy as np

from bce_jax.data import sources, splits
from bce_jax.data.array_source import ArraySource
from bce_jax.data.reading import Progress
from bce_jax.data.source import Dataset

OPTIONS: dict[str, Any] = {}
RANGES: dict[str, tuple[float, bool, float]] = {}

# Keys of a folder, and their defaults.
_OF_A_FOLDER = {
  "folder": "",
  "image_size": None,
  "in_memory": None,
  "layout": "auto",
  "empty_classes": "refuse",
}
# Which the images of listed pairs have a use for, too.
_OF_FILES = {"full_scale": None, "skip_damaged": 0}


def check(config: Any) -> None:
  """Refuses keys that only a folder of images uses."""
  for key, default in (_OF_A_FOLDER | ({} if config.verification.folder else _OF_FILES)).items():
    value = config.data[key]
    if value != default:
      raise ValueError(
        f"config.data.{key} is {value!r}, but config.data.name is"
        f" {config.data.name!r}: expected 'folder'"
      )


def create(config: Any, progress: Progress | None = None) -> Dataset:
  """Returns the data, with the validation split that a config asks for."""
  del progress
  return sources.digits(validation_fraction=config.data.validation_fraction)


def digits(*, validation_fraction: float = 0.0) -> Dataset:
  """scikit-learn's handwritten digits: 1,797 gray images of 8 x 8 pixels, 10 classes.

  Args:
    validation_fraction: share of the training images to set apart, class by class, 0 ≤ f < 1.

  Returns:
    A `Dataset` with 360 test images, the same in every run; grays 0 … 16 become 0 … 255.

  Raises:
    ValueError: for a fraction out of range.
  """
  # Not at the top: scikit-learn takes a second to import, and worker processes don't need it.
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  grays, labels = load_digits(return_X_y=True)
  images = np.rint(grays * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  train, test = train_test_split(
    np.arange(len(labels)), test_size=0.2, random_state=splits.SPLIT_SEED, stratify=labels
  )
  train, test = np.sort(train), np.sort(test)
  kept, taken = splits.held_out(labels[train], validation_fraction, "data.validation_fraction")

  def source(indices: np.ndarray) -> ArraySource:
    return ArraySource(images[indices], labels[indices])

  validation = source(train[taken]) if len(taken) else None
  return Dataset(source(train[kept]), validation, source(test), tuple("0123456789"))
