"""A classifier whose rows are split over devices: the same training, and nothing gathered."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from bce_jax import sharding
from bce_jax.data import loader, sources
from bce_jax.models import resnet
from bce_jax.runs import checkpoint
from bce_jax.training import config, experiment, loop, step

pytestmark = pytest.mark.slow

# Of the code, not of the program: the few steps here run in less time than it takes.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def small(built):
  """As in test_data_parallel: on noise, since digits put many values on a ReLU's kink."""
  backbone = resnet.ResNet(block=resnet.BasicBlock, stage_sizes=(1,), width=8)
  built = built._replace(model=built.model.clone(backbone=backbone))
  train = built.dataset.train
  shape = (len(train), *train.image_shape)
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  train = sources.ArraySource(images, train.labels)
  return built._replace(dataset=built.dataset._replace(train=train))


def compiled_step(built):
  train_step = step.make_train_step(
    built.model, built.objective, built.optimizer, built.preprocess, built.key
  )
  return step.jit_train_step(train_step, built.state_sharding)


def train(config, steps=3):
  built = small(experiment.build(config))
  state = built.state_sharding.put(jax.jit(built.init_state).lower().compile(UNOPTIMIZED)())
  losses, train_step = [], None
  for batch in loader.train_batches(
    built.dataset.train,
    seed=0,
    batch_size=config.batch_size,
    first_step=0,
    last_step=steps,
    partner_exponent=built.objective.partner,
  ):
    batch = sharding.put_batch(batch, built.mesh)
    if train_step is None:
      train_step = compiled_step(built).lower(state, batch).compile(UNOPTIMIZED)
    state, logs = train_step(state, batch)
    losses.append(float(logs["loss"]))
  return built, state, losses


def close(actual, expected):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(np.abs(b).max(), 1e-3))


@pytest.fixture
def wide(tiny):
  """Ten classes: over 4 devices, or 8, the last ones get padding."""
  tiny.optimizer.head_weight_decay = 1e-2
  tiny.optimizer.bias_weight_decay = 1e-2
  return tiny


