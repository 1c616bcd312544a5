"""Every key of a config, its default and what it may be.

A config file starts from `default()` and sets what differs, so an unknown key is refused where it
is written, and a file never lacks a key. `check` refuses what no run could use before anything is
read or written; what depends on the data is checked when they are there.
"""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from bce_jax import models, objectives
from bce_jax.data import folders, layouts, longtail
from bce_jax.keys import nearest_key
from bce_jax.names import nearest

DATASETS = ("digits", "folder")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
STEMS = ("cifar", "imagenet")
DTYPES = ("float32", "bfloat16")
CHECKPOINTS = ("latest", "best")
PARALLEL = ("jit", "pmap")
PARTS = (None, "all", "backbone")
# Relative ones start from the folder that bce-train is called in; config.json has them absolute.
PATHS = ("start_from", "data.folder", "verification.folder", "verification.pairs")
BEST_METRICS = ("sample_wise_accuracy", "class_wise_accuracy", "uniform_accuracy")


def default(objective: str = "joint") -> ConfigDict:
  """Returns a config with every key there is, at its default.

  Args:
    objective: name of the method, whose own options are the group `objective`.

  Raises:
    ValueError: for an unknown method.

  >>> default().loss
  'bce-nu'
  """
  config = ConfigDict()
  # One key for the run: initial weights, data order and augmentation follow from it.
  config.seed = 0

  # The method and its options; they stand in its module, bce_jax/objectives/NAME.py.
  config.objective = _objective_group(objective)

  # The loss, by the uniform paper's name: {bce, soft}-{u, d, nu, nd}.
  config.loss = "bce-nu"
  # Whether the classifier's rows are normalised; none: as the loss' name says.
  config.normalize_weights = config_dict.placeholder(bool)
  # Where its weights start: uniform, U(±1/√D), or normal, N(0, 1/D).
  config.weight_init = "uniform"
  # γ of the normalised losses (-nu, -nd); the plain ones score with wᵀx itself.
  config.scale = 32.0
  config.margin = 0.0
  # λ, the weight of the negative terms of the BCE losses.
  config.negative_weight = 1.0
  config.smoothing = 0.0
  # Where the bias starts: prior, zero, 0 (random), or for a diverse bias 1 … 7.
  config.bias_init = "prior"
  config.bias_mean = 0.0
  config.bias_learnable = True

  # For long-tailed training sets, with any method.
  config.rebalance = ConfigDict()
  # τ: trains with z + τ log π. With a softmax loss 1 is balanced softmax.
  config.rebalance.logit_adjustment = 0.0
  # β of class-balanced weights (1 − β)/(1 − βⁿ) of the examples.
  config.rebalance.class_weight_beta = config_dict.placeholder(float)

  config.model = "resnet20"
  # First layers: cifar (3×3, stride 1) or imagenet (7×7, stride 2, max pool; resnet18 and up).
  config.stem = "cifar"
  # Of the backbone's computation; parameters, logits and losses are float32.
  config.dtype = "float32"
  config.zero_init_last_norm = False
  # Length of an embedding, a linear layer and batch norm on top of the network: its elements lie
  # around 0, as verification needs them; none: the network's own features.
  config.embedding = config_dict.placeholder(int)
  # Successive images that batch norm gives statistics of their own in training; none: the whole
  # batch has common ones. It counts images in the network: tripartite makes three of each.
  config.batch_norm_group = config_dict.placeholder(int)
  # A run folder from whose network training starts, and which of its checkpoints: latest or best.
  config.start_from = ""
  config.start_from_checkpoint = "latest"
  # all of it, or its backbone with a fresh head; none: all where the head fits, else the backbone.
  config.start_from_parts = config_dict.placeholder(str)

  config.batch_size = 128
  # Parts that a batch is run in, one after the other, to need less memory; one update for all.
  config.micro_batches = 1
  config.eval_batch_size = 256
  # Devices that share the classifier's rows; the batch is split over the others.
  config.class_devices = 1
  # How a step runs on the devices: jit over a mesh, or pmap, each with its share of the batch.
  config.parallel = "jit"
  # Classes whose scores exist at one time in training, 0: chosen; none: all of them. For tables of
  # so many classes that [batch, classes] is too much; of BCE losses, joint or balanced.
  config.class_chunk = config_dict.placeholder(int)
  # How long to train. Steps, where given, count instead of epochs.
  config.epochs = 100.0
  config.steps = config_dict.placeholder(int)

  config.optimizer = ConfigDict()
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule = "cosine"
  # At most half of the run, so that a short trial of a long recipe warms up and trains.
  config.optimizer.warmup_epochs = 0.0
  # Of sgd.
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = False
  # Decay is added to the gradient (sgd) or to the update (adamw), for four groups of parameters.
  config.optimizer.weight_decay = 5e-4
  config.optimizer.norm_weight_decay = 5e-4
  config.optimizer.head_weight_decay = 5e-4
  config.optimizer.bias_weight_decay = 0.0
  # Gradients are scaled down to this global norm.
  config.optimizer.clip_norm = config_dict.placeholder(float)

  config.data = ConfigDict()
  # digits (embedded) or folder.
  config.data.name = "digits"
  # Of the folder: FOLDER/train/<class>/* and FOLDER/test/<class>/*, or FOLDER/<class>/*.
  config.data.folder = ""
  # Side in pixels that images of a folder are resized and cropped to; none: they have one size.
  config.data.image_size = config_dict.placeholder(int)
  # auto, flat (a folder for each class) or splits (train, test, …), where a folder can be both.
  config.data.layout = "auto"
  # What becomes of a class without training images: refuse, drop or keep.
  config.data.empty_classes = "refuse"
  # Damaged images that may be skipped: in training another of the class stands in, in evaluation
  # they are left out.
  config.data.skip_damaged = 0
  # Value of white in images of more than 8 bits; none: as each file says.
  config.data.full_scale = config_dict.placeholder(float)
  # 3 for colour, 1 for gray, of a folder.
  config.data.channels = 3
  # Whether a folder's images are held in memory; none: if they take 2 GiB at most.
  config.data.in_memory = config_dict.placeholder(bool)
  # Processes that read images which are not held in memory.
  config.data.workers = 0
  # Share of the training images held out to choose the best checkpoint and a threshold.
  config.data.validation_fraction = 0.0
  # Share of the images that becomes the test split of a folder that has none.
  config.data.test_fraction = 0.2
  # Makes the training split long-tailed: images of the first class over those of the last.
  config.data.imbalance = config_dict.placeholder(float)
  # exponential or step.
  config.data.imbalance_profile = "exponential"
  # Of the choice within each class; none: its first images in data order.
  config.data.imbalance_seed = config_dict.placeholder(int)
  # q: a class of n training images is drawn as often as n^(1−q); 0 visits each image once an epoch.
  config.data.sampling_exponent = 0.0
  # Augmentation: random shifts by up to so many pixels, mirror images, AutoAugment's CIFAR-10
  # policy, a square of so many pixels blacked out.
  config.data.crop_padding = 4
  config.data.flip = True
  config.data.auto_augment = False
  config.data.cutout = 0

  # Open-set verification: whether two images show the same class, of classes never trained on.
  config.verification = ConfigDict()
  # Share of the folder's classes that is left out of training and of the test split for it.
  config.verification.identities = 0.0
  # Or another folder, with a list of pairs: LFW's protocol (see docs/verification.md).
  config.verification.folder = ""
  config.verification.pairs = ""
  # Whether the embeddings of image and mirror image are added up.
  config.verification.flip = False

  config.log_every_steps = 50
  config.eval_every_epochs = 1.0
  # Measure compactness, separability and neural collapse; takes [N, D] and [D, D] in float64.
  config.eval_geometry = True
  # Judge besides: scores averaged over image and mirror image; z − τ log π (post-hoc adjustment).
  config.eval_flip = False
  config.eval_logit_adjustment = 0.0
  # Checkpoints besides those after each evaluation.
  config.checkpoint_every_steps = config_dict.placeholder(int)
  # What makes a checkpoint the best, on the validation split.
  config.best_metric = "uniform_accuracy"
  # Whether bce-train makes report.html when a run has ended; bce-report makes it at any time.
  config.report = True
  return config


