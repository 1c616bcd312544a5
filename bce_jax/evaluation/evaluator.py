"""Evaluates a network on the splits of a data set, while it trains and at its end."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bce_jax import losses, metrics, sharding
from bce_jax.config.metrics import find as find_metrics
from bce_jax.data.preprocess import Preprocess
from bce_jax.data.sources import Dataset
from bce_jax.evaluation import embeddings, evaluate, inference, own_metrics, verification
from bce_jax.evaluation.collector import MOST_CLASSES, ReportCollector
from bce_jax.evaluation.inference import Network, Variables
from bce_jax.evaluation.summary import (
  EvalOutputs,
  NonFiniteError,
  Results,
  at_validation_threshold,
  split_outputs,
  summarize,
)
from bce_jax.models import Classifier
from bce_jax.runs.test_outputs import RocPoints, TestOutputs


class TestResults(NamedTuple):
  """The results of the test split, and what the report draws of it.

  Attributes:
    results: those of results.json but the time taken.
    outputs: what the report draws; None where nobody asked.
    embeddings: of the classes never trained on, [n, D]; None without any.
  """

  results: Results
  outputs: TestOutputs | None
  embeddings: np.ndarray | None


Collect = Callable[[int, EvalOutputs], None]


def _without_scores(collect: Collect) -> Collect:
  """What collects for the report where there are too many classes to draw all scores."""
  return lambda start, outputs: collect(start, outputs._replace(scores=None))


class Evaluator:
  """Evaluates a network on the splits of a data set; its programs are compiled once.

  Args:
    config: checked.
    dataset: whose splits are evaluated.
    mesh: the devices.
    model: backbone and head.
    preprocess: normalization.
    train_counts: training images of each class, [N].
  """

  def __init__(
    self,
    config: ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    model: Classifier,
    preprocess: Preprocess,
    train_counts: np.ndarray,
  ):
    self._config, self._dataset, self._mesh = config, dataset, mesh
    self._head, self._train_counts = model.head, train_counts
    self._metrics = find_metrics(config)
    self._keep = {need for metric in self._metrics for need in metric.needs}
    image_shape = dataset.train.image_shape
    network = Network(model, preprocess, inference.variables_sharding(model, image_shape, mesh))
    self._eval_step = network.jit(self._make_eval_step(network))
    self._embed_step = None
    if dataset.unseen is not None:
      embed_step = embeddings.make_embed_step(network, flip=config.verification.flip)
      self._embed_step = network.jit(embed_step)

  def _make_eval_step(self, network: Network):
    temperature = self._config.eval_logit_adjustment
    offsets = None
    if temperature:
      offsets = losses.logit_adjustment(self._train_counts, temperature=temperature)
    return evaluate.make_eval_step(
      network,
      features=self._config.eval_geometry or "features" in self._keep,
      flip=self._config.eval_flip,
      offsets=offsets,
      scores=len(self._dataset.class_names) <= MOST_CLASSES or "scores" in self._keep,
    )

  def head(self, variables: Variables, name: str) -> np.ndarray:
    """Returns a parameter of the head on the host, without padding."""
    array = sharding.to_host(variables["params"]["head"][name])
    return array[: len(self._dataset.class_names)] if array.ndim else array

  @property
  def monitored_split(self) -> str:
    """The split evaluated during training: validation where there is one, else test."""
    return "test" if self._dataset.validation is None else "validation"

  def monitor(self, variables: Variables) -> Results:
    """Returns the results of the monitored split.

    Raises:
      NonFiniteError: when a score or an embedding is not finite.
    """
    split = self.monitored_split
    results = self._summarize(variables, *self.split(variables, split), split)
    if self._embed_step is not None:
      results |= self._verify(variables)[0]
    return results

  def split(
    self,
    variables: Variables,
    split: str,
    collect: Collect | None = None,
  ) -> tuple[EvalOutputs, metrics.ClassMoments | None]:
    """Runs the network over a split, by name; see `evaluate.evaluate`."""
    if collect is not None and len(self._dataset.class_names) > MOST_CLASSES:
      collect = _without_scores(collect)
    outputs, moments = evaluate.evaluate(
      self._eval_step,
      variables,
      getattr(self._dataset, split),
      num_classes=len(self._dataset.class_names),
      batch_size=self._config.eval_batch_size,
      workers=self._config.data.workers,
      mesh=self._mesh,
      collect=collect,
      keep=self._keep,
    )
    return outputs, moments if self._config.eval_geometry else None

  def test_split(self, variables: Variables, *, collected: bool = False) -> TestResults:
    """Evaluates the test split, also at the threshold that the validation split would choose.

    Args:
      variables: the network's, on the devices.
      collected: also keep what the report draws; of several processes the first keeps it.

    Raises:
      NonFiniteError: when a score is nan.
    """
    dataset = self._dataset
    collector = None
    if collected:
      bias = self.head(variables, "bias")
      collector = ReportCollector(dataset.test.labels, bias, self._train_counts)
    outputs, moments = self.split(variables, "test", collector)
    results = self._summarize(variables, outputs, moments, "test")
    if dataset.validation is not None:
      validation, _ = self.split(variables, "validation")
      results["uniform_accuracy_at_validation_threshold"] = at_validation_threshold(
        outputs, validation, dataset.validation.labels, len(dataset.class_names)
      )
    points = embedded = None
    if self._embed_step is not None:
      verified, points, embedded = self._verify(variables)
      results |= verified
    kept = None
    if collector is not None and jax.process_index() == 0:
      weights = None if moments is None else self.head(variables, "weights")
      kept = collector.test_outputs(
        outputs, moments, weights, dataset.test, dataset.class_names
      )._replace(pairs=points)
    return TestResults(results, kept, embedded)

  def _summarize(
    self,
    variables: Variables,
    outputs: EvalOutputs,
    moments: metrics.ClassMoments | None,
    split: str,
  ) -> Results:
    labels, bias = getattr(self._dataset, split).labels, self.head(variables, "bias")
    results = summarize(
      outputs,
      labels,
      bias,
      train_counts=self._train_counts,
      moments=moments,
      weights=None if moments is None else self.head(variables, "weights"),
    )
    if not self._metrics:
      return results
    kept = split_outputs(
      outputs, labels, bias, num_classes=len(self._train_counts), train_counts=self._train_counts
    )
    return results | own_metrics.measure(self._metrics, kept)

  def _verify(self, variables: Variables) -> tuple[Results, RocPoints, np.ndarray]:
    """Returns results of the unseen classes, the points of the curve, and their embeddings."""
    unseen, config = self._dataset.unseen, self._config
    assert unseen is not None
    assert self._embed_step is not None
    embedded = embeddings.embeddings(
      self._embed_step,
      variables,
      unseen,
      batch_size=config.eval_batch_size,
      workers=config.data.workers,
      mesh=self._mesh,
    )
    bad = int(np.sum(~np.isfinite(embedded).all(axis=1)))
    if bad:
      raise NonFiniteError(f"{bad} of {len(embedded)} embeddings are not finite")
    threshold = self.unified_threshold(variables)
    listed = self._dataset.listed
    if listed is None:
      found = verification.verify_all_pairs(embedded, unseen.labels, threshold=threshold)
    else:
      found = verification.verify_listed_pairs(embedded, listed, threshold=threshold)
    return *found, embedded

  def unified_threshold(self, variables: Variables) -> float | None:
    """Returns the threshold on cosines that training has learned, t = b/γ.

    None where the bias is diverse, or scores are no cosines.
    """
    bias = self.head(variables, "bias")
    if bias.ndim or not (self._head.normalize_features and self._head.normalize_weights):
      return None
    return float(bias) / self._head.scale
