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
      "the loss, by the uniform paper's name: family, n for normalized, unified or diverse bias",
      choices=objectives.LOSSES,
      outside=True,
    ),
    "normalize_weights": Key(
      None,
      NETWORK,
      "whether the classifier's rows are normalized; none: as the loss' name says",
      kind=bool,
    ),
    "weight_init": Key(
      "uniform",
      NETWORK,
      "where its weights start: uniform, U(±1/√D), or normal, N(0, 1/D)",
      choices=models.WEIGHT_INITS,
    ),
    "scale": Key(
      32.0,
      NETWORK,
      "γ of the normalized losses (-nu, -nd); the plain ones score with wᵀx itself",
      range=POSITIVE,
    ),
    "margin": Key(0.0, UPDATES, "m, subtracted from the positive similarity", range=AT_LEAST_0),
    "negative_weight": Key(
      1.0, UPDATES, "λ, the weight of the negative terms of the BCE losses", range=AT_LEAST_0
    ),
    "smoothing": Key(0.0, UPDATES, "ε of label smoothing", range=SHARE),
    "bias_init": Key(
      "prior",
      NETWORK,
      "where the bias starts: prior, zero, 0 (random), or for a diverse bias 1 … 7",
      choices=models.BIAS_INITS,
    ),
    "bias_mean": Key(0.0, NETWORK, "added to the initial bias", range=FINITE),
    "bias_learnable": Key(True, NETWORK, "false keeps the bias where it starts"),
  },
)

REBALANCE = Group(
  "For long-tailed training sets, with any method",
  {
    "rebalance.logit_adjustment": Key(
      0.0,
      UPDATES,
      "τ: trains with z + τ log π; with a softmax loss 1 is balanced softmax",
      range=FINITE,
    ),
    "rebalance.class_weight_beta": Key(
      None,
      UPDATES,
      "β of class-balanced weights (1 − β)/(1 − βⁿ) of the examples",
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