def _objective_group(name: str) -> ConfigDict:
  return ConfigDict({"name": name, **objectives.module(name).OPTIONS})


def _method_name(config: Mapping[str, Any]) -> str:
  """The method of a config that may be damaged, or older than the first method's name."""
  group = config.get("objective", {})
  return str(group.get("name", "joint")) if hasattr(group, "get") else str(group)


def set_objective(config: ConfigDict, name: str) -> None:
  """Changes a config's method; the options of another one start at their defaults.

  Raises:
    ValueError: for an unknown method.
  """
  if name != config.objective.name:
    config.objective = _objective_group(name)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"group.key": value} of a nested config."""
  flat: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, (ConfigDict, Mapping)):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
  """Returns a config with the values of a config.json.

  A key that it lacks, of an older version, is at its default.

  Raises:
    ValueError: for an unknown key or method, or a value of another type.
  """
  config = default(_method_name(values))
  refuse_unknown_keys(flatten(values), config)
  for key, value in flatten(values).items():
    try:
      set_value(config, key, value)
    except TypeError:
      raise ValueError(f"config key {key!r} can't be {value!r}") from None
  return config


def set_value(config: ConfigDict, key: str, value: Any) -> None:
  """Sets config.key, where key may be "group.key"."""
  group, _, name = key.rpartition(".")
  (config[group] if group else config)[name] = value


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
  """Returns a copy whose relative paths start from the root instead of from the current folder."""
  config = ConfigDict(config.to_dict(), convert_dict=True)
  for key, path in flatten(config).items():
    if key in PATHS and path:
      set_value(config, key, os.path.abspath(path))
  return config


def same_path(before: str, now: str) -> bool:
  """Whether two values of a key of `PATHS` may name one place.

  Older versions kept a path as it was typed; what that was relative to is not known.

  >>> same_path("runs/a/", "/home/me/runs/a"), same_path("/x/runs/a", "/home/me/runs/a")
  (True, False)
  """
  if not before or not now:
    return before == now
  parts = pathlib.PurePath(os.path.normpath(before)).parts
  ends = pathlib.PurePath(os.path.abspath(now)).parts
  return ends == parts if os.path.isabs(before) else ends[-len(parts) :] == parts


def refuse_unknown_keys(keys: Iterable[str], config: ConfigDict) -> None:
  """Raises ValueError for the first key that no config of this one's method has."""
  known = flatten(default(_method_name(config)))
  for key in keys:
    if key not in known:
      raise ValueError(f"unknown config key {key!r}; {_hint(key, known, config)}")


