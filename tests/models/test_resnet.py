import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from bce_jax import models
from bce_jax.models import resnet

# Backbone and linear classifier with bias, as published (torchvision; akamaster's CIFAR nets).
_CIFAR_COUNTS = {
  "resnet20": 269_722,
  "resnet32": 464_154,
  "resnet44": 658_586,
  "resnet56": 853_018,
  "resnet110": 1_727_962,
}
_IMAGENET_COUNTS = {
  "resnet18": 11_689_512,
  "resnet34": 21_797_672,
  "resnet50": 25_557_032,
  "resnet101": 44_549_160,
  "resnet152": 60_192_808,
}
_CIFAR_STEM_COUNTS = {"resnet18": 11_173_962, "resnet50": 23_520_842}


def _shapes(model, image_shape):
  """((features, intermediates), variables) of a call, without computing anything."""
  images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
  return jax.eval_shape(
    lambda key, x: model.init_with_output(key, x, train=False), jax.random.key(0), images
  )


def _small(**options):
  options = {"block": resnet.BasicBlock, "stage_sizes": (1, 1), "width": 8} | options
  return resnet.ResNet(**options)


def _images(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _init(model, images):
  """Variables; compiled at once, in place of each operation by itself."""
  return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images)


def _apply(model, variables, images, **options):
  return jax.jit(lambda variables, x: model.apply(variables, x, **options))(variables, images)


def _drawn(model, images, *, norms=False):
  """Variables, no initializer compiled: kernels by numpy, and a fresh norm's ones and zeros.

  norms: positive values everywhere in place of these ones and zeros.
  """
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      return rng.normal(0, math.prod(leaf.shape[:3]) ** -0.5, leaf.shape).astype(np.float32)
    if norms:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

  return jax.tree.map_with_path(draw, _shapes(model, images.shape)[1])


class TestParameterCounts:
  @pytest.mark.parametrize(
    ("name", "stem", "num_classes", "expected"),
    [(name, None, 10, count) for name, count in _CIFAR_COUNTS.items()]
    + [(name, "imagenet", 1000, count) for name, count in _IMAGENET_COUNTS.items()]
    + [(name, "cifar", 10, count) for name, count in _CIFAR_STEM_COUNTS.items()],
  )
  def test_equal_the_published_ones(self, name, stem, num_classes, expected):
    (features, _), variables = _shapes(models.create(name, stem=stem), (1, 32, 32, 3))
    backbone = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    classifier = features.shape[-1] * num_classes + num_classes
    assert backbone + classifier == expected

  @pytest.mark.parametrize("name", ["resnet8", "resnet14", "resnet20"])
  def test_cifar_depth_counts_the_convolutions_and_the_classifier(self, name):
    _, variables = _shapes(models.create(name), (1, 8, 8, 1))
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) == 4]
    assert len(kernels) + 1 == int(name.removeprefix("resnet"))


class TestShapes:
  @pytest.mark.parametrize("image", [(8, 8, 1), (9, 12, 3), (32, 32, 3)])
  @pytest.mark.parametrize("name", ["resnet8", "resnet20"])
  def test_cifar_family(self, name, image):
    height, width, _ = image
    (features, intermediates), _ = _shapes(models.create(name), (2, *image))
    assert features.shape == (2, 64)
    assert {key: value.shape for key, value in intermediates.items()} == {
      "stem": (2, height, width, 16),
      "stage1": (2, height, width, 16),
      "stage2": (2, math.ceil(height / 2), math.ceil(width / 2), 32),
      "stage3": (2, math.ceil(height / 4), math.ceil(width / 4), 64),
      "features": (2, 64),
    }

  @pytest.mark.parametrize(
    ("name", "expansion", "stem", "size", "stem_size"),
    [
      ("resnet18", 1, None, 224, 56),
      ("resnet18", 1, "imagenet", 8, 2),
      ("resnet18", 1, "cifar", 32, 32),
      ("resnet50", 4, "imagenet", 32, 8),
      ("resnet50", 4, "cifar", 8, 8),
    ],
  )
  def test_imagenet_family(self, name, expansion, stem, size, stem_size):
    (features, intermediates), _ = _shapes(models.create(name, stem=stem), (2, size, size, 3))
    sizes = [math.ceil(stem_size / 2**k) for k in range(4)]
    assert features.shape == (2, 512 * expansion)
    assert {key: value.shape for key, value in intermediates.items()} == {
      "stem": (2, stem_size, stem_size, 64),
      "stage1": (2, sizes[0], sizes[0], 64 * expansion),
      "stage2": (2, sizes[1], sizes[1], 128 * expansion),
      "stage3": (2, sizes[2], sizes[2], 256 * expansion),
      "stage4": (2, sizes[3], sizes[3], 512 * expansion),
      "features": (2, 512 * expansion),
    }

  def test_every_name_can_be_created(self):
    assert (*("resnet8", "resnet14"), *_CIFAR_COUNTS, *_IMAGENET_COUNTS) == resnet.NAMES
    assert models.names()[: len(resnet.NAMES)] == resnet.NAMES
    assert all(isinstance(models.create(name), nn.Module) for name in models.names())

  def test_parameters_have_readable_names(self):
    _, variables = _shapes(_small(), (1, 8, 8, 3))
    params = variables["params"]
    assert set(params) == {"stem_conv", "stem_norm", "stage1_block1", "stage2_block1"}
    assert set(params["stage1_block1"]) == {"conv1", "norm1", "conv2", "norm2"}
    assert set(params["stage2_block1"]) == set(params["stage1_block1"]) | {
      "shortcut_conv",
      "shortcut_norm",
    }

  def test_features_are_the_average_of_the_last_stage(self):
    model, images = _small(), _images((2, 8, 8, 3))
    features, intermediates = _apply(model, _drawn(model, images), images, train=False)
    np.testing.assert_array_equal(features, intermediates["features"])
    np.testing.assert_allclose(
      features, np.mean(intermediates["stage2"], axis=(1, 2)), rtol=1e-6, atol=1e-6
    )


