"""Statistics of the training images, and what is said of a set with nothing to see."""

import numpy as np
import pytest

from bce_jax.data import sources, splits, statistics


def test_channel_statistics_of_all():
  rng = np.random.default_rng(0)
  images = rng.integers(0, [[[[256, 100, 1]]]], (50, 9, 7, 3)).astype(np.uint8)
  mean, std, *_ = statistics.channel_statistics(sources.ArraySource(images, np.zeros(50, int)))
  assert mean.dtype == std.dtype == np.float32
  scaled = images.astype(np.float64) / 255
  np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(std[:2], scaled.std(axis=(0, 1, 2))[:2], rtol=1e-6)
  assert std[2] == 1.0


def test_constant_channel_has_exactly_unit_deviation():
  images = np.full((101, 3, 3, 1), 77, np.uint8)
  mean, std, *_ = statistics.channel_statistics(sources.ArraySource(images, np.zeros(101, int)))
  assert std.tolist() == [1.0]
  np.testing.assert_allclose(mean, 77 / 255, rtol=1e-6)


def test_channel_statistics_of_a_fixed_subset():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1000, 1, 1, 1), np.uint8)
  source = sources.ArraySource(images, np.zeros(1000, int))
  mean, std, *_ = statistics.channel_statistics(source, limit=100)
  chosen = images[splits.permutation((splits.SPLIT_SEED,), 1000)[:100]] / 255
  np.testing.assert_allclose(mean, [chosen.mean()], rtol=1e-6)
  np.testing.assert_allclose(std, [chosen.std()], rtol=1e-6)


def test_channel_statistics_in_chunks(monkeypatch):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 256, 256, 3), np.uint8)  # several chunks of 2^22 bytes
  mean, std, *_ = statistics.channel_statistics(sources.ArraySource(images, np.zeros(40, int)))
  np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)) / 255, rtol=1e-6)
  np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)) / 255, rtol=1e-6)


def test_channel_statistics_refuses_nothing():
  source = sources.ArraySource(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, int))
  with pytest.raises(ValueError, match="limit is 0"):
    statistics.channel_statistics(source, limit=0)


@pytest.mark.parametrize(
  ("color", "parts"),
  [
    ((77,), ["all 6 training images have one color, 77 of 255"]),
    ((12, 77, 3), ["all 6 training images have one color, 12, 77, 3 of 255"]),
    ((None, 77, 3), ["the green channel is constant, 77 of 255, in all 6", "the blue channel"]),
    ((None, 7, None), ["the green channel is constant"]),
    ((None, None, None), []),
  ],
)
def test_what_is_constant_is_said(color, parts):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (6, 5, 4, len(color)), np.uint8)
  for channel, value in enumerate(color):
    if value is not None:
      images[..., channel] = value
  found = statistics.channel_statistics(sources.ArraySource(images, np.zeros(6, int)))
  notes = statistics.notes(found, 6)
  assert len(notes) == len(parts)
  for note, part in zip(notes, parts, strict=True):
    assert part in note
  assert np.isfinite(found.std).all()
  assert (found.std > 0).all()


def test_not_all_images_are_looked_at():
  source = sources.ArraySource(np.full((20, 2, 2, 1), 9, np.uint8), np.zeros(20, int))
  found = statistics.channel_statistics(source, limit=5)
  assert "5 of 20 training images have one color, 9" in statistics.notes(found, 20)[0]
