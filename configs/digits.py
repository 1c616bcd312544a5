"""scikit-learn's digits: 1,797 gray images of 8×8 pixels, embedded, no download."""

from ml_collections import ConfigDict

from bce_jax.training import config as base


def get_config(loss: str = "bce-nu") -> ConfigDict:
  """The config of one of the eight losses: `--config digits:soft-nu`."""
  config = base.default()
  config.loss = loss
  config.model = "resnet8"
  config.scale = 16.0
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = 0.1
  config.optimizer.warmup_epochs = 1.0
  config.data.validation_fraction = 0.1
  config.data.crop_padding = 1
  config.data.flip = False
  config.log_every_steps = 20
  config.eval_every_epochs = 5.0
  return config
