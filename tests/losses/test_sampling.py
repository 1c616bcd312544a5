import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bce_jax import losses


@pytest.mark.parametrize(("share", "present"), [(0.3, 5), (0.3, 25), (1.0, 5), (0.001, 1)])
def test_every_class_of_the_batch_and_as_many_others_as_there_is_room(share, present):
  labels = np.random.default_rng(0).permutation(50)[:present].astype(np.int32)
  for number in range(10):
    mask = np.asarray(losses.sample_classes(jax.random.key(number), labels, 50, share=share))
    assert mask[labels].all()
    assert mask.sum() == max(present, int(50 * share), 1)


def test_the_others_are_drawn_alike():
  draw = jax.jit(lambda key: losses.sample_classes(key, jnp.array([3, 3, 7]), 20, share=0.5))
  drawn = np.sum([draw(jax.random.key(k)) for k in range(400)], axis=0)
  assert drawn[3] == drawn[7] == 400
  others = np.delete(drawn, [3, 7])
  assert np.abs(others - 400 * 8 / 18).max() < 50  # deviation 10


def test_a_function_of_the_key_and_of_labels_of_any_shape():
  labels = jnp.array([[1, 2], [3, 1]])
  one, same, other = (
    np.asarray(losses.sample_classes(jax.random.key(k), labels, 30, share=0.4)) for k in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, same)
  assert (one != other).any()
  with jax.numpy_dtype_promotion("standard"):
    old = losses.sample_classes(jax.random.PRNGKey(0), labels, 30, share=0.4)
  assert old.sum() == 12


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda key: losses.sample_classes(key, [0], 5, share=0.0),
      r"share must be a number in \(0, 1",
    ),
    (lambda key: losses.sample_classes(key, [0], 5, share=1.5), "share must be"),
    (lambda key: losses.sample_classes(key, [5], 5, share=0.5), r"labels must lie in \[0, 5\)"),
    (lambda key: losses.sample_classes(key, [0], 0, share=0.5), "num_classes must be at least 1"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jax.random.key(0))
