"""Plots of score distributions and of A_Uni over the threshold: figures 2, 3 of the uniform paper.

Pure functions that fill matplotlib axes, for the page of a run and for bce-eval.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from bce_jax.metrics import Histogram, ScoreDistributions, uniform_accuracy_curve
from bce_jax.report.svg import COLORS, INK, new_figure, plain, style

_BLUE, _GREEN, _RED, _GRAY = COLORS[0], COLORS[2], COLORS[5], COLORS[6]
_BINS = (16, 120)  # the fewest, and as many as the eye can tell apart
_TAIL = 0.001  # of each set of scores so much may lie beyond either end of the picture
_POINTS = 1000  # of a curve


def draw_distributions(
  axis: Any,
  distributions: ScoreDistributions,
  *,
  bias: float | Float[np.ndarray, "..."] | None = None,
  threshold: float | None = None,
  interval: tuple[float, float] | None = None,
) -> None:
  """Draws positive, hardest negative and all negative scores, and where bias and t* lie.

  Each of the three is a share of its own whole, in bins of one width: there are N − 1 times as many
  negatives as positives, and the positives are to be seen. The outermost 0.1 % of each may lie
  outside.

  Args:
    axis: of matplotlib.
    distributions: of the scores.
    bias: on the scores' scale; of a diverse one the mean, and a band from the least to the largest.
    threshold: t*.
    interval: the ends between which thresholds are as good.
  """
  shown: list[tuple[str, Histogram, str, float]] = [
    ("all negatives", distributions.negative, _GRAY, 0.30),
    ("hardest negative of a sample", distributions.hardest_negative, _RED, 0.22),
    ("positive", distributions.positive, _BLUE, 0.30),
  ]
  shown = [x for x in shown if x[1].counts.size]
  if shown:
    ends = [_middle(histogram) for _, histogram, _, _ in shown]
    low, high = min(x[0] for x in ends), max(x[1] for x in ends)
    k = max(histogram.exponent for _, histogram, _, _ in shown)
    fewest = min(histogram.total for _, histogram, _, _ in shown)
    while (high - low) / 2.0**k > np.clip(2 * math.sqrt(fewest), *_BINS):
      k += 1
    drawn = [(label, h.with_exponent(k), color, alpha) for label, h, color, alpha in shown]
    for filled in (True, False):  # all lines lie above all fillings
      for label, bins, color, alpha in drawn:
        shares = 100 * bins.counts / bins.counts.sum()
        if filled:
          axis.stairs(shares, bins.edges, fill=True, color=color, alpha=alpha, linewidth=0)
        else:
          axis.stairs(shares, bins.edges, color=color, label=label, linewidth=1.3)
    marks = [x for x in (threshold, *_ends(bias)) if x is not None and math.isfinite(x)]
    span = high - low
    near = [x for x in marks if low - span / 2 <= x <= high + span / 2]
    low, high = min([low, *near]), max([high, *near])
    margin = max(0.03 * (high - low), 2.0**k)
    axis.set_xlim(low - margin, high + margin)
    axis.set_ylabel(f"share of its own scores, %\nin bins of {2.0**k:.4g}")
    axis.set_ylim(bottom=0)
  _draw_bias(axis, bias)
  if interval is not None and all(map(math.isfinite, interval)):
    axis.axvspan(*interval, color=INK, alpha=0.10, linewidth=0, zorder=0.5)
  if threshold is not None and math.isfinite(threshold):
    words = f"t* = {threshold:.4g}"
    low_end, high_end = (f"{x:.4g}" for x in interval or (0.0, 0.0))
    if low_end != high_end:
      words += f"  ({low_end} … {high_end})"
    axis.axvline(threshold, color=INK, linewidth=1.1, label=words)
  if axis.get_legend_handles_labels()[0]:
    axis.legend(fontsize="small")


def draw_uniform_curve(
  axis: Any,
  positive: Float[np.ndarray, " n"],
  hardest_negative: Float[np.ndarray, " n"],
  *,
  bias: float | Float[np.ndarray, "..."] | None = None,
  threshold: float | None = None,
  label: str | None = None,
  color: str | None = None,
) -> None:
  """Draws the share of samples that each threshold classifies correctly; its top is A_Uni, at t*.

  Args:
    axis: of matplotlib.
    positive: p of each sample.
    hardest_negative: n of each sample.
    bias: on the scores' scale; drawn as in `draw_distributions`.
    threshold: t*.
    label: names the curve where there are several, in one color each; their marks go unnamed.
    color: of the curve.
  """
  color = color or _BLUE
  p, n = (np.asarray(x, np.float64) for x in (positive, hardest_negative))
  finite = np.concatenate([x[np.isfinite(x)] for x in (p, n)])
  if not finite.size:
    return
  low, high = (float(x) for x in np.quantile(finite, (_TAIL, 1 - _TAIL)))
  known = threshold if threshold is not None and math.isfinite(threshold) else None
  # With t*, which may lie in an interval that the grid steps over.
  grid = 4 * np.linspace(low / 4, high / 4, _POINTS)  # their difference may be no finite number
  if known is not None:
    grid = np.sort(np.append(grid, known))
  curve = 100 * uniform_accuracy_curve(positive, hardest_negative, grid)
  alone = label is None
  axis.plot(grid, curve, color=color, label=plain("A_Uni of a threshold" if alone else label))
  if known is not None:
    top = 100 * float(uniform_accuracy_curve(positive, hardest_negative, np.array([known]))[0])
    words = f"at t* = {known:.4g}: {top:.2f} %" if alone else None
    axis.plot([known], [top], "o", color=INK if alone else color, markersize=5, label=words)
  if alone:
    at = None
    if bias is not None and not np.ndim(bias):
      value = np.array([float(bias)])
      at = 100 * float(uniform_accuracy_curve(positive, hardest_negative, value)[0])
    _draw_bias(axis, bias, at)
  elif bias is not None:
    axis.axvline(float(np.mean(bias)), color=color, linewidth=0.9, linestyle="--")
  axis.set_xlabel("threshold t")
  axis.set_ylabel("classified correctly, %")
  axis.set_ylim(bottom=0, auto=True)  # the next curve may be higher


def picture(
  distributions: ScoreDistributions,
  positive: Float[np.ndarray, " n"],
  hardest_negative: Float[np.ndarray, " n"],
  *,
  title: str,
  bias: float | Float[np.ndarray, "..."] | None = None,
  threshold: float | None = None,
  interval: tuple[float, float] | None = None,
  given: float | None = None,
) -> Any:
  """Draws the distributions, and beneath them A_Uni over the threshold, on one scale.

  Args:
    distributions: of the scores.
    positive: p of each sample.
    hardest_negative: n of each sample.
    title: above both.
    bias: as of `draw_distributions`, like the two after it.
    threshold: t*.
    interval: the ends between which thresholds are as good.
    given: another threshold to draw in.

  Returns:
    A matplotlib figure.
  """
  with style():
    figure = new_figure(7.2, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    draw_uniform_curve(below, positive, hardest_negative, bias=bias, threshold=threshold)
    draw_distributions(above, distributions, bias=bias, threshold=threshold, interval=interval)
    if given is not None:
      for axis in (above, below):
        axis.axvline(
          given, color=_RED, linewidth=1.2, linestyle=":", label=f"given, t = {given:.4g}"
        )
      above.legend(fontsize="small")
    if below.get_legend_handles_labels()[0]:
      below.legend(fontsize="small")
    below.set_xlabel("score, and threshold t on the same scale")
    figure.suptitle(plain(title))
  return figure


def _draw_bias(axis: Any, bias: Any, at: float | None = None) -> None:
  """A line at the bias; for a diverse one at its mean, and a band over all."""
  if bias is None:
    return
  mean = float(np.mean(bias, dtype=np.float64))
  label = f"b = {mean:.4g}" if at is None else f"at b = {mean:.4g}: {at:.2f} %"
  if np.ndim(bias):
    axis.axvspan(*_ends(bias), color=_GREEN, alpha=0.15, linewidth=0, zorder=0.5)
    label = f"mean b = {mean:.4g}, and all b"
  axis.axvline(mean, color=_GREEN, linewidth=1.4, linestyle="--", label=label)


def _ends(bias: Any) -> tuple[float, ...]:
  return () if bias is None else (float(np.min(bias)), float(np.max(bias)))


def _middle(histogram: Histogram) -> tuple[float, float]:
  """The ends between which all but the tails lie."""
  places, edges = np.cumsum(histogram.counts), histogram.edges
  first = np.searchsorted(places, _TAIL * places[-1], side="right")
  last = np.searchsorted(places, (1 - _TAIL) * places[-1])
  return float(edges[first]), float(edges[last + 1])
