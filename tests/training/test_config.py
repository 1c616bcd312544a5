import pathlib

import pytest

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


def test_every_key_is_read(tmp_path, tiny, image_folder):
  seen = set()
  tiny.steps = 1
  loop.train(experiment.build(Recording(tiny, seen)), tmp_path / "run")
  tiny.steps = None
  tiny.data.name, tiny.data.folder = "folder", str(image_folder)
  tiny.batch_size = 8
  experiment.build(Recording(tiny, seen))
  assert set(config_lib.flatten(config_lib.default())) - seen == set()


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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
@pytest.mark.parametrize("loss", ["bce-u", "bce-d", "bce-nu", "bce-nd", "soft-u", "soft-nd"])
def test_every_config_file_makes_a_valid_config(path, loss):
  config = cli.load_config(f"{path}:{loss}")
  assert config.loss == loss
  if config.data.name == "folder":
    config.data.folder = "somewhere"
  config_lib.check(config)
  assert config_lib.from_dict(config.to_dict()).to_dict() == config.to_dict()


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
  ("changes", "message"),
  [
    ({"batch_size": 2000}, "config.batch_size 2000 is more than the 1437 training images"),
    ({"batch_size": 12}, "config.batch_size is 12, which 8 devices can't split; 8 or 16 fits"),
    ({"model": "resnet20", "stem": "imagenet"}, "stem"),
    ({"loss": "bce-u", "bias_init": "3"}, "bias_init '3' differs from class to class"),
    (
      {"loss": "soft-u", "negative_weight": 0.5},
      "negative_weight weighs the negative terms of BCE",
    ),
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
