"""Keys of the loss and of the classifier."""

from ml_collections import ConfigDict

from bce_jax import models, objectives
from bce_jax.config.key import AT_LEAST_0, FINITE, NETWORK, POSITIVE, SHARE, UPDATES, Group, Key
from bce_jax.objectives import families

GROUP = Group(
  "Loss and classifier",
  {
    "loss": Key(
      "bce-nu",
      NETWORK,
      "bce or soft(max); n: of cosines; u: one bias for all classes, d: one per class",
      choices=objectives.LOSSES,
      outside=True,
    ),
    "normalize_weights": Key(
      None,
      NETWORK,
      "normalize the classifier's rows; none: if the loss is of cosines (-nu, -nd)",
      kind=bool,
    ),
    "weight_init": Key(
      "uniform",
      NETWORK,
      "distribution of the classifier's initial weights: uniform, U(±1/√D), or normal, N(0, 1/D)",
      choices=models.WEIGHT_INITS,
    ),
    "scale": Key(
      32.0,
      NETWORK,
      "γ, which multiplies the cosines of the normalized losses (-nu, -nd); the others ignore it",
      range=POSITIVE,
    ),
    "margin": Key(
      0.0,
      UPDATES,
      "m, subtracted from the similarity to the own class in training",
      range=AT_LEAST_0,
    ),
    "negative_weight": Key(
      1.0,
      UPDATES,
      "λ, weight of the terms of the other classes in the BCE losses",
      range=AT_LEAST_0,
    ),
    "smoothing": Key(0.0, UPDATES, "ε of label smoothing; 0: none", range=SHARE),
    "bias_init": Key(
      "prior",
      NETWORK,
      "initial bias: prior, log(10 N); zero; 0, random; 1 … 7: paper's modes, bias per class",
      choices=models.BIAS_INITS,
    ),
    "bias_mean": Key(0.0, NETWORK, "number added to the initial bias, in every mode", range=FINITE),
    "bias_learnable": Key(True, NETWORK, "train the bias; false keeps it at its initial value"),
  },
)

REBALANCE = Group(
  "For long-tailed training sets, with any method",
  {
    "rebalance.logit_adjustment": Key(
      0.0,
      UPDATES,
      "τ: train with z + τ log π, π the class shares; 1 with a softmax loss: balanced softmax",
      range=FINITE,
    ),
    "rebalance.class_weight_beta": Key(
      None,
      UPDATES,
      "β of the class-balanced example weights (1 − β)/(1 − βⁿ); none: all weigh 1",
      kind=float,
      range=SHARE,
      below=1,
    ),
  },
)


def check(config: ConfigDict) -> None:
  """Refuses normalize_weights=false with a loss that normalizes them."""
  normalized = families.of(config).normalized
  if normalized and config.normalize_weights is False:
    raise ValueError(
      f"config.normalize_weights is false, but the loss {config.loss!r} has normalized weights by"
      " definition: expected true or none"
    )