@pytest.mark.parametrize(
  ("loss", "method", "changes"),
  [
    ("bce-nu", "joint", {}),
    ("bce-nd", "joint", {"class_chunk": 2, "margin": 0.1, "negative_weight": 0.7}),
    ("bce-d", "joint", {"class_chunk": 0, "rebalance.class_weight_beta": 0.99}),
    ("bce-d", "joint", {"class_chunk": 3, "objective.class_share": 0.5, "smoothing": 0.1}),
    ("soft-d", "joint", {"rebalance.logit_adjustment": 1.0}),
    ("bce-d", "tripartite", {"data.imbalance": 20.0, "batch_size": 160}),
  ],
)
def test_any_split_trains_like_one_device(wide, loss, method, changes):
  config.set_objective(wide, method)
  wide.loss = loss
  for key, value in changes.items():
    group, _, name = key.rpartition(".")
    (wide[group] if group else wide)[name] = value
  plain = wide.copy_and_resolve_references()
  plain.class_chunk = None  # the scores of all classes: losses.bce itself
  _, one, losses_one = train(plain)
  numbers = (8,) if wide.class_chunk is None else (1, 4) if wide.class_chunk == 2 else (4,)
  for devices in numbers:
    wide.class_devices = devices
    built, split, losses_split = train(wide)
    np.testing.assert_allclose(losses_split, losses_one, rtol=1e-5)
    rows = split.params["head"]["weights"].sharding.shard_shape(
      split.params["head"]["weights"].shape
    )[0]
    assert rows == -(-10 // devices)
    close(jax.jit(built.state_sharding.unpad)(split), one)


COLLECTIVE = r"= (.*?) (all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\("


@pytest.mark.parametrize("chunk", [None, 0])
@pytest.mark.parametrize("loss", ["bce-nd", "bce-u"])
def test_the_classifier_never_travels(wide, loss, chunk):
  wide.loss = loss
  wide.class_devices = 4
  wide.class_chunk = chunk
  built = experiment.build(wide)
  abstract = jax.eval_shape(built.state_sharding.pad, built.state_sharding.like)
  batch = {
    "images": jax.ShapeDtypeStruct((32, 8, 8, 1), np.uint8),
    "labels": jax.ShapeDtypeStruct((32,), np.int32),
  }
  text = compiled_step(built).lower(abstract, batch).compile().as_text()
  found = re.findall(COLLECTIVE, text)
  assert found
  # All that moves is summed up: losses, statistics, gradients of each device's own rows; but for
  # the log's accuracy, where scores are formed: each device's best score, and whose it is.
  gathered = [shapes for shapes, kind in found if kind != "all-reduce"]
  assert [shapes.split("{")[0] for shapes in gathered] == (
    [] if chunk == 0 else ["f32[16,4]", "s32[16,4]"]
  )
  assert not any(re.search(r"\[(10|12),64\]", shapes) for shapes, _ in found)
  # One array of [batch on the device, features]: the gradient of the features.
  assert sum(shapes.count("f32[16,64]") for shapes, _ in found) == 1


def test_a_chunk_leaves_no_scores_behind(tmp_path, image_folder, wide):
  """[batch, classes] is not in the compiled step, though the head forms scores for others."""
  wide.class_chunk = 3
  wide.loss = "bce-u"
  built = experiment.build(wide)
  batch = {
    "images": jax.ShapeDtypeStruct((32, 8, 8, 1), np.uint8),
    "labels": jax.ShapeDtypeStruct((32,), np.int32),
  }
  dense = wide.copy_and_resolve_references()
  dense.class_chunk = None
  texts = [
    compiled_step(p).lower(p.state_sharding.like, batch).compile().as_text()
    for p in (built, experiment.build(dense))
  ]
  assert "f32[4,10]" not in texts[0]
  assert "f32[4,10]" in texts[1]


@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 4), (1, 8), (8, 1), (8, 2)])
def test_a_checkpoint_holds_one_logical_array(tmp_path, wide, saved_on, restored_on):
  wide.loss = "bce-nd"
  built = experiment.build(wide)

  def parts_on(devices):
    mesh = jax.make_mesh(
      (1, devices),
      ("data", "class"),
      axis_types=(AxisType.Auto,) * 2,
      devices=jax.devices()[:devices],
    )
    return built._replace(mesh=mesh)

  before, after = parts_on(saved_on), parts_on(restored_on)
  state = before.state_sharding.put(jax.jit(before.init_state)())
  store = checkpoint.Checkpoints(tmp_path, best_metric="uniform_accuracy")
  store.save(before.state_sharding.to_save(state), {"seconds": 0.0}, None)
  store.close()
  again = checkpoint.Checkpoints(tmp_path, best_metric="uniform_accuracy", read_only=True)
  restored, _ = again.restore(0, after.state_sharding.to_restore())
  again.close()
  assert restored.params["head"]["weights"].shape == (10, 64)
  placed = after.state_sharding.put(restored)
  assert placed.params["head"]["weights"].shape[0] == -(-10 // restored_on) * restored_on
  for a, b in zip(
    jax.tree.leaves(after.state_sharding.unpad(placed)),
    jax.tree.leaves(before.state_sharding.unpad(state)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_a_split_run_ends_and_is_evaluated(tmp_path, wide):
  wide.loss = "bce-nd"
  wide.class_devices = 4
  wide.class_chunk = 0
  results = loop.train(experiment.build(wide), tmp_path / "split")
  wide.class_devices = 6  # of a machine of 6: here 2 of the 8 share the rows
  wide.batch_size = 12  # which 8 devices can't split, and need not
  again = loop.evaluate_only(experiment.build(wide, evaluate_only=True), tmp_path / "split")
  for name in ("uniform_accuracy", "bias", "bias_min", "threshold", "classifier_separability"):
    assert again[name] == pytest.approx(results[name], rel=1e-4)


@pytest.mark.parametrize("devices", [3, 16])
def test_devices_that_do_not_divide_are_refused(wide, devices):
  wide.class_devices = devices
  with pytest.raises(ValueError, match=rf"class_devices is {devices}.*expected one of 1, 2, 4, 8"):
    experiment.build(wide)
