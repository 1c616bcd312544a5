"""Several runs side by side: a table of their final figures, and a picture of it."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Name in results.json, heading, factor to %.
COLUMNS = (
  ("sample_wise_accuracy", "All (A_SW)", 100),
  ("many_accuracy", "Many", 100),
  ("medium_accuracy", "Medium", 100),
  ("few_accuracy", "Few", 100),
  ("uniform_accuracy", "A_Uni", 100),
  ("uniform_accuracy_at_bias", "A_Uni at bias", 100),
  ("flip_sample_wise_accuracy", "All, flip", 100),
  ("adjusted_sample_wise_accuracy", "All, adjusted", 100),
  ("compactness", "compact.", 1),
  ("separability", "separab.", 1),
  ("classifier_separability", "class. sep.", 1),
  ("positive_cosine", "cos +", 1),
  ("negative_cosine", "cos −", 1),
)
SEED = "seed"


class Run(NamedTuple):
  """A finished run.

  Attributes:
    settings: what tells it from the others: {key: value}, in the order to show.
    figures: as in its results.json.
  """

  settings: Mapping[str, Any]
  figures: Mapping[str, Any]


class Group(NamedTuple):
  """Runs that differ by their seed only.

  Attributes:
    settings: without the seed.
    runs: one or more.
  """

  settings: Mapping[str, Any]
  runs: Sequence[Run]

  def mean_and_std(self, name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of a figure; nan where a run lacks it, or is alone."""
    values = [run.figures.get(name) for run in self.runs]
    numbers = [float(x) for x in values if x is not None]
    if len(numbers) < len(values):
      return math.nan, math.nan
    spread = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return statistics.fmean(numbers), spread


def grouped(runs: Sequence[Run]) -> list[Group]:
  """Puts runs together that differ by their seed only, in the order of their first."""
  groups: dict[tuple[Any, ...], Group] = {}
  for run in runs:
    settings = {key: value for key, value in run.settings.items() if key != SEED}
    group = groups.setdefault(tuple(settings.items()), Group(settings, []))
    groups[tuple(settings.items())] = group._replace(runs=[*group.runs, run])
  return list(groups.values())


def columns_of(runs: Sequence[Run]) -> list[tuple[str, str, int]]:
  """The columns that at least one of the runs has a figure for."""
  return [c for c in COLUMNS if any(run.figures.get(c[0]) is not None for run in runs)]


def markdown(runs: Sequence[Run]) -> str:
  """A table in Markdown, mean ± deviation over seeds, the best accuracy of a column in bold."""
  groups, columns = grouped(runs), columns_of(runs)
  keys = _setting_names(groups)
  best = {
    name: max((group.mean_and_std(name)[0] for group in groups), key=lambda x: (x == x, x))
    for name, _, factor in columns
    if factor == 100 and len(groups) > 1
  }
  rows = [[*keys, *(heading for _, heading, _ in columns), "runs"]]
  for group in groups:
    cells = [str(group.settings.get(key, "")) for key in keys]
    for name, _, factor in columns:
      mean, spread = group.mean_and_std(name)
      text = _number(mean * factor, spread * factor, digits=2 if factor == 1 else 1)
      cells.append(f"**{text}**" if mean == best.get(name) else text)
    rows.append([*cells, str(len(group.runs))])
  widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
  lines = [
    "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
  ]
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  return "\n".join([lines[0], rule, *lines[1:]])


def comma_separated(runs: Sequence[Run]) -> str:
  """A line a run, with every number of its results."""
  keys = _setting_names([Group(run.settings, [run]) for run in runs])
  names = sorted({name for run in runs for name in run.figures} - set(keys))
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow([*keys, *names])
  for run in runs:
    settings = [run.settings.get(key, "") for key in keys]
    writer.writerow([*settings, *(run.figures.get(name, "") for name in names)])
  return out.getvalue()


