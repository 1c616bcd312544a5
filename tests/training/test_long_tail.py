"""Long-tailed runs from a config to their end: BCE3S, its second stage, and what they go by."""

import contextlib
import functools
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import config as config_lib
from bce_jax import losses, objectives
from bce_jax.data import loader
from bce_jax.evaluation import evaluate, inference, summary
from bce_jax.runs import checkpoint, run_config
from bce_jax.training import experiment, loop, start

pytestmark = pytest.mark.slow


def three_epochs(config):
  """Three epochs of five steps on long-tailed digits."""
  config_lib.set_objective(config, "tripartite")
  config.loss, config.normalize_weights = "bce-d", True
  config.data.imbalance = 20.0
  config.batch_size = 80
  config.steps = 15
  config.log_every_steps = 4
  config.checkpoint_every_steps = 6
  return config


@pytest.fixture
def tripartite(tiny):
  return three_epochs(tiny)


@pytest.fixture(scope="module")
def stage1_run(make_tiny, tmp_path_factory):
  """A finished run of it, and what it printed."""
  folder = tmp_path_factory.mktemp("long_tail") / "stage1"
  printed = io.StringIO()
  with contextlib.redirect_stderr(printed):
    loop.train(experiment.build(three_epochs(make_tiny())), folder)
  return folder, printed.getvalue()


@pytest.fixture
def stage1(stage1_run):
  """Its folder, to be read."""
  return stage1_run[0]


def second(config, folder, **options):
  config = config.copy_and_resolve_references()
  config_lib.set_objective(config, "balanced")
  config.start_from = str(folder)
  config.optimizer.learning_rate = 0.5
  config.objective.update(options)
  return config


def state_of(folder, config):
  built = experiment.build(config)
  store = checkpoint.Checkpoints(folder, best_metric=config.best_metric, read_only=True)
  return store.restore(store.latest_step(), built.state_sharding.to_restore())[0]


def equal(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in pairs)


def records(folder):
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  lines = [line for line in lines if line["split"] != "session"]
  return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_the_memory_survives_a_kill(tripartite, stage1, tmp_path, monkeypatch):
  train_batches = loader.train_batches

  def killed(*args, first_step, **kwargs):
    for step, batch in enumerate(train_batches(*args, first_step=first_step, **kwargs), first_step):
      if step == 9:  # the newest checkpoint is that of step 6, in the second epoch
        raise KeyboardInterrupt
      yield batch

  folder = tmp_path / "killed"
  monkeypatch.setattr(loader, "train_batches", killed)
  with pytest.raises(KeyboardInterrupt):
    loop.train(experiment.build(tripartite), folder)
  monkeypatch.setattr(loader, "train_batches", train_batches)
  loop.train(experiment.build(tripartite), folder)
  whole, resumed = state_of(stage1, tripartite), state_of(folder, tripartite)
  assert np.any(whole.memory)
  assert equal(whole, resumed)
  assert records(stage1) == records(folder)


def test_every_line_of_the_log_shows_the_cosines(stage1_run):
  folder, printed = stage1_run
  lines = [line for line in printed.splitlines() if "images/s" in line]
  assert len(lines) == 4
  assert all("positive_cosine" in line and "negative_cosine" in line for line in lines)
  train = [line for line in records(folder) if line["split"] == "train"]
  assert all(-1 <= line["negative_cosine"] <= 1 for line in train)


def test_contrast_starts_after_the_first_epoch(tripartite):
  built = experiment.build(tripartite)
  assert built.steps_per_epoch == 5
  state = jax.jit(built.init_state)()
  params = state.params
  key = jax.random.key(0)
  images = jax.random.normal(key, (8, 8, 8, 1))
  labels = jnp.arange(8)
  batch = objectives.Batch(images, labels, images[::-1], labels[::-1])
  views = built.objective.views(key, batch, ())
  variables = {"params": params, "batch_stats": state.batch_stats}
  outputs = jax.jit(functools.partial(built.model.apply, train=False))(variables, views.images)
  memory = jax.random.normal(key, (10, 128))
  loss = jax.jit(built.objective.loss)
  totals = []
  for step in (4, 5):
    total, _, logs = loss(params, outputs, views.targets, memory, step)
    totals.append(float(total))
  weight = tripartite.objective.contrast_weight
  assert totals[1] - totals[0] == pytest.approx(weight * float(logs["sample_sample"]), rel=1e-4)


