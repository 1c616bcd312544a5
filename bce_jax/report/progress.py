"""The report's curves over epochs: loss, accuracies, bias and threshold, logged scalars."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bce_jax import results
from bce_jax.report.comparison import Group
from bce_jax.report.plot import Plot, Section, Table
from bce_jax.report.svg import COLORS, add_legend, new_figure, plain, plain_log
from bce_jax.results import ACCURACIES, BIAS_CHART, Result

# Where there is but one evaluation there is no line to recognize a style by.
_MARKERS = {"-": "o", "--": "D", "-.": "^", ":": "v"}
_STYLES = {"-": "solid", "--": "dashed", "-.": "dash-dotted", ":": "dotted"}
_THRESHOLDS = [
  (row.key, row.drawn().label, style)
  for row, style in zip(map(results.row, ("bias", "threshold")), ("-", "--"), strict=True)
]
_BANDS, _NAMED = 6, 6  # of more runs no bands are drawn; of more groups no last values are said
_NO_SCALARS = ("step", "epoch", "split")  # of a record


class Chart(NamedTuple):
  """The axis and the text of a chart over epochs.

  Attributes:
    unit: of its axis.
    text: how to read it.
    text_of_several: the same, where several groups of runs have the main results drawn only.
    log: whether the axis may be logarithmic.
  """

  unit: str
  text: str
  text_of_several: str = ""
  log: bool = False


# In the order to draw; what charts they do not have here, results say by themselves.
_CHARTS: dict[str, Chart | None] = {
  "Training loss": Chart("loss", "Mean loss of the steps since the last record.", log=True),
  ACCURACIES: Chart(
    "classified correctly, %",
    "Exact accuracies after each evaluation: arg max (A_SW), a threshold per class (A_CW), one"
    " threshold for all (A_Uni), and the learned bias as that threshold.",
    "Exact accuracies after each evaluation: arg max (A_SW), and one threshold for all (A_Uni).",
  ),
  BIAS_CHART: None,
  "Learning rate": None,
}


def section(groups: Sequence[Group]) -> Section:
  """Returns the section of curves over epochs: loss, accuracies, bias and threshold, scalars."""
  charts = _charts(groups)
  plots = []
  for title in dict.fromkeys([*_CHARTS, *charts]):
    rows = [row for row in charts.get(title, ()) if row.group != "geometry"]
    if title == BIAS_CHART:
      plots.append(_bias_and_threshold(groups))
    elif rows:
      plots.append(_chart(groups, title, rows))
  lead = _split(groups)
  if any(len(group.runs) > 1 for group in groups):
    lead += " Lines of one color are runs that differ by their seed only."
  return Section("Training", lead.strip(), [plot for plot in plots if plot is not None])


def geometry_plots(groups: Sequence[Group]) -> list[Plot]:
  """Draws compactness and separability over epochs, mean and standard deviation over classes."""
  charts = _charts(groups)
  found = {
    title: rows for title, rows in charts.items() if any(row.group == "geometry" for row in rows)
  }
  plots = [_chart(groups, title, rows) for title, rows in found.items()]
  return [plot for plot in plots if plot is not None]


def _charts(groups: Sequence[Group]) -> dict[str, list[Result]]:
  """The rows of each chart; a scalar of training that no row knows has one by its own name."""
  runs = [run for group in groups for run in group.runs]
  rows = results.table([row for run in runs for row in run.rows])
  keys = {row.key for row in rows}
  charts: dict[str, list[Result]] = {}
  for row in rows:
    if row.curve:
      charts.setdefault(row.drawn().chart, []).append(row)
  records = (record for run in runs for record in _records(run.records, "train"))
  for key in dict.fromkeys(key for record in records for key in record):
    if key not in keys and key not in _NO_SCALARS:
      row = Result(key, key, curve=True, group="training")
      charts.setdefault(row.drawn().chart, []).append(row)
  return charts


def _chart(groups: Sequence[Group], title: str, rows: Sequence[Result]) -> Plot | None:
  """A chart of one or several results over epochs; None where no run has them."""
  several, one = len(groups) > 1, rows[0]
  styles = ("-", "--") if len(rows) < 3 else ("-", "-.", "--", ":")
  lines = list(zip(rows, styles * len(rows), strict=False))
  if several and any(row.main for row in rows):
    lines = [(row, style) for row, style in lines if row.main]
  names = [(row.key, row.drawn().label if len(rows) > 1 else "", style) for row, style in lines]
  said = _CHARTS.get(title) or _said_of(groups, rows)
  return _over_epochs(
    groups,
    title,
    said.unit,
    names,
    _source(groups, one),
    said.text_of_several if several and said.text_of_several else said.text,
    factor=one.factor,
    log=said.log,
    band=f"{one.key}_std" if "_std" in one.suffixes else None,
  )


def _said_of(groups: Sequence[Group], rows: Sequence[Result]) -> Chart:
  """What the rows themselves say of their chart."""
  one = rows[0]
  if len(rows) > 1:
    text = "; ".join(f"{row.drawn().label}: {row.meaning or row.heading}" for row in rows)
    return Chart(one.unit, f"{text[:1].upper()}{text[1:]}.")
  unit = one.drawn().label + (f", {one.unit}" if one.unit else "")
  text = f"{one.meaning[:1].upper()}{one.meaning[1:]}." if one.meaning else ""
  if "_std" in one.suffixes:
    few = sum(len(group.runs) for group in groups) <= _BANDS
    text += f" Mean over classes{'; the band is their standard deviation' if few else ''}."
  return Chart(unit, text)


def _source(groups: Sequence[Group], row: Result) -> str:
  """Which records a result is in: those of training or of evaluations."""
  if row.group == "training":
    return "train"
  records = (r for g in groups for run in g.runs for r in _records(run.records, "evaluation"))
  return "evaluation" if any(r.get(row.key) is not None for r in records) else "train"


def _split(groups: Sequence[Group]) -> str:
  splits = {
    r["split"] for g in groups for run in g.runs for r in _records(run.records, "evaluation")
  }
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
  """Lines over epochs, a color per group, or per name of a single group; None without any."""
  figure = new_figure()
  axis = figure.subplots()
  several, bands = len(groups) > 1, sum(len(group.runs) for group in groups) <= _BANDS
  ends: dict[tuple[str, str], list[float]] = {}
  for k, group in enumerate(groups):
    for j, (name, what, style) in enumerate(names):
      color = COLORS[(k if several else j) % len(COLORS)]
      label = (plain(group.label) if j == 0 else "") if several else what
      for run in group.runs:
        x, y = _points(run.records, split, name)
        if not x:
          continue
        y = [factor * value for value in y]
        marker = _marker(x, style)
        axis.plot(x, y, style, color=color, label=label or None, marker=marker, markersize=4)
        label = ""
        ends.setdefault((group.label if several else "", what), []).append(y[-1])
        _, spread = _points(run.records, split, band or "")
        if bands and len(spread) == len(y):
          low, high = ([v + s * d for v, d in zip(y, spread, strict=True)] for s in (-1, 1))
          _band(axis, x, low, high, color)
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
  return Plot(title, figure, f"{text} {_said(groups, ends)}".strip(), table)


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
  by_label: dict[str, list[str]] = {}
  for (label, what), values in ends.items():
    by_label.setdefault(label, []).append(f"{what} {sum(values) / len(values):.4g}".strip())
  words = [f"{label}{': ' if label else ''}{', '.join(said)}" for label, said in by_label.items()]
  more = f"; and {len(words) - _NAMED} more in the table" if len(words) > _NAMED else ""
  mean = ", mean over the runs of a setting" if any(len(g.runs) > 1 for g in groups) else ""
  return f"At the end{mean}: {'; '.join(words[:_NAMED])}{more}."


def _table(
  groups: Sequence[Group], names: Sequence[tuple[str, str]], split: str, factor: float
) -> Table:
  """A row per record; of many records some, evenly spread, and the last."""
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
    colors = (COLORS[k % 8],) * 2 if several else COLORS[:2]
    for j, run in enumerate(group.runs):
      for color, (name, what, style) in zip(colors, _THRESHOLDS, strict=True):
        x, y = _points(run.records, "evaluation", name)
        if not x:
          continue
        label = (plain(group.label) if name == "bias" else "") if several else what
        marker = _marker(x, style)
        axis.plot(x, y, style, color=color, label="" if j else label, marker=marker, markersize=4)
        ends.setdefault((group.label if several else "", what), []).append(y[-1])
      x, low = _points(run.records, "evaluation", "threshold_low")
      _, high = _points(run.records, "evaluation", "threshold_high")
      if runs == 1 and len(low) == len(high):
        _band(axis, x, low, high, colors[1])
  if not ends:
    return None
  _epoch_axis(axis)
  axis.set_ylabel("on scale · c")
  add_legend(figure, axis)
  text = "The learned bias (solid) and the threshold that would have been best (dashed)"
  text += "; the band is all thresholds as good." if runs == 1 else "."
  if any(r.get("bias_min") is not None for g in groups for run in g.runs for r in run.records):
    text += " Of a bias per class its mean is drawn, and the best threshold without it."
  text += f" {_said(groups, ends)}"
  names = [("bias", "b"), ("threshold", "t*"), ("threshold_low", "from"), ("threshold_high", "to")]
  return Plot(BIAS_CHART, figure, text, _table(groups, names, "evaluation", 1))
