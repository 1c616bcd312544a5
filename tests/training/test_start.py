"""Fine-tuning: what a run takes of another one, what starts anew, and what is refused."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from bce_jax.data.sources import ArraySource
from bce_jax.runs import checkpoint, run_config
from bce_jax.sharding import StateSharding, make_mesh
from bce_jax.training import experiment, loop
from bce_jax.training import start as start_lib

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(make_tiny, tmp_path_factory):
  """A run of six steps on ten digits."""
  folder = tmp_path_factory.mktemp("source") / "run"
  loop.train(experiment.build(make_tiny()), folder)
  return folder


def params_of(workdir):
  """The parameters of a run's newest checkpoint, as orbax gives them."""
  with checkpoint.existing(workdir, "latest", "uniform_accuracy") as (checkpoints, step):
    return checkpoints.network(step, StateSharding(make_mesh(), None).abstract)[0]


def five_classes(dataset):
  """Digits 0 … 4 alone."""

  def taken(source):
    rows = np.flatnonzero(source.labels < 5)
    return ArraySource(source.images(rows), source.labels[rows])

  return dataset._replace(
    train=taken(dataset.train), test=taken(dataset.test), class_names=tuple("01234")
  )


def start(config, source, **keys):
  """The config, one step from `source`, at a rate that leaves the backbone all but as it was."""
  config.start_from, config.steps = str(source), 1
  config.optimizer.learning_rate = 1e-9
  for key, value in keys.items():
    config[key] = value
  return config


def equal(a, b):
  return all(
    np.allclose(x, y, atol=1e-6)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize(
  ("keys", "why"),
  [
    ({"loss": "bce-d"}, "loss is 'bce-nu' there and 'bce-d' here"),
    ({"scale": 8.0}, "scale is 16.0 there and 8.0 here"),
    ({"start_from_parts": "backbone"}, "config.start_from_parts is 'backbone'"),
  ],
)
def test_another_head_starts_anew_on_the_backbone(tiny, source, tmp_path, capfd, keys, why):
  loop.train(experiment.build(start(tiny, source, **keys)), tmp_path / "new")
  err = capfd.readouterr().err
  assert f"starts from the backbone of step 6 of {source}; the head starts anew ({why}" in err
  before, after = params_of(source), params_of(tmp_path / "new")
  assert equal(before["backbone"], after["backbone"])
  assert before["head"]["weights"].shape == after["head"]["weights"].shape
  assert not equal(before["head"]["weights"], after["head"]["weights"])


def test_other_classes_take_the_backbone(tiny, source, tmp_path, capfd):
  built = experiment.build(start(tiny, source))
  built = experiment.build(tiny, dataset=five_classes(built.dataset))
  loop.train(built, tmp_path / "new")
  err = capfd.readouterr().err
  assert "the head starts anew (its classes are not the same: 10 there and 5 here)" in err
  after = params_of(tmp_path / "new")
  assert equal(params_of(source)["backbone"], after["backbone"])
  assert after["head"]["weights"].shape[0] == 5
  capfd.readouterr()
  (tmp_path / "new" / "results.json").unlink()
  loop.train(built, tmp_path / "new")  # on again, whatever the source is
  assert "resumed from the checkpoint of step 1" in capfd.readouterr().err


def test_all_of_it_is_taken_where_it_fits_and_is_refused_where_not(tiny, source, tmp_path, capfd):
  loop.train(experiment.build(start(tiny, source, start_from_parts="all")), tmp_path / "same")
  assert f"starts from the network of step 6 of {source}\n" in capfd.readouterr().err
  assert equal(params_of(source), params_of(tmp_path / "same"))
  with pytest.raises(ValueError, match=r"has another head: loss is .* but config.start_from_parts"):
    loop.train(experiment.build(start(tiny, source, loss="bce-d")), tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_a_method_that_goes_on_from_a_head_needs_it(make_tiny, source, tmp_path):
  from bce_jax import config as config_lib

  config = make_tiny()
  config_lib.set_objective(config, "balanced")
  start(config, source, loss="bce-d")
  message = r"has another head: .* but the objective 'balanced' goes on from a trained head"
  with pytest.raises(ValueError, match=message):
    loop.train(experiment.build(config), tmp_path / "new")


def test_other_options_of_a_backbone_make_another_network(make_tiny):
  there, here = make_tiny(), make_tiny()
  there.model_options, here.model_options = ConfigDict({"width": 4}), ConfigDict({"width": 6})
  with pytest.raises(ValueError, match=r"another network: model_options\.width is 4 there and 6"):
    start_lib._refuse_other_backbone(there, here)
  start_lib._refuse_other_backbone(here, here)


def test_more_epochs_of_a_finished_run_say_how(tiny, source):
  tiny.steps = 12
  with pytest.raises(ValueError, match="steps was 6 and is 12") as refused:
    run_config.refuse_other_config(source, tiny, except_keys=run_config.may_change(source))
  assert f"--config.start_from={source} --workdir NEW_FOLDER" in str(refused.value)
  assert "12 steps more are trained" in str(refused.value)
  shorter = {"steps": None, "epochs": 0.5}
  assert not run_config._how_to_train_on(source, shorter | {"epochs": 2.0}, shorter)
  tiny.steps, tiny.seed = 6, 5
  with pytest.raises(ValueError, match="seed was 0 and is 5") as refused:
    run_config.refuse_other_config(source, tiny, except_keys=run_config.may_change(source))
  assert "start_from" not in str(refused.value)