def test_stage_two_trains_the_classifier_alone(tripartite, stage1, tmp_path):
  config = second(tripartite, stage1)
  results = loop.train(experiment.build(config), tmp_path / "stage2")
  before, after = state_of(stage1, tripartite), state_of(tmp_path / "stage2", config)
  assert equal(before.params["backbone"], after.params["backbone"])
  assert equal(before.batch_stats, after.batch_stats)
  assert not np.array_equal(before.params["head"]["weights"], after.params["head"]["weights"])
  assert not np.array_equal(before.params["head"]["bias"], after.params["head"]["bias"])
  assert set(after.params) == {"backbone", "head"}  # the projector has done its work
  limit = losses.max_norm_limit(before.params["head"]["weights"], fraction=0.1)
  np.testing.assert_array_equal(after.memory, limit)
  norms = np.linalg.norm(after.params["head"]["weights"], axis=1)
  assert norms.max() <= float(limit) * (1 + 1e-6)  # 15 steps: the last one ends an epoch
  assert results["step"] == 15
  # The optimizer keeps nothing of what it does not train.
  sizes = {leaf.shape for leaf in jax.tree.leaves(after.opt_state)}
  assert sizes <= {(), (10,), (10, 64)}


def test_statistics_drift_where_asked(tripartite, stage1, tmp_path):
  config = second(tripartite, stage1, drifting_statistics=True)
  loop.train(experiment.build(config), tmp_path / "stage2")
  before, after = state_of(stage1, tripartite), state_of(tmp_path / "stage2", config)
  assert equal(before.params["backbone"], after.params["backbone"])
  assert not equal(before.batch_stats, after.batch_stats)


def test_stage_two_starts_where_stage_one_ended(tripartite, stage1, tmp_path):
  config = second(tripartite, stage1)
  built = start.with_source(experiment.build(config), tmp_path / "new")
  store = checkpoint.Checkpoints(stage1, best_metric=config.best_metric, read_only=True)
  network = store.network(15, built.state_sharding.abstract)
  state = built.init_state(network)
  first = state_of(stage1, tripartite)
  assert equal(state.params["head"], first.params["head"])
  found = built.evaluator.test_split(state.variables).results
  expected = json.loads((stage1 / "results.json").read_text())
  for name in ("sample_wise_accuracy", "uniform_accuracy", "threshold", "bias_min"):
    assert found[name] == pytest.approx(expected[name], rel=1e-6)


def test_stage_two_goes_on_without_the_folder_it_came_from(tripartite, stage1, tmp_path):
  source = tmp_path / "stage1"
  shutil.copytree(stage1, source)
  config = second(tripartite, source)
  folder = tmp_path / "stage2"
  loop.train(experiment.build(config), folder)
  (folder / "results.json").unlink()
  shutil.rmtree(source)
  loop.train(experiment.build(config), folder)
  assert (folder / "results.json").exists()
  results = loop.evaluate_only(experiment.build(config), folder)
  assert results["step"] == 15


