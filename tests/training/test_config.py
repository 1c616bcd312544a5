import pathlib

import pytest

from bce_jax import objectives
from bce_jax.cli import configs
from bce_jax.cli import train as cli
from bce_jax.training import config as config_lib
from bce_jax.training import experiment, loop

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"


class Recording:
  """Stands for a config and notes which keys are read; writing it out is not reading."""

  def __init__(self, config, seen, prefix=""):
    self._config, self._seen, self._prefix = config, seen, prefix

  def __getattr__(self, name):
    value = getattr(self._config, name)
    if name in ("items", "to_dict"):
      return value
    if hasattr(value, "items"):
      return Recording(value, self._seen, f"{self._prefix}{name}.")
    self._seen.add(self._prefix + name)
    return value

  def __getitem__(self, name):
    return getattr(self, name)

  def get(self, name, default=None):
    return getattr(self, name, default)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, make_tiny):
  """A run of one step, from which others start."""
  config, workdir = make_tiny(), tmp_path_factory.mktemp("first") / "run"
  config.steps = 1
  config.loss = "bce-d"
  loop.train(experiment.build(config), workdir)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("method", objectives.names())
def test_every_key_is_read(tmp_path, tiny, first_run, image_folder, method):
  seen = set()
  tiny.steps = 1
  tiny.loss = "bce-d"
  config_lib.set_objective(tiny, method)
  tiny.start_from = str(first_run)
  (tmp_path / "pairs.csv").write_text(
    "path1,path2,same\ndigit0/12.png,digit0/13.png,1\ndigit0/12.png,digit1/12.png,0\n"
  )
  tiny.verification.folder = str(image_folder / "test")
  tiny.verification.pairs = str(tmp_path / "pairs.csv")
  loop.train(experiment.build(Recording(tiny, seen)), tmp_path / "run")
  (tmp_path / "run" / "report.html").touch()  # so that none is made
  cli._report(Recording(tiny, seen), tmp_path / "run")
  tiny.steps = None
  tiny.data.name, tiny.data.folder = "folder", str(image_folder)
  tiny.data.imbalance = 2.0
  tiny.batch_size = 8
  tiny.loss = "bce-nd"
  experiment.build(Recording(tiny, seen))
  assert set(config_lib.flatten(config_lib.default(method))) - seen == set()


def test_warm_up_takes_half_of_a_short_run_at_most(tiny):
  tiny.optimizer.warmup_epochs = 200.0
  tiny.steps = 10
  schedule = experiment.build(tiny).schedule
  rates = [float(schedule(step)) for step in range(10)]
  assert max(rates) == rates[4] == pytest.approx(tiny.optimizer.learning_rate)


def test_recording_would_notice():
  seen = set()
  _ = Recording(config_lib.default(), seen).optimizer.momentum
  assert seen == {"optimizer.momentum"}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "folder"])
@pytest.mark.parametrize("loss", ["bce-u", "bce-d", "bce-nu", "bce-nd", "soft-u", "soft-nd"])
def test_configs_of_the_eight_losses(name, loss):
  config = configs.load_config(f"{CONFIGS / name}.py:{loss}")
  assert config.loss == loss
  if config.data.name == "folder":
    config.data.folder = "somewhere"
  config_lib.check(config)
  assert config_lib.from_dict(config.to_dict()).to_dict() == config.to_dict()


WORDS = [
  *(f"cifar100,{method}" for method in ("ce", "bce", "ce-mixed", "bce-mixed", "bce-contrast")),
  *(f"{data},bce3s,{x}" for data in ("cifar10", "cifar100") for x in ("if10", "if50", "if200")),
  *("bce-uniform", "bce3s-released", "cpu", "stage2", "cpu,bce3s-released,cifar10"),
  *("stage2,cpu", "ce,cpu"),
]
VERIFIED = [
  f"verification:{words}"
  for words in ("orl,soft-nu", "omniglot,bce-nu,margin", "casia", "margin,bce-nd,casia", "bce-u")
]
LONG_TAILED = [
  *(f"cifar_lt:{words}" for words in WORDS),
  *(f"digits_lt:{method}" for method in ("ce", "bce", "bce3s", "bce3s-released")),
]


@pytest.mark.parametrize("reference", [*LONG_TAILED, *VERIFIED])
def test_configs_of_several_words(reference):
  name, words = reference.split(":")
  config = configs.load_config(f"{CONFIGS / name}.py:{words}")
  if config.objective.name == "balanced":
    config.start_from = "somewhere"
  config_lib.check(config)
  assert config_lib.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_every_config_file_is_tried_here():
  tried = {"cifar10", "cifar100", "digits", "folder", "cifar_lt", "digits_lt", "verification"}
  assert {path.stem for path in CONFIGS.glob("*.py")} == tried


