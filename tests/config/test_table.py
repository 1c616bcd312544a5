"""One table of keys, from which the defaults, the checks, what may change and the help follow."""

import pytest

from bce_jax import config as config_lib
from bce_jax import objectives
from bce_jax.cli import train as cli
from bce_jax.config import help, key
from bce_jax.report import settings
from bce_jax.training import config as public

# What might change before there was a table, by hand: none of it was lost.
EVALUATED = [
  "metrics",
  "parallel",
  "report",
  "class_devices",
  "eval_batch_size",
  "eval_flip",
  "eval_geometry",
  "eval_logit_adjustment",
  "data.folder",
  "data.workers",
  "data.in_memory",
  "data.layout",
  "data.full_scale",
  "data.skip_damaged",
  "verification.folder",
  "verification.pairs",
  "verification.flip",
]
RESUMED = [
  "parallel",
  "report",
  "class_devices",
  "eval_batch_size",
  "data.folder",
  "data.workers",
  "data.in_memory",
  "data.skip_damaged",
  "verification.folder",
  "verification.pairs",
]
RECORDS = ["log_every_steps", "eval_every_epochs", "checkpoint_every_steps", "writers"]
EVALUATION = [
  "metrics",
  "eval_flip",
  "eval_geometry",
  "eval_logit_adjustment",
  "verification.flip",
]


def test_every_key_has_one_row_with_a_line_and_a_default_that_is_allowed():
  flat = config_lib.flatten(config_lib.default())
  options = {f"objective.{name}" for name in ("name", *objectives.module("joint").OPTIONS)}
  assert set(flat) == options | set(config_lib.KEYS)
  for name, row in config_lib.KEYS.items():
    assert 3 < len(row.meaning) < 95, name
    assert "\n" not in row.meaning
    assert (row.kind is None) == (row.default is not None), name
    assert flat[name] == row.default
  config_lib.check(config_lib.default())


def test_what_may_change():
  def allowed(on):
    return sorted(config_lib.may_change(on=on))

  assert allowed("finished") == sorted(RESUMED)
  assert allowed("resume") == sorted([*RESUMED, *RECORDS, *EVALUATION])
  assert allowed("evaluate") == sorted([*EVALUATED, *RECORDS])
  assert allowed("comparison") == sorted(
    ["report", "parallel", "class_devices", "eval_batch_size", "data.workers", "data.in_memory"]
  )
  assert set(settings.NEUTRAL) == {*allowed("comparison"), "data.folder"}
  assert "best_metric" not in {name for on in key.OCCASIONS for name in allowed(on)}
  assert set(config_lib.PATHS) == {
    *("start_from", "data.folder", "verification.folder", "verification.pairs")
  }


def test_users_config_files_find_all_of_it_where_it_was():
  assert public.default is config_lib.default
  assert {name for name in config_lib.__all__ if not hasattr(public, name)} == {
    *("build_backbone", "build_model", "load_dataset")
  }


@pytest.mark.parametrize("method", objectives.names())
def test_help_tells_all_of_every_key(method):
  config = config_lib.default(method)
  text = "\n".join(help.lines(config, 1000))
  for name, value in config_lib.flatten(config).items():
    shown = "''" if value == "" else str(value)
    shown = shown.lower() if value is None or isinstance(value, bool) else shown
    assert f"  {name} = {shown}  (" in text
  module = objectives.module(method)
  for meaning in (*module.MEANINGS.values(), *(row.meaning for row in config_lib.KEYS.values())):
    assert f"      {meaning}\n" in f"{text}\n"
  assert set(module.MEANINGS) == set(module.OPTIONS)


def test_help_of_a_config(capsys):
  argv = ["--help-config", "--config", "digits:soft-u", "--config.objective.name=tripartite"]
  assert cli.main([*argv, "--config.steps=7"]) == 0
  lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  text = " ".join(lines)
  assert "model = resnet8 (one of resnet8, resnet14," in text
  assert "default resnet20; changes: network)" in text
  assert "steps = 7 (a whole number ≥ 1, or none, default none; changes: updates)" in text
  assert "optimizer.momentum = 0.9 (a number ≥ 0 and < 1; changes: updates)" in text
  assert (
    "objective.temperature = 1.0 (a number > 0; changes: updates) τ, temperature of the contrast"
    in text
  )
  assert max(map(len, lines)) <= 80
  assert cli.main(["--help-config"]) == 0
  assert "objective.temperature" not in capsys.readouterr().out
