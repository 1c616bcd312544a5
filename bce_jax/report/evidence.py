"""What a run keeps of its last look at the test split, for pictures: judged.npz in its folder.

Its size does not grow with the number of scores: a few numbers an image, histograms and class sums
of all scores, features of at most 1,000 images, and a few dozen images that were judged wrong.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from bce_jax import atomic
from bce_jax.metrics import Histogram, ScoreDistributions, Spread

FILE = "judged.npz"


class RocPoints(NamedTuple):
  """Shares of pairs accepted over the threshold, which rises: [k] each.

  Attributes:
    thresholds: on cosines.
    true_accept: of the pairs of one identity, the share with a larger score.
    false_accept: of the pairs of two.
  """

  thresholds: Float[np.ndarray, "k"]
  true_accept: Float[np.ndarray, "k"]
  false_accept: Float[np.ndarray, "k"]


class Evidence(NamedTuple):
  """Of n images of a split, judged by a network of N classes.

  Attributes:
    class_names: N of them.
    train_counts: training images of each class.
    labels: of each image.
    predicted: the class of the largest decision score; None where scores were not looked at.
    positive: p, the score of the own class on z = scale · c − bias.
    hardest_negative: n, the largest other one.
    scaled_positive: the same on scale · c.
    scaled_hardest_negative: likewise.
    bias: the head's, [] or [N].
    scores: distributions of all scores on scale · c; None where they were not looked at.
    decisions: the same on z, where the bias is diverse; else None.
    compactness: of each class; None where features were not summed up, as the two after it.
    separability: likewise.
    classifier_separability: likewise.
    map_features: [m, D], of some images of some classes.
    map_labels: [m].
    example_images: [k, height, width, channels], some that were judged wrong.
    example_rows: [k], which of the n images they are.
    pairs: of the verification of classes never trained on; None without one.
  """

  class_names: tuple[str, ...]
  train_counts: Int[np.ndarray, "N"]
  labels: Int[np.ndarray, "n"]
  predicted: Int[np.ndarray, "n"] | None
  positive: Float[np.ndarray, "n"]
  hardest_negative: Float[np.ndarray, "n"]
  scaled_positive: Float[np.ndarray, "n"]
  scaled_hardest_negative: Float[np.ndarray, "n"]
  bias: Float[np.ndarray, "..."]
  scores: ScoreDistributions | None
  decisions: ScoreDistributions | None
  compactness: Float[np.ndarray, "N"] | None
  separability: Float[np.ndarray, "N"] | None
  classifier_separability: Float[np.ndarray, "N"] | None
  map_features: Float[np.ndarray, "m D"]
  map_labels: Int[np.ndarray, "m"]
  example_images: UInt8[np.ndarray, "k height width channels"]
  example_rows: Int[np.ndarray, "k"]
  pairs: RocPoints | None = None

  @property
  def right(self) -> np.ndarray:
    """Whether the own class has the largest score, [n]."""
    return self.hardest_negative < self.positive


_DISTRIBUTIONS = ("scores", "decisions")
_OPTIONAL = ("predicted", "compactness", "separability", "classifier_separability")


def write(folder: pathlib.Path, evidence: Evidence) -> None:
  """Writes judged.npz whole or not at all.

  Raises:
    OSError: with the file's name.
  """
  arrays: dict[str, Any] = {}
  for name, value in evidence._asdict().items():
    if value is None:
      continue
    if name == "pairs":
      arrays |= {f"{name}.{key}": x for key, x in value._asdict().items()}
    elif name in _DISTRIBUTIONS:
      for part, summed in value._asdict().items():
        arrays |= {f"{name}.{part}.{key}": x for key, x in summed._asdict().items()}
    else:
      arrays[name] = np.array(value, np.str_) if name == "class_names" else value
  write_arrays(folder / FILE, arrays)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  """Writes an .npz file whole or not at all.

  Raises:
    OSError: with the file's name.
  """
  with atomic.opened(path, "wb") as file:
    np.savez_compressed(file, **arrays)


def read(folder: pathlib.Path) -> Evidence:
  """Reads judged.npz; nothing is unpickled.

  Raises:
    ValueError: when there is none, or it is damaged.
  """
  path = folder / FILE
  try:
    with open(path, "rb") as file:
      archive = np.load(file, allow_pickle=False)
      if not isinstance(archive, Mapping):
        raise ValueError("it is not an .npz archive")
      arrays = dict(archive)
    values: dict[str, Any] = {name: arrays.get(name) for name in Evidence._fields}
    values["class_names"] = tuple(str(name) for name in arrays["class_names"])
    for name in _DISTRIBUTIONS:
      values[name] = _distributions(arrays, name)
    if "pairs.thresholds" in arrays:
      values["pairs"] = RocPoints(*(arrays[f"pairs.{key}"] for key in RocPoints._fields))
    evidence = Evidence(**values)
    _check(evidence)
    return evidence
  except FileNotFoundError:
    raise ValueError(f"{folder} has no {FILE}: its run has not ended, or is an older one") from None
  except Exception as error:  # whatever zipfile, zlib and numpy make of damaged bytes
    raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def _check(evidence: Evidence) -> None:
  """Refuses what does not fit together.

  Raises:
    ValueError: with the name of what does not.
  """
  one_a_class, one_an_image = (len(evidence.class_names),), evidence.labels.shape
  shapes = {
    "train_counts": (one_a_class,),
    "labels": ((len(evidence.labels),),),
    "predicted": (one_an_image,),
    "positive": (one_an_image,),
    "hardest_negative": (one_an_image,),
    "scaled_positive": (one_an_image,),
    "scaled_hardest_negative": (one_an_image,),
    "bias": ((), one_a_class),
    "compactness": (one_a_class,),
    "separability": (one_a_class,),
    "classifier_separability": (one_a_class,),
    "map_features": ((len(evidence.map_labels), *evidence.map_features.shape[1:2]),),
    "example_images": ((len(evidence.example_rows), *evidence.example_images.shape[-3:]),),
  }
  for name, fitting in shapes.items():
    value = getattr(evidence, name)
    if value is None and name in _OPTIONAL:
      continue
    if value.shape not in fitting:
      raise ValueError(f"{name} has shape {value.shape}, not {fitting[-1]}")
  classes = np.concatenate([evidence.labels, evidence.map_labels])
  if len(classes) and not 0 <= classes.min() <= classes.max() < len(evidence.class_names):
    raise ValueError("a label is out of range")
  rows = evidence.example_rows
  if len(rows) and not 0 <= rows.min() <= rows.max() < len(evidence.labels):
    raise ValueError("an example is none of the images")
  for distributions in (evidence.scores, evidence.decisions):
    if distributions is not None and distributions.type_two_by_class.count.shape != one_a_class:
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
