"""Plots over several runs: accuracy over what was varied, best threshold against learned bias."""

import math
from collections.abc import Sequence
from typing import Any

from bce_jax import results
from bce_jax.report.comparison import Group, Run, columns_of, grouped, setting_names
from bce_jax.report.svg import COLORS, GRID, INK, add_legend, new_figure, plain, style

_NAMED = 8  # settings up to which each has a color of its own
MAIN = tuple(row for row in results.RESULTS if row.main)
_LINES = ("o-", "s--", "^-.", "v:")  # of the main results


def picture(runs: Sequence[Run], title: str) -> Any:
  """Draws the runs: accuracy over every setting that is a number, else a group of bars each.

  Beside it stands the best threshold of each run over the bias it learned, where runs have them.

  Args:
    runs: one or more.
    title: above the figure.

  Returns:
    A matplotlib figure.
  """
  with style():
    return _picture(runs, title)


def _picture(runs: Sequence[Run], title: str) -> Any:
  groups = grouped(runs)
  varied = varied_numbers(groups)
  compared = any(
    _finite(r.results.get("bias")) and _finite(r.results.get("threshold")) for r in runs
  )
  panels = max(len(varied), 1) + compared
  figure = new_figure(max(4.2 * panels, 6.4), 4.2)
  axes = figure.subplots(1, panels, squeeze=False)[0]
  if varied:
    for axis, key in zip(axes, varied, strict=False):
      draw_curves(axis, groups, key)
      axis.sharey(axes[0])
    axes[0].set_ylabel("test images classified correctly, %")
  else:
    draw_bars(axes[0], groups)
  if compared:
    draw_threshold_against_bias(axes[-1], groups)
  figure.suptitle(plain(title))
  return figure


def varied_numbers(groups: Sequence[Group]) -> list[str]:
  """The settings that are numbers and differ among the groups."""
  return [key for key in setting_names(groups) if _is_varied_number(groups, key)]


def draw_curves(axis: Any, groups: Sequence[Group], key: str) -> None:
  """A_SW and A_Uni over one setting, one line for each of the others' values.

  The axis is logarithmic where the values span more than a factor of ten, as the scale γ does in
  figure 1 of the uniform paper.
  """
  lines: dict[tuple[Any, ...], list[Group]] = {}
  for group in groups:
    if key in group.settings:
      others = tuple((k, v) for k, v in group.settings.items() if k != key)
      lines.setdefault(others, []).append(group)
  # One key at a time: the values of the other keys stand in other panels.
  seen: list[float] = []
  for color, (others, members) in zip(COLORS * len(lines), lines.items(), strict=False):
    members = sorted(members, key=lambda group: float(group.settings[key]))
    if len(members) < 2:
      continue
    x = [float(group.settings[key]) for group in members]
    seen += x
    named = Group(dict(others), []).label if others else ""
    for row, line in zip(MAIN, _LINES, strict=False):
      points = [group.mean_and_std(row.key) for group in members]
      y, spread = ([row.factor * p[k] for p in points] for k in (0, 1))
      error = None if all(map(math.isnan, spread)) else spread
      label = plain(f"{row.short} {named}".strip())
      axis.errorbar(x, y, error, fmt=line, color=color, capsize=3, markersize=4, label=label)
  if seen and min(seen) > 0 and max(seen) > 10 * min(seen):
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(seen)), [f"{x:g}" for x in sorted(set(seen))])
    axis.minorticks_off()
  axis.set_xlabel("scale γ" if key == "scale" else plain(key))
  axis.grid(alpha=0.3)
  if axis.get_legend_handles_labels()[0]:
    axis.legend(fontsize="small")


def draw_bars(axis: Any, groups: Sequence[Group]) -> None:
  """Accuracies of each group of runs beside each other."""
  runs = [run for group in groups for run in group.runs]
  shown = [row for row in columns_of(runs) if row.group == "accuracy"]
  width = 0.8 / len(groups)
  for k, group in enumerate(groups):
    points = [group.mean_and_std(row.key) for row in shown]
    x = [j + (k - (len(groups) - 1) / 2) * width for j in range(len(shown))]
    y, spread = ([100 * p[i] for p in points] for i in (0, 1))
    error = None if all(map(math.isnan, spread)) else spread
    color = COLORS[k % len(COLORS)]
    axis.bar(x, y, width * 0.92, yerr=error, capsize=3, label=plain(group.label), color=color)
  turned = len(shown) > 4
  axis.set_xticks(
    range(len(shown)),
    [row.words("column") for row in shown],
    rotation=30 if turned else 0,
    ha="right" if turned else "center",
  )
  axis.set_ylabel("test images classified correctly, %")
  axis.set_ylim(0, 100)
  axis.grid(axis="y", alpha=0.3)
  axis.set_axisbelow(True)
  add_legend(axis.figure, axis)


def draw_threshold_against_bias(axis: Any, groups: Sequence[Group]) -> None:
  """The best threshold of every run, with its interval, over the bias it learned.

  On the diagonal the learned bias is the best threshold, which is the uniform paper's claim for the
  BCE losses. Of many settings those that differ by numbers only have one color.
  """
  names = ("bias", "threshold", "threshold_low", "threshold_high")
  numbers = varied_numbers(groups) if len(groups) > _NAMED else []
  families: dict[str, list[tuple[Any, ...]]] = {}
  for group in groups:
    words = {key: value for key, value in group.settings.items() if key not in numbers}
    label = group._replace(settings=words).label if words else "runs"
    points = [tuple(run.results.get(name) for name in names) for run in group.runs]
    families.setdefault(label, []).extend(p for p in points if _finite(p[0]) and _finite(p[1]))
  ends: list[float] = []
  for k, (label, points) in enumerate(families.items()):
    color = COLORS[k % 7]
    for bias, _, low, high in points:
      if _finite(low) and _finite(high):
        axis.plot([bias, bias], [low, high], color=color, alpha=0.5, linewidth=1)
        ends += [low, high]
    if points:
      x, y = [p[0] for p in points], [p[1] for p in points]
      ends += [*x, *y]
      axis.plot(x, y, "osD^v<>P"[k // 7 % 8], color=color, markersize=5, label=plain(label))
  if not ends:
    return
  # Both axes over the same numbers, so that the diagonal is seen wherever the marks are.
  low, high = min(ends), max(ends)
  margin = 0.05 * (high - low) or 1.0
  limits = (low - margin, high + margin)
  axis.plot(limits, limits, color=INK, linewidth=0.8, linestyle=":", label="t* = b")
  axis.set_xlim(limits)
  axis.set_ylim(limits)
  axis.set_xlabel("learned bias b")
  axis.set_ylabel("best threshold t* and its interval")
  axis.grid(color=GRID, alpha=0.3)
  if len(families) <= 12:
    axis.legend(fontsize="small")


def _finite(value: Any) -> bool:
  return value is not None and math.isfinite(value)


def _is_varied_number(groups: Sequence[Group], key: str) -> bool:
  values = [group.settings[key] for group in groups if key in group.settings]
  return len(set(values)) > 1 and all(
    isinstance(x, int | float) and not isinstance(x, bool) for x in values
  )