def picture(runs: Sequence[Run], title: str) -> Any:
  """Draws the runs: accuracy over every setting that is a number, else a group of bars each.

  Args:
    runs: one or more.
    title: above the figure.

  Returns:
    A matplotlib figure.
  """
  from matplotlib.figure import Figure  # not pyplot: no display, no global state

  groups = grouped(runs)
  varied = [key for key in _setting_names(groups) if _numbers(groups, key)]
  panels = max(len(varied), 1)
  figure = Figure(figsize=(max(4.2 * panels, 6.4), 4.2), layout="constrained")
  axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
  if varied:
    for axis, key in zip(axes, varied, strict=True):
      _curves(axis, groups, key)
    axes[0].set_ylabel("test images judged right, %")
  else:
    _bars(axes[0], groups)
  figure.suptitle(title)
  return figure


# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def _curves(axis: Any, groups: Sequence[Group], key: str) -> None:
  """A_SW and A_Uni over one setting, one line for each of the others' values."""
  lines: dict[tuple[Any, ...], list[Group]] = {}
  for group in groups:
    if key in group.settings:
      others = tuple((k, v) for k, v in group.settings.items() if k != key)
      lines.setdefault(others, []).append(group)
  # One key at a time: the values of the other keys stand in other panels.
  for colour, (others, members) in zip(_COLOURS * len(lines), lines.items(), strict=False):
    members = sorted(members, key=lambda group: float(group.settings[key]))
    if len(members) < 2:
      continue
    x = [float(group.settings[key]) for group in members]
    named = ", ".join(str(v) if k == "config" else f"{k.split('.')[-1]} {v}" for k, v in others)
    for name, style, what in (
      ("sample_wise_accuracy", "o-", "A_SW"),
      ("uniform_accuracy", "s--", "A_Uni"),
    ):
      points = [group.mean_and_std(name) for group in members]
      y, spread = ([100 * p[k] for p in points] for k in (0, 1))
      error = None if all(map(math.isnan, spread)) else spread
      label = f"{what} {named}".strip()
      axis.errorbar(x, y, error, fmt=style, color=colour, capsize=3, label=label)
  axis.set_xlabel(key)
  axis.grid(alpha=0.3)
  if axis.get_legend_handles_labels()[0]:
    axis.legend(fontsize="small")


def _bars(axis: Any, groups: Sequence[Group]) -> None:
  """Accuracies of each group of runs beside each other."""
  runs = [run for group in groups for run in group.runs]
  shown = [c for c in columns_of(runs) if c[2] == 100]
  width = 0.8 / len(groups)
  for k, group in enumerate(groups):
    points = [group.mean_and_std(name) for name, _, _ in shown]
    x = [j + (k - (len(groups) - 1) / 2) * width for j in range(len(shown))]
    y, spread = ([100 * p[i] for p in points] for i in (0, 1))
    error = None if all(map(math.isnan, spread)) else spread
    name = ", ".join(str(v) for v in group.settings.values()) or "run"
    axis.bar(x, y, width * 0.92, yerr=error, capsize=3, label=name, color=_COLOURS[k % 7])
  axis.set_xticks(range(len(shown)), [heading for _, heading, _ in shown])
  axis.set_ylabel("test images judged right, %")
  axis.set_ylim(0, 100)
  axis.grid(axis="y", alpha=0.3)
  axis.set_axisbelow(True)
  axis.figure.legend(loc="outside lower center", ncols=min(len(groups), 4), fontsize="small")


def _setting_names(groups: Sequence[Group]) -> list[str]:
  """All settings that tell the runs apart, in the order of their first appearance."""
  return list(dict.fromkeys(key for group in groups for key in group.settings))


def _numbers(groups: Sequence[Group], key: str) -> bool:
  values = [group.settings[key] for group in groups if key in group.settings]
  return len(set(values)) > 1 and all(
    isinstance(x, int | float) and not isinstance(x, bool) for x in values
  )


def _number(mean: float, spread: float, *, digits: int) -> str:
  if math.isnan(mean):
    return "–"
  return f"{mean:.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")