def test_a_config_with_an_unknown_word_says_which_there_are():
  with pytest.raises(ValueError, match="unknown word 'bce4s': expected cifar100, cifar10; bce3s"):
    configs.load_config(f"{CONFIGS}/cifar_lt.py:cifar100,bce4s")
  with pytest.raises(ValueError, match="unknown word 'face': expected omniglot, orl, casia; bce-u"):
    configs.load_config(f"{CONFIGS}/verification.py:orl,face")
  with pytest.raises(ValueError, match="unknown method 'bce4s': expected one of ce, bce, bce3s"):
    configs.load_config(f"{CONFIGS}/digits_lt.py:bce4s")


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("loss", "bce-un", "unknown config.loss 'bce-un'; did you mean 'bce-"),
    ("model", "resnet21", "unknown config.model 'resnet21'; did you mean 'resnet20'"),
    ("stem", "cifra", "did you mean 'cifar'"),
    ("dtype", "float16", "unknown config.dtype 'float16'"),
    ("bias_init", "8", "unknown config.bias_init '8'"),
    ("best_metric", "accuracy", "unknown config.best_metric"),
    ("optimizer.name", "adam", "did you mean 'adamw'"),
    ("optimizer.schedule", "step", "unknown config.optimizer.schedule 'step'"),
    ("data.name", "digit", "did you mean 'digits'"),
    ("data.channels", 2, "unknown config.data.channels 2"),
    ("micro_batches", 0, "config.micro_batches must be a whole number of at least 1, got 0"),
    ("batch_norm_group", 1, "config.batch_norm_group must be a whole number of at least 2, got 1"),
    ("batch_size", 0, "config.batch_size must be a whole number of at least 1, got 0"),
    ("seed", -1, "config.seed must be"),
    ("steps", 0, "config.steps must be"),
    ("epochs", 0.0, "config.epochs must be a finite number > 0, got 0"),
    ("epochs", float("nan"), "config.epochs must be a finite number"),
    ("scale", -1.0, "config.scale must be"),
    ("smoothing", 1.5, "config.smoothing must be a finite number ≥ 0 and ≤ 1, got 1.5"),
    ("optimizer.learning_rate", float("inf"), "config.optimizer.learning_rate must be"),
    ("optimizer.momentum", 1.0, "config.optimizer.momentum must be less than 1"),
    ("optimizer.clip_norm", 0.0, "config.optimizer.clip_norm must be"),
    ("data.validation_fraction", 1.0, "config.data.validation_fraction must be less than 1"),
    ("weight_init", "kaiming", "unknown config.weight_init 'kaiming'"),
    ("start_from_checkpoint", "last", "did you mean 'latest'"),
    ("data.imbalance_profile", "exp", "did you mean 'exponential'"),
    ("data.imbalance", 0.5, "config.data.imbalance must be a finite number ≥ 1, got 0.5"),
    ("data.imbalance_seed", -1, "config.data.imbalance_seed must be"),
    ("data.cutout", -1, "config.data.cutout must be"),
    ("rebalance.class_weight_beta", 1.0, "config.rebalance.class_weight_beta must be less than 1"),
    ("data.imbalance_profile", "step", "config.data.imbalance_profile is 'step', without effect"),
    ("data.imbalance_seed", 3, "set config.data.imbalance too"),
    ("start_from_checkpoint", "best", "without effect: set config.start_from too"),
    ("batch_size", None, "config.batch_size is none: expected a value like 128"),
    ("optimizer.learning_rate", None, "config.optimizer.learning_rate is none"),
    ("normalize_weights", False, "config.normalize_weights is false, but the loss 'bce-nu' has"),
    ("data.name", "folder", "set --config.data.folder=FOLDER"),
    ("data.folder", "x", "config.data.folder is 'x', but config.data.name is 'digits'"),
  ],
)
def test_refused_before_anything_is_read(key, value, message):
  config = config_lib.default()
  group, _, name = key.rpartition(".")
  (config[group] if group else config)[name] = value
  with pytest.raises(ValueError, match=message.replace("(", r"\(")):
    config_lib.check(config)


@pytest.mark.parametrize(
  ("method", "changes", "message"),
  [
    ("tripartite", {"objective.temperature": 0.0}, "config.objective.temperature must be"),
    ("tripartite", {"objective.class_share": 1.5}, "config.objective.class_share must be"),
    ("tripartite", {"objective.projection_size": 0}, "config.objective.projection_size must be at"),
    ("tripartite", {"margin": 0.1}, "config.margin is 0.1, but the objective 'tripartite' has"),
    ("tripartite", {"smoothing": 0.1}, "config.smoothing is 0.1, but the objective 'tripartite'"),
    ("balanced", {}, "set --config.start_from=RUN_FOLDER too"),
    (
      "balanced",
      {"start_from": "x", "loss": "soft-d", "negative_weight": 0.5},
      "config.negative_weight weighs the negative terms of BCE",
    ),
    ("balanced", {"start_from": "x", "objective.beta": 1.0}, "config.objective.beta must be less"),
    (
      "balanced",
      {"start_from": "x", "rebalance.class_weight_beta": 0.9},
      "config.rebalance.class_weight_beta would weigh the classes twice",
    ),
    (
      "joint",
      {"loss": "soft-u", "negative_weight": 0.5},
      "config.negative_weight weighs the negative terms of BCE",
    ),
  ],
)
def test_refused_by_the_method(method, changes, message):
  config = config_lib.default(method)
  for key, value in changes.items():
    group, _, name = key.rpartition(".")
    (config[group] if group else config)[name] = value
  with pytest.raises(ValueError, match=message):
    config_lib.check(config)


