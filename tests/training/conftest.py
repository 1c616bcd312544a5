"""Small runs on digits: seconds each."""

import pytest

from bce_jax.training import config as config_lib


def smallest():
  """A config of the smallest network, a few steps long."""
  config = config_lib.default()
  config.model = "resnet8"
  config.scale = 16.0
  config.batch_size = 32
  config.eval_batch_size = 128
  config.steps = 6
  config.optimizer.learning_rate = 0.05
  config.data.crop_padding = 1
  config.data.flip = False
  config.log_every_steps = 3
  config.eval_every_epochs = 100.0
  return config


@pytest.fixture(scope="session")
def make_tiny():
  return smallest


@pytest.fixture
def tiny():
  return smallest()
