"""What is wrong with code from outside is told in one line."""

import importlib
import json

import jax
import numpy as np
import pytest

from bce_jax import config as config_lib
from bce_jax import optim
from bce_jax.cli import configs
from bce_jax.cli import train as cli
from bce_jax.data import sources
from bce_jax.training import experiment

DATA = {"data.name": "house.data", "batch_size": "8", "eval_batch_size": "8", "steps": "1"}
FAULTY = DATA | {"data.name": "house.data:faulty", "model": "house.net:Tiny"}
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
    (SMALL | {"model": "house.net:Whole"}, "net:Whole' returns features int32: expected floating"),
    (
      SMALL | {"model": "house.net:Counting"},
      "keeps variables 'counters': expected 'params' and '",
    ),
    (SMALL | {"model": "house.net:leaves"}, "house.net:leaves': SystemExit: 3 .net.py, line"),
    (SMALL | {"model": "house.net:broken"}, "config.model 'house.net:broken': TypeError"),
    (
      SMALL | {"data.name": "house.data:no_dataset"},
      "house.data:no_dataset' is 3: expected a bce",
    ),
    (SMALL | {"data.name": "house.data:floats"}, r"train gives images float32 \(1, 8, 8, 1\): exp"),
    (
      SMALL | {"data.name": "house.data:of_floats"},
      r"house.data:of_floats': images are float32 .* \(data.py, line",
    ),
    (
      SMALL | {"data.name": "house.data:named_twice"},
      r"class_names is \('plain', 'plain'\): expec",
    ),
    (FAULTY | {"data_options.way": "1"}, "house.data:faulty': train: OSError: the disk is gone"),
    (FAULTY | {"data_options.way": "2"}, r"train gives images float64 \(8, 8, 8, 1\): expected ui"),
    (FAULTY | {"data_options.way": "3"}, r"train gives images uint8 \(7, 8, 8, 1\): expected uint"),
    (SMALL | {"data.name": "house.data:more_labels"}, "train has the label 1: expected 0 … 0"),
    (
      SMALL | {"data.augmentation": "house.augmentation:larger"},
      r"config.data.augmentation returned images uint8 \(8, 8, 8, 2\): expected uint8 \(8, 8, 8, ",
    ),
    (
      SMALL | {"data.augmentation": "house.augmentation:floats"},
      r"config.data.augmentation returned images float32 \(8, 8, 8, 1\): expected uint8",
    ),
    (
      SMALL | {"optimizer.schedule": "house.update:several"},
      r"makes of a step float32\[3\]: expec",
    ),
    (
      SMALL | {"objective.name": "house.method:of_two"},
      "a training step with .*method:of_two.* not",
    ),
    (
      SMALL | {"objective.name": "house.method:growing"},
      r"makes of the state's memory .*: expected what it was, 'float32\[3\]'",
    ),
    (
      SMALL | {"objective.name": "house.method:clashing"},
      "it logs 'learning_rate', which every re",
    ),
    (SMALL | {"optimizer.schedule": "house.update:fails"}, "NameError: .* .update.py, line 19"),
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


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"OPTIONS": {"a": {"b": 1}}}, "OPTIONS has 'a' as {'b': 1}: expected a bool, a number, text"),
    ({"OPTIONS": {"a.b": 1}}, "OPTIONS has the key 'a.b': expected another name"),
    ({"OPTIONS": {"items": 1}}, "OPTIONS has the key 'items': expected another name"),
    ({"OPTIONS": {"a": 1}, "RANGES": {"a": (0, 1)}}, r"RANGES has \(0, 1\) for 'a': expected \(lo"),
    (
      {"OPTIONS": {"a": "x"}, "RANGES": {"a": (0, True, 1)}},
      "has 'a', whose default is 'x': no nu",
    ),
    ({"RANGES": ["a"]}, r"RANGES is \['a'\]: expected a dict by the keys of OPTIONS"),
    ({"OPTIONS": {"a": 1}, "MEANINGS": {"a": 3}}, "MEANINGS has 3 for 'a': expected text"),
    ({"check": None}, "its 'check' is None: expected a function of a config"),
  ],
)
def test_names_of_a_module_that_are_of_another_kind(place, monkeypatch, values, message):
  module = importlib.import_module("house.options")
  for name, value in values.items():
    monkeypatch.setattr(module, name, value)
  with pytest.raises(ValueError, match=f"config.data.name 'house.options': .*{message}"):
    sources.module("house.options")


def test_an_option_that_is_a_tuple_is_set_by_a_command_line(place, monkeypatch):
  module = importlib.import_module("house.options")
  monkeypatch.setattr(module, "OPTIONS", {"widths": (3, 4)})
  config = chosen({"data.name": "house.options", "data_options.widths": "5,6"})
  assert config.data_options.widths == (5, 6)
  again = config_lib.from_dict(json.loads(json.dumps(config.to_dict())))
  assert again.data_options.widths == (5, 6)  # of config.json, which knows lists only
  with pytest.raises(ValueError, match=r"widths=5: expected values with commas between them"):
    chosen({"data.name": "house.options", "data_options.widths": "5"})


def test_a_source_of_lists_is_one(place):
  parts = experiment.build(chosen(FAULTY | {"data_options.way": "4"}))
  batch = parts.dataset.train.images(np.arange(3))
  assert batch.dtype == np.uint8
  assert batch.shape == (3, 8, 8, 1)
  assert parts.dataset.class_names == ("plain", "striped")
  assert len(parts.dataset.train.take(np.array([2, 5]))) == 2


@pytest.mark.slow
def test_dropout_of_a_backbone_without_parameters_draws_anew_in_each_step(place):
  parts = experiment.build(chosen(SMALL | {"model": "house.net:Dropping"}))
  state = parts.init_state()
  batch = {"images": np.full((8, 8, 8, 1), 99, np.uint8), "labels": np.zeros(8, np.int32)}
  batch["images"][:, ::2] = 3
  step = jax.jit(parts.train_step())
  first, logs = step(state, batch)
  assert step(state, batch)[1]["loss"] == logs["loss"]
  assert step(state.replace(step=state.step + 1), batch)[1]["loss"] != logs["loss"]
  assert first.params["backbone"] == {}
  assert parts.evaluator.monitor(first.variables)["images"] == 16


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