def test_an_unknown_method_is_refused_with_the_nearest():
  with pytest.raises(
    ValueError, match=r"config.objective.name 'tripart'; did you mean 'tripartite'"
  ):
    config_lib.default("tripart")
  config = config_lib.default()
  config.objective.name = "balance"
  with pytest.raises(ValueError, match="did you mean 'balanced'"):
    config_lib.check(config)


def test_the_command_line_can_change_the_method():
  config = config_lib.default()
  configs.override(config, "objective.name", "tripartite")
  configs.override(config, "objective.temperature", "0.5")
  assert (config.objective.name, config.objective.temperature) == ("tripartite", 0.5)
  configs.override(config, "objective.name", "tripartite")  # the same again changes nothing
  assert config.objective.temperature == 0.5
  other = config_lib.default()
  configs.apply_overrides(
    other, [("objective.temperature", "0.5"), ("objective.name", "tripartite")]
  )
  assert other.objective.temperature == 0.5
  with pytest.raises(
    ValueError, match=r"objective.temperture'; did you mean 'objective.temperature"
  ):
    configs.override(config, "objective.temperture", "0.5")


def test_a_config_of_an_older_version_is_completed():
  old = config_lib.default().to_dict()
  del old["objective"], old["eval_flip"]
  assert config_lib.from_dict(old).to_dict() == config_lib.default().to_dict()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data.imbalance": 1e6}, "config.data.imbalance: imbalance 1000000.0 leaves a class"),
    ({"data.cutout": 8}, "config.data.cutout 8 is too much for images of 8×8 pixels"),
    ({"epochs": 1e300, "steps": None}, "steps: expected fewer than 2147483648"),
    ({"data.auto_augment": True}, "config.data.auto_augment is made for color images, got 1"),
    ({"batch_size": 2000}, "config.batch_size 2000 is more than the 1437 training images"),
    ({"batch_size": 12}, "config.batch_size is 12, which 8 devices can't split; 8 or 16 fits"),
    (
      {"micro_batches": 3},
      r"config.micro_batches is 3, but a batch of 32 images on 8 device\(s\) can't be cut into as"
      " many equal parts: 2 or 4 fits",
    ),
    ({"micro_batches": 8}, r"a batch of 32 images on 8 device\(s\) .* parts: 4 fits"),
    (
      {"batch_norm_group": 12},
      "config.batch_norm_group is 12, which does not divide the 32 images that go through the"
      " network at once: 8 or 16 fits",
    ),
    ({"batch_norm_group": 32, "micro_batches": 2}, "does not divide the 16 images .*: 16 fits"),
    ({"model": "resnet20", "stem": "imagenet"}, "stem"),
    ({"loss": "bce-u", "bias_init": "3"}, "bias_init '3' differs from class to class"),
    ({"data.crop_padding": 8}, "config.data.crop_padding 8 is too much for images of 8×8"),
    ({"data.validation_fraction": 1e-6}, "data.validation_fraction is 1e-06, which takes no image"),
  ],
)
def test_refused_by_the_data_or_the_model(tiny, changes, message):
  for key, value in changes.items():
    group, _, name = key.rpartition(".")
    (tiny[group] if group else tiny)[name] = value
  with pytest.raises(ValueError, match=message):
    experiment.build(tiny)


def test_groups_and_micro_batches_matter_in_training_only(tiny):
  tiny.batch_norm_group, tiny.micro_batches = 12, 3
  experiment.build(tiny, evaluate_only=True)


def test_groups_count_every_view(tiny):
  config_lib.set_objective(tiny, "tripartite")
  tiny.batch_norm_group = 24
  assert experiment.build(tiny).model.backbone.batch_norm_group == 24  # of 3 · 32 images
  tiny.batch_norm_group = 64
  with pytest.raises(ValueError, match=r"divide the 96 images .* at once: 48 or 96 fits"):
    experiment.build(tiny)


def test_groups_without_effect_are_refused(tiny):
  config_lib.set_objective(tiny, "balanced")
  tiny.start_from = "somewhere"
  tiny.batch_norm_group = 8
  message = "batch_norm_group is 8, but the objective 'balanced' normalizes by the running"
  with pytest.raises(ValueError, match=message):
    experiment.build(tiny)
  tiny.objective.drifting_statistics = True
  experiment.build(tiny)
