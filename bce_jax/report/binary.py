"""One score a sample: where both kinds of samples lie, and what each threshold makes of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bce_jax.report.svg import COLOURS, INK, new_figure, plain, style

_BLUE, _RED, _GREEN = COLOURS[0], COLOURS[5], COLOURS[2]
_BINS = 60
_POINTS = 1000  # of a curve
_TAIL = 0.001  # of the scores so much may lie beyond either end of the picture


def picture(
  scores: Float[np.ndarray, "n"],
  positive: Bool[np.ndarray, "n"],
  figures: Mapping[str, Any],
  *,
  title: str,
) -> Any:
  """Draws the scores of both kinds of samples, and beside them the rates over the threshold.

  Args:
    scores: of each sample; what is infinite lies outside the picture.
    positive: the kind of each.
    figures: as in the JSON of bce-eval.
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
    for values, label, colour in zip(kinds, ("positive", "negative"), (_BLUE, _RED), strict=True):
      shares = 100 * np.histogram(values, edges)[0] / values.size
      left.stairs(shares, edges, fill=True, color=colour, alpha=0.25, linewidth=0)
      left.stairs(shares, edges, color=colour, label=label)
    above = [1 - np.searchsorted(values, grid, "right") / values.size for values in kinds]
    share = positive.mean()
    right.plot(grid, 100 * above[0], color=_BLUE, label="TPR, positives above")
    right.plot(grid, 100 * above[1], color=_RED, label="FPR, negatives above")
    accuracy = share * above[0] + (1 - share) * (1 - above[1])
    right.plot(grid, 100 * accuracy, color=INK, linewidth=1, label="accuracy")
    for axis in (left, right):
      _draw_marks(axis, figures)
      axis.set_xlabel("score")
      axis.set_xlim(grid[0], grid[-1])
    left.set_ylabel("share of its own scores, %")
    right.set_ylabel("share, %")
    right.set_ylim(-2, 102)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    figure.suptitle(plain(title))
  return figure


def _draw_marks(axis: Any, figures: Mapping[str, Any]) -> None:
  for key, words, colour, line in (
    ("threshold", "t*", INK, "-"),
    ("bias", "bias", _GREEN, "-"),
    ("given_threshold", "given, t", _GREEN, "--"),
  ):
    value = figures.get(key)
    if value is not None and np.isfinite(value):
      axis.axvline(
        value, color=colour, linewidth=1.1, linestyle=line, label=f"{words} = {value:.4g}"
      )