class TestLayers:
  def test_imagenet_stem_pads_both_sides_alike(self):
    # An even size: 'SAME' padding would have the same shape here and other values.
    images = _images((2, 16, 12, 3))
    model = _small(stage_sizes=(), imagenet_stem=True)
    variables = _drawn(model, images)
    _, intermediates = _apply(model, variables, images, train=False)

    kernel = np.asarray(variables["params"]["stem_conv"]["kernel"])
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (1, 2))[:, ::2, ::2]
    outputs = np.einsum("bhwcij,ijco->bhwo", windows, kernel) / np.sqrt(1 + 1e-5)
    padded = np.pad(outputs, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    expected = np.maximum(windows.max((-2, -1)), 0)
    np.testing.assert_allclose(intermediates["stem"], expected, rtol=1e-4, atol=1e-5)

  @pytest.mark.parametrize(
    ("block", "sizes"), [(resnet.BasicBlock, [4, 4]), (resnet.BottleneckBlock, [8, 4, 4])]
  )
  def test_the_first_3x3_convolution_carries_the_stride(self, block, sizes):
    module = block(width=4, stride=2)
    _, captured = jax.eval_shape(
      lambda key, x: module.init_with_output(key, x, train=False, capture_intermediates=True),
      jax.random.key(0),
      jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
    )
    layers = captured["intermediates"]
    convs = [layers[f"conv{k}"]["__call__"][0] for k in range(1, len(sizes) + 1)]
    assert [outputs.shape[1:3] for outputs in convs] == [(size, size) for size in sizes]


class TestDtypes:
  @pytest.fixture(autouse=True)
  def _standard_promotion(self):
    # flax' BatchNorm itself mixes bfloat16 activations with float32 statistics.
    with jax.numpy_dtype_promotion("standard"):
      yield

  @pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.BottleneckBlock])
  def test_bfloat16_keeps_parameters_statistics_and_features_in_float32(self, block):
    (features, intermediates), variables = _shapes(
      _small(block=block, dtype=jnp.bfloat16), (2, 8, 8, 3)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert features.dtype == intermediates["features"].dtype == jnp.float32
    assert {intermediates[key].dtype for key in ("stem", "stage1", "stage2")} == {
      jnp.dtype(jnp.bfloat16)
    }

  def test_param_dtype_does_not_reach_the_batch_statistics(self):
    (features, _), variables = _shapes(_small(param_dtype=jnp.bfloat16), (2, 8, 8, 3))
    params, stats = variables["params"], variables["batch_stats"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype(jnp.float32)}
    assert features.dtype == jnp.float32

  def test_create_passes_the_dtypes_on(self):
    model = models.create("resnet8", dtype=jnp.bfloat16, param_dtype=jnp.float16)
    (_, intermediates), variables = _shapes(model, (2, 8, 8, 3))
    assert intermediates["stage3"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype(jnp.float16)}

  def test_bfloat16_features_are_averaged_in_float32(self):
    # bfloat16 has 8 bits: a sum of 1024 terms in it, or its rounding alone, is off by 1e-3.
    model = _small(stage_sizes=(), dtype=jnp.bfloat16)
    images = _images((2, 32, 32, 3))
    features, intermediates = _apply(model, _drawn(model, images), images, train=False)
    exact = np.mean(np.asarray(intermediates["stem"], np.float64), axis=(1, 2))
    np.testing.assert_allclose(features, exact, rtol=1e-5)


class TestInitialization:
  def test_convolutions_are_kaiming_normal_over_the_fan_out(self):
    variables = _init(resnet.BasicBlock(width=64, stride=2), np.zeros((1, 4, 4, 32), np.float32))
    for name, fan_out in [("conv1", 9 * 64), ("conv2", 9 * 64), ("shortcut_conv", 64)]:
      kernel = np.asarray(variables["params"][name]["kernel"])
      expected = math.sqrt(2 / fan_out)
      assert np.std(kernel) == pytest.approx(expected, rel=5 / math.sqrt(2 * kernel.size))
      # A normal that is cut off at two deviations has none beyond 2.3 of the corrected ones.
      assert np.abs(kernel).max() > 2.5 * expected

  @pytest.mark.parametrize("train", [False, True])
  @pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.BottleneckBlock])
  def test_zero_init_makes_a_block_with_identity_shortcut_the_identity(self, block, train):
    inputs = np.abs(_images((2, 4, 4, 4 * block.expansion)))
    module = block(width=4, zero_init_last_norm=True)
    variables = _init(module, inputs)
    outputs, _ = _apply(module, variables, inputs, train=train, mutable=["batch_stats"])
    np.testing.assert_array_equal(outputs, inputs)

    module = block(width=4)
    variables = _init(module, inputs)
    outputs, _ = _apply(module, variables, inputs, train=train, mutable=["batch_stats"])
    assert np.abs(outputs - inputs).max() > 0.1

  @pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.BottleneckBlock])
  def test_zero_init_leaves_a_projection_shortcut_alone(self, block):
    inputs = _images((2, 4, 4, 4))
    module = block(width=4, stride=2, zero_init_last_norm=True)
    variables = _init(module, inputs)
    outputs = _apply(module, variables, inputs, train=False)
    kernel = variables["params"]["shortcut_conv"]["kernel"][0, 0]
    shortcut = inputs[:, ::2, ::2] @ kernel / jnp.sqrt(1.0 + 1e-5)
    np.testing.assert_allclose(outputs, nn.relu(shortcut), rtol=1e-5, atol=1e-6)
    assert np.max(outputs) > 0.1

  def test_zero_init_makes_a_cifar_network_its_subsampled_stem(self):
    images = _images((2, 8, 8, 1))
    model = models.create("resnet14", zero_init_last_norm=True)
    variables = _init(model, images)
    features, intermediates = _apply(model, variables, images, train=False)
    # 16 channels among 64: 8 zeros on each side in stage 2, 16 more on each side in stage 3.
    expected = np.zeros((2, 64))
    expected[:, 24:40] = np.mean(intermediates["stem"][:, ::4, ::4], axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-6)

  @pytest.mark.parametrize(
    ("block", "last"), [(resnet.BasicBlock, "norm2"), (resnet.BottleneckBlock, "norm3")]
  )
  def test_zero_init_concerns_the_last_norm_of_each_block_only(self, block, last):
    model = _small(block=block, zero_init_last_norm=True)
    params = _init(model, np.zeros((1, 8, 8, 3), np.float32))["params"]
    scales = {
      (name, layer): float(weights["scale"].max())
      for name, layers in params.items()
      for layer, weights in layers.items()
      if layer.startswith(("norm", "shortcut_norm"))
    }
    assert len(scales) >= 5
    assert scales == {key: 0.0 if key[1] == last else 1.0 for key in scales}
    assert float(params["stem_norm"]["scale"].max()) == 1.0

  @pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50"])
  def test_zero_init_is_off_unless_asked_for(self, name):
    assert not models.create(name).zero_init_last_norm
    assert models.create(name, zero_init_last_norm=True).zero_init_last_norm


