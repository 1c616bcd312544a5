"""What a run keeps of its test split for the report: test_outputs.npz in its folder.

Its size does not grow with the number of scores: a few numbers per image, histograms and class sums
of all scores, features of at most 1,000 images, and a few dozen wrongly classified images.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bce_jax import atomic
from bce_jax.metrics import Histogram, ScoreDistributions, Spread
from bce_jax.runs import files


class RocPoints(NamedTuple):
  """Shares of pairs accepted over the threshold, which rises: [k] each.

  Attributes:
    thresholds: on cosines.
    true_accept: of the pairs of one identity, the share with a larger score.
    false_accept: of the pairs of two.
  """

  thresholds: Float[np.ndarray, " k"]
  true_accept: Float[np.ndarray, " k"]
  false_accept: Float[np.ndarray, " k"]


class TestOutputs(NamedTuple):
  """What a run keeps of the n images of its test split and its N classes, for the report.

  Attributes:
    class_names: N of them.
    train_counts: training images of each class.
    labels: of each image.
    predicted: the class of the largest decision score; None where scores were not collected.
    positive: p, the score of the own class on z = scale · c − bias.
    hardest_negative: n, the largest other one.
    scaled_positive: the same on scale · c.
    scaled_hardest_negative: likewise.
    bias: the head's, [] or [N].
    scores: distributions of all scores on scale · c; None where they were not collected.
    decisions: the same on z, where the bias is diverse; else None.
    compactness: of each class; None where features were not summed up, as the two after it.
    separability: likewise.
    classifier_separability: likewise.
    map_features: [m, D], of some images of some classes.
    map_labels: [m].
    example_images: [k, height, width, channels], some that were wrongly classified.
    example_rows: [k], which of the n images they are.
    pairs: of the verification of classes never trained on; None without one.
  """

  class_names: tuple[str, ...]
  train_counts: Int[np.ndarray, " N"]
  labels: Int[np.ndarray, " n"]
  predicted: Int[np.ndarray, " n"] | None
  positive: Float[np.ndarray, " n"]
  hardest_negative: Float[np.ndarray, " n"]
  scaled_positive: Float[np.ndarray, " n"]
  scaled_hardest_negative: Float[np.ndarray, " n"]
  bias: Float[np.ndarray, "..."]
  scores: ScoreDistributions | None
  decisions: ScoreDistributions | None
  compactness: Float[np.ndarray, " N"] | None
  separability: Float[np.ndarray, " N"] | None
  classifier_separability: Float[np.ndarray, " N"] | None
  map_features: Float[np.ndarray, "m D"]
  map_labels: Int[np.ndarray, " m"]
  example_images: UInt8[np.ndarray, "k height width channels"]
  example_rows: Int[np.ndarray, " k"]
  pairs: RocPoints | None = None

  @property
  def right(self) -> np.ndarray:
    """Whether the own class has the largest score, per image, [n]."""
    return self.hardest_negative < self.positive


_DISTRIBUTIONS = ("scores", "decisions")
_OPTIONAL = ("predicted", "compactness", "separability", "classifier_separability")


def path_in(folder: pathlib.Path) -> pathlib.Path:
  """Returns the file of a run folder's test outputs; runs of version 0.1 have another name."""
  old = folder / files.OLD_TEST_OUTPUTS
  new = folder / files.TEST_OUTPUTS
  return old if old.exists() and not new.exists() else new


def write(folder: pathlib.Path, outputs: TestOutputs) -> None:
  """Writes test_outputs.npz atomically.

  Raises:
    OSError: with the file's name.
  """
  arrays: dict[str, Any] = {}
  for name, value in outputs._asdict().items():
    if value is None:
      continue
    if name == "pairs":
      arrays |= {f"{name}.{key}": x for key, x in value._asdict().items()}
    elif name in _DISTRIBUTIONS:
      for part, summed in value._asdict().items():
        arrays |= {f"{name}.{part}.{key}": x for key, x in summed._asdict().items()}
    else:
      arrays[name] = np.array(value, np.str_) if name == "class_names" else value
  write_arrays(folder / files.TEST_OUTPUTS, arrays)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz file atomically.

  Raises:
    OSError: with the file's name.
  """
  with atomic.opened(path, "wb") as file:
    np.savez_compressed(file, **arrays)


def read(folder: pathlib.Path) -> TestOutputs:
  """Reads test_outputs.npz, or what version 0.1 wrote; nothing is unpickled.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  path = path_in(folder)
  try:
    with open(path, "rb") as file:
      archive = np.load(file, allow_pickle=False)
      if not isinstance(archive, Mapping):
        raise ValueError("it is not an .npz archive")
      arrays = dict(archive)
    values: dict[str, Any] = {name: arrays.get(name) for name in TestOutputs._fields}
    values["class_names"] = tuple(str(name) for name in arrays["class_names"])
    for name in _DISTRIBUTIONS:
      values[name] = _distributions(arrays, name)
    if "pairs.thresholds" in arrays:
      values["pairs"] = RocPoints(*(arrays[f"pairs.{key}"] for key in RocPoints._fields))
    outputs = TestOutputs(**values)
    _check(outputs)
    return outputs
  except FileNotFoundError:
    raise ValueError(
      f"{folder} has no {files.TEST_OUTPUTS}: its run has not ended, or is an older one"
    ) from None
  except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
    raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _check(outputs: TestOutputs) -> None:
  """Refuses what does not fit together.

  Raises:
    ValueError: with the name of what does not.
  """
  per_class, per_image = (len(outputs.class_names),), outputs.labels.shape
  shapes = {
    "train_counts": (per_class,),
    "labels": ((len(outputs.labels),),),
    "predicted": (per_image,),
    "positive": (per_image,),
    "hardest_negative": (per_image,),
    "scaled_positive": (per_image,),
    "scaled_hardest_negative": (per_image,),
    "bias": ((), per_class),
    "compactness": (per_class,),
    "separability": (per_class,),
    "classifier_separability": (per_class,),
    "map_features": ((len(outputs.map_labels), *outputs.map_features.shape[1:2]),),
    "example_images": ((len(outputs.example_rows), *outputs.example_images.shape[-3:]),),
  }
  for name, fitting in shapes.items():
    value = getattr(outputs, name)
    if value is None and name in _OPTIONAL:
      continue
    if value.shape not in fitting:
      raise ValueError(f"{name} has shape {value.shape}, not {fitting[-1]}")
  classes = np.concatenate([outputs.labels, outputs.map_labels])
  if len(classes) and not 0 <= classes.min() <= classes.max() < len(outputs.class_names):
    raise ValueError("a label is out of range")
  rows = outputs.example_rows
  if len(rows) and not 0 <= rows.min() <= rows.max() < len(outputs.labels):
    raise ValueError("an example is none of the images")
  for distributions in (outputs.scores, outputs.decisions):
    if distributions is not None and distributions.type_two_by_class.count.shape != per_class:
      raise ValueError("scores are of another number of classes")


def _distributions(arrays: dict[str, np.ndarray], name: str) -> ScoreDistributions | None:
  if f"{name}.positive.counts" not in arrays:
    return None
  parts = {}
  for part in ScoreDistributions._fields:
    kind: Any = Spread if part.endswith("_by_class") else Histogram
    values = {key: arrays[f"{name}.{part}.{key}"] for key in kind._fields}
    parts[part] = kind(**{key: x if x.ndim else x.item() for key, x in values.items()})
  return ScoreDistributions(**parts)
