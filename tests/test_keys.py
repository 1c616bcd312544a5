"""Words of other programs are answered with the key that they mean."""

import pytest

from bce_jax import keys, objectives
from bce_jax.training import config as config_lib

KNOWN = {name: list(config_lib.flatten(config_lib.default(name))) for name in objectives.names()}


@pytest.mark.parametrize(
  ("word", "key"),
  [
    ("lr", "optimizer.learning_rate"),
    ("LR", "optimizer.learning_rate"),
    ("train.lr", "optimizer.learning_rate"),
    ("learning_rate", "optimizer.learning_rate"),
    ("learning-rate", "optimizer.learning_rate"),
    ("lerning_rate", "optimizer.learning_rate"),
    ("optim.learning_rate", "optimizer.learning_rate"),
    ("optimizer", "optimizer.name"),
    ("wd", "optimizer.weight_decay"),
    ("bs", "batch_size"),
    ("data.batch_size", "batch_size"),
    ("batchSize", "batch_size"),
    ("epoch", "epochs"),
    ("num_epochs", "epochs"),
    ("momentum", "optimizer.momentum"),
    ("momentm", "optimizer.momentum"),
    ("arch", "model"),
    ("model.name", "model"),
    ("dataset", "data.name"),
    ("data", "data.name"),
    ("folder", "data.folder"),
    ("data_dir", "data.folder"),
    ("temperature", "scale"),
    ("gamma", "scale"),
    ("loss.margin", "margin"),
    ("label_smoothing", "smoothing"),
    ("workers", "data.workers"),
    ("imbalance", "data.imbalance"),
    ("sed", "seed"),
  ],
)
def test_the_key_that_is_meant(word, key):
  assert keys.nearest_key(word, KNOWN["joint"]) == key
  with pytest.raises(ValueError, match=f"unknown config key '{word}'; did you mean '{key}'"):
    config_lib.refuse_unknown_keys([word], config_lib.default())


def test_of_a_method_with_a_temperature():
  assert keys.nearest_key("temperature", KNOWN["tripartite"]) == "objective.temperature"
  message = "it is an option of config.objective.name tripartite, not of 'joint'"
  with pytest.raises(ValueError, match=message):
    config_lib.refuse_unknown_keys(["objective.temperature"], config_lib.default())


def test_every_word_leads_to_a_key_that_there_is():
  there = {key for known in KNOWN.values() for key in known}
  assert {key for found in keys._KEYS.values() for key in found} <= there
  assert set(keys._OWN.values()) <= there
