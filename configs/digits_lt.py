"""scikit-learn's digits made long-tailed: 142 to 1 image per class.

  bce-sweep --config digits_lt:ce --config digits_lt:bce --config digits_lt:bce3s --workdir DIR

trains the three and sets them side by side. The partners that BCE3S mixes in are drawn from every
class alike (q = 1); with q = 0, the paper's, it stays behind plain BCE here.

--config.data.validation_fraction=0.1 holds out 145 images, 14 or 15 of every class, before the rest
is made long-tailed: 313 training images, 128 to 1. A threshold chosen on them has seen more of the
rare classes than the training has.
"""

from ml_collections import ConfigDict

from bce_jax.training import config as base

METHODS = ("ce", "bce", "bce3s", "bce3s-released", "stage2")
WORDS = (METHODS,)


def get_config(method: str = "bce3s") -> ConfigDict:
  """The config of a method: `--config digits_lt:bce`."""
  if method not in METHODS:
    raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
  objective = {"ce": "joint", "bce": "joint", "stage2": "balanced"}.get(method, "tripartite")
  config = base.default(objective)
  config.loss = "soft-d" if method == "ce" else "bce-d"
  config.normalize_weights = method != "ce"
  config.model = "resnet8"
  config.batch_size = 32
  config.epochs = 60
  config.optimizer.learning_rate = 0.05
  config.optimizer.warmup_epochs = 3.0
  config.data.imbalance = 100.0
  config.data.crop_padding = 1
  config.data.flip = False
  config.log_every_steps = 50
  config.eval_every_epochs = 20.0
  if method == "bce3s":
    config.objective.partner_exponent = 1.0
  if method == "stage2":
    config.epochs = 20
    config.optimizer.learning_rate = 0.01
    config.optimizer.warmup_epochs = 0.0
    for group in ("", "norm_", "head_", "bias_"):
      config.optimizer[f"{group}weight_decay"] = 0.0
  if method == "bce3s-released":
    config.objective.released = True
    config.objective.class_share = 0.4
  return config
