"""Configs by file and by name, and keys set on the command line."""

import pathlib

import pytest

from bce_jax.cli import configs
from bce_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["digits", "configs/digits.py", str(ROOT / "configs/digits.py")])
def test_configs_are_found_by_name_and_by_file(monkeypatch, name):
  monkeypatch.chdir(ROOT)
  assert configs.load_config(name).model == "resnet8"
  assert configs.load_config(f"{name}:soft-nu").loss == "soft-nu"


def test_overrides_keep_the_type_of_the_key():
  config = config_lib.default()
  for key, text, value in (
    ("epochs", "3", 3.0),
    ("steps", "7", 7),
    ("steps", "none", None),
    ("bias_init", "3", "3"),
    ("bias_learnable", "false", False),
    ("optimizer.clip_norm", "1", 1.0),
    ("data.folder", "a b/1", "a b/1"),
    ("optimizer.learning_rate", "1e-3", 1e-3),
  ):
    configs.override(config, key, text)
    actual = config_lib.flatten(config)[key]
    assert actual == value
    assert type(actual) is type(value)
