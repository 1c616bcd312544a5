"""What is wrong with code from outside is told in one line."""

import pytest

from bce_jax import config as config_lib
from bce_jax import optim
from bce_jax.cli import configs
from bce_jax.cli import train as cli
from bce_jax.training import experiment

DATA = {"data.name": "house.data", "batch_size": "8", "eval_batch_size": "8", "steps": "1"}
SMALL = DATA | {"model": "house.net:Tiny"}


def chosen(changes):
  config = config_lib.default()
  configs.apply_overrides(config, list(changes.items()))
  return config


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model": "hovel.net:Tiny"}, "config.model 'hovel.net:Tiny': there is no module 'hovel', nei"),
    ({"model": "house.nte:Tiny"}, "no module 'house.nte', .* did you mean 'house.net'?"),
    ({"model": "house.net:Tyni"}, "house.net has no 'Tyni'; did you mean 'Tiny'?"),
    ({"model": "house.net"}, "the module house.net has no function 'create'; did you mean house.n"),
    ({"model": "house.net:A_NUMBER"}, "is 3: expected a function, a class or a module"),
    ({"model": "house.net:"}, "'house.net:': expected package.module or package.module:object"),
    ({"model": "house/net.py:Tiny"}, "expected package.module or package.module:object"),
    ({"data.name": "house.lacking"}, "importing house.lacking failed: ModuleNotFoundError: No mod"),
    ({"data.name": "house.failing"}, "failed: KeyError: 'missing' .failing.py, line 2"),
    ({"loss": "bce-nu", "data.name": "house.unreadable"}, "failed: SyntaxError: .*unreadable.py"),
    ({"data.name": "house.odd"}, "OPTIONS is .'width'.: expected a dict of keys and defaults"),
    ({"data.name": "house.mismatched"}, "has 'wdith', which OPTIONS lacks; did you mean 'width'?"),
    ({"model": "house"}, "the module house has no function 'create'"),
    ({"objective.name": "tripart"}, "unknown config.objective.name 'tripart'; did you mean 'tripa"),
    ({"data.augmentation": "standrad"}, "unknown config.data.augmentation 'standrad'; did you mea"),
    (SMALL | {"model_options.widht": "3"}, "'model_options.widht'; did you mean 'model_options.wi"),
    ({"model_options.width": "3"}, "'model_options.width'; config.model 'resnet20' has no options"),
    (SMALL | {"model_options.width": "wide"}, "config.model_options.width=wide: expected a whole"),
    (DATA | {"data_options.images": "5"}, "config.data_options.images is 5: expected even"),
    (DATA | {"data_options.images": "65"}, "data_options.images must be a finite number ≥ 2 and ≤"),
    (SMALL | {"stem": "imagenet"}, "config.stem is 'imagenet', but config.model 'house.net:Tiny' "),
    (SMALL | {"parallel": "pmap"}, "'house.net:Tiny' takes no axis_name, over which to normalize"),
    (SMALL | {"batch_norm_group": "4"}, "takes no batch_norm_group: expected None"),
    ({"loss": "bce-un"}, "unknown config.loss 'bce-un'; did you mean 'bce-u'"),
    ({"loss": "house.loss:focla"}, "house.loss has no 'focla'; did you mean 'focal'?"),
    ({"loss": "house.loss:focal", "loss_options.pwoer": "1"}, "did you mean 'loss_options.power'?"),
    (
      {"loss": "house.loss:focal", "margin": "0.5"},
      "config.margin .*house.loss:focal., which has",
    ),
    ({"optimizer.b1": "0.5"}, "config.optimizer.b1 is 0.5, but config.optimizer.name is 'sgd': ex"),
    ({"optimizer.eps": "0"}, "config.optimizer.eps must be a finite number > 0"),
  ],
)
def test_before_data_are_read(place, changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    config_lib.check(chosen(changes))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (SMALL | {"model": "house.net:nothing"}, "'house.net:nothing' made None: expected a flax.lin"),
    (SMALL | {"model": "house.net:Bare"}, r"'house.net:Bare' returns \(2, 1\) for two images: exp"),
    (SMALL | {"model": "house.net:broken"}, "config.model 'house.net:broken': TypeError"),
    (
      SMALL | {"data.name": "house.data:no_dataset"},
      "house.data:no_dataset' is 3: expected a bce",
    ),
    (SMALL | {"data.name": "house.data:floats"}, r"train gives images float32 \(1, 8, 8, 1\): exp"),
    (SMALL | {"data.name": "house.data:more_labels"}, "train has the label 1: expected 0 … 0"),
    (SMALL | {"data.augmentation": "house.augmentation:larger"}, "a training step with .*larger"),
    (SMALL | {"optimizer.schedule": "house.update:fails"}, "NameError: .* .update.py, line 18"),
    (SMALL | {"optimizer.schedule": "house.update:no_schedule"}, "made 0.1: expected a function"),
    (SMALL | {"optimizer.name": "house.update:number"}, "made 3: expected an optax transformation"),
    (SMALL | {"objective.name": "house.method:no_objective"}, "made 'joint': expected an Objecti"),
    (
      SMALL | {"objective.name": "house.method:untraceable", "objective.logged": "a branch"},
      "a training step with .*house.method:untraceable.*TracerBoolConversionError",
    ),
    (
      SMALL | {"objective.name": "house.method:untraceable", "objective.logged": "all"},
      r"logs 'z' as float32 \(8, 2\): expected a number",
    ),
  ],
)
def test_before_anything_is_written(place, changes, message):
  with pytest.raises(ValueError, match=message) as caught:
    experiment.build(chosen(changes))
  assert "\n" not in str(caught.value)


