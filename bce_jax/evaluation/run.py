"""A trained run, loaded from its folder for use from Python: `bce_jax.load`."""

import itertools
import numbers
import os
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8
from ml_collections import ConfigDict

from bce_jax.evaluation import predict
from bce_jax.evaluation.predict import TrainedNetwork
from bce_jax.objectives import families
from bce_jax.runs import files, run_config

Images = np.ndarray | jax.Array | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Predictions(NamedTuple):
  """Labels, scores and probabilities that a trained network gives to n images.

  Attributes:
    labels: of each image the class whose score is the furthest above its threshold; the name of
      the reject class where none is above.
    scores: scale · c, of every class: [n, N]. A class is accepted above its threshold.
    probability: σ(z) of every class, z = scores − bias: [n, N]; each class for itself, so that a
      row need not sum to 1. Of a network trained with a softmax loss, the softmax of z.
    reject: whether no class is above its threshold, [n].
    top_k: of each image the (class, score) of its k best classes, the best first.
    files: the files that the images were read from; empty where they were given as arrays.
    errors: what is wrong with each file that could not be used; it has no row.
  """

  labels: tuple[str, ...]
  scores: Float[np.ndarray, "n N"]
  probability: Float[np.ndarray, "n N"]
  reject: Bool[np.ndarray, " n"]
  top_k: tuple[tuple[tuple[str, float], ...], ...]
  files: tuple[str, ...]
  errors: dict[str, str]


class TrainedRun:
  """A trained network with its config and results; see `load`.

  Attributes:
    workdir: the run folder.
    config: that it was trained by.
    results: results.json; None for a run that has not ended.
    threshold: what a score is compared with, the learned bias: one number for all classes, [], or
      one per class, [N].
    class_names: N of them.
    image_shape: of the images it takes: height, width, channels.
  """

  def __init__(self, workdir: pathlib.Path, network: TrainedNetwork, config: ConfigDict):
    self.workdir, self.config = workdir, config
    self.results = run_config.finished(workdir)
    self.threshold: np.ndarray = network.bias
    self.class_names, self.image_shape = network.class_names, network.image_shape
    self._network = network

  def __repr__(self) -> str:
    state = "not ended" if self.results is None else "ended"
    return f"TrainedRun({str(self.workdir)!r}, {len(self.class_names)} classes, {state})"

  def predict(
    self,
    images: Images,
    *,
    threshold: float | np.ndarray | None = None,
    top_k: int = 1,
    reject: str = "none",
  ) -> Predictions:
    """Classifies images, or rejects them.

    Args:
      images: uint8 [n, height, width, channels] with values 0 … 255; or a folder, an image file,
        or a list of them, which are read as in training.
      threshold: on the scores, in place of the learned bias: a number, or one per class, [N].
      top_k: how many of the best classes are named.
      reject: label of an image that no class is accepted for.

    Returns:
      `Predictions`, in the order of the images; those of a folder are sorted by name.

    Raises:
      ValueError: for images of another dtype, range or size, a folder without any, a threshold of
        another shape, or a reject label that is a class.
    """
    count = len(self.class_names)
    if not isinstance(top_k, numbers.Integral) or not 1 <= top_k <= count:
      raise ValueError(f"top_k is {top_k}: expected 1 … {count}, the number of classes")
    if reject in self.class_names:
      raise ValueError(f"reject is {reject!r}, which is a class: expected a name that no class has")
    thresholds = self._thresholds(threshold)
    scores, named, errors = self._run(images)
    decisions = [predict.decide(row, thresholds) for row in scores]
    names = [self.class_names[one.best] if one.above else reject for one in decisions]
    rejected = np.array([not one.above for one in decisions], bool)
    order = np.argsort(thresholds - scores.astype(np.float64), axis=-1, kind="stable")[:, :top_k]
    top = tuple(
      tuple((self.class_names[k], float(row[k])) for k in ranked)
      for row, ranked in zip(scores, order, strict=True)
    )
    return Predictions(
      tuple(names), scores, self._probability(scores), rejected, top, named, errors
    )

  def features(self, images: Images) -> Float[np.ndarray, "n D"]:
    """Returns the features that the classifier scores, float32 [n, D].

    Args:
      images: as for `predict`.

    Raises:
      ValueError: as `predict`, and for a file that can't be used.
    """
    features, _, errors = self._run(images, features=True)
    if errors:
      raise ValueError(next(iter(errors.values())))
    return features

  def _thresholds(self, given: float | np.ndarray | None) -> np.ndarray:
    if given is None:
      return self.threshold
    try:
      thresholds = np.asarray(given, np.float64)
    except (TypeError, ValueError):
      raise ValueError(f"threshold is {given!r:.80}: expected a number, or one per class") from None
    if thresholds.shape not in ((), (len(self.class_names),)):
      raise ValueError(
        f"threshold has shape {thresholds.shape}: expected a number or"
        f" ({len(self.class_names)},), one per class"
      )
    if not np.isfinite(thresholds).all():
      raise ValueError(f"threshold is {given}: expected finite numbers")
    return thresholds

  def _probability(self, scores: np.ndarray) -> np.ndarray:
    z = scores - self.threshold
    return np.asarray(families.of(self.config).probabilities(z))

  def _run(
    self, images: Images, *, features: bool = False
  ) -> tuple[np.ndarray, tuple[str, ...], dict[str, str]]:
    """Returns (scores or features, the files, what is wrong with others)."""
    if isinstance(images, np.ndarray | jax.Array):
      checked = _checked(np.asarray(images), self.image_shape)
      return self._run_array(checked, features=features), (), {}
    given: Any = [images] if isinstance(images, str | os.PathLike) else images
    paths: list[Any] = list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(path, str | os.PathLike) for path in paths):
      arrays = all(hasattr(one, "__array_interface__") for one in paths)
      hint = "; np.stack(images) is one" if arrays else ""
      raise ValueError(
        f"images are a {type(images).__name__}: expected an array"
        f" uint8 {_shape(self.image_shape)}, a folder, an image file, or a list of paths{hint}"
      )
    listed = (predict.files_of(os.fspath(path))[0] for path in paths)
    found = list(dict.fromkeys(itertools.chain.from_iterable(listed)))
    if not found:
      raise ValueError(f"no images in {', '.join(map(str, paths)) or 'an empty list'}")
    rows, errors = {}, {}
    for path, row in predict.scored(self._network, found, features=features):
      if isinstance(row, ValueError):
        errors[path] = str(row)
      else:
        rows[path] = row
    if not rows:
      raise ValueError(next(iter(errors.values())))
    return np.stack(list(rows.values())), tuple(rows), errors

  def _run_array(self, images: UInt8[np.ndarray, "n h w c"], *, features: bool) -> np.ndarray:
    """Runs the network in batches of one size."""
    size = predict.batch_size_for(self._network, len(images))
    rows = np.concatenate(
      [
        predict.run_batch(self._network, images[start : start + size], size, features=features)
        for start in range(0, max(len(images), 1), size)
      ]
    )
    bad = int(np.isnan(rows).any(axis=-1).sum())
    if bad:
      what = "feature" if features else "score"
      raise ValueError(f"{bad} of {len(images)} images have a {what} that is nan")
    return rows


