"""Losses by name: each with the options it knows, and those from outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax import losses, objectives
from bce_jax.models import ChunkedBCE, Head, Outputs, Scores
from bce_jax.objectives import families
from bce_jax.objectives.joint import joint
from bce_jax.objectives.tripartite import tripartite

C = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0])

OWN = '''
import jax
import jax.numpy as jnp

from bce_jax import losses


def focal(logits, labels, *, bias, scale, margin=0.0, power=2.0):
  """Σ (1 − p)^power · BCE."""
  own = jax.nn.one_hot(labels, logits.shape[-1])
  z = scale * (logits - margin * own) - bias
  signed = jnp.where(own > 0, z, -z)
  return jnp.sum(jax.nn.sigmoid(-signed) ** power * jax.nn.softplus(-signed), -1)


def of_scores(z, labels):
  return -jnp.take_along_axis(z, labels[:, None], -1)[:, 0]


def mean(logits, labels, *, bias, scale):
  return jnp.mean(logits)


def half(logits, labels, *, scale):
  return logits


def taken(logits, labels, *, bias, scale, normalized=True):
  return logits


def wrong(logits, labels, *, bias, scale):
  raise KeyError("lost")


def softmax(logits, labels, *, bias, scale, class_mask=None):
  z = scale * logits - bias
  if class_mask is not None:
    z = jnp.where(class_mask, z, -jnp.inf)
  return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], -1)[:, 0]


def of_z(z, labels):
  return softmax(z, labels, bias=0.0, scale=1.0)


def with_margin(logits, labels, *, bias, scale):
  return focal(logits, labels, bias=bias, scale=scale, margin=0.1)


def with_margin_of_scores(z, labels):
  return focal(z, labels, bias=0.0, scale=1.0, margin=0.6)


def binary(logits, labels, *, bias, scale, class_mask=None):
  return losses.bce(logits, labels, bias=bias, scale=scale, class_mask=class_mask)


def _mixed(z, targets, *, class_mask):
  signs = jnp.where(targets > 0, -1.0, 1.0)
  weights = jnp.where(targets > 0, targets, 1.0)
  return jnp.sum(weights * jax.nn.softplus(signs * z), -1, where=class_mask)


def mixed_by_number(z, labels):
  return of_scores(z, labels)


def mixed_to_one(z, labels):
  return of_scores(z, labels)


binary.mixed = _mixed
mixed_by_number.mixed = 3
mixed_to_one.mixed = lambda z, targets: jnp.mean(z)
NUMBER = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
  """The name of a module with losses, in the current folder."""
  (tmp_path / "own_losses_of_a_lab.py").write_text(OWN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  return "own_losses_of_a_lab"


def config(**values):
  keys = {"margin": 0.0, "negative_weight": 1.0, "smoothing": 0.0, "class_chunk": None}
  return ConfigDict({"loss": "bce-u", "objective": {"class_share": 1.0}, **keys, **values})


def batch(bias=1.5):
  return Outputs(jnp.zeros((5, 2)), Scores(jnp.asarray(C), 6.0, jnp.float32(bias)), {})


def value(objective, bias=1.5):
  return objective.loss({}, batch(bias), objectives.Targets(LABELS), (), 0)[0]


def test_the_names_are_the_papers():
  eight = ("bce-u", "bce-d", "bce-nu", "bce-nd", "soft-u", "soft-d", "soft-nu", "soft-nd")
  assert families.LOSSES[:8] == eight
  assert families.LOSSES == objectives.LOSSES
  for name in eight:
    family, parsed = families.resolve(name), objectives.parse(name)
    assert family.name == name
    assert family.normalized == parsed.normalized == ("n" in name)
    assert family.bias == parsed.bias == ("unified" if name.endswith("u") else "diverse")
    assert family.function is (
      losses.bce if parsed.family == "bce" else losses.softmax_cross_entropy
    )


def test_a_new_family_has_a_formula_of_its_own(monkeypatch):
  monkeypatch.setattr(families, "TABLE", {**families.TABLE, "zero": families.TABLE["bce"]._replace(
    function=lambda logits, labels, *, bias, scale: jnp.zeros(labels.shape), options=frozenset()
  )})  # fmt: skip
  monkeypatch.setattr(families, "LOSSES", (*families.LOSSES, "zero-u"))
  assert value(joint("zero-u")) == 0
  with pytest.raises(
    ValueError, match=r"^the loss 'zero-u' has no smoothing: expected 0.0, got 0.1$"
  ):
    joint("zero-u", smoothing=0.1)
  with pytest.raises(ValueError, match=r"'zero-u', which has none: expected 0.0, got 0.1"):
    families.check_options(config(loss="zero-u", margin=0.1))
  with pytest.raises(ValueError, match=r"'zero-u' has no class_mask: expected 1.0"):
    families.check_options(config(loss="zero-u", objective={"class_share": 0.5}))
  mask = jnp.array([True, True, False, True])
  with pytest.raises(ValueError, match="has no class_mask"):
    joint("zero-u").loss({}, batch(), objectives.Targets(LABELS, mask), (), 0)


def test_what_a_loss_does_not_know_is_refused():
  with pytest.raises(
    ValueError, match=r"the loss 'soft-u' has no negative_weight: expected 1.0, got 0.5"
  ):
    joint("soft-u", negative_weight=0.5)
  with pytest.raises(ValueError, match="the loss 'soft-u' needs all scores at once"):
    joint("soft-u", chunked=ChunkedBCE(Head(4)))
  with pytest.raises(ValueError, match=r"unknown config.loss 'bce-x'; did you mean 'bce-\w+'"):
    joint("bce-x")


def test_one_from_outside(own):
  name = f"{own}:focal"
  family = families.resolve(name, {"power": 0.0})
  assert family.options == {"margin"}
  assert (family.normalized, family.bias, family.needs_all_scores) == (False, "unified", True)
  expected = losses.bce(C, LABELS, bias=1.5, scale=6.0, margin=0.2).mean()
  np.testing.assert_allclose(value(joint(family, margin=0.2)), expected, rtol=1e-6)
  assert value(joint(name, margin=0.2)) < expected  # power is 2 by default
  assert families.module(name).OPTIONS == {"normalized": False, "bias": "unified", "power": 2.0}
  options = {"normalized": True, "bias": "diverse", "power": 1.0}
  family = families.of(config(loss=name, loss_options=options))
  assert (family.normalized, family.bias) == (True, "diverse")
  jitted = jax.jit(lambda bias: value(joint(family), bias))
  np.testing.assert_allclose(jitted(1.5), value(joint(family)), rtol=1e-6)


def test_one_that_takes_decision_scores(own):
  z = 6.0 * C - 1.5
  np.testing.assert_allclose(
    value(joint(f"{own}:of_scores")), -z[np.arange(5), LABELS].mean(), rtol=1e-6
  )


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    (
      "focal",
      {"bias": "divers"},
      "unknown config.loss_options.bias 'divers'; did you mean 'diverse'",
    ),
    ("half", {}, "takes 'scale' but not 'bias': expected both"),
    ("taken", {}, "an argument 'normalized', which is a key of config.loss_options already"),
    ("mean", {}, r"returned float32 \(\): expected floating \(5,\), one loss per example"),
    ("wrong", {}, "KeyError: 'lost'"),
    ("NUMBER", {}, "is 3: expected a function"),
    ("foca", {}, "did you mean 'focal'"),
  ],
)
def test_one_from_outside_that_can_not_be_used(own, name, options, message):
  with pytest.raises(ValueError, match=message) as error:
    value(joint(families.resolve(f"{own}:{name}", options)))
  assert "\n" not in str(error.value)


def test_what_one_from_outside_does_not_know_is_refused(own):
  name = f"{own}:focal"
  for key, wrong, message in (
    ("smoothing", 0.1, f"smooths the labels, but the loss is '{name}', which has none"),
    ("class_chunk", 3, "needs all scores of an example at once"),
    ("objective", {"class_share": 0.5}, "has no class_mask"),
  ):
    with pytest.raises(ValueError, match=message):
      families.check_options(config(loss=name, **{key: wrong}))
  families.check_options(config(loss=name, margin=0.1))
  with pytest.raises(ValueError, match="focal' has no class_mask"):
    tripartite(name, 4, warmup_steps=1, class_share=0.5)
  mixes = config_lib.default("tripartite")
  config_lib.set_name(mixes, "loss", name)
  config_lib.check(mixes)
  mixes.objective.class_share = 0.5
  with pytest.raises(
    ValueError, match=r"config.objective.class_share is 0.5, but the loss .*focal'"
  ):
    config_lib.check(mixes)


def views_and_loss(loss, **options):
  """L_sc of three views under a loss, whose scores are as good as drawn."""
  method = tripartite(loss, 4, warmup_steps=1, contrast_weight=0.0, uniform_weight=0.0, **options)
  rng = np.random.default_rng(1)
  images = jnp.asarray(rng.normal(size=(5, 4, 4, 1)), jnp.float32)
  batch = objectives.Batch(images, LABELS, images[::-1], np.array([1, 1, 3, 0, 2]))
  targets = method.views(jax.random.key(3), batch, ()).targets

  def total(c, bias):
    outputs = Outputs(jnp.zeros((15, 2)), Scores(c, 6.0, bias), {})
    return method.loss({}, outputs, targets, (), jnp.int32(0))[0]

  c = jnp.asarray(rng.uniform(-1, 1, (15, 4)), jnp.float32)
  return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(c, jnp.float32(1.5))


@pytest.mark.parametrize(
  ("name", "like", "options"),
  [
    ("softmax", "soft-u", {}),  # linear in the targets: both ways are one
    ("softmax", "soft-u", {"class_share": 0.5}),
    ("binary", "bce-u", {"class_share": 0.5}),  # is not, but has a form for mixed targets
    ("of_z", "soft-u", {}),
  ],
)
def test_one_from_outside_on_mixed_views_is_what_ours_is(own, name, like, options):
  ours = views_and_loss(like, **options)
  theirs = views_and_loss(f"{own}:{name}", **options)
  for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_margin_of_ones_own_is_one_of_similarities_on_mixed_views_too(own):
  assert views_and_loss(f"{own}:focal")[0] < views_and_loss(f"{own}:with_margin")[0]
  # 0.1 of a similarity times the scale is 0.6 of a score.
  a, b = views_and_loss(f"{own}:with_margin"), views_and_loss(f"{own}:with_margin_of_scores")
  np.testing.assert_allclose(a[0], b[0], rtol=1e-5)


def test_a_form_for_mixed_targets_that_is_none_is_refused(own):
  with pytest.raises(ValueError, match="its 'mixed' is 3: expected a function"):
    views_and_loss(f"{own}:mixed_by_number")
  with pytest.raises(ValueError, match=r"its 'mixed' returned float32 \(\): expected floating"):
    views_and_loss(f"{own}:mixed_to_one")
