"""Keys of the backbone, and of the run that its weights are taken from."""

from ml_collections import ConfigDict

from bce_jax import extensions, models
from bce_jax.config.key import NETWORK, Group, Key

STEMS = ("cifar", "imagenet")
DTYPES = ("float32", "bfloat16")
CHECKPOINTS = ("latest", "best")

GROUP = Group(
  "Network",
  {
    "model": Key("resnet20", NETWORK, "the backbone", choices=models.names(), outside=True),
    "stem": Key(
      "cifar",
      NETWORK,
      "first layers: cifar (3×3, stride 1) or imagenet (7×7, stride 2, max pool; resnet18 and up)",
      choices=STEMS,
    ),
    "dtype": Key(
      "float32",
      NETWORK,
      "of the backbone's computation; parameters, logits and losses are float32",
      choices=DTYPES,
    ),
    "zero_init_last_norm": Key(False, NETWORK, "each residual block starts as its shortcut"),
    # Its elements lie around 0, as verification needs them.
    "embedding": Key(
      None,
      NETWORK,
      "length of an embedding on top: a linear layer and batch norm; none: the network's features",
      kind=int,
      least=2,
    ),
    "batch_norm_group": Key(
      None,
      NETWORK,
      "successive images in the network with batch norm statistics of their own; none: the batch",
      kind=int,
      least=2,
    ),
    "start_from": Key(
      "", NETWORK, "a run folder from whose network training starts; empty: anew", path=True
    ),
    "start_from_checkpoint": Key(
      "latest", NETWORK, "which of its checkpoints", choices=CHECKPOINTS
    ),
    "start_from_parts": Key(
      None,
      NETWORK,
      "all, or backbone, with a fresh head; none: all where the head fits, else backbone",
      kind=str,
      choices=(None, "all", "backbone"),
    ),
  },
)


def _check_model(config: ConfigDict) -> None:
  """Refuses what a network from outside does not take."""
  found = models.module(config.model)
  if not found.outside:
    return
  if config.parallel == "pmap" and not extensions.accepted(found.create, ["axis_name"]):
    raise ValueError(
      f"config.parallel is 'pmap', but config.model {config.model!r} takes no axis_name, over which"
      " to normalize: expected 'jit'"
    )
  keys = ("stem", "dtype", "zero_init_last_norm", "batch_norm_group")
  for key in set(keys) - extensions.accepted(found.create, keys):
    if config[key] != GROUP.keys[key].default:
      raise ValueError(
        f"config.{key} is {config[key]!r}, but config.model {config.model!r} takes no {key}:"
        f" expected {GROUP.keys[key].default!r}"
      )


def check(config: ConfigDict) -> None:
  """Refuses options of start_from without it, and a network that can't be built."""
  for key, usual in (("start_from_checkpoint", "latest"), ("start_from_parts", None)):
    if config[key] != usual and not config.start_from:
      raise ValueError(
        f"config.{key} is {config[key]!r}, without effect: set config.start_from too"
      )
  _check_model(config)
