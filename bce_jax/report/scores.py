"""The report's section on scores and thresholds: figures 2 and 3 of the uniform paper."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bce_jax import metrics
from bce_jax.report import classes
from bce_jax.report.comparison import Group, Run
from bce_jax.report.distributions import draw_distributions, draw_uniform_curve
from bce_jax.report.plot import Plot, Section, Table, percent
from bce_jax.report.svg import COLORS, INK, add_legend, new_figure
from bce_jax.runs.test_outputs import TestOutputs


def section(groups: Sequence[Group]) -> Section:
  """Returns the section on scores: distributions, accuracy over the threshold, scores per class."""
  runs = [(g, g.runs[0]) for g in groups if g.runs[0].outputs is not None]
  plots = []
  for group, run in runs:
    outputs = run.outputs
    assert outputs is not None
    label = group.label if len(groups) > 1 else ""
    plots += [_distributions(outputs, run.results, label)]
  plots += [_curve(runs)] if runs else []
  for group, run in runs:
    assert run.outputs is not None
    plot = classes.bias_plot(run.outputs)
    if plot is not None and len(groups) > 1:
      plot = plot._replace(title=f"{plot.title}: {group.label}")
    plots.append(plot)
  lead = (
    "A threshold t classifies an image correctly when the score of its own class is above t and all"
    " others are not. t* is the threshold that is right most often, b the bias that was learned."
  )
  if any(len(g.runs) > 1 for g in groups):
    lead += " Of runs that differ by their seed only, the first is drawn."
  return Section("Scores and threshold", lead, [plot for plot in plots if plot is not None])


def _on_one_scale(outputs: TestOutputs, values: Mapping[str, Any]) -> tuple[Any, ...]:
  """Scores on which one threshold is drawn, what they are, and where bias and threshold lie.

  A unified bias and t* are both on scale · c. A diverse bias is a threshold of its own for each
  class, so that all are at 0 on z = scale · c − b.
  """
  if not outputs.bias.ndim:
    interval = (values.get("threshold_low"), values.get("threshold_high"))
    pairs = (outputs.scaled_positive, outputs.scaled_hardest_negative)
    return outputs.scores, pairs, "scale · c", float(outputs.bias), values["threshold"], interval
  pairs = (outputs.positive, outputs.hardest_negative)
  threshold = values.get("threshold_on_decision")
  return outputs.decisions, pairs, "z = scale · c − b", 0.0, threshold, (None, None)


def _distributions(outputs: TestOutputs, values: Mapping[str, Any], label: str) -> Plot | None:
  scores, _, unit, bias, threshold, interval = _on_one_scale(outputs, values)
  if scores is None:
    return None
  figure = new_figure(5.2, 3.4)
  axis = figure.subplots()
  known = None if None in interval else interval
  draw_distributions(axis, scores, bias=bias, threshold=threshold, interval=known)
  axis.set_xlabel(unit)
  add_legend(figure, axis)
  positive, negative = (_quantiles(h) for h in (scores.positive, scores.negative))
  hardest = _quantiles(scores.hardest_negative)
  best = "there is none" if threshold is None or math.isnan(threshold) else f"{threshold:.3g}"
  learned = "each class' own bias is at 0" if outputs.bias.ndim else f"learned bias {bias:.3g}"
  text = (
    f"Half of the positive scores lie above {positive[3]:.3g}, and half of the images' hardest"
    f" negatives above {hardest[3]:.3g}; {learned}, best threshold {best}."
  )
  marks = ("least", "1 %", "10 %", "50 %", "90 %", "99 %", "largest")
  rows = [
    ["positive", scores.positive.total, *positive],
    ["hardest negative", scores.hardest_negative.total, *hardest],
    ["all negatives", scores.negative.total, *negative],
  ]
  title = f"Distributions of scores{': ' if label else ''}{label}"
  return Plot(title, figure, text, Table(["scores", "number", *marks], rows))


def _quantiles(histogram: metrics.Histogram) -> list[float]:
  """Least, 1, 10, 50, 90, 99 % and largest, each the middle of its bin."""
  counts = np.asarray(histogram.counts)
  if not counts.sum():
    return [math.nan] * 7
  edges = np.asarray(histogram.edges)
  middles = (edges[:-1] + edges[1:]) / 2
  places = np.cumsum(counts)
  shares = np.array([0, 0.01, 0.1, 0.5, 0.9, 0.99, 1]) * places[-1]
  found = np.searchsorted(places, np.clip(shares, 1, None))
  return [float(middles[k]) for k in np.minimum(found, len(middles) - 1)]


def _curve(runs: Sequence[tuple[Group, Run]]) -> Plot:
  figure = new_figure(5.2, 3.4)
  axis = figure.subplots()
  rows, said = [], []
  together = len({_on_one_scale(r.outputs, r.results)[2] for _, r in runs if r.outputs}) == 1
  for k, (group, run) in enumerate(runs):
    assert run.outputs is not None
    _, pairs, unit, bias, threshold, _ = _on_one_scale(run.outputs, run.results)
    alone = len(runs) == 1
    draw_uniform_curve(
      axis,
      *pairs,
      bias=bias,
      threshold=threshold,
      label=None if alone else group.label,
      color=COLORS[k % 8],
    )
    known = np.concatenate(pairs)
    known = known[np.isfinite(known)]
    if known.size:
      low, high = (float(np.quantile(known, q)) for q in (0.01, 0.99))
      at = np.linspace(low, high, 15)
      shares = metrics.uniform_accuracy_curve(pairs[0], pairs[1], at)
      rows += [[group.label, float(t), float(100 * x)] for t, x in zip(at, shares, strict=True)]
    values = run.results
    chosen = values.get("uniform_accuracy_at_validation_threshold")
    said.append(
      f"{'' if alone else group.label + ': '}{percent(values['uniform_accuracy'])} at the best,"
      f" {percent(values['uniform_accuracy_at_bias'])} at the bias,"
      + ("" if chosen is None else f" {percent(chosen)} at the validation split's best,")
      + f" and by arg max {percent(values['sample_wise_accuracy'])}"
    )
    if alone:
      top = 100 * values["sample_wise_accuracy"]
      axis.axhline(top, color=INK, linewidth=0.8, linestyle=":", label="A_SW (arg max)")
  axis.set_xlabel(f"threshold t on {unit if together else 'its scale'}")
  axis.set_ylabel("classified correctly, %")
  axis.set_ylim(bottom=0)
  add_legend(figure, axis)
  text = f"Share of images that one threshold for all classifies correctly. {'; '.join(said)}."
  headings = ["run", "threshold", "classified correctly, %"]
  return Plot("A_Uni over the threshold", figure, text, Table(headings, rows))
