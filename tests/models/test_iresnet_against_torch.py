"""The face networks against the same one written in PyTorch, with the same weights, in float64.

Layers have the same names on both sides, and the weights are copied by name. PyTorch's linear layer
reads the pixels channel by channel, ours pixel by pixel: its kernel is reordered. The running
variances are left out: PyTorch's are unbiased, which `test_resnet_against_torch` converts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax.models import iresnet

torch = pytest.importorskip("torch", reason="the PyTorch comparison needs the extra [bench]")

_WIDTH, _DIM, _CHANNELS, _SIZE = 4, 6, 3, (18, 21)  # two stages leave 5x6 pixels of 8 channels
_LEFT = (8, 5, 6)
_LEAF_NAMES = {
  "kernel": "weight",
  "scale": "weight",
  "slope": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def _conv(inputs, outputs, size, stride=1):
  return torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class TorchBlock(torch.nn.Module):
  def __init__(self, inputs, width, stride):
    super().__init__()
    self.norm1 = torch.nn.BatchNorm2d(inputs)
    self.conv1 = _conv(inputs, width, 3)
    self.norm2 = torch.nn.BatchNorm2d(width)
    self.prelu = torch.nn.PReLU(width)
    self.conv2 = _conv(width, width, 3, stride)
    self.norm3 = torch.nn.BatchNorm2d(width)
    self.changes_shape = stride != 1 or inputs != width
    if self.changes_shape:
      self.shortcut_conv = _conv(inputs, width, 1, stride)
      self.shortcut_norm = torch.nn.BatchNorm2d(width)

  def forward(self, x):
    y = self.norm2(self.conv1(self.norm1(x)))
    y = self.norm3(self.conv2(self.prelu(y)))
    return y + (self.shortcut_norm(self.shortcut_conv(x)) if self.changes_shape else x)


class TorchNet(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.stem_conv = _conv(_CHANNELS, _WIDTH, 3)
    self.stem_norm = torch.nn.BatchNorm2d(_WIDTH)
    self.stem_prelu = torch.nn.PReLU(_WIDTH)
    self.stage1_block1 = TorchBlock(_WIDTH, _WIDTH, 2)
    self.stage1_block2 = TorchBlock(_WIDTH, _WIDTH, 1)
    self.stage2_block1 = TorchBlock(_WIDTH, 2 * _WIDTH, 2)
    self.norm = torch.nn.BatchNorm2d(2 * _WIDTH)
    self.linear = torch.nn.Linear(int(np.prod(_LEFT)), _DIM)
    self.features_norm = torch.nn.BatchNorm1d(_DIM)
    self.features_norm.weight.requires_grad = False

  def forward(self, x):
    x = self.stem_prelu(self.stem_norm(self.stem_conv(x)))
    x = self.stage2_block1(self.stage1_block2(self.stage1_block1(x)))
    return self.features_norm(self.linear(torch.flatten(self.norm(x), 1)))


def _by_torch_name(tree):
  """A flax tree as {name in PyTorch: array in PyTorch's layout}."""
  named = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    *modules, name = (entry.key for entry in path)
    array = np.asarray(leaf)
    if modules == ["linear"] and name == "kernel":
      channels, height, width = _LEFT
      array = array.reshape(height, width, channels, _DIM).transpose(3, 2, 0, 1).reshape(_DIM, -1)
    elif name == "kernel":
      array = array.transpose(3, 2, 0, 1)
    named[".".join([*modules, _LEAF_NAMES[name]])] = array
  return named


def _mixed_up(variables, rng):
  """Fresh norms and slopes are constants: a mixed-up copy of them would go unseen."""

  def draw(path, leaf):
    if path[-1].key == "kernel":
      return leaf
    low, high = (-0.5, 0.5) if path[-1].key in ("bias", "mean") else (0.5, 1.5)
    return jnp.asarray(rng.uniform(low, high, leaf.shape))

  return jax.tree.map_with_path(draw, variables)


def _assert_close(ours, theirs, what):
  assert np.asarray(ours).dtype == theirs.dtype == np.float64
  np.testing.assert_allclose(
    ours, theirs, rtol=1e-8, atol=1e-10 * max(1.0, np.abs(theirs).max()), err_msg=what
  )


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_outputs_gradients_and_means(train):
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    rng = np.random.default_rng(0)
    model = iresnet.IResNet(
      (2, 1), width=_WIDTH, dim=_DIM, dtype=jnp.float64, param_dtype=jnp.float64
    )
    images = rng.normal(size=(4, *_SIZE, _CHANNELS))
    init = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))
    variables = _mixed_up(init(images), rng)
    params, stats = variables["params"], variables["batch_stats"]

    reference = TorchNet().double().train(train)
    weights = {
      name: torch.tensor(array)
      for name, array in (_by_torch_name(params) | _by_torch_name(stats)).items()
    }
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name for name in missing if "num_batches" not in name} == {"features_norm.weight"}
    torch_images = torch.tensor(images.transpose(0, 3, 1, 2)).requires_grad_()
    torch_features = reference(torch_images)
    cotangent = rng.normal(size=(4, _DIM))
    torch_features.backward(torch.tensor(cotangent))

    def forward(params, images):
      (features, _), updated = model.apply(
        {"params": params, "batch_stats": stats}, images, train=train, mutable=["batch_stats"]
      )
      return features, updated["batch_stats"]

    @jax.jit
    def everything(params, images, cotangent):
      features, pullback, new = jax.vjp(forward, params, images, has_aux=True)
      return features, *pullback(cotangent), new

    features, param_grads, image_grads, new = everything(params, images, cotangent)
    _assert_close(features, torch_features.detach().numpy(), "features")
    _assert_close(image_grads, torch_images.grad.numpy().transpose(0, 2, 3, 1), "images")
    param_grads = _by_torch_name(param_grads)
    for name, parameter in reference.named_parameters():
      if parameter.requires_grad:
        _assert_close(param_grads[name], parameter.grad.numpy(), f"gradient of {name}")
    buffers = dict(reference.named_buffers())
    for name, mean in _by_torch_name(new).items():
      if name.endswith("mean"):
        _assert_close(mean, buffers[name].numpy(), name)
