"""Keys of the optimizer and its learning rate."""

from ml_collections import ConfigDict

from bce_jax import optim
from bce_jax.config.key import AT_LEAST_0, POSITIVE, SHARE, UPDATES, Group, Key

_DECAY = "decay of {}, added to the gradient (sgd) or the update (adamw)"

GROUP = Group(
  "Optimizer",
  {
    "optimizer.name": Key(
      "sgd", UPDATES, "the optimizer", choices=tuple(optim.OPTIMIZERS), outside=True
    ),
    "optimizer.learning_rate": Key(0.1, UPDATES, "the highest, after warming up", range=POSITIVE),
    "optimizer.schedule": Key(
      "cosine", UPDATES, "after warming up", choices=tuple(optim.SCHEDULES), outside=True
    ),
    # At most half of the run, so that a short trial of a long recipe warms up and trains.
    "optimizer.warmup_epochs": Key(
      0.0, UPDATES, "the learning rate rises linearly; at most half of the run", range=AT_LEAST_0
    ),
    "optimizer.momentum": Key(0.9, UPDATES, "of sgd", range=SHARE, below=1),
    "optimizer.nesterov": Key(False, UPDATES, "of sgd"),
    "optimizer.b1": Key(0.9, UPDATES, "of adamw, of the mean of gradients", range=SHARE, below=1),
    "optimizer.b2": Key(0.999, UPDATES, "of adamw, of that of squares", range=SHARE, below=1),
    "optimizer.eps": Key(1e-8, UPDATES, "of adamw, added to the root", range=POSITIVE),
    "optimizer.weight_decay": Key(5e-4, UPDATES, _DECAY.format("kernels"), range=AT_LEAST_0),
    "optimizer.norm_weight_decay": Key(
      5e-4, UPDATES, _DECAY.format("vectors (norms, biases of layers)"), range=AT_LEAST_0
    ),
    "optimizer.head_weight_decay": Key(
      5e-4, UPDATES, _DECAY.format("the classifier's weights"), range=AT_LEAST_0
    ),
    "optimizer.bias_weight_decay": Key(
      0.0, UPDATES, _DECAY.format("the classifier's bias"), range=AT_LEAST_0
    ),
    "optimizer.clip_norm": Key(
      None, UPDATES, "gradients are scaled down to this global norm", kind=float, range=POSITIVE
    ),
  },
)


def check(config: ConfigDict) -> None:
  """Refuses options of adamw with sgd."""
  for key in ("b1", "b2", "eps"):
    default = GROUP.keys[f"optimizer.{key}"].default
    if config.optimizer[key] != default and config.optimizer.name == "sgd":
      raise ValueError(
        f"config.optimizer.{key} is {config.optimizer[key]}, but config.optimizer.name is 'sgd':"
        f" expected {default}, or 'adamw'"
      )
