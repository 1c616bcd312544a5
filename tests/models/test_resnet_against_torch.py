"""The residual networks against the same ones written in PyTorch, with the same weights.

Modules on both sides name their layers alike, so the weights are copied by name. One difference is
not an error: PyTorch puts the unbiased batch variance (over n - 1) into its running average, flax
the biased one (over n). The comparison converts between them; the normalization itself uses the
biased variance on both sides.

In float64: in float32, rounding now and then moves a value across the corner of a ReLU, or to
another maximum of the pool, and with it every gradient of the batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax.models import resnet

torch = pytest.importorskip("torch", reason="the PyTorch comparison needs the extra [bench]")

_MOMENTUM = 0.9
_LEAF_NAMES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def _conv(inputs, outputs, size, stride=1):
  return torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class TorchBlock(torch.nn.Module):
  """`sizes` and `channels` of the convolutions; the one at `strided` carries the stride."""

  def __init__(self, inputs, channels, sizes, strided, stride, projection):
    super().__init__()
    self.depth, self.stride, self.channels = len(sizes), stride, channels[-1]
    self.keeps_shape = stride == 1 and inputs == channels[-1]
    self.projection = projection and not self.keeps_shape
    if self.projection:
      self.shortcut_conv = _conv(inputs, channels[-1], 1, stride)
      self.shortcut_norm = torch.nn.BatchNorm2d(channels[-1])
    for k, (width, size) in enumerate(zip(channels, sizes, strict=True), start=1):
      self.add_module(f"conv{k}", _conv(inputs, width, size, stride if k == strided else 1))
      self.add_module(f"norm{k}", torch.nn.BatchNorm2d(width))
      inputs = width

  def forward(self, x):
    y = x
    for k in range(1, self.depth + 1):
      y = getattr(self, f"norm{k}")(getattr(self, f"conv{k}")(y))
      if k < self.depth:
        y = torch.relu(y)
    if self.projection:
      x = self.shortcut_norm(self.shortcut_conv(x))
    elif not self.keeps_shape:
      half = (self.channels - x.shape[1]) // 2
      x = torch.nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0,) * 4 + (half,) * 2)
    return torch.relu(x + y)


def _torch_basic(inputs, width, stride, projection):
  return TorchBlock(inputs, (width,) * 2, (3, 3), 1, stride, projection)


def _torch_bottleneck(inputs, width, stride, projection):
  return TorchBlock(inputs, (width, width, 4 * width), (1, 3, 1), 2, stride, projection)


class TorchNet(torch.nn.Module):
  """A stem, given stages of one block each, and the average over the pixels."""

  def __init__(self, inputs, width, imagenet_stem, blocks=()):
    super().__init__()
    self.stem_conv = _conv(inputs, width, 7, 2) if imagenet_stem else _conv(inputs, width, 3)
    self.stem_norm = torch.nn.BatchNorm2d(width)
    self.pool = torch.nn.MaxPool2d(3, 2, 1) if imagenet_stem else torch.nn.Identity()
    self.blocks = [f"stage{k}_block1" for k in range(1, len(blocks) + 1)]
    for name, block in zip(self.blocks, blocks, strict=True):
      self.add_module(name, block)

  def forward(self, x):
    x = self.pool(torch.relu(self.stem_norm(self.stem_conv(x))))
    for name in self.blocks:
      x = getattr(self, name)(x)
    return x if not self.blocks else x.mean((2, 3))


# name: (our module, which of its outputs, how to build the PyTorch one, shape of the input). The
# sizes are even, where 'SAME' padding with stride 2 would differ from PyTorch's.
_CASES = {
  "basic block, padded shortcut": (
    resnet.BasicBlock(width=8, stride=2, projection=False),
    lambda outputs: outputs,
    lambda: _torch_basic(4, 8, 2, projection=False),
    (3, 8, 6, 4),
  ),
  "basic block, identity shortcut": (
    resnet.BasicBlock(width=4),
    lambda outputs: outputs,
    lambda: _torch_basic(4, 4, 1, projection=True),
    (3, 4, 6, 4),
  ),
  "bottleneck block, projection": (
    resnet.BottleneckBlock(width=3, stride=2),
    lambda outputs: outputs,
    lambda: _torch_bottleneck(4, 3, 2, projection=True),
    (3, 8, 6, 4),
  ),
  "ImageNet stem": (
    resnet.ResNet(resnet.BasicBlock, stage_sizes=(), width=4, imagenet_stem=True),
    lambda outputs: outputs[1]["stem"],
    lambda: TorchNet(3, 4, imagenet_stem=True),
    (2, 16, 12, 3),
  ),
  "ImageNet network": (
    resnet.ResNet(resnet.BottleneckBlock, stage_sizes=(1, 1), width=4, imagenet_stem=True),
    lambda outputs: outputs[0],
    lambda: TorchNet(
      3,
      4,
      imagenet_stem=True,
      blocks=[
        _torch_bottleneck(4, 4, 1, projection=True),
        _torch_bottleneck(16, 8, 2, projection=True),
      ],
    ),
    (3, 32, 24, 3),
  ),
  "CIFAR network": (
    resnet.ResNet(resnet.BasicBlock, stage_sizes=(1, 1), width=4, projection=False),
    lambda outputs: outputs[0],
    lambda: TorchNet(
      1,
      4,
      imagenet_stem=False,
      blocks=[
        _torch_basic(4, 4, 1, projection=False),
        _torch_basic(4, 8, 2, projection=False),
      ],
    ),
    (3, 8, 8, 1),
  ),
}


def _to_torch(array):
  """Images from NHWC to NCHW; kernels are the matter of `_by_torch_name`."""
  array = np.asarray(array)
  return torch.tensor(np.moveaxis(array, -1, 1) if array.ndim == 4 else array)


def _to_numpy(tensor):
  array = tensor.detach().numpy()
  return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def _by_torch_name(tree):
  """A flax tree as {name in PyTorch: array in PyTorch's layout}."""
  named = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    *modules, name = (entry.key for entry in path)
    layout = (3, 2, 0, 1) if name == "kernel" else range(leaf.ndim)
    named[".".join([*modules, _LEAF_NAMES[name]])] = np.transpose(np.asarray(leaf), layout)
  return named


def _random_norms(variables, rng):
  """Fresh norms have scale 1, bias 0, mean 0, var 1: a mixed-up copy of them would go unseen."""

  def draw(path, leaf):
    if path[-1].key == "kernel":
      return leaf
    low, high = (-0.5, 0.5) if path[-1].key in ("bias", "mean") else (0.5, 1.5)
    return jnp.asarray(rng.uniform(low, high, leaf.shape))

  return jax.tree.map_with_path(draw, variables)


def _assert_close(ours, theirs, what):
  assert ours.dtype == theirs.dtype == np.float64
  # Relative to the largest element: a gradient's small elements are sums of large ones.
  np.testing.assert_allclose(
    ours, theirs, rtol=1e-8, atol=1e-10 * max(1.0, np.abs(theirs).max()), err_msg=what
  )


@pytest.fixture(autouse=True)
def _float64():
  # A fresh batch norm has float32 statistics, which flax mixes with float64 activations.
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    yield


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", _CASES)
def test_outputs_gradients_and_statistics(case, train):
  module, select, build_torch, shape = _CASES[case]
  module = module.clone(dtype=jnp.float64, param_dtype=jnp.float64)
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.normal(size=shape))
  variables = _random_norms(module.init(jax.random.key(0), inputs, train=False), rng)
  params, stats = variables["params"], variables["batch_stats"]

  reference = build_torch().double().train(train)
  copied = _by_torch_name(params) | _by_torch_name(stats)
  weights = {name: torch.tensor(array) for name, array in copied.items()}
  state = {k: v for k, v in reference.state_dict().items() if "num_batches" not in k}
  assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in state.items()}
  reference.load_state_dict(weights, strict=False)
  counts = {}  # values per channel that each norm sees
  for name, layer in reference.named_modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
      layer.register_forward_hook(functools.partial(_count, counts, name))
  torch_inputs = _to_torch(inputs).requires_grad_()
  torch_outputs = reference(torch_inputs)
  cotangent = rng.normal(size=_to_numpy(torch_outputs).shape)
  torch_outputs.backward(_to_torch(cotangent))

  def forward(params, inputs):
    outputs, updated = module.apply(
      {"params": params, "batch_stats": stats}, inputs, train=train, mutable=["batch_stats"]
    )
    return select(outputs), updated["batch_stats"]

  outputs, pullback, new_stats = jax.vjp(forward, params, inputs, has_aux=True)
  param_grads, input_grads = pullback(jnp.asarray(cotangent))

  _assert_close(outputs, _to_numpy(torch_outputs), "outputs")
  _assert_close(input_grads, _to_numpy(torch_inputs.grad), "gradient of the inputs")
  param_grads = _by_torch_name(param_grads)
  for name, parameter in reference.named_parameters():
    _assert_close(param_grads[name], parameter.grad.numpy(), f"gradient of {name}")

  old, new = _by_torch_name(stats), _by_torch_name(new_stats)
  for name, buffer in reference.named_buffers():
    layer, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
      continue
    expected = new[name]
    if kind == "running_var" and train:
      n = counts[layer]
      expected = _MOMENTUM * old[name] + (new[name] - _MOMENTUM * old[name]) * n / (n - 1)
    _assert_close(expected, buffer.numpy(), name)
    assert np.any(new[name] != old[name]) == train


def _count(counts, name, module, inputs, outputs):
  counts[name] = outputs.numel() // outputs.shape[1]
