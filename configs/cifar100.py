"""CIFAR-100 from a folder of images, ResNet-18, 100 epochs.

  bce-train --config cifar100:bce-nu --config.data.folder=data/cifar100 --workdir runs/cifar100

The recipe is that of "BCE vs. CE in Deep Feature Learning" (ICML 2025), which reports A_SW/A_Uni
71.2/43.2 for CE and 72.2/63.3 for BCE. It has not been run here to its end.
"""

from ml_collections import ConfigDict

from bce_jax.objectives import LOSSES
from bce_jax.training import config as base

WORDS = (LOSSES,)


def get_config(loss: str = "bce-nu") -> ConfigDict:
  """The config of one of the eight losses: `--config cifar100:soft-nd`."""
  config = base.default()
  config.loss = loss
  config.model = "resnet18"
  config.scale = 32.0
  config.batch_size = 128
  config.epochs = 100
  config.optimizer.learning_rate = 0.01
  config.data.name = "folder"
  config.data.folder = "data/cifar100"
  config.eval_every_epochs = 5.0
  return config
