"""One self-contained HTML page of one or several runs: no script, nothing fetched from anywhere."""

import html
import importlib.resources
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import bce_jax
from bce_jax import atomic, results
from bce_jax.report import classes, features, mistakes, progress, scores, studies, verification
from bce_jax.report.comparison import (
  RUN,
  SEED,
  Group,
  Run,
  columns_of,
  grouped,
  repetitions,
  setting_names,
  untrained_bias,
)
from bce_jax.report.plot import Plot, Section, Table, cell, percent
from bce_jax.report.settings import frozen
from bce_jax.report.svg import add_legend, inline, new_figure, style
from bce_jax.results import Result

FILE = "report.html"
_MOST = 6  # settings that are drawn each by itself


def build(
  runs: Sequence[Run],
  *,
  title: str,
  map_method: str = "tsne",
  missing: Mapping[str, str] | None = None,
) -> str:
  """Returns the page.

  Args:
    runs: one or more, with their settings (see `with_settings`), records and outputs.
    title: of the page.
    map_method: of the map of features: "tsne" or "pca".
    missing: {name: reason} of runs that failed or have not ended, and are only listed.

  Returns:
    HTML, whole.
  """
  groups = grouped(runs)
  drawn = _drawn(groups)
  with style():
    sections = [
      _overview(groups, missing or {}),
      *([_study(groups)] if len(runs) > 1 else []),
      progress.section(drawn),
      scores.section(drawn),
      verification.section(drawn),
      classes.section(drawn),
      classes.geometry_section(drawn),
      _features(drawn, map_method),
      _mistakes(drawn),
      _configs(runs),
      _provenance(runs),
    ]
    sections = [s for s in sections if s.plots or s.html]
    bodies = [_section(k, section) for k, section in enumerate(sections, start=1)]
  contents = "".join(
    f'<li><a href="#s{k}">{html.escape(s.title)}</a></li>' for k, s in enumerate(sections, start=1)
  )
  css = importlib.resources.files("bce_jax.report").joinpath("style.css").read_text()
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{html.escape(title)}</h1>
<p class="soft">{html.escape(_summary(groups))}</p>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</header>
<main id="content">
{"".join(bodies)}</main>
<footer>Made by bce_jax {html.escape(bce_jax.__version__)}. A_SW: arg max; A_CW: the best threshold
of each class; A_Uni: the best one threshold for all (Li et al., arXiv 2403.07289). ± is the
standard deviation over runs that differ by their seed only.</footer>
</body>
</html>
"""


def _drawn(groups: Sequence[Group]) -> list[Group]:
  """Of more settings than the eye can tell apart those with the highest A_Uni, in their order.

  Runs that repeat another one are left out: they would be taken for another seed.
  """
  means = [group.mean_and_std("uniform_accuracy")[0] for group in groups]
  best = sorted(range(len(groups)), key=lambda k: (math.isnan(means[k]), -means[k]))[:_MOST]
  return [group._replace(runs=group.counted) for k, group in enumerate(groups) if k in best]


def _summary(groups: Sequence[Group]) -> str:
  runs = [run for group in groups for run in group.runs]
  first = runs[0]
  if len(runs) > 1:
    return f"{len(runs)} runs, {len(groups)} settings"
  config, images = first.config, first.results.get("images")
  said = f"{config.get('objective.name')}, {config.get('loss')} on {config.get('model')}"
  if images:
    said += (
      f"; {images:,} test images of {len(first.outputs.class_names)} classes"
      if (first.outputs)
      else f"; {images:,} test images"
    )
  return said


def _section(number: int, section: Section) -> str:
  plots = "".join(_figure(f"f{number}-{k}", p) for k, p in enumerate(section.plots, start=1))
  grid = f'<div class="plots">{plots}</div>' if plots else ""
  lead = f"<p>{html.escape(section.lead)}</p>" if section.lead else ""
  title = html.escape(section.title)
  return (
    f'<section id="s{number}" aria-labelledby="s{number}-h"><h2 id="s{number}-h">{title}</h2>'
    f"{lead}{section.html}{grid}</section>\n"
  )


def _figure(name: str, plot: Plot) -> str:
  title = html.escape(plot.title)
  drawn = inline(plot.figure, name, plot.title, plot.description)
  table = ""
  if plot.table is not None and plot.table.rows:
    table = (
      f"<details><summary>Table<span class='unseen'> of {title}</span></summary>"
      f"{_table(plot.table, f'Numbers behind “{title}”')}</details>"
    )
  caption = f"<figcaption>{html.escape(plot.description)}</figcaption>"
  return f"<figure><h3>{title}</h3>{drawn}{caption}{table}</figure>"


def _table(table: Table, label: str) -> str:
  """A table that scrolls by itself, also by keyboard."""
  kinds = [" class='text'" if k < table.words else "" for k in range(len(table.headings))]
  head = "".join(
    f'<th scope="col"{kind}>{html.escape(str(text))}</th>'
    for text, kind in zip(table.headings, kinds, strict=True)
  )
  rows = "".join(
    "<tr>"
    + "".join(f"<td{k}>{html.escape(cell(x))}</td>" for x, k in zip(row, kinds, strict=True))
    + "</tr>"
    for row in table.rows
  )
  return (
    f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}'
    f"</tr></thead><tbody>{rows}</tbody></table></div>"
  )


def _overview(groups: Sequence[Group], missing: Mapping[str, str]) -> Section:
  listed = "".join(
    f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in missing.items()
  )
  left_out = f"<p>Not on this page:</p><ul>{listed}</ul>" if listed else ""
  if len(groups) == 1 and len(groups[0].runs) == 1:
    return Section("Results", "", html=_tiles(groups[0].runs[0]) + left_out)
  runs = [run for group in groups for run in group.runs]
  keys = setting_names(groups)
  columns = [row for row in columns_of(runs) if row.unit == "%"]  # others: see their plots
  rows: list[list[Any]] = []
  for group in groups:
    cells = [*(cell(group.settings.get(key, "")) for key in keys), str(len(group.counted))]
    for column in columns:
      mean, spread = group.mean_and_std(column.key)
      text = "–" if math.isnan(mean) else f"{column.factor * mean:.1f}"
      cells.append(text if math.isnan(spread) else f"{text} ± {column.factor * spread:.1f}")
    rows.append(cells)
  headings = [*keys, "runs", *(f"{row.words('column')}, %" for row in columns)]
  lead = (
    "Final results of the test split. Several runs of one setting: mean ± standard deviation over"
    " their seeds, and their number."
  )
  lead = " ".join([lead, *untrained_bias(runs), *repetitions(groups)])
  if len(groups) > _MOST:
    lead += f" From the training curves on, the {_MOST} settings with the highest A_Uni are drawn."
  table = _table(Table(headings, rows, words=len(keys)), "Final results")
  shown = [key for key in [*keys, SEED] if key != RUN]
  names = [[run.name, *(cell(run.settings.get(key, "")) for key in shown)] for run in runs]
  every = _table(Table([RUN, *shown], names, words=len(shown) + 1), "The runs")
  runs_html = f"<details><summary>The {len(runs)} runs</summary>{every}</details>"
  return Section("Results", lead, html=f'<div class="card">{table}{runs_html}{left_out}</div>')


def _tiles(run: Run) -> str:
  """The results of one run: some large, the shares before the other numbers, and all in a table."""
  values = {key: x for key, x in run.results.items() if x is not None}
  rows = [row for row in results.known(values, run.rows) if row.tile]
  tiles = [_tile(row, run.results) for row in sorted(rows, key=lambda row: row.unit != "%")]
  items = "".join(f"<li><b>{a}</b><span>{html.escape(b)}</span></li>" for a, b in tiles)
  rest = {n: x for n, x in run.results.items() if isinstance(x, int | float | str)}
  table = _table(
    Table(["result", "value"], [[n, _exact(x)] for n, x in rest.items()]), "All results"
  )
  return f'<ul class="tiles">{items}</ul><details><summary>All results</summary>{table}</details>'


def _tile(row: Result, values: Mapping[str, Any]) -> tuple[str, str]:
  """A result as text, and what it is, with the ends of its interval."""
  value = values[row.key]
  shown = percent(value) if row.unit == "%" else cell(value)
  what = row.words("tile")
  ends = results.ends(row, values)
  if len(ends) == 2:
    what += f" ({' … '.join(map(cell, ends))})"
  return (f"{shown} ± {row.factor * ends[0]:.3g}" if len(ends) == 1 else shown), what


def _exact(value: Any) -> str:
  return f"{value:.6g}" if isinstance(value, float) else str(value)


def _study(groups: Sequence[Group]) -> Section:
  """Accuracy over what was varied, and the best thresholds against the learned biases."""
  plots = []
  rows = [
    [group.label, *(row.factor * x for row in studies.MAIN for x in group.mean_and_std(row.key)),
     len(group.counted)]
    for group in groups
  ]  # fmt: skip
  named = [heading for row in studies.MAIN for heading in (f"{row.short}, {row.unit}", "±")]
  table = Table(["setting", *named, "runs"], rows)
  for key in studies.varied_numbers(groups):
    figure = new_figure(5.2, 4.2)
    axis = figure.subplots()
    studies.draw_curves(axis, groups, key)
    if not axis.lines:
      continue
    add_legend(figure, axis)
    axis.set_ylabel("test images classified correctly, %")
    name = "the scale γ" if key == "scale" else key
    text = f"Test accuracy by arg max (A_SW) and by one threshold (A_Uni) over {name}."
    plots.append(Plot(f"Accuracy over {name}", figure, text, table))
  if not plots and len(groups) > 1:
    figure = new_figure(5.2, 3.8)
    studies.draw_bars(figure.subplots(), groups)
    text = "Final accuracies of the test split; the bars' lines are standard deviations over seeds."
    plots.append(Plot("Accuracies", figure, text, table))
  figure = new_figure(5.2, 4.2)
  axis = figure.subplots()
  studies.draw_threshold_against_bias(axis, groups)
  if axis.lines:
    add_legend(figure, axis)
    text = (
      "Each mark is a run. On the dotted diagonal the learned bias is the best threshold; vertical"
      " lines are all thresholds that are as good."
    )
    names = ("bias", "threshold", "threshold_low", "threshold_high")
    shown = [
      [group.label, *(run.results.get(name) for name in names)]
      for group in groups
      for run in group.runs
    ]
    headings = ["setting", "b", "t*", "from", "to"]
    plots.append(Plot("Best threshold against learned bias", figure, text, Table(headings, shown)))
  return Section("Side by side", "", plots)


def _features(groups: Sequence[Group], method: str) -> Section:
  plots = []
  for group in groups:
    run = group.runs[0]
    if run.outputs is not None:
      label = group.label if len(groups) > 1 else ""
      plots.append(features.plot(run.outputs, label, method=method))
  lead = "Each point is a test image; classes that lie apart are easy to tell apart."
  return Section("Features", lead, [plot for plot in plots if plot is not None])


def _mistakes(groups: Sequence[Group]) -> Section:
  plots, images = [], ""
  for group in groups:
    outputs = group.runs[0].outputs
    if outputs is not None:
      label = group.label if len(groups) > 1 else ""
      plots.append(mistakes.plot(outputs, label))
  first = groups[0].runs[0].outputs
  if first is not None and len(groups) == 1:
    images = mistakes.examples(first)
    if images:
      images = f'<div class="card"><h3>Misclassified test images</h3>{images}</div>'
  return Section("Mistakes", "", [plot for plot in plots if plot is not None], images)


def _configs(runs: Sequence[Run]) -> Section:
  if len(runs) == 1:
    rows = [[key, _text(value)] for key, value in runs[0].config.items()]
    table = _table(Table(["key", "value"], rows, words=2), "Config")
    return Section("Config", "", html=f'<div class="card">{table}</div>' if rows else "")
  keys = dict.fromkeys(key for run in runs for key in run.config)
  differing = [k for k in keys if len({frozen(run.config.get(k)) for run in runs}) > 1]
  if not differing:
    return Section("Config", "All runs have the same config.", html=" ")
  if len(runs) <= _MOST:
    headings = ["key", *(run.name for run in runs)]
    rows = [[key, *(_text(run.config.get(key, "")) for run in runs)] for key in differing]
  else:
    headings = ["run", *differing]
    rows = [[run.name, *(_text(run.config.get(key, "")) for key in differing)] for run in runs]
  table = _table(Table(headings, rows, words=len(headings)), "Keys in which the configs differ")
  return Section("Config differences", "", html=f'<div class="card">{table}</div>')


def _provenance(runs: Sequence[Run]) -> Section:
  """Versions, devices and times: of each session of one run, of the last session of several."""
  if len(runs) == 1:
    columns = [(f"session {k}", x) for k, x in enumerate(runs[0].sessions, start=1)][-_MOST:]
  else:
    columns = [(run.name, run.sessions[-1]) for run in runs if run.sessions]
  keys = dict.fromkeys(key for _, session in columns for key in session)
  if len(runs) > 1:  # what is the same for all is shown once
    same = [k for k in keys if len({frozen(x.get(k)) for _, x in columns}) == 1]
    columns = columns if len(columns) <= _MOST else [("all", {k: columns[0][1][k] for k in same})]
  rows = [
    [k if k == "bce_jax" else k.replace("_", " "), *(_fact(x.get(k)) for _, x in columns)]
    for k in keys
  ]
  rows = [row for row in rows if any(row[1:])]
  headings = ["", *(name for name, _ in columns)]
  table = _table(Table(headings, rows, words=len(headings)), "Provenance")
  return Section("Provenance", "", html=f'<div class="card">{table}</div>' if rows else "")


def _fact(value: Any) -> str:
  """A value of a session: a text, a repository's state, or how many there are of each device."""
  if isinstance(value, Mapping) and "commit" in value:
    return f"{value['commit']}{', with changes' if value.get('dirty') else ''}"
  if isinstance(value, Mapping):
    return ", ".join(f"{count} × {name}" for name, count in value.items())
  return "" if value is None else str(value)


def _text(value: Any) -> str:
  return "none" if value is None else str(value)


def write(path: pathlib.Path, text: str) -> None:
  """Writes the page, atomically."""
  # A file's name that is no UTF-8 may be the name of a class.
  with atomic.opened(path, errors="replace") as file:
    file.write(text)
