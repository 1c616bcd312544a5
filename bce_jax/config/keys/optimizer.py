"""Keys of the optimizer and its learning rate."""

from ml_collections import ConfigDict

from bce_jax import optim
from bce_jax.config.key import AT_LEAST_0, POSITIVE, SHARE, UPDATES, Group, Key

_DECAY = "weight decay of {}; added to the gradient (sgd) or the update (adamw)"

GROUP = Group(
  "Optimizer",
  {
    "optimizer.name": Key(
      "sgd", UPDATES, "the optimizer", choices=tuple(optim.OPTIMIZERS), outside=True
    ),
    "optimizer.learning_rate": Key(0.1, UPDATES, "learning rate after the warm-up", range=POSITIVE),
    "optimizer.schedule": Key(
      "cosine",
      UPDATES,
      "how the learning rate falls after the warm-up",
      choices=tuple(optim.SCHEDULES),
      outside=True,
    ),
    # At most half of the run, so that a short trial of a long recipe warms up and trains.
    "optimizer.warmup_epochs": Key(
      0.0, UPDATES, "epochs of linear warm-up; at most half of the run", range=AT_LEAST_0
    ),
    "optimizer.momentum": Key(0.9, UPDATES, "momentum of sgd", range=SHARE, below=1),
    "optimizer.nesterov": Key(False, UPDATES, "use Nesterov momentum in sgd"),
    "optimizer.b1": Key(
      0.9, UPDATES, "β₁ of adamw, decay of the mean of gradients", range=SHARE, below=1
    ),
    "optimizer.b2": Key(
      0.999, UPDATES, "β₂ of adamw, decay of the mean of squared gradients", range=SHARE, below=1
    ),
    "optimizer.eps": Key(1e-8, UPDATES, "ε of adamw, added to the denominator", range=POSITIVE),
    "optimizer.weight_decay": Key(
      5e-4, UPDATES, _DECAY.format("the network's kernels"), range=AT_LEAST_0
    ),
    "optimizer.norm_weight_decay": Key(
      5e-4,
      UPDATES,
      _DECAY.format("norms and biases of layers"),
      range=AT_LEAST_0,
    ),
    "optimizer.head_weight_decay": Key(
      5e-4, UPDATES, _DECAY.format("the classifier's weights"), range=AT_LEAST_0
    ),
    "optimizer.bias_weight_decay": Key(
      0.0, UPDATES, _DECAY.format("the classifier's bias"), range=AT_LEAST_0
    ),
    "optimizer.clip_norm": Key(
      None,
      UPDATES,
      "largest global norm of the gradients, which are scaled down to it; none: no clipping",
      kind=float,
      range=POSITIVE,
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