def _checked(images: np.ndarray, image_shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n h w c"]:
  """Refuses images that the network was not trained on the like of.

  Raises:
    ValueError: naming dtype, shape or range, and what was expected.
  """
  expected = f"expected uint8 {_shape(image_shape)} with values 0 … 255"
  if images.dtype != np.uint8:
    hint = ""
    if images.dtype.kind == "f" and images.size and np.nanmax(np.abs(images)) <= 1:
      hint = "; they seem to lie in 0 … 1: np.rint(255 * images).astype(np.uint8)"
    raise ValueError(f"images are {images.dtype} {images.shape}: {expected}{hint}")
  if images.shape[1:] != image_shape or images.ndim != 4:
    height, width, channels = image_shape
    hint = "; a single one is images[None]" if images.shape == image_shape else ""
    if images.shape[1:] == (channels, height, width):
      hint = "; with the channels last: images.transpose(0, 2, 3, 1)"
    raise ValueError(f"images are uint8 {images.shape}: {expected}{hint}")
  if images.size and images.max() == 1:
    raise ValueError(f"images have no value but 0 and 1: {expected}")
  return images


def _shape(image_shape: tuple[int, int, int]) -> str:
  return f"[n, {', '.join(map(str, image_shape))}]"


def load(workdir: str | os.PathLike[str], *, checkpoint: str = "latest") -> TrainedRun:
  """Loads the trained network of a run folder, onto all devices, for use from Python.

    run = bce_jax.load("runs/mine")
    run.predict("photos").labels

  Args:
    workdir: the run folder; its training data are not needed.
    checkpoint: "latest", or "best" on the validation split.

  Returns:
    `TrainedRun`.

  Raises:
    ValueError: when it is no run folder, has no such checkpoint, or a file is corrupted.
  """
  if not isinstance(workdir, str | os.PathLike):
    raise ValueError(f"workdir is {workdir!r:.80}: expected a run folder")
  folder = pathlib.Path(workdir)
  if checkpoint not in ("latest", "best"):
    raise ValueError(f"checkpoint is {checkpoint!r}: expected 'latest' or 'best'")
  if not (folder / files.CONFIG).is_file():
    reason = f"it has no {files.CONFIG}" if folder.is_dir() else "it is not a folder"
    raise ValueError(f"{folder} is not a run folder: {reason}")
  if line := run_config.edited(folder, believed=True):
    warnings.warn(f"{folder}: {line}", stacklevel=2)
  network = predict.load(folder, which=checkpoint)
  for line in network.notes:
    warnings.warn(line, stacklevel=2)
  return TrainedRun(folder, network, run_config.written_config(folder))