def test_one_line_and_exit_code_2(place, tmp_path, capsys):
  argv = ["--config.model=house.net:Tyni", "--workdir", str(tmp_path / "run")]
  assert cli.main(argv) == 2
  assert capsys.readouterr().err == (
    "bce-train: config.model 'house.net:Tyni': house.net has no 'Tyni'; did you mean 'Tiny'?\n"
  )
  assert not (tmp_path / "run").exists()


def test_another_name_brings_its_own_options(place):
  config = chosen(SMALL | {"model_options.width": "3"})
  assert config.model_options.to_dict() == {"width": 3}
  configs.apply_overrides(config, [("model", "house.net:Tiny")])  # the same again
  assert config.model_options.to_dict() == {"width": 3}
  configs.apply_overrides(config, [("model", "resnet8")])
  assert config.model_options.to_dict() == {}
  again = config_lib.from_dict(chosen(SMALL | {"model_options.width": "3"}).to_dict())
  assert again.model_options.width == 3


def test_help_shows_options_from_outside(place, capsys):
  assert cli.main(["--help-config", *(f"--config.{k}={v}" for k, v in DATA.items())]) == 0
  out = " ".join(capsys.readouterr().out.split())
  assert "Options of config.data.name 'house.data' data_options.images = 16 (a whole nu" in out
  assert "(a whole number ≥ 2 and ≤ 64; changes: data) how many there are" in out


def test_an_optimizer_without_decay_and_options_as_none_are_said(place):
  built = experiment.build(chosen(SMALL | {"optimizer.name": "house.update:plain"}))
  assert any("'house.update:plain' takes no decay" in note for note in built.dataset.notes)
  own = experiment.build(chosen(SMALL))
  assert not any("decay" in note for note in own.dataset.notes)


def test_a_bias_that_is_not_learned_stays_under_another_optimizer(place):
  import jax.numpy as jnp

  config = chosen(SMALL | {"optimizer.name": "house.update:plain"}).optimizer
  params = {
    "backbone": {"w": jnp.ones((2, 2))},
    "head": {"weights": jnp.ones(3), "bias": jnp.ones(())},
  }
  update = optim.create_optimizer(config, lambda step: 0.1, bias_learnable=False)
  moved, _ = update.update(params, update.init(params), params)
  assert float(moved["head"]["bias"]) == 0
  assert float(moved["head"]["weights"][0]) == pytest.approx(-0.1)