def test_what_cannot_be_started_from_is_refused_and_leaves_nothing(tripartite, stage1, tmp_path):
  other = second(tripartite, stage1)
  other.model = "resnet14"
  message = "has another network: model is 'small_network' there and 'resnet14' here"
  with pytest.raises(ValueError, match=message):
    loop.train(experiment.build(other), tmp_path / "new")
  with pytest.raises(ValueError, match=r"is not a run folder: there is no such folder"):
    loop.train(experiment.build(second(tripartite, tmp_path / "none")), tmp_path / "new")
  best = second(tripartite, stage1)
  best.start_from_checkpoint = "best"
  with pytest.raises(ValueError, match="has no best checkpoint; one is chosen on the validation"):
    loop.train(experiment.build(best), tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_nothing_is_written_before_the_source_was_opened(tripartite, stage1, tmp_path):
  config = second(tripartite, stage1)
  config.start_from_checkpoint = "best"
  folder = tmp_path / "mine"
  folder.mkdir()
  (folder / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="has no best checkpoint"):
    loop.train(experiment.build(config), folder)
  assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_the_best_checkpoint_is_that_of_the_source(tripartite, tmp_path, capfd):
  tripartite.data.validation_fraction = 0.1
  tripartite.best_metric = "sample_wise_accuracy"
  tripartite.eval_every_epochs = 1.0
  loop.train(experiment.build(tripartite), tmp_path / "first")
  (tmp_path / "first" / "results.json").unlink()
  config = second(tripartite, tmp_path / "first")
  config.start_from_checkpoint, config.best_metric = "best", "uniform_accuracy"
  config.steps = 1
  capfd.readouterr()
  loop.train(experiment.build(config), tmp_path / "second")
  err = capfd.readouterr().err
  lines = [line for line in records(tmp_path / "first") if line["split"] == "validation"]
  best = max(lines, key=lambda line: (line["sample_wise_accuracy"], line["step"]))["step"]
  assert f"starts from the network of step {best} of {tmp_path}/first, a run that has not" in err
  config.data.validation_fraction = 0.2
  with pytest.raises(
    ValueError, match=r"was trained with 0.1, so on images that would be held out"
  ):
    loop.train(experiment.build(config), tmp_path / "third")


def test_a_scale_without_effect_is_no_other_network(tripartite, stage1, tmp_path):
  config = second(tripartite, stage1)
  config.scale, config.steps = 5.0, 1
  loop.train(experiment.build(config), tmp_path / "second")


def test_any_method_can_start_from_a_run(tripartite, stage1, tmp_path):
  config = tripartite.copy_and_resolve_references()
  config.start_from = str(stage1)
  built = experiment.build(config)
  loop.train(built, tmp_path / "on")
  assert state_of(tmp_path / "on", config).step == 15


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_the_training_split_becomes_long_tailed(tiny, profile):
  tiny.data.imbalance, tiny.data.imbalance_profile = 10.0, profile
  whole = config_lib.default()
  everything = config_lib.load_dataset(whole).train
  built = experiment.build(tiny)
  counts = built.train_counts
  assert counts[0] / counts[-1] == pytest.approx(10.0, rel=0.1)
  assert (np.diff(counts) <= 0).all()
  for label in range(10):  # the first images of each class, in data order
    mine = built.dataset.train.images(np.flatnonzero(built.dataset.train.labels == label))
    all_of_it = everything.images(np.flatnonzero(everything.labels == label))
    np.testing.assert_array_equal(mine, all_of_it[: len(mine)])
  assert len(built.dataset.test) == 360  # balanced as it was
  tiny.data.imbalance_seed = 1
  others = experiment.build(tiny)
  np.testing.assert_array_equal(others.train_counts, counts)
  assert any(
    not np.array_equal(
      others.dataset.train.images(np.array([k])), built.dataset.train.images(np.array([k]))
    )
    for k in range(20)
  )


def test_long_tailed_folders(tiny, image_folder):
  tiny.data.name, tiny.data.folder = "folder", str(image_folder)
  tiny.data.imbalance = 4.0
  tiny.batch_size = 8
  for in_memory in (True, False):
    tiny.data.in_memory = in_memory
    built = experiment.build(tiny)
    assert built.train_counts.tolist() == [12, 6, 3]
    train = built.dataset.train
    assert train.images(np.arange(len(train))).shape == (21, 8, 8, 3)


def test_figures_by_training_counts_flipped_and_adjusted(tiny, tmp_path):
  tiny.loss = "bce-d"
  tiny.data.imbalance = 20.0
  tiny.eval_flip = True
  tiny.eval_logit_adjustment = 0.5
  tiny.steps = 30
  results = loop.train(experiment.build(tiny), tmp_path / "run")
  built = experiment.build(tiny)
  state = state_of(tmp_path / "run", tiny)
  test, counts = built.dataset.test, built.train_counts
  images = built.preprocess.evaluate(test.images(np.arange(len(test))))

  def z(images):
    outputs = built.model.apply(
      {"params": state.params, "batch_stats": state.batch_stats}, images, train=False
    )
    return np.asarray(outputs.scores.decision, np.float64)

  plain = z(images)
  flipped = (plain + z(images[:, :, ::-1])) / 2
  adjusted = plain - 0.5 * np.log(counts / counts.sum())
  own_counts = counts[test.labels]
  groups = {"many": own_counts > 100, "few": own_counts < 20}
  groups["medium"] = ~groups["many"] & ~groups["few"]
  for prefix, scores in (("", plain), ("flip_", flipped), ("adjusted_", adjusted)):
    right = scores.argmax(1) == test.labels
    assert results[f"{prefix}sample_wise_accuracy"] == pytest.approx(right.mean(), abs=2.5 / 360)
    for name, members in groups.items():
      expected = right[members].mean()
      assert results[f"{prefix}{name}_accuracy"] == pytest.approx(expected, abs=2.5 / 30)
  assert results["flip_uniform_accuracy"] != results["uniform_accuracy"]
  table = summary.table("test", results)
  for words in ("of classes of > 100", "with horizontal flip", "after logit adjustment", "NC1"):
    assert words in table


@pytest.fixture(scope="module")
def plain(make_tiny, tmp_path_factory):
  """Two steps on all digits: config, run folder, results."""
  config, folder = make_tiny(), tmp_path_factory.mktemp("long_tail") / "plain"
  config.steps = 2
  return config, folder, loop.train(experiment.build(config), folder)


def test_an_absent_group_is_absent(plain):
  _, _, results = plain  # 143 images of each digit
  assert results["many_accuracy"] == results["sample_wise_accuracy"]
  assert "few_accuracy" not in results
  assert "medium_accuracy" not in results
  assert "flip_sample_wise_accuracy" not in results


def test_geometry_can_be_left_out(tiny, tmp_path):
  tiny.steps = 1
  tiny.eval_geometry = False
  results = loop.train(experiment.build(tiny), tmp_path / "run")
  assert "compactness" not in results
  assert "nc1" not in results
  assert "uniform_accuracy" in results


def test_geometry_of_the_test_split(plain):
  config, folder, results = plain
  built, state = experiment.build(config), state_of(folder, config)
  test = built.dataset.test
  place = inference.variables_sharding(built.model, test.image_shape, built.mesh)
  eval_step = evaluate.make_eval_step(inference.Network(built.model, built.preprocess, place))
  whole = {"images": test.images(np.arange(len(test))), "labels": test.labels}
  x = np.asarray(eval_step(state.variables, whole).features, np.float64)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  means = np.stack([x[test.labels == k].mean(0) for k in range(10)])
  within = [
    np.mean((x[test.labels == k] @ x[test.labels == k].T)[~np.eye(n, dtype=bool)])
    for k, n in enumerate(np.bincount(test.labels))
  ]
  unit = means / np.linalg.norm(means, axis=1, keepdims=True)
  between = (unit @ unit.T)[~np.eye(10, dtype=bool)].reshape(10, 9).mean(1)
  assert results["compactness"] == pytest.approx(100 * np.mean(within), rel=1e-4)
  assert results["separability"] == pytest.approx(100 * np.mean(1 - between), rel=1e-4)
  assert results["separability_std"] == pytest.approx(100 * np.std(between), rel=1e-3)


def test_other_images_are_evaluated_by_the_counts_of_the_run(tiny, tmp_path, image_folder):
  tiny.data.name, tiny.data.folder = "folder", str(image_folder)
  tiny.data.imbalance = 4.0
  tiny.batch_size = 8
  tiny.steps = 1
  loop.train(experiment.build(tiny), tmp_path / "run")
  other = tmp_path / "other"
  shutil.copytree(image_folder, other)
  for path in other.glob("train/*/*"):
    if path.stem > "01":
      path.unlink()
  tiny.data.folder = str(other)  # 2 images of a class: neither a batch nor an imbalance of 4
  built = experiment.build(tiny, evaluate_only=True)
  assert built.train_counts.tolist() == [2, 2, 2]
  built = start.with_statistics_of(tmp_path / "run", built)
  assert built.train_counts.tolist() == [12, 6, 3]
  assert loop.evaluate_only(built, tmp_path / "run")["images"] == 12


FOURTH = '''
"""A method that the package does not come with: the squared hinge."""

import jax.numpy as jnp

from bce_jax.objectives.objective import Objective, Views

OPTIONS = {"weight": 2.0}
RANGES = {"weight": (0, False, 10)}


def check(config):
  pass


def create(config, problem):
  def views(key, batch, memory):
    return Views(batch.images, batch.labels)

  def loss(params, outputs, labels, memory, step):
    z = outputs.scores.decision
    sign = jnp.where(jnp.arange(z.shape[-1]) == labels[:, None], 1.0, -1.0)
    hinge = jnp.maximum(0.0, 1.0 - sign * z) ** 2
    return config.objective.weight * jnp.mean(jnp.sum(hinge, -1)), memory, {"seen": memory * 0.0}

  return Objective(views=views, loss=loss, memory=lambda params: jnp.float32(7.0))
'''


def test_a_fourth_method_is_one_file_and_a_config(tiny, tmp_path, monkeypatch):
  (tmp_path / "methods").mkdir()
  (tmp_path / "methods" / "hinge.py").write_text(FOURTH)
  monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path / "methods")])
  assert "hinge" in objectives.names()
  config_lib.set_objective(tiny, "hinge")
  tiny.objective.weight = 3.0
  loop.train(experiment.build(tiny), tmp_path / "run")
  again = run_config.config_of(tmp_path / "run")
  assert again.objective.weight == 3.0
  assert state_of(tmp_path / "run", again).memory == 7.0
  assert all("seen" in line for line in records(tmp_path / "run") if line["split"] == "train")
  tiny.objective.weight = 11.0
  with pytest.raises(ValueError, match=r"config.objective.weight must be a finite"):
    config_lib.check(tiny)
