"""CIFAR10-LT and CIFAR100-LT: CE, BCE, BCE3S and its second stage.

  bce-train --config cifar_lt:cifar100,bce3s,if100 --config.data.folder=DIR --workdir runs/stage1
  bce-train --config cifar_lt:cifar100,stage2,if100 --config.data.folder=DIR \
    --config.start_from=runs/stage1 --workdir runs/stage2

The argument is a list of words in any order: cifar10 or cifar100; a method; if10, if50, if100 or
if200, images of the first class over those of the last; cpu for a preset that a laptop can run.
What is left out is cifar100, bce3s, if100 and the paper's recipe (ResNet-34, 320 epochs,
AutoAugment, Cutout, SGD 0.01 with decay 5e-3 on everything). Methods:

  ce, bce                 one plain view; bce with ŵᵀx − b
  ce-mixed, bce-mixed     the first term of BCE3S alone, on its three views: the paper's CE and BCE
  bce-contrast            … with the contrast
  bce-uniform             … with the uniform term
  bce3s                   all three, the contrast mended: gradients reach both sides of a pair; its
                          weight is 0.01, since it acts (the released one, collapsed, does not)
  bce3s-released          all three, with the choices of the released code
  stage2                  the classifier alone, balanced, from a run of one of the five above it

Reached on 2 CPU cores (2026-11-22) with cifar100,METHOD,if100,cpu and --config.model=resnet8, seeds
0 and 1, top-1 / A_Uni in %: ce 13.3/4.5, bce 12.0/6.1, bce3s-released 12.3/5.9 (its cosines to the
own and to the other classes' memory both 1.00: collapsed), bce3s 11.3/5.7 (0.31 and −0.01), stage2
from them 16.3/4.3 and 15.5/4.6. The paper's recipe has not been run here.

Re-balancing combines with any of them: --config.rebalance.logit_adjustment=1 (with ce: balanced
softmax), --config.rebalance.class_weight_beta=0.9999, --config.data.sampling_exponent=1.
"""

from ml_collections import ConfigDict

from bce_jax.training import config as base

DATASETS = ("cifar100", "cifar10")
METHODS = (
  "bce3s",
  "bce3s-released",
  "bce-contrast",
  "bce-uniform",
  "bce-mixed",
  "ce-mixed",
  "bce",
  "ce",
  "stage2",
)
IMBALANCES = ("if100", "if10", "if50", "if200")
WORDS = (DATASETS, METHODS, IMBALANCES, ("cpu",))


def get_config(words: str = "cifar100,bce3s,if100") -> ConfigDict:
  """The config that a list of words asks for: `--config cifar_lt:cifar10,ce,if50,cpu`."""
  dataset, method, imbalance, cpu = _parse(words)
  objective = {"ce": "joint", "bce": "joint", "stage2": "balanced"}.get(method, "tripartite")
  config = base.default(objective)
  config.loss = "soft-d" if method.startswith("ce") else "bce-d"
  config.normalize_weights = not method.startswith("ce")
  config.weight_init = "normal"
  config.model = "resnet34"
  config.batch_size = 64
  config.epochs = 320
  config.data.name = "folder"
  config.data.folder = f"data/{dataset}"
  config.data.imbalance = float(imbalance)
  config.data.auto_augment = True
  config.data.cutout = 16
  config.log_every_steps = 100
  config.eval_every_epochs = 10.0
  config.eval_flip = True

  config.optimizer.learning_rate = 0.01
  for group in ("", "norm_", "head_", "bias_"):
    config.optimizer[f"{group}weight_decay"] = 5e-3
  if cpu:
    config.model = "resnet20"
    config.epochs = 10
    config.optimizer.learning_rate = 0.05
    for group in ("", "norm_", "head_", "bias_"):
      config.optimizer[f"{group}weight_decay"] = 1e-3
    config.data.auto_augment = False
    config.data.cutout = 0
    config.eval_every_epochs = 2.0
    config.eval_flip = False

  if objective == "tripartite":
    if method not in ("bce3s", "bce3s-released", "bce-contrast"):
      config.objective.contrast_weight = 0.0
    if method not in ("bce3s", "bce3s-released", "bce-uniform"):
      config.objective.uniform_weight = 0.0
  if method in ("bce3s", "bce-contrast"):
    config.objective.contrast_weight = 0.01
  if method == "bce3s-released":
    config.objective.released = True
    config.objective.class_share = 0.4
    if not cpu:  # in few epochs where the bias starts decides
      config.bias_init = "0"
  if method == "stage2":
    config.epochs = 10
    config.eval_every_epochs = 1.0
    config.objective.class_share = 0.4
    config.optimizer.learning_rate = 1e-3 if cpu else 1e-4
    for group in ("", "norm_", "head_", "bias_"):
      config.optimizer[f"{group}weight_decay"] = 0.0
  return config


def _parse(words: str) -> tuple[str, str, str, bool]:
  """Takes the list of words apart: data set, method, imbalance factor, whether for a CPU."""
  chosen = {"dataset": "cifar100", "method": "bce3s", "imbalance": "if100", "preset": ""}
  kinds = dict(zip(chosen, WORDS, strict=True))
  for word in words.split(","):
    kind = next((kind for kind, choices in kinds.items() if word in choices), None)
    if kind is None:
      listed = "; ".join(", ".join(choices) for choices in kinds.values())
      raise ValueError(f"unknown word {word!r}: expected {listed}")
    chosen[kind] = word
  imbalance = chosen["imbalance"].removeprefix("if")
  return chosen["dataset"], chosen["method"], imbalance, bool(chosen["preset"])
