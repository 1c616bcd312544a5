"""A plot of binary scores, one per sample: both distributions, and the rates over the threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bce_jax.report.svg import COLORS, INK, new_figure, plain, style

_BLUE, _RED, _GREEN = COLORS[0], COLORS[5], COLORS[2]
_BINS = 60
_POINTS = 1000  # of a curve
_TAIL = 0.001  # of the scores so much may lie beyond either end of the picture


def picture(
  scores: Float[np.ndarray, " n"],
  positive: Bool[np.ndarray, " n"],
  values: Mapping[str, Any],
  *,
  title: str,
) -> Any:
  """Draws the scores of both kinds of samples, and beside them the rates over the threshold.

  Args:
    scores: of each sample; what is infinite lies outside the picture.
    positive: the kind of each.
    values: as in the JSON of bce-eval.
    title: above the figure.

  Returns:
    A matplotlib figure.
  """
  kinds = [np.sort(scores[k].astype(np.float64)) for k in (positive, ~positive)]
  finite = scores[np.isfinite(scores)].astype(np.float64)
  low, high = np.quantile(finite, (_TAIL, 1 - _TAIL)) if finite.size else (0.0, 1.0)
  if low == high:
    low, high = low - 1.0, high + 1.0
  edges = np.linspace(low, high, _BINS + 1)
  grid = np.linspace(low - 0.02 * (high - low), high + 0.02 * (high - low), _POINTS)
  with style():
    figure = new_figure(9.2, 3.6)
    left, right = figure.subplots(1, 2)
    for kind, label, color in zip(kinds, ("positive", "negative"), (_BLUE, _RED), strict=True):
      shares = 100 * np.histogram(kind, edges)[0] / kind.size
      left.stairs(shares, edges, fill=True, color=color, alpha=0.25, linewidth=0)
      left.stairs(shares, edges, color=color, label=label)
    above = [1 - np.searchsorted(kind, grid, "right") / kind.size for kind in kinds]
    share = positive.mean()
    right.plot(grid, 100 * above[0], color=_BLUE, label="TPR, positives above")
    right.plot(grid, 100 * above[1], color=_RED, label="FPR, negatives above")
    accuracy = share * above[0] + (1 - share) * (1 - above[1])
    right.plot(grid, 100 * accuracy, color=INK, linewidth=1, label="accuracy")
    for axis in (left, right):
      _draw_marks(axis, values)
      axis.set_xlabel("score")
      axis.set_xlim(grid[0], grid[-1])
    left.set_ylabel("share of its own scores, %")
    right.set_ylabel("share, %")
    right.set_ylim(-2, 102)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    figure.suptitle(plain(title))
  return figure


def _draw_marks(axis: Any, values: Mapping[str, Any]) -> None:
  for key, words, color, line in (
    ("threshold", "t*", INK, "-"),
    ("bias", "bias", _GREEN, "-"),
    ("given_threshold", "given, t", _GREEN, "--"),
  ):
    value = values.get(key)
    if value is not None and np.isfinite(value):
      axis.axvline(
        value, color=color, linewidth=1.1, linestyle=line, label=f"{words} = {value:.4g}"
      )
