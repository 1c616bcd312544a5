"""The map of features: by which projection, and at what cost."""

import numpy as np
import pytest
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_info

from bce_jax.report import features
from bce_jax.report.svg import style


def clusters(dimensions, n=40):
  rng = np.random.default_rng(0)
  return (
    rng.normal(size=(n, dimensions))
    + 6 * np.eye(max(dimensions, 4))[np.arange(n) % 4][:, :dimensions]
  )


def test_tsne_takes_one_thread(monkeypatch):
  fit, threads = TSNE.fit_transform, []

  def watched(self, x):
    threads.extend(pool["num_threads"] for pool in threadpool_info())
    return fit(self, x)

  monkeypatch.setattr(TSNE, "fit_transform", watched)
  places, how = features.feature_map(clusters(8))
  assert (how, places.shape) == ("t-SNE", (40, 2))
  assert set(threads) == {1}


@pytest.mark.parametrize(("dimensions", "n"), [(1, 40), (2, 40), (8, 9)])
def test_few_features_are_laid_out_by_pca(dimensions, n):
  points = clusters(dimensions, n)
  places, how = features.feature_map(points)
  assert how.startswith("PCA")
  assert places.shape == (n, 2)
  if dimensions == 2:  # all of it is kept: distances are those of the directions
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(
      np.linalg.norm(places[0] - places, axis=1), np.linalg.norm(unit[0] - unit, axis=1), atol=1e-6
    )


@pytest.mark.parametrize(("method", "name"), [("tsne", "t-SNE"), ("pca", "PCA")])
def test_the_page_says_which_projection_it_is(make_outputs, method, name):
  outputs, _ = make_outputs()
  with style():
    plot = features.plot(outputs, "a run", method=method)
  assert plot.title == f"Map of features by {name}: a run"
  assert f"laid out by {name}" in plot.description
