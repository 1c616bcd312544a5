"""The shapes in the signatures hold: jaxtyping's annotations, checked by beartype."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype import beartype

from bce_jax import losses, metrics

LOGITS, FEATURES, WEIGHTS = jnp.zeros((2, 3, 5)), jnp.ones((2, 3, 4)), jnp.ones((5, 4))
LABELS, TARGETS = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3, 5))
PAIR, MASK = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
MOMENTS = metrics.class_moments(FEATURES, LABELS, num_classes=5)
PAIR_COUNTS = metrics.pair_counts_from_scores(np.arange(4.0), np.arange(4) > 2, thresholds=[0.5])
SCORES = metrics.score_distributions(LOGITS[0], LABELS[0])

CALLS = {
  "bce": [
    ((LOGITS, LABELS), {"bias": jnp.zeros(5), "class_mask": jnp.ones(5, bool)}),
    ((LOGITS, TARGETS), {"bias": 0.5, "smoothing": 0.1, "class_mask": jnp.ones((2, 3, 5), bool)}),
  ],
  "softmax_cross_entropy": [((LOGITS, LABELS), {"bias": jnp.zeros(5)}), ((LOGITS, TARGETS), {})],
  "naive": [((LOGITS, LABELS), {"threshold": jnp.float32(0.1)})],
  "cosine": [((FEATURES, WEIGHTS), {})],
  "l2_normalize": [((FEATURES,), {})],
  "unit": [((FEATURES,), {})],
  "bias_init": [((3, 10), {"mean": 1.0})],
  "prior_bias": [((10,), {"share": 0.5})],
  "converged_bias": [((-1.0, 1.0, 10), {}), ((jnp.zeros(3), jnp.ones(3), 10), {})],
  "mixed_bce": [
    ((LOGITS, TARGETS), {}),
    ((LOGITS, TARGETS), {"class_mask": jnp.ones(5, bool)}),
  ],
  "logit_adjustment": [((jnp.arange(1, 4),), {"temperature": 0.5})],
  "balanced_softmax": [
    ((LOGITS, LABELS, jnp.arange(1, 6)), {}),
    ((LOGITS, TARGETS, jnp.arange(1, 6)), {}),
  ],
  "linear_bce": [
    ((PAIR, jnp.ones((5, 3)), jnp.zeros(2, jnp.int32)), {"bias": jnp.zeros(5), "chunk_size": 2}),
    (
      (PAIR, jnp.ones((5, 3), jnp.bfloat16), jnp.zeros((2, 5))),
      {"bias": 0.5, "class_mask": jnp.ones((2, 5), bool), "normalize": "weights"},
    ),
  ],
  "linear_bce_mean": [
    (
      (PAIR, jnp.ones((5, 3)), jnp.zeros(2, jnp.int32)),
      {"example_weights": jnp.ones(2), "class_mask": jnp.ones(5, bool), "normalize": True},
    ),
  ],
  "sample_classes": [((jax.random.key(0), LABELS, 5), {"share": 0.5})],
  "contrast": [
    ((FEATURES, WEIGHTS, LABELS), {"temperature": 0.5}),
    ((FEATURES, WEIGHTS, TARGETS), {}),
  ],
  "classifier_uniformity": [((WEIGHTS,), {"scale": 2.0})],
  "class_weights": [((jnp.arange(1, 4),), {"beta": 0.9})],
  "max_norm": [((WEIGHTS,), {"limit": 0.5})],
  "max_norm_limit": [((WEIGHTS,), {"fraction": 0.5})],
  "score_pairs": [((LOGITS, LABELS), {})],
  "uniform_accuracy": [((LOGITS, LABELS), {"where": MASK})],
  "uniform_accuracy_from_pairs": [((PAIR, PAIR - 1, LABELS), {"num_classes": 5, "where": MASK})],
  "accuracy_at": [((LOGITS, LABELS, 0.5), {"where": MASK})],
  "accuracy_at_from_pairs": [((PAIR, PAIR - 1, 0.5), {"where": MASK})],
  "shot_accuracy": [
    ((MASK, LABELS, jnp.arange(5)), {"where": MASK}),
    ((PAIR, LABELS, np.arange(5)), {}),
  ],
  "class_moments": [((FEATURES, LABELS), {"num_classes": 5, "where": MASK})],
  "merge_moments": [((MOMENTS, MOMENTS), {})],
  "geometry": [((MOMENTS, WEIGHTS), {})],
  "mean_and_std": [((jnp.ones(5),), {})],
  "pair_counts": [
    ((WEIGHTS, np.arange(5) % 2), {"thresholds": jnp.ones(3)}),
    ((jnp.asarray(WEIGHTS, jnp.bfloat16), np.arange(5) % 2), {"thresholds": [0.5]}),
  ],
  "pair_counts_from_scores": [((jnp.ones(4), jnp.ones(4, bool)), {"thresholds": (0.5, 0.7)})],
  "merge_pair_counts": [((PAIR_COUNTS, PAIR_COUNTS), {})],
  "pair_scores": [((WEIGHTS, np.zeros((7, 2), int)), {})],
  "roc": [((PAIR_COUNTS,), {})],
  "verification": [((PAIR_COUNTS,), {}), ((PAIR_COUNTS,), {"far": np.ones(3)})],
  "verify_at": [((PAIR_COUNTS, 0.5), {}), ((PAIR_COUNTS, jnp.float32(0.5)), {})],
  "ten_fold_accuracy": [((np.arange(4.0), MASK[0, [0, 1, 2, 0]], np.arange(4)), {})],
  "binary_accuracy": [((jnp.arange(4.0), np.arange(4) > 2), {})],
  "confusion_at": [((np.arange(4.0), jnp.arange(4) > 2, 0.5), {})],
  "rank_one": [((WEIGHTS, np.arange(5), jnp.ones((2, 4)), np.arange(2)), {})],
  "open_set_identification": [
    ((WEIGHTS, np.arange(5), jnp.ones((2, 4)), np.arange(2)), {"threshold": 0.5}),
  ],
  "score_distributions": [((LOGITS[0], LABELS[0]), {}), ((np.zeros((0, 5)), np.zeros(0, int)), {})],
  "merge_distributions": [((SCORES, SCORES), {})],
  "uniform_accuracy_curve": [((PAIR[0], PAIR[0] - 1, jnp.zeros(7)), {})],
}
PUBLIC = {
  name: getattr(module, name)
  for module in (losses, metrics)
  for name in module.__all__
  if inspect.isfunction(getattr(module, name))
}


def test_every_public_function_is_called_here():
  assert set(CALLS) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_annotations_hold(name):
  checked = jaxtyping.jaxtyped(typechecker=beartype)(PUBLIC[name])
  for args, kwargs in CALLS[name]:
    checked(*args, **kwargs)


@pytest.mark.parametrize("name", ["bce", "uniform_accuracy"])
def test_annotations_can_fail(name):
  checked = jaxtyping.jaxtyped(typechecker=beartype)(PUBLIC[name])
  with pytest.raises(jaxtyping.TypeCheckError):
    checked(LOGITS, jnp.zeros((2, 4), jnp.int32))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings_have_their_parts(name):
  text = inspect.getdoc(PUBLIC[name])
  assert text.splitlines()[0].endswith((".", ":"))
  assert "Args:" in text
  assert "Returns:" in text
  assert ">>> " in text


def test_numpy_arrays_and_lists_are_taken():
  assert losses.bce(np.zeros((2, 3), np.float32), [0, 1]).shape == (2,)
  assert losses.bce([[0.0, 1.0]], [1]).shape == (1,)
  assert metrics.uniform_accuracy([[0.0, 1.0]], [1]).uniform == 1.0
