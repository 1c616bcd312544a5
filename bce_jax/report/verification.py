"""The report's section on verification: the ROC curve, and both errors over the threshold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bce_jax import results
from bce_jax.report.comparison import Group, Run
from bce_jax.report.plot import Plot, Section, Table, percent
from bce_jax.report.svg import COLORS, INK, add_legend, new_figure, plain, plain_log, style
from bce_jax.results import Result
from bce_jax.runs.test_outputs import RocPoints

_FIXED = "verification_threshold"  # b/γ, or one that bce-eval was given


def section(groups: Sequence[Group]) -> Section:
  """Returns the section on verification: the ROC curve, and the two errors over the threshold."""
  runs = [
    (group, group.runs[0])
    for group in groups
    if group.runs[0].outputs is not None and group.runs[0].outputs.pairs is not None
  ]
  plots = [_roc(runs)] if runs else []
  plots += [_errors(group, run, named=len(groups) > 1) for group, run in runs]
  lead = (
    "Do two images show the same class? The classes asked about were never trained on; a pair is"
    " accepted when the cosine of its embeddings is above the threshold."
  )
  return Section("Verification", lead, plots)


def _points(run: Run) -> RocPoints:
  assert run.outputs is not None
  assert run.outputs.pairs is not None
  return run.outputs.pairs


def picture(points: RocPoints, values: Mapping[str, Any], *, title: str) -> Any:
  """Draws the ROC curve, and beside it the two errors over the threshold.

  Args:
    points: of the curve.
    values: as in results.json, "verification_…".
    title: above the figure.

  Returns:
    A matplotlib figure.
  """
  with style():
    figure = new_figure(9.2, 3.6)
    left, right = figure.subplots(1, 2)
    _draw_roc(left, points, values, color=COLORS[0], label=None, mark="at the threshold")
    _roc_axes(left)
    if left.get_legend_handles_labels()[0]:
      left.legend(loc="lower right")
    _draw_errors(right, points, values)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # it hides no curve
    figure.suptitle(plain(title))
  return figure


def _draw_roc(
  axis: Any,
  points: RocPoints,
  values: Mapping[str, Any],
  *,
  color: str,
  label: str | None,
  mark: str | None,
) -> None:
  least = 1 / values["verification_impostor_pairs"]
  far = np.maximum(points.false_accept, least)  # a logarithm has no place for none at all
  axis.plot(far, 100 * points.true_accept, drawstyle="steps-post", color=color, label=label)
  if _known(values, _FIXED) is not None:
    at = [values[f"verification_{name}_accept_at_threshold"] for name in ("false", "true")]
    axis.plot(max(at[0], least), 100 * at[1], "o", color=color, markersize=6, label=mark)


def _roc_axes(axis: Any) -> None:
  axis.set_xscale("log")
  plain_log(axis.xaxis)
  axis.set_xlabel("FAR: pairs of two classes accepted")
  axis.set_ylabel("TAR: pairs of one class accepted, %")
  axis.set_ylim(0, 103)


def _draw_errors(
  axis: Any, points: RocPoints, values: Mapping[str, Any], *, given: str = "given"
) -> None:
  refused, accepted = 100 * (1 - points.true_accept), 100 * points.false_accept
  axis.plot(points.thresholds, refused, color=COLORS[0], label="pairs of one class refused")
  axis.plot(points.thresholds, accepted, color=COLORS[5], label="pairs of two accepted, FAR")
  best = _known(values, "verification_equal_error_threshold")
  if best is not None:
    axis.axvline(best, color=INK, linewidth=1, label=f"equal errors, t = {best:.3g}")
  fixed = _known(values, _FIXED)
  if fixed is not None:
    axis.axvline(fixed, color=COLORS[2], linestyle="--", label=f"{given}, t = {fixed:.3g}")
  axis.set_xlabel("threshold on the cosine")
  axis.set_ylabel("pairs classified wrong, %")
  axis.set_ylim(-2, 102)


def _roc(runs: Sequence[tuple[Group, Run]]) -> Plot:
  figure = new_figure(4.6, 3.6)
  axis = figure.subplots()
  # Runs may have been verified in different ways, so that a result of one is not of another.
  shown = [x for x in _rows() if any(run.results.get(x.key) is not None for _, run in runs)]
  rows: list[list[Any]] = []
  said = []
  marked = [k for k, (_, r) in enumerate(runs) if _known(r.results, _FIXED) is not None]
  for k, (group, run) in enumerate(runs):
    values = run.results
    label = plain(group.label) if len(runs) > 1 else None
    mark = "at t = b/γ" if k in marked[-1:] else None
    _draw_roc(axis, _points(run), values, color=COLORS[k % 8], label=label, mark=mark)
    shares = [None if values.get(x.key) is None else x.factor * values[x.key] for x in shown]
    rows.append([group.label, *shares])
    said.append(
      f"{group.label + ': ' if len(runs) > 1 else ''}equal error rate"
      f" {percent(values['verification_equal_error_rate'], 2)}, AUC"
      f" {percent(values['verification_auc'], 2)}"
    )
  _roc_axes(axis)
  add_legend(figure, axis)
  headings = ["run", *(f"{row.symbol}, {row.unit}" for row in shown)]
  text = f"Every threshold is a point of the curve; {'; '.join(said)}."
  return Plot("ROC", figure, text, Table(headings, rows))


def _rows() -> list[Result]:
  """The shares of a verification that have a short name: columns of the table behind the curve."""
  return [
    row for row in results.RESULTS if row.group == "verification" and row.symbol and row.factor > 1
  ]


def _known(values: Mapping[str, Any], name: str) -> float | None:
  """A threshold; None where there is none, or to refuse (or accept) everything is it."""
  value = values.get(name)
  return None if value is None or not math.isfinite(value) else float(value)


def _errors(group: Group, run: Run, *, named: bool) -> Plot:
  points, values = _points(run), run.results
  figure = new_figure(4.6, 3.6)
  axis = figure.subplots()
  _draw_errors(axis, points, values, given="learned, b/γ")
  add_legend(figure, axis)
  refused, accepted = 100 * (1 - points.true_accept), 100 * points.false_accept
  best = _known(values, "verification_equal_error_threshold")
  rate = percent(values["verification_equal_error_rate"], 2)
  text = (
    f"The errors are equal, {rate}, at a threshold of {best:.3g}."
    if best is not None
    else f"The equal error rate is {rate}; a threshold with equal errors: there is none."
  )
  learned = _known(values, _FIXED)
  if learned is not None:
    text += (
      f" The one learned in training, b/γ = {learned:.3g}, accepts"
      f" {percent(values['verification_true_accept_at_threshold'])} of the pairs of one class and"
      f" {percent(values['verification_false_accept_at_threshold'], 2)} of those of two."
    )
  chosen = np.unique(np.linspace(0, len(points.thresholds) - 1, 20).astype(int))
  rows = [[float(points.thresholds[k]), float(refused[k]), float(accepted[k])] for k in chosen]
  table = Table(["threshold", "one class, refused, %", "two classes, accepted, %"], rows)
  title = f"Errors over the threshold{': ' + group.label if named else ''}"
  return Plot(title, figure, text, table)
