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
    "model": Key(
      "resnet20", NETWORK, "the backbone, by name", choices=models.names(), outside=True
    ),
    "stem": Key(
      "cifar",
      NETWORK,
      "first layers of resnet18 to resnet152: cifar (3×3) or imagenet (7×7, stride 2, max pool)",
      choices=STEMS,
    ),
    "dtype": Key(
      "float32",
      NETWORK,
      "dtype of the backbone's computation; parameters, logits and losses are float32",
      choices=DTYPES,
    ),
    "zero_init_last_norm": Key(
      False, NETWORK, "initialize each residual block as its shortcut alone"
    ),
    # Its elements lie around 0, as verification needs them.
    "embedding": Key(
      None,
      NETWORK,
      "size of an embedding layer (linear, batch norm) on the backbone; none: no such layer",
      kind=int,
      least=2,
    ),
    "batch_norm_group": Key(
      None,
      NETWORK,
      "images per batch norm group in training (ghost batch norm); none: the whole batch",
      kind=int,
      least=2,
    ),
    "start_from": Key(
      "",
      NETWORK,
      "run folder whose network training starts from; empty: from random weights",
      path=True,
    ),
    "start_from_checkpoint": Key(
      "latest", NETWORK, "which checkpoint of start_from", choices=CHECKPOINTS
    ),
    "start_from_parts": Key(
      None,
      NETWORK,
      "what to take from start_from; none: all if its classifier fits, else the backbone",
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
