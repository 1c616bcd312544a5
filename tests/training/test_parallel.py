"""Whole runs under pmap and under jit, and on from one to the other, on eight devices."""

import jax
import numpy as np
import pytest

from bce_jax.runs import checkpoint, records, run_config
from bce_jax.sharding import StateSharding, make_mesh
from bce_jax.training import experiment, loop
from bce_jax.training.preemption import PreemptedError

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tiny):
  tiny.steps, tiny.checkpoint_every_steps, tiny.log_every_steps = 4, 2, 2
  tiny.micro_batches = 2
  return tiny


def run(config, workdir, parallel):
  config = config.copy_and_resolve_references()
  config.parallel = parallel
  return loop.train(experiment.build(config), workdir)


def train_records(workdir):
  return [line for line in records.read_metrics(workdir) if line["split"] == "train"]


def assert_close(a, b):
  for x, y in zip(a, b, strict=True):
    assert x["step"] == y["step"]
    for name in ("loss", "accuracy", "bias", "grad_norm"):
      assert x[name] == pytest.approx(y[name], rel=2e-3, abs=1e-4)


def params(workdir):
  with checkpoint.existing(workdir, "latest", "uniform_accuracy") as (checkpoints, step):
    return step, checkpoints.network(step, StateSharding(make_mesh(), None).abstract)[0]


def test_whole_runs_agree_and_go_on_from_one_to_the_other(config, tmp_path, stops_after):
  assert jax.device_count() == 8
  config.batch_size = 32
  expected = run(config, tmp_path / "jit", "jit")
  found = run(config, tmp_path / "pmap", "pmap")
  assert_close(train_records(tmp_path / "pmap"), train_records(tmp_path / "jit"))
  assert found["threshold"] == pytest.approx(expected["threshold"], rel=1e-2)
  for first, then in (("jit", "pmap"), ("pmap", "jit")):
    workdir = tmp_path / f"{first} then {then}"
    config.parallel = first
    with pytest.raises(PreemptedError):
      loop.train(experiment.build(config), workdir, stops_after(workdir, 2))
    config.parallel = then
    run_config.refuse_other_config(workdir, config, except_keys=run_config.may_change(workdir))
    loop.train(experiment.build(config), workdir)
    assert_close(train_records(workdir), train_records(tmp_path / "jit"))
    step, after = params(workdir)
    assert step == 4
    for x, y in zip(
      jax.tree.leaves(after), jax.tree.leaves(params(tmp_path / "jit")[1]), strict=True
    ):
      np.testing.assert_allclose(x, y, atol=2e-3)


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ({"class_devices": 2}, "config.class_devices is 2, but under pmap each device holds the whole"),
    ({"batch_norm_group": 4}, "does not divide the 2 images that go through one device at once"),
  ],
)
def test_what_pmap_can_not_do_is_refused(config, keys, message):
  config.parallel = "pmap"
  for key, value in keys.items():
    config[key] = value
  with pytest.raises(ValueError, match=message):
    experiment.build(config)


def test_a_memory_of_the_whole_batch_is_refused(config):
  from bce_jax import config as config_lib

  config_lib.set_objective(config, "tripartite")
  config.loss, config.parallel = "bce-d", "pmap"
  with pytest.raises(ValueError, match="remembers images of the whole batch, which no device sees"):
    experiment.build(config)