class TestPadShortcut:
  def test_subsamples_and_pads_evenly(self):
    inputs = _images((2, 5, 4, 3))
    outputs = np.asarray(resnet.pad_shortcut(inputs, channels=8, stride=2))
    assert outputs.shape == (2, 3, 2, 8)
    np.testing.assert_array_equal(outputs[..., 2:5], inputs[:, ::2, ::2])
    np.testing.assert_array_equal(outputs[..., [0, 1, 5, 6, 7]], 0.0)

  def test_refuses_to_drop_channels(self):
    with pytest.raises(ValueError, match=r"channels=2, expected at least the 3"):
      resnet.pad_shortcut(jnp.zeros((1, 4, 4, 3)), channels=2, stride=1)


class TestBatchStatistics:
  def test_training_moves_them_by_a_tenth_of_the_way(self):
    images = 2.0 + _images((4, 8, 8, 3))
    model = _small()
    variables = _drawn(model, images, norms=True)
    _, updated = _apply(model, variables, images, train=True, mutable=["batch_stats"])
    old, new = variables["batch_stats"]["stem_norm"], updated["batch_stats"]["stem_norm"]

    kernel = variables["params"]["stem_conv"]["kernel"]
    activations = np.asarray(
      jax.lax.conv_general_dilated(
        images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
      ),
      np.float64,
    )
    for name, batch in [("mean", activations.mean((0, 1, 2))), ("var", activations.var((0, 1, 2)))]:
      np.testing.assert_allclose(new[name], 0.9 * np.asarray(old[name]) + 0.1 * batch, rtol=1e-4)

  def test_training_moves_those_of_every_norm(self):
    images = _images((4, 8, 8, 3))
    model = _small(block=resnet.BottleneckBlock)
    variables = _drawn(model, images)
    _, updated = _apply(model, variables, images, train=True, mutable=["batch_stats"])
    moved = jax.tree.map(
      lambda a, b: bool(np.any(a != b)), variables["batch_stats"], updated["batch_stats"]
    )
    assert jax.tree.all(moved)

  def test_evaluation_neither_moves_them_nor_mixes_images(self):
    images = _images((4, 8, 8, 3))
    model = _small()
    variables = _drawn(model, images, norms=True)
    (together, _), updated = _apply(model, variables, images, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    others = np.concatenate([images[:1], np.full_like(images[1:], 100.0)])
    beside_others, _ = _apply(model, variables, others, train=False)
    np.testing.assert_allclose(together[0], beside_others[0], rtol=1e-5, atol=1e-6)

  def test_training_does_mix_images(self):
    images = _images((4, 8, 8, 3))
    model = _small()
    variables = _drawn(model, images)

    others = np.concatenate([images[:1], np.full_like(images[1:], 100.0)])
    (alone, _), _ = _apply(model, variables, images, train=True, mutable=["batch_stats"])
    (beside, _), _ = _apply(model, variables, others, train=True, mutable=["batch_stats"])
    assert np.abs(alone[0] - beside[0]).max() > 0.1

  def test_training_without_mutable_statistics_is_an_error(self):
    images = _images((2, 8, 8, 3))
    model = _small(stage_sizes=())
    variables = _drawn(model, images)
    with pytest.raises(Exception, match="batch_stats"):
      _apply(model, variables, images, train=True)


class TestErrors:
  @pytest.fixture(autouse=True)
  def _no_type_checks(self, monkeypatch):
    # Where the suite runs under jaxtyping's hook, that would refuse the images before the model.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

  @pytest.mark.parametrize(
    ("name", "nearest"),
    [("restnet20", "resnet20"), ("ResNet-50", "resnet50"), ("resnet1001", "resnet101")],
  )
  def test_unknown_name_gets_the_nearest_and_all(self, name, nearest):
    with pytest.raises(ValueError, match=f"unknown model '{name}': did you mean") as error:
      models.create(name)
    assert f"did you mean '{nearest}'?" in str(error.value)
    assert ", ".join(models.names()) in str(error.value)

  @pytest.mark.parametrize("name", ["resnet20", "resnet18"])
  def test_unknown_stem_gets_the_nearest_and_all(self, name):
    with pytest.raises(
      ValueError, match=r"unknown stem 'cifar10': did you mean 'cifar'.*imagenet, cifar"
    ):
      models.create(name, stem="cifar10")

  def test_imagenet_stem_is_refused_for_a_cifar_model(self):
    with pytest.raises(ValueError, match=r"stem='imagenet' does not fit 'resnet20'.*resnet18"):
      models.create("resnet20", stem="imagenet")

  def test_cifar_stem_may_be_named_for_a_cifar_model(self):
    assert models.create("resnet20", stem="cifar") == models.create("resnet20")

  def test_images_without_batch_axis_are_refused(self):
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\), expected four axes"):
      _small().init(jax.random.key(0), jnp.zeros((8, 8, 3)), train=False)

  def test_images_of_integers_are_refused(self):
    with pytest.raises(ValueError, match="dtype uint8, expected a floating-point"):
      _small().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8), train=False)
