"""Plots over the epochs of training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bce_jax.report.comparison import Group
from bce_jax.report.plot import Plot, Section, Table
from bce_jax.report.svg import COLOURS, add_legend, new_figure, plain, plain_log

ACCURACIES = (
  ("sample_wise_accuracy", "A_SW", "-"),
  ("class_wise_accuracy", "A_CW", "-."),
  ("uniform_accuracy", "A_Uni", "--"),
  ("uniform_accuracy_at_bias", "A_Uni at the bias", ":"),
)
# Where a run was judged once there is no line to tell a style by.
_MARKERS = {"-": "o", "--": "D", "-.": "^", ":": "v"}
_STYLES = {"-": "solid", "--": "dashed", "-.": "dash-dotted", ":": "dotted"}
_THRESHOLDS = (("bias", "bias b", "-"), ("threshold", "best threshold t*", "--"))
GEOMETRY = ("compactness", "separability", "classifier_separability")
_BANDS, _NAMED = 6, 6  # of more runs no bands are drawn; of more groups no last values are told
COSINES = (("positive_cosine", "own class", "-"), ("negative_cosine", "other classes", "--"))


def section(groups: Sequence[Group]) -> Section:
  """Loss, accuracies, bias and threshold, and the learning rate, over epochs."""
  plots = [
    _over_epochs(
      groups,
      "Training loss",
      "loss",
      (("loss", "", "-"),),
      "train",
      "Mean loss of the steps since the last record.",
      log=True,
    ),
    _over_epochs(
      groups,
      "Accuracies",
      "judged right, %",
      ACCURACIES if len(groups) == 1 else ACCURACIES[:1] + ACCURACIES[2:3],
      "judged",
      "Exact accuracies after each evaluation: arg max (A_SW), a threshold a class (A_CW), one"
      " threshold for all (A_Uni), and the learned bias as that threshold."
      if len(groups) == 1
      else "Exact accuracies after each evaluation: arg max (A_SW), and one threshold for all"
      " (A_Uni).",
      factor=100,
    ),
    _bias_and_threshold(groups),
    _over_epochs(
      groups,
      "Learning rate",
      "learning rate",
      (("learning_rate", "", "-"),),
      "train",
      "Of the last step before each record.",
    ),
    _over_epochs(
      groups,
      "Contrast: cosines to the memory",
      "mean cosine",
      COSINES,
      "train",
      "Mean cosine of the projections to the remembered one of their own class and of the others."
      " Where both near 1 the contrast has collapsed.",
    ),
  ]
  lead = _split(groups)
  if any(len(group.runs) > 1 for group in groups):
    lead += " Lines of one colour are runs that differ by their seed only."
  return Section("Training", lead.strip(), [plot for plot in plots if plot is not None])


def geometry_plots(groups: Sequence[Group]) -> list[Plot]:
  """Compactness and separability over epochs, mean over classes and their standard deviation."""
  titles = ("Compactness", "Separability", "Separability of the classifier")
  words = (
    "100 × mean cosine between two images of one class; 100 is a point.",
    "100 × (1 − mean cosine to the other classes' means).",
    "100 × (1 − mean cosine to the other rows of the classifier).",
  )
  few = sum(len(group.runs) for group in groups) <= _BANDS
  spread = "; the band is their standard deviation" if few else ""
  plots = [
    _over_epochs(
      groups,
      f"{title} over epochs",
      title.lower(),
      ((name, "", "-"),),
      "judged",
      f"{text} Mean over classes{spread}.",
      band=f"{name}_std",
    )
    for name, title, text in zip(GEOMETRY, titles, words, strict=True)
  ]
  return [plot for plot in plots if plot is not None]


def _split(groups: Sequence[Group]) -> str:
  splits = {r["split"] for g in groups for run in g.runs for r in _records(run.records, "judged")}
  if splits == {"validation"}:
    return "Evaluations while training are of the validation split; the test split stays unseen."
  if splits == {"test"}:
    return "There is no validation split: evaluations while training are of the test split."
  return ""


def _records(records: Sequence[Mapping[str, Any]], split: str) -> list[Mapping[str, Any]]:
  return [r for r in records if (r["split"] == "train") == (split == "train")]


def _points(
  records: Sequence[Mapping[str, Any]], split: str, name: str
) -> tuple[list[float], list[float]]:
  """Epochs, and the values of a name; nan where a record has none."""
  chosen = [r for r in _records(records, split) if r.get(name) is not None]
  return [float(r["epoch"]) for r in chosen], [float(r[name]) for r in chosen]


def _over_epochs(
  groups: Sequence[Group],
  title: str,
  unit: str,
  names: Sequence[tuple[str, str, str]],
  split: str,
  text: str,
  *,
  factor: float = 1,
  log: bool = False,
  band: str | None = None,
) -> Plot | None:
  """Lines over epochs, one colour a group, or a name where there is one group; None without any."""
  figure = new_figure()
  axis = figure.subplots()
  several, bands = len(groups) > 1, sum(len(group.runs) for group in groups) <= _BANDS
  ends: dict[tuple[str, str], list[float]] = {}
  for k, group in enumerate(groups):
    for j, (name, what, style) in enumerate(names):
      colour = COLOURS[(k if several else j) % len(COLOURS)]
      label = (plain(group.label) if j == 0 else "") if several else what
      for run in group.runs:
        x, y = _points(run.records, split, name)
        if not x:
          continue
        y = [factor * value for value in y]
        marker = _marker(x, style)
        axis.plot(x, y, style, color=colour, label=label or None, marker=marker, markersize=4)
        label = ""
        ends.setdefault((group.label if several else "", what), []).append(y[-1])
        _, spread = _points(run.records, split, band or "")
        if bands and len(spread) == len(y):
          low, high = ([v + s * d for v, d in zip(y, spread, strict=True)] for s in (-1, 1))
          _band(axis, x, low, high, colour)
  if not ends:
    return None
  _epoch_axis(axis)
  axis.set_ylabel(unit)
  values = [v for line in axis.get_lines() for v in line.get_ydata()]
  if log and min(values) > 0 and max(values) > 10 * min(values):
    axis.set_yscale("log")
    plain_log(axis.yaxis)
  add_legend(figure, axis)
  if several and len(names) > 1:
    drawn = ", ".join(f"{_STYLES[style]} {what}" for _, what, style in names)
    text += f" {drawn[:1].upper()}{drawn[1:]}."
  table = _table(groups, [(name, what or unit) for name, what, _ in names], split, factor)
  return Plot(title, figure, f"{text} {_said(groups, ends)}", table)


def _band(
  axis: Any, x: Sequence[float], low: Sequence[float], high: Sequence[float], color: str
) -> None:
  """Between two lines; at a single place a line."""
  if len(x) == 1:
    axis.vlines(x, low, high, color=color, alpha=0.3, linewidth=4)
  else:
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _epoch_axis(axis: Any) -> None:
  """Whole epochs, where there are some; from 0 where all lies at one of them."""
  axis.set_xlabel("epoch")
  axis.xaxis.get_major_locator().set_params(integer=True)
  places = {float(x) for line in axis.get_lines() for x in line.get_xdata()}
  if len(places) == 1:
    axis.set_xlim(0, 1.2 * max(*places, 1.0))


def _said(groups: Sequence[Group], ends: Mapping[tuple[str, str], Sequence[float]]) -> str:
  """Last values in words; of several runs their mean."""
  told: dict[str, list[str]] = {}
  for (label, what), values in ends.items():
    told.setdefault(label, []).append(f"{what} {sum(values) / len(values):.4g}".strip())
  words = [f"{label}{': ' if label else ''}{', '.join(said)}" for label, said in told.items()]
  more = f"; and {len(words) - _NAMED} more in the table" if len(words) > _NAMED else ""
  mean = ", mean over the runs of a setting" if any(len(g.runs) > 1 for g in groups) else ""
  return f"At the end{mean}: {'; '.join(words[:_NAMED])}{more}."


def _table(
  groups: Sequence[Group], names: Sequence[tuple[str, str]], split: str, factor: float
) -> Table:
  """A row a record; of many records some, evenly spread, and the last."""
  several = sum(len(group.runs) for group in groups) > 1
  headings = [*(["run"] if several else []), "epoch", *(what for _, what in names)]
  rows = []
  for group in groups:
    for run in group.runs:
      records = [r for r in _records(run.records, split) if r.get(names[0][0]) is not None]
      step = math.ceil(len(records) / 20) or 1
      chosen = [*records[:-1][::step], *records[-1:]]
      for r in chosen:
        values = [None if r.get(n) is None else factor * float(r[n]) for n, _ in names]
        rows.append([*([run.name or group.label] if several else []), float(r["epoch"]), *values])
  return Table(headings, rows)


def _marker(x: Sequence[float], style: str) -> str:
  if len(x) == 1:
    return _MARKERS[style]
  return "o" if len(x) < 30 else ""


def _bias_and_threshold(groups: Sequence[Group]) -> Plot | None:
  """Where the learned bias is, and where the best threshold."""
  figure = new_figure()
  axis = figure.subplots()
  several, runs = len(groups) > 1, sum(len(group.runs) for group in groups)
  ends: dict[tuple[str, str], list[float]] = {}
  for k, group in enumerate(groups):
    colours = (COLOURS[k % 8],) * 2 if several else COLOURS[:2]
    for j, run in enumerate(group.runs):
      for colour, (name, what, style) in zip(colours, _THRESHOLDS, strict=True):
        x, y = _points(run.records, "judged", name)
        if not x:
          continue
        label = (plain(group.label) if name == "bias" else "") if several else what
        marker = _marker(x, style)
        axis.plot(x, y, style, color=colour, label="" if j else label, marker=marker, markersize=4)
        ends.setdefault((group.label if several else "", what), []).append(y[-1])
      x, low = _points(run.records, "judged", "threshold_low")
      _, high = _points(run.records, "judged", "threshold_high")
      if runs == 1 and len(low) == len(high):
        _band(axis, x, low, high, colours[1])
  if not ends:
    return None
  _epoch_axis(axis)
  axis.set_ylabel("on scale · c")
  add_legend(figure, axis)
  text = "The learned bias (solid) and the threshold that would have been best (dashed)"
  text += "; the band is all thresholds as good." if runs == 1 else "."
  if any(r.get("bias_min") is not None for g in groups for run in g.runs for r in run.records):
    text += " Of a bias a class its mean is drawn, and the best threshold without it."
  text += f" {_said(groups, ends)}"
  names = [("bias", "b"), ("threshold", "t*"), ("threshold_low", "from"), ("threshold_high", "to")]
  return Plot("Bias and best threshold", figure, text, _table(groups, names, "judged", 1))
