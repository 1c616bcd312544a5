"""Collects what the report draws of the test split, batch by batch."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bce_jax import metrics
from bce_jax.data.source import Source, images_at
from bce_jax.evaluation.summary import EvalOutputs
from bce_jax.runs.test_outputs import TestOutputs

MAP_CLASSES, MAP_IMAGES = 10, 1000  # what a map of features can show to the eye
EXAMPLE_CLASSES, EXAMPLES = 6, 6  # the classes with the largest share of errors, and images of each
MOST_CLASSES = 4096  # of more, all scores of a batch are too many to be looked at
EXAMPLE_SIDE = 64  # pixels


class ReportCollector:
  """Sums up scores batch by batch, and keeps the features of a few images.

  Args:
    labels: of the whole split, [n].
    bias: the head's, [] or [N].
    train_counts: training images of each class, [N].
  """

  def __init__(self, labels: np.ndarray, bias: np.ndarray, train_counts: np.ndarray):
    self._labels, self._bias, self._train_counts = labels, bias, train_counts
    self._scores: metrics.ScoreDistributions | None = None
    self._decisions: metrics.ScoreDistributions | None = None
    self._predicted: list[np.ndarray] = []
    self._map_rows = map_rows(labels, train_counts)
    self._map_features: list[np.ndarray] = []

  def __call__(self, start: int, outputs: EvalOutputs) -> None:
    """Takes a batch of images, the first of which is image `start` of the split."""
    labels = self._labels[start : start + len(outputs.positive)]
    if outputs.features is not None:
      here = self._map_rows[(self._map_rows >= start) & (self._map_rows < start + len(labels))]
      self._map_features.append(np.asarray(outputs.features[here - start], np.float32))
    if outputs.scores is None:
      return
    decisions = outputs.scores - self._bias
    self._predicted.append(np.argmax(decisions, -1).astype(np.int32))
    self._scores = _added(self._scores, outputs.scores, labels)
    if self._bias.ndim:
      self._decisions = _added(self._decisions, decisions, labels)

  def test_outputs(
    self,
    outputs: EvalOutputs,
    moments: metrics.ClassMoments | None,
    weights: np.ndarray | None,
    source: Source,
    class_names: Sequence[str],
  ) -> TestOutputs:
    """Returns what was collected, with the images that the report shows.

    Args:
      outputs: of the whole split.
      moments: of its features, or None.
      weights: the classifier's rows, given with `moments`.
      source: the split.
      class_names: of all classes.
    """
    labels = self._labels
    measured = None if moments is None or weights is None else metrics.geometry(moments, weights)
    wrong = np.flatnonzero(outputs.hardest_negative >= outputs.positive)
    rows = example_rows(labels, wrong, len(self._train_counts))
    features = np.concatenate(self._map_features or [np.zeros((0, 1), np.float32)])
    return TestOutputs(
      class_names=tuple(class_names),
      train_counts=np.asarray(self._train_counts),
      labels=labels,
      predicted=np.concatenate(self._predicted) if self._predicted else None,
      positive=outputs.positive,
      hardest_negative=outputs.hardest_negative,
      scaled_positive=outputs.scaled_positive,
      scaled_hardest_negative=outputs.scaled_hardest_negative,
      bias=self._bias,
      scores=self._scores,
      decisions=self._decisions,
      compactness=None if measured is None else measured.compactness,
      separability=None if measured is None else measured.separability,
      classifier_separability=None if measured is None else measured.classifier_separability,
      map_features=features,
      map_labels=labels[self._map_rows] if len(features) else labels[:0],
      example_images=_thumbnails(images_at(source, rows)),
      example_rows=rows,
    )


def _added(
  before: metrics.ScoreDistributions | None, scores: np.ndarray, labels: np.ndarray
) -> metrics.ScoreDistributions:
  part = metrics.score_distributions(scores, labels)
  return part if before is None else metrics.merge_distributions(before, part)


def map_rows(labels: np.ndarray, train_counts: np.ndarray) -> np.ndarray:
  """Returns the images whose features the map shows, ascending.

  Of more than ten classes ten are shown, spread evenly from the most to the fewest training
  images; of each the same number, the first ones, and a thousand in all at most.
  """
  present = np.flatnonzero(np.bincount(labels, minlength=len(train_counts)))
  by_count = present[np.argsort(-train_counts[present], kind="stable")]
  places = np.linspace(0, len(by_count) - 1, min(MAP_CLASSES, len(by_count)))
  shown = by_count[np.round(places).astype(int)]
  each = MAP_IMAGES // max(len(shown), 1)
  rows = [np.flatnonzero(labels == label)[:each] for label in shown]
  return np.sort(np.concatenate(rows)) if rows else np.zeros(0, int)


def example_rows(labels: np.ndarray, wrong: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns images to show: the first wrong ones of the classes with the largest share of them."""
  of_class = np.bincount(labels, minlength=num_classes)
  errors = np.bincount(labels[wrong], minlength=num_classes)
  share = errors / np.maximum(of_class, 1)
  worst = [c for c in np.argsort(-share, kind="stable")[:EXAMPLE_CLASSES] if errors[c]]
  rows = [wrong[labels[wrong] == label][:EXAMPLES] for label in worst]
  return np.concatenate(rows) if rows else np.zeros(0, int)


def _thumbnails(images: np.ndarray) -> np.ndarray:
  """The images, made smaller where they are large: uint8."""
  height, width, channels = images.shape[1:]
  largest = max(height, width)
  if largest <= EXAMPLE_SIDE or not len(images):
    return images
  size = (max(1, width * EXAMPLE_SIDE // largest), max(1, height * EXAMPLE_SIDE // largest))
  small = [
    np.array(Image.fromarray(image.squeeze(-1) if channels == 1 else image).resize(size))
    for image in images
  ]
  return np.stack(small).reshape(len(images), size[1], size[0], channels)
