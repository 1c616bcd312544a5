import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from bce_jax import models
from bce_jax.models import iresnet

# Of 112x112x3 images. InsightFace's arcface_torch counts the fixed scale of the last norm among the
# parameters, 512 numbers that do not exist here.
_COUNTS = {
  "iresnet18": 24_025_600,
  "iresnet34": 34_139_328,
  "iresnet50": 43_590_848,
  "iresnet100": 65_156_160,
}
_STAGES = {
  "iresnet18": (2, 2, 2, 2),
  "iresnet34": (3, 4, 6, 3),
  "iresnet50": (3, 4, 14, 3),
  "iresnet100": (3, 13, 30, 3),
}


def _shapes(model, image_shape):
  """((features, intermediates), variables) of a call, without computing anything."""
  images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  return jax.eval_shape(
    lambda key, x: model.init_with_output(key, x, train=False), jax.random.key(0), images
  )


def _small(**options):
  return iresnet.IResNet(**({"stage_sizes": (1, 1), "width": 4, "dim": 6} | options))


def _by_hand(stages, channels=3, side=112):
  """The number of parameters, counted layer by layer from the description."""
  norm, prelu = lambda c: 2 * c, lambda c: c
  total, inputs = 9 * channels * 64 + norm(64) + prelu(64), 64
  for stage, blocks in enumerate(stages):
    width, side = 64 * 2**stage, math.ceil(side / 2)
    for block in range(blocks):
      total += norm(inputs) + 9 * inputs * width + norm(width) + prelu(width)
      total += 9 * width * width + norm(width)
      total += inputs * width + norm(width) if block == 0 else 0
      inputs = width
  return total + norm(512) + side**2 * 512 * 512 + 512 + norm(512)


class TestShapes:
  @pytest.mark.parametrize("name", _COUNTS)
  def test_parameter_counts(self, name):
    (features, _), variables = _shapes(models.create(name), (1, 112, 112, 3))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert features.shape == (1, 512)
    assert count + 512 == _COUNTS[name] == _by_hand(_STAGES[name])

  @pytest.mark.parametrize(("height", "width"), [(112, 112), (16, 16), (17, 40)])
  def test_every_stage_halves_the_resolution(self, height, width):
    (_, intermediates), variables = _shapes(
      models.create("iresnet18", stem="cifar"), (2, height, width, 1)
    )
    sizes = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(5)]
    assert {key: value.shape for key, value in intermediates.items()} == {
      "stem": (2, *sizes[0], 64),
      "stage1": (2, *sizes[1], 64),
      "stage2": (2, *sizes[2], 128),
      "stage3": (2, *sizes[3], 256),
      "stage4": (2, *sizes[4], 512),
      "features": (2, 512),
    }
    assert variables["params"]["linear"]["kernel"].shape == (math.prod(sizes[4]) * 512, 512)

  def test_parameters_have_readable_names(self):
    params = _shapes(_small(stage_sizes=(2,)), (1, 16, 16, 3))[1]["params"]
    assert set(params) == {
      *("stem_conv", "stem_norm", "stem_prelu", "stage1_block1", "stage1_block2"),
      *("norm", "linear", "features_norm"),
    }
    assert set(params["stage1_block2"]) == {"norm1", "conv1", "norm2", "prelu", "conv2", "norm3"}
    assert set(params["stage1_block1"]) == set(params["stage1_block2"]) | {
      "shortcut_conv",
      "shortcut_norm",
    }
    assert set(params["features_norm"]) == {"bias"}


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
  # flax' BatchNorm itself mixes bfloat16 activations with float32 statistics.
  with jax.numpy_dtype_promotion("standard"):
    (features, intermediates), variables = _shapes(_small(dtype=jnp.bfloat16), (2, 16, 16, 3))
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  assert features.dtype == intermediates["features"].dtype == jnp.float32
  assert {intermediates[key].dtype for key in ("stem", "stage1", "stage2")} == {
    jnp.dtype(jnp.bfloat16)
  }


@pytest.mark.parametrize("group", [None, 4])
def test_features_of_a_training_batch_are_normalized(group):
  images = jax.random.normal(jax.random.key(0), (8, 16, 16, 1))
  model = _small(stage_sizes=(1,), batch_norm_group=group)
  variables = jax.jit(lambda x: model.init(jax.random.key(1), x, train=False))(images)
  (features, _), updated = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
  )(variables, images)
  assert set(variables["params"]["features_norm"]) == {"bias"}  # the scale is fixed
  groups = np.asarray(features).reshape(-1, group or 8, 6)
  np.testing.assert_allclose(groups.mean(1), 0.0, atol=1e-5)
  np.testing.assert_allclose(groups.std(1), 1.0, atol=1e-2)
  moved = jax.tree.map(
    lambda a, b: bool(np.any(a != b)), variables["batch_stats"], updated["batch_stats"]
  )
  assert jax.tree.all(moved)


@pytest.mark.parametrize("zero", [False, True])
def test_zero_init_makes_a_block_with_identity_shortcut_the_identity(zero):
  inputs = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))  # negative too: no ReLU at the end
  block = iresnet.FaceBlock(width=4, zero_init_last_norm=zero)
  variables = block.init(jax.random.key(1), inputs, train=False)
  assert bool(jnp.all(block.apply(variables, inputs, train=False) == inputs)) == zero
  assert models.create("iresnet18", zero_init_last_norm=zero).zero_init_last_norm == zero


def test_initialization():
  block = iresnet.FaceBlock(width=32, stride=2)
  params = block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 32)), train=False)["params"]
  for name in ("conv1", "conv2", "shortcut_conv"):
    kernel = np.asarray(params[name]["kernel"])
    assert np.std(kernel) == pytest.approx(0.1, rel=5 / math.sqrt(2 * kernel.size))
  np.testing.assert_array_equal(params["prelu"]["slope"], np.full(32, 0.25))
  kernel = iresnet._linear_init(jax.random.key(0), (100, 50))
  assert 0.099 < float(jnp.abs(kernel).max()) <= 0.1
  assert float(jnp.std(kernel)) == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


class TestErrors:
  @pytest.fixture(autouse=True)
  def _no_type_checks(self, monkeypatch):
    # Where the suite runs under jaxtyping's hook, that would refuse the images before the model.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

  def test_unknown_name_gets_the_nearest(self):
    with pytest.raises(ValueError, match=r"unknown model 'ir-100': did you mean 'iresnet100'"):
      models.create("ir-100")

  def test_imagenet_stem_is_refused(self):
    with pytest.raises(ValueError, match=r"stem='imagenet' does not fit 'iresnet50'.*expected"):
      models.create("iresnet50", stem="imagenet")

  def test_small_images_are_refused(self):
    with pytest.raises(ValueError, match=r"images are 15x32 pixels, expected at least 16x16"):
      _shapes(_small(), (1, 15, 32, 3))

  def test_images_without_batch_axis_are_refused(self):
    with pytest.raises(ValueError, match=r"shape \(16, 16, 3\), expected four axes"):
      _small().init(jax.random.key(0), jnp.zeros((16, 16, 3)), train=False)
