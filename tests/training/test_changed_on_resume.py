"""A run goes on with other records and evaluations, and trains what it would have."""

import json

import pytest

from bce_jax import config as config_lib
from bce_jax.runs import run_config
from bce_jax.training import experiment, loop, preemption


def training_records(folder):
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return {
    line["step"]: {k: v for k, v in line.items() if k != "images_per_second"}
    for line in lines
    if line["split"] == "train"
  }


@pytest.mark.slow
def test_what_changes_no_update_may_change_when_a_run_goes_on(make_tiny, tmp_path, stops_after):
  def changed(config):
    config.log_every_steps, config.eval_every_epochs, config.checkpoint_every_steps = 1, 0.05, 2
    config.eval_flip, config.eval_geometry, config.eval_logit_adjustment = True, False, 1.0
    return config

  whole, parted = tmp_path / "whole", tmp_path / "parted"
  loop.train(experiment.build(changed(make_tiny())), whole)
  first = make_tiny()
  with pytest.raises(preemption.PreemptedError):
    loop.train(experiment.build(first), parted, stops_after(parted, 3))
  after = changed(make_tiny())
  run_config.refuse_other_config(parted, after, except_keys=run_config.may_change(parted))
  results = loop.train(experiment.build(after), parted)
  expected, found = training_records(whole), training_records(parted)
  assert list(found) == [3, 4, 5, 6]
  assert {step: found[step] for step in (4, 5, 6)} == {step: expected[step] for step in (4, 5, 6)}
  assert "flip_uniform_accuracy" in results
  # What has ended is not evaluated again: its results are of what it says.
  with pytest.raises(ValueError, match=r"eval_flip was True and is False"):
    run_config.refuse_other_config(parted, make_tiny(), except_keys=run_config.may_change(parted))
  other = changed(make_tiny())
  other.best_metric = "class_wise_accuracy"
  with pytest.raises(ValueError, match="best_metric was"):
    run_config.refuse_other_config(parted, other, except_keys=config_lib.may_change(on="resume"))
