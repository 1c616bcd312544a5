"""Data and networks that are handed over from Python."""

import json

import flax.linen as nn
import numpy as np
import pytest

from bce_jax import config as config_lib
from bce_jax import models
from bce_jax.cli import train as cli
from bce_jax.data.sources import ArraySource, Dataset
from bce_jax.evaluation import predict
from bce_jax.training import experiment, loop


class Mean(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    return nn.Dense(3)(images.mean((1, 2))), {}


def config_of(**changes):
  config = config_lib.default()
  config.batch_size = config.eval_batch_size = 8
  config.steps, config.report = 1, False
  config.data.crop_padding = 1
  config.update(changes)
  return config


def mine():
  images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)
  source = ArraySource(images, np.arange(16) % 2)
  return Dataset(source, None, source, ("even", "odd"))


@pytest.mark.slow
def test_a_run_on_given_parts_says_so_and_wants_them_again(tmp_path, capsys):
  folder = tmp_path / "run"
  results = loop.train(experiment.build(config_of(), mine(), Mean()), folder)
  [session] = json.loads((folder / "results.json").read_text())["provenance"]["sessions"]
  assert session["outside"] == {
    key: {"name": "given from Python"} for key in ("data.name", "model")
  }
  again = loop.evaluate_only(
    experiment.build(config_of(), mine(), Mean(), evaluate_only=True), folder
  )
  assert again["uniform_accuracy"] == results["uniform_accuracy"]
  assert cli.main(["--evaluate-only", "--workdir", str(folder)]) == 2
  err = capsys.readouterr().err
  assert "was trained with a dataset and a model given from Python: expected again" in err
  with pytest.raises(ValueError, match="with a model given from Python"):
    predict.load(folder)


def test_a_given_classifier_is_the_whole_network():
  network = models.Classifier(Mean(), models.Head(num_classes=2, bias="diverse"))
  built = experiment.build(config_of(), mine(), network)
  assert built.model is network


def test_given_data_are_held_out_and_made_long_tailed_as_any():
  config = config_of()
  config.data.validation_fraction = 0.25
  built = experiment.build(config, mine(), Mean())
  assert (len(built.dataset.train), len(built.dataset.validation)) == (12, 4)
  config = config_of()
  config.data.imbalance = 4.0
  built = experiment.build(config, mine(), Mean())
  assert built.train_counts.tolist() == [8, 2]


def test_what_is_given_is_checked():
  with pytest.raises(ValueError, match="the dataset is 3: expected a bce_jax"):
    experiment.build(config_of(), 3)
  with pytest.raises(ValueError, match="the dataset: test is None: expected a Source"):
    experiment.build(config_of(), mine()._replace(test=None))


def test_what_follows_from_the_parts_is_made_once():
  parts = experiment.build(config_of(), mine(), Mean())
  assert parts.evaluator is parts.evaluator
  assert parts.state_sharding is parts.state_sharding
  other = parts._replace(train_counts=parts.train_counts * 2)
  assert isinstance(other, experiment.Experiment)
  assert other.evaluator is not parts.evaluator
  assert other.evaluator._train_counts.tolist() == [16, 16]
