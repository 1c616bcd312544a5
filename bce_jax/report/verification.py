"""Verification of classes never trained on: how many pairs a threshold accepts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bce_jax.report.comparison import Group, Run
from bce_jax.report.plot import Plot, Section, Table, percent
from bce_jax.report.svg import COLOURS, INK, add_legend, new_figure, plain, plain_log, style
from bce_jax.runs.test_outputs import RocPoints

_FIXED = "verification_threshold"  # b/γ, or one that bce-eval was given


def section(groups: Sequence[Group]) -> Section:
  """The ROC curve, and the two errors over the threshold with the learned one drawn in."""
  runs = [
    (group, group.runs[0])
    for group in groups
    if group.runs[0].evidence is not None and group.runs[0].evidence.pairs is not None
  ]
  plots = [_roc(runs)] if runs else []
  plots += [_errors(group, run, named=len(groups) > 1) for group, run in runs]
  lead = (
    "Do two images show the same class? The classes asked about were never trained on; a pair is"
    " accepted when the cosine of its embeddings is above the threshold."
  )
  return Section("Verification", lead, plots)


def _points(run: Run) -> RocPoints:
  assert run.evidence is not None
  assert run.evidence.pairs is not None
  return run.evidence.pairs


def picture(points: RocPoints, figures: Mapping[str, Any], *, title: str) -> Any:
  """Draws the ROC curve, and beside it the two errors over the threshold.

  Args:
    points: of the curve.
    figures: as in results.json, "verification_…".
    title: above the figure.

  Returns:
    A matplotlib figure.
  """
  with style():
    figure = new_figure(9.2, 3.6)
    left, right = figure.subplots(1, 2)
    _draw_roc(left, points, figures, colour=COLOURS[0], label=None, mark="at the threshold")
    _roc_axes(left)
    if left.get_legend_handles_labels()[0]:
      left.legend(loc="lower right")
    _draw_errors(right, points, figures)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # it hides no curve
    figure.suptitle(plain(title))
  return figure


def _draw_roc(
  axis: Any,
  points: RocPoints,
  figures: Mapping[str, Any],
  *,
  colour: str,
  label: str | None,
  mark: str | None,
) -> None:
  least = 1 / figures["verification_impostor_pairs"]
  far = np.maximum(points.false_accept, least)  # a logarithm has no place for none at all
  axis.plot(far, 100 * points.true_accept, drawstyle="steps-post", color=colour, label=label)
  if _known(figures, _FIXED) is not None:
    at = [figures[f"verification_{name}_accept_at_threshold"] for name in ("false", "true")]
    axis.plot(max(at[0], least), 100 * at[1], "o", color=colour, markersize=6, label=mark)


def _roc_axes(axis: Any) -> None:
  axis.set_xscale("log")
  plain_log(axis.xaxis)
  axis.set_xlabel("FAR: pairs of two classes accepted")
  axis.set_ylabel("TAR: pairs of one class accepted, %")
  axis.set_ylim(0, 103)


def _draw_errors(
  axis: Any, points: RocPoints, figures: Mapping[str, Any], *, given: str = "given"
) -> None:
  refused, accepted = 100 * (1 - points.true_accept), 100 * points.false_accept
  axis.plot(points.thresholds, refused, color=COLOURS[0], label="pairs of one class refused")
  axis.plot(points.thresholds, accepted, color=COLOURS[5], label="pairs of two accepted, FAR")
  best = _known(figures, "verification_equal_error_threshold")
  if best is not None:
    axis.axvline(best, color=INK, linewidth=1, label=f"equal errors, t = {best:.3g}")
  fixed = _known(figures, _FIXED)
  if fixed is not None:
    axis.axvline(fixed, color=COLOURS[2], linestyle="--", label=f"{given}, t = {fixed:.3g}")
  axis.set_xlabel("threshold on the cosine")
  axis.set_ylabel("pairs judged wrong, %")
  axis.set_ylim(-2, 102)


def _roc(runs: Sequence[tuple[Group, Run]]) -> Plot:
  figure = new_figure(4.6, 3.6)
  axis = figure.subplots()
  # Runs may have been verified in different ways, so that a figure of one is not of another.
  shown = [f for f in _FIGURES if any(run.figures.get(f[0]) is not None for _, run in runs)]
  rows: list[list[Any]] = []
  said = []
  marked = [k for k, (_, r) in enumerate(runs) if _known(r.figures, _FIXED) is not None]
  for k, (group, run) in enumerate(runs):
    figures = run.figures
    label = plain(group.label) if len(runs) > 1 else None
    mark = "at t = b/γ" if k in marked[-1:] else None
    _draw_roc(axis, _points(run), figures, colour=COLOURS[k % 8], label=label, mark=mark)
    rows.append([group.label, *_percentages(figures, shown)])
    said.append(
      f"{group.label + ': ' if len(runs) > 1 else ''}equal error rate"
      f" {percent(figures['verification_equal_error_rate'], 2)}, AUC"
      f" {percent(figures['verification_auc'], 2)}"
    )
  _roc_axes(axis)
  add_legend(figure, axis)
  headings = ["run", *(what for _, what in shown)]
  text = f"Every threshold is a point of the curve; {'; '.join(said)}."
  return Plot("ROC", figure, text, Table(headings, rows))


_FIGURES = (
  ("verification_equal_error_rate", "EER, %"),
  ("verification_auc", "AUC, %"),
  ("verification_tar_at_far_0.0001", "TAR at FAR 1e-4, %"),
  ("verification_tar_at_far_0.001", "TAR at FAR 1e-3, %"),
  ("verification_tar_at_far_0.01", "TAR at FAR 1e-2, %"),
  ("verification_rank_one", "rank-1, %"),
  ("verification_fold_accuracy", "accuracy over folds, %"),
  ("verification_true_accept_at_threshold", "TAR at b/γ, %"),
  ("verification_false_accept_at_threshold", "FAR at b/γ, %"),
  ("verification_balanced_accuracy_at_threshold", "accuracy at b/γ, both kinds alike, %"),
)


def _percentages(
  figures: Mapping[str, Any], shown: Sequence[tuple[str, str]]
) -> list[float | None]:
  """The figures in % in the order of `shown`, None where there is none."""
  values = (figures.get(name) for name, _ in shown)
  return [None if value is None else 100 * float(value) for value in values]


def _known(figures: Mapping[str, Any], name: str) -> float | None:
  """A threshold; None where there is none, or to refuse (or accept) everything is it."""
  value = figures.get(name)
  return None if value is None or not math.isfinite(value) else float(value)


def _errors(group: Group, run: Run, *, named: bool) -> Plot:
  points, figures = _points(run), run.figures
  figure = new_figure(4.6, 3.6)
  axis = figure.subplots()
  _draw_errors(axis, points, figures, given="learned, b/γ")
  add_legend(figure, axis)
  refused, accepted = 100 * (1 - points.true_accept), 100 * points.false_accept
  best = _known(figures, "verification_equal_error_threshold")
  rate = percent(figures["verification_equal_error_rate"], 2)
  text = (
    f"The errors are equal, {rate}, at a threshold of {best:.3g}."
    if best is not None
    else f"The equal error rate is {rate}; a threshold with equal errors: there is none."
  )
  learned = _known(figures, _FIXED)
  if learned is not None:
    text += (
      f" The one learned in training, b/γ = {learned:.3g}, accepts"
      f" {percent(figures['verification_true_accept_at_threshold'])} of the pairs of one class and"
      f" {percent(figures['verification_false_accept_at_threshold'], 2)} of those of two."
    )
  chosen = np.unique(np.linspace(0, len(points.thresholds) - 1, 20).astype(int))
  rows = [[float(points.thresholds[k]), float(refused[k]), float(accepted[k])] for k in chosen]
  table = Table(["threshold", "one class, refused, %", "two classes, accepted, %"], rows)
  title = f"Errors over the threshold{': ' + group.label if named else ''}"
  return Plot(title, figure, text, table)
