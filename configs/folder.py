"""Your own images: FOLDER/<class>/*, or in FOLDER/train and /test.

  bce-train --config folder --config.data.folder=FOLDER --workdir runs/mine

Images are resized and cropped to 64×64. A tenth of the training images is held out to choose the
best checkpoint and a threshold.
"""

from ml_collections import ConfigDict

from bce_jax.objectives import LOSSES
from bce_jax.training import config as base

WORDS = (LOSSES,)


def get_config(loss: str = "bce-nu") -> ConfigDict:
  """The config of one of the eight losses: `--config folder:soft-nu`."""
  config = base.default()
  config.loss = loss
  config.model = "resnet18"
  config.batch_size = 64
  config.epochs = 30
  config.optimizer.learning_rate = 0.02
  config.optimizer.warmup_epochs = 1.0
  config.data.name = "folder"
  config.data.image_size = 64
  config.data.workers = 2
  config.data.validation_fraction = 0.1
  config.data.crop_padding = 8
  config.eval_every_epochs = 5.0
  return config