def _hint(key: str, known: Iterable[str], config: ConfigDict) -> str:
  """What an unknown key may be: an option of another method, or the nearest of this one's keys."""
  group, _, option = key.partition(".")
  if group == "objective":
    own = _method_name(config)
    others = [name for name in objectives.names() if option in objectives.module(name).OPTIONS]
    if others:
      return f"it is an option of config.objective.name {' and '.join(others)}, not of {own!r}"
  return f"did you mean {nearest_key(key, known)!r}?"


def check(config: ConfigDict) -> None:
  """Refuses a config that no run could use.

  Args:
    config: as `default()` makes it, with values changed.

  Raises:
    ValueError: one line: which key, its value, what was expected.
  """
  flat = flatten(config)
  method = objectives.module(_method_name(config))
  refuse_unknown_keys(flat, config)
  defaults = flatten(default(_method_name(config)))
  missing = set(defaults) - set(flat)
  if missing:
    raise ValueError(f"config lacks the key {min(missing)!r}")
  for key, usual in defaults.items():
    if flat[key] is None and usual is not None:
      raise ValueError(f"config.{key} is none: expected a value like {usual!r}")

  for key, choices in {
    "loss": objectives.LOSSES,
    "model": models.names(),
    "stem": STEMS,
    "dtype": DTYPES,
    "weight_init": models.WEIGHT_INITS,
    "bias_init": models.BIAS_INITS,
    "start_from_checkpoint": CHECKPOINTS,
    "start_from_parts": PARTS,
    "parallel": PARALLEL,
    "data.imbalance_profile": longtail.PROFILES,
    "best_metric": BEST_METRICS,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "data.name": DATASETS,
    "data.channels": (1, 3),
    "data.layout": layouts.LAYOUTS,
    "data.empty_classes": folders.EMPTY,
  }.items():
    if flat[key] not in choices:
      near = nearest(flat[key], choices)
      listed = ", ".join(map(str, choices))
      raise ValueError(
        f"unknown config.{key} {flat[key]!r}; did you mean {near!r}? expected one of {listed}"
      )

  whole = {  # the least each may be
    "seed": 0,
    "batch_size": 1,
    "eval_batch_size": 1,
    "micro_batches": 1,
    "batch_norm_group": 2,
    "embedding": 2,
    "class_devices": 1,
    "class_chunk": 0,
    "steps": 1,
    "data.image_size": 8,
    "data.workers": 0,
    "data.skip_damaged": 0,
    "data.imbalance_seed": 0,
    "data.crop_padding": 0,
    "data.cutout": 0,
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
  }
  for key, least in whole.items():
    if flat[key] is not None and flat[key] < least:
      raise ValueError(f"config.{key} must be a whole number of at least {least}, got {flat[key]}")
  real: dict[str, tuple[float, bool, float]] = {  # (low, whether low itself is allowed, high)
    "epochs": (0, False, math.inf),
    "scale": (0, False, math.inf),
    "margin": (0, True, math.inf),
    "negative_weight": (0, True, math.inf),
    "smoothing": (0, True, 1),
    "bias_mean": (-math.inf, False, math.inf),
    "rebalance.logit_adjustment": (-math.inf, False, math.inf),
    "rebalance.class_weight_beta": (0, True, 1),
    "optimizer.learning_rate": (0, False, math.inf),
    "optimizer.warmup_epochs": (0, True, math.inf),
    "optimizer.momentum": (0, True, 1),
    "optimizer.weight_decay": (0, True, math.inf),
    "optimizer.norm_weight_decay": (0, True, math.inf),
    "optimizer.head_weight_decay": (0, True, math.inf),
    "optimizer.bias_weight_decay": (0, True, math.inf),
    "optimizer.clip_norm": (0, False, math.inf),
    "data.validation_fraction": (0, True, 1),
    "data.test_fraction": (0, False, 1),
    "data.imbalance": (1, True, math.inf),
    "data.full_scale": (0, False, math.inf),
    "verification.identities": (0, True, 1),
    "data.sampling_exponent": (-math.inf, False, math.inf),
    "eval_every_epochs": (0, False, math.inf),
    "eval_logit_adjustment": (-math.inf, False, math.inf),
    **{f"objective.{key}": bounds for key, bounds in method.RANGES.items()},
  }
  for key, (low, closed, high) in real.items():
    value = flat[key]
    if value is None:
      continue
    if not (low <= value <= high) or not math.isfinite(value) or (value == low and not closed):
      raise ValueError(
        f"config.{key} must be a finite number {'≥' if closed else '>'} {low}"
        f"{f' and ≤ {high}' if math.isfinite(high) else ''}, got {value}"
      )
  for key in (
    "data.validation_fraction",
    "optimizer.momentum",
    "data.test_fraction",
    "rebalance.class_weight_beta",
  ):
    if flat[key] is not None and flat[key] >= 1:
      raise ValueError(f"config.{key} must be less than 1, got {flat[key]}")
  for key, usual, needs in (
    ("data.imbalance_profile", "exponential", "data.imbalance"),
    ("data.imbalance_seed", None, "data.imbalance"),
    ("start_from_checkpoint", "latest", "start_from"),
    ("start_from_parts", None, "start_from"),
  ):
    if flat[key] != usual and not flat[needs]:
      raise ValueError(f"config.{key} is {flat[key]!r}, without effect: set config.{needs} too")
  normalized = objectives.parse(config.loss).normalized
  if normalized and config.normalize_weights is False:
    raise ValueError(
      f"config.normalize_weights is false, but the loss {config.loss!r} has normalised weights by"
      " definition: expected true or none"
    )
  method.check(config)
  _check_verification(config)
  if config.data.name == "folder" and not config.data.folder:
    raise ValueError("config.data.name is 'folder': set --config.data.folder=FOLDER too")
  if config.data.name != "folder":
    keys = ["folder", "image_size", "in_memory", "layout", "empty_classes"]
    if not config.verification.folder:
      keys += ["full_scale", "skip_damaged"]
    for key in keys:
      value = flat[f"data.{key}"]
      if value != defaults[f"data.{key}"]:
        raise ValueError(
          f"config.data.{key} is {value!r}, but config.data.name is"
          f" {config.data.name!r}: expected 'folder'"
        )


def _check_verification(config: ConfigDict) -> None:
  chosen = config.verification
  if bool(chosen.folder) != bool(chosen.pairs):
    given, lacking = ("folder", "pairs") if chosen.folder else ("pairs", "folder")
    raise ValueError(
      f"config.verification.{given} is {chosen[given]!r}: set config.verification.{lacking} too"
    )
  if chosen.identities and chosen.folder:
    raise ValueError(
      "config.verification.identities and config.verification.folder are both set: expected one"
    )
  if chosen.identities and config.data.name != "folder":
    raise ValueError(
      f"config.verification.identities is {chosen.identities}, but config.data.name is"
      f" {config.data.name!r}: expected 'folder'"
    )
  if chosen.flip and not (chosen.identities or chosen.folder):
    raise ValueError(
      "config.verification.flip is true, without effect: set config.verification.identities or"
      " config.verification.folder too"
    )
