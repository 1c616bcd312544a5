"""Open-set verification: pairs of images of classes never trained on.

  bce-train --config verification:orl,bce-nu --config.data.folder=ORL --workdir runs/orl
  bce-train --config verification:omniglot,bce-nu,margin --config.data.folder=OMNIGLOT --workdir DIR
  bce-train --config verification:casia,bce-nu,margin --config.data.folder=CASIA \
    --config.verification.folder=LFW --config.verification.pairs=LFW/pairs.txt --workdir DIR

The argument is a list of words in any order: a set; one of the eight losses; margin for one of 0.2
(0.4 for casia). What is left out is omniglot, bce-nu, no margin. The sets:

  orl        ORL's faces, FOLDER/<person>/*: 40 people, 20 of them never trained on
  omniglot   characters, FOLDER/<character>/*: half of them never trained on
  casia      CASIA-WebFace, FOLDER/<identity>/*.jpg, aligned to 112×112, IR-50; verified on LFW's
             6,000 pairs, LFW/<name>/<name>_0001.jpg with pairs.txt (see docs/verification.md)

Reached on the pairs of the classes never trained on (seeds 0 to 2, 2 CPU cores, 2026-11-22; mean):
equal error rate, TAR and FAR at t = b/γ, in %. orl: soft-nu 11.2, 96.6, 23.2; bce-nu 10.0, 86.5,
8.2; with margin 8.9, 97.6, 19.7 and 8.3, 90.1, 7.4. omniglot: soft-nu 5.6, 96.0, 7.9; bce-nu 5.1,
73.6, 0.6; with margin 5.2, 95.4, 5.8 and 5.0, 80.9, 0.9. Softmax' b is not trained: its TAR and FAR
are those of where it started, and the EER is what compares the losses. More in README.md.

The first two hold half of the classes out (verification.identities = 0.5; which, follows from the
number of classes) and verify all their pairs after each evaluation. The recipe of casia is that of
the paper on UniFace as far as it is told there, and has not been run here.
"""

from ml_collections import ConfigDict

from bce_jax.objectives import LOSSES
from bce_jax.training import config as base

DATASETS = ("omniglot", "orl", "casia")
WORDS = (DATASETS, LOSSES, ("margin",))


def get_config(words: str = "omniglot,bce-nu") -> ConfigDict:
  """The config that a list of words asks for: `--config verification:orl,soft-nu,margin`."""
  dataset, loss, margin = _parse(words)
  config = base.default()
  config.loss = loss
  config.model = "resnet8"
  config.embedding = 128
  config.scale = 16.0
  config.margin = 0.2 if margin else 0.0
  config.batch_size = 64
  config.epochs = 20
  config.optimizer.learning_rate = 0.1
  config.optimizer.warmup_epochs = 1.0
  config.data.name = "folder"
  config.data.folder = f"data/{dataset}"
  config.data.image_size = 32
  config.data.channels = 1
  config.data.crop_padding = 3
  config.data.flip = False  # a mirrored character is another one
  config.verification.identities = 0.5
  config.log_every_steps = 20
  config.eval_every_epochs = 5.0
  if dataset == "orl":
    config.batch_size = 32
    config.epochs = 60
    config.data.flip = True
    config.eval_every_epochs = 20.0
  if dataset == "casia":
    config.model = "iresnet50"
    config.embedding = None  # it has one of its own
    config.scale = 64.0
    config.margin = 0.4 if margin else 0.0
    config.batch_size = 512
    config.epochs = 28
    config.optimizer.learning_rate = 0.1
    config.data.image_size = 112
    config.data.channels = 3
    config.data.crop_padding = 0
    config.data.flip = True
    config.data.test_fraction = 0.02
    config.data.workers = 8
    config.verification.identities = 0.0
    config.verification.folder = "data/lfw"
    config.verification.pairs = "data/lfw/pairs.txt"
    config.verification.flip = True
    config.log_every_steps = 100
    config.eval_every_epochs = 1.0
    config.eval_geometry = False
  return config


def _parse(words: str) -> tuple[str, str, bool]:
  """Takes the list of words apart: data set, loss, whether with a margin."""
  chosen = {"dataset": "omniglot", "loss": "bce-nu", "margin": ""}
  kinds = dict(zip(chosen, WORDS, strict=True))
  for word in words.split(","):
    kind = next((kind for kind, choices in kinds.items() if word in choices), None)
    if kind is None:
      listed = "; ".join(", ".join(choices) for choices in kinds.values())
      raise ValueError(f"unknown word {word!r}: expected {listed}")
    chosen[kind] = word
  return chosen["dataset"], chosen["loss"], bool(chosen["margin"])
