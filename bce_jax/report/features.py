"""The report's map of features in two dimensions: figure 3 of the BCE3S paper."""

import numpy as np
from jaxtyping import Float

from bce_jax.report.plot import Plot, Table
from bce_jax.report.svg import COLORS, INK, add_legend, new_figure, short
from bce_jax.runs.test_outputs import TestOutputs

METHODS = ("tsne", "pca")
_MARKERS = "ov"  # ten classes in as many colors as the eye can tell apart need two shapes


def feature_map(
  features: Float[np.ndarray, "m D"], *, method: str = "tsne"
) -> tuple[Float[np.ndarray, "m 2"], str]:
  """Maps features to the plane, by their directions.

  Of at most two dimensions, or ten different features, there is nothing that t-SNE could add.

  Args:
    features: [m, D]; each is divided by its length first, so that distances mean angles.
    method: "tsne" (neighbors stay neighbors; distances far apart mean nothing) or "pca" (the two
      directions of largest spread).

  Returns:
    ([m, 2], what it is in words). The same features give the same map.
  """
  from sklearn.decomposition import PCA
  from sklearn.manifold import TSNE
  from threadpoolctl import threadpool_limits

  directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
  several = len(directions) > 10 and directions.shape[1] > 2
  if method == "tsne" and several and len(np.unique(directions, axis=0)) > 10:
    perplexity = min(30.0, (len(directions) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500)
    # So few points are laid out sooner by one thread than by several, which mostly wait for one
    # another: beside other work those took ten times the CPU time.
    with threadpool_limits(1):
      return tsne.fit_transform(directions), "t-SNE"
  dimensions = min(2, *directions.shape)
  pca = PCA(dimensions, svd_solver="full").fit(directions)
  flat = pca.transform(directions)
  shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
  shown = " and ".join(f"{share:.0f} %" for share in shares)
  return np.pad(flat, ((0, 0), (0, 2 - dimensions))), f"PCA, {shown} of the variance"


def plot(outputs: TestOutputs, label: str, *, method: str) -> Plot | None:
  """Draws the map of a run's test features, a color per class; None without features.

  Args:
    outputs: of the run.
    label: distinguishes the run from others; may be empty.
    method: as of `feature_map`.
  """
  if len(outputs.map_features) < 3:
    return None
  places, how = feature_map(outputs.map_features, method=method)
  figure = new_figure(4.6, 4.0)
  axis = figure.subplots()
  shown = np.unique(outputs.map_labels)
  size = 2.6 if len(places) > 200 else 4.5
  rows = []
  for k, c in enumerate(sorted(shown, key=lambda c: -outputs.train_counts[c])):
    own = outputs.map_labels == c
    rows.append([outputs.class_names[c], int(own.sum()), int(outputs.train_counts[c])])
    axis.plot(
      *places[own].T, _MARKERS[k // 7 % 2], color=COLORS[k % 7], markersize=size, alpha=0.8,
      markeredgewidth=0, label=short(outputs.class_names[c]),
    )  # fmt: skip
  for c in shown:  # where two classes share a color, their names tell them apart
    middle = np.median(places[outputs.map_labels == c], axis=0)
    name = short(outputs.class_names[c])
    axis.annotate(name, middle, (8, 6), textcoords="offset points", color=INK, weight="bold")
  axis.set_xticks([])
  axis.set_yticks([])
  axis.grid(False)
  for spine in axis.spines.values():
    spine.set_visible(False)
  add_legend(figure, axis, markerscale=6.5 / size, handletextpad=0.1)
  what = f"{len(places)} test images of {len(shown)} classes"
  if len(shown) < len(outputs.class_names):
    what += ", spread evenly from the most to the fewest training images"
  text = f"Directions of the features of {what}, laid out by {how}."
  # Not the places of the points: coordinates on a map mean nothing.
  table = Table(["class", "images on the map", "training images"], rows)
  title = f"Map of features by {how.partition(',')[0]}"
  return Plot(f"{title}{': ' if label else ''}{label}", figure, text, table)
