"""CIFAR-10 from a folder of images, ResNet-18, 100 epochs.

  bce-train --config cifar10:bce-nu --config.data.folder=data/cifar10 --workdir runs/cifar10

The recipe is that of "BCE vs. CE in Deep Feature Learning" (ICML 2025): SGD 0.01, batch 128, weight
decay 5e-4, cosine, crop and flip; it reports A_SW/A_Uni 92.8/85.2 for CE and 93.2/91.9 for BCE. The
whole 100 epochs have not been run here. On 2 CPU cores, 2026-11-21, with --config.model=resnet8
--config.epochs=8 --config.optimizer.learning_rate=0.1 --config.optimizer.warmup_epochs=0.5, seeds 0
and 1: bce-nu A_SW 79.6 and 80.0 %, A_Uni at the threshold best on the test images 71.2 and 71.0 %;
soft-nu 78.7 and 79.3 %, 36.6 and 53.7 % (9 to 15 minutes each). Softmax' bias is not trained: the
fair threshold for it is one of held-out images, by --config.data.validation_fraction=0.1.
"""

from ml_collections import ConfigDict

from bce_jax.objectives import LOSSES
from bce_jax.training import config as base

WORDS = (LOSSES,)


def get_config(loss: str = "bce-nu") -> ConfigDict:
  """The config of one of the eight losses: `--config cifar10:soft-u`."""
  config = base.default()
  config.loss = loss
  config.model = "resnet18"
  config.scale = 32.0
  config.batch_size = 128
  config.epochs = 100
  config.optimizer.learning_rate = 0.01
  config.data.name = "folder"
  config.data.folder = "data/cifar10"
  config.eval_every_epochs = 5.0
  return config
