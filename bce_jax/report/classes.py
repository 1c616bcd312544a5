"""The report's plots per class: accuracy, scores around the bias, geometry of the features."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bce_jax.metrics import FEW, MANY, Spread
from bce_jax.report.comparison import Group
from bce_jax.report.plot import Plot, Section, Table
from bce_jax.report.progress import geometry_plots
from bce_jax.report.svg import COLORS, GRID, INK, add_legend, new_figure, plain, short
from bce_jax.runs.test_outputs import TestOutputs

_NAMED = 12  # classes up to which an axis names each


def section(groups: Sequence[Group]) -> Section:
  """Returns the section on the accuracy of each class, ordered by training images."""
  seen = [(group, run.outputs) for group in groups for run in group.runs[:1] if run.outputs]
  plots = [_accuracy(seen)] if seen else []
  lead = "Classes from the most to the fewest training images."
  if seen and len(_by_shots(seen[0][1])) > 1:
    lead += f" Many-shot classes have more than {MANY}, few-shot ones fewer than {FEW}."
  return Section("Classes", lead, [plot for plot in plots if plot is not None])


def geometry_section(groups: Sequence[Group]) -> Section:
  """Returns the section on compactness and separability, per class and over epochs."""
  seen = [(group, run.outputs) for group in groups for run in group.runs[:1] if run.outputs]
  plots = [plot for plot in [_geometry(seen)] if plot is not None] + geometry_plots(groups)
  lead = (
    "How the features of a class lie together, and the classes apart (figure 2 of the BCE3S paper)."
  )
  return Section("Compactness and separability", lead, plots)


def order(outputs: TestOutputs) -> np.ndarray:
  """The classes with test images, from the most to the fewest training images."""
  tested = np.bincount(outputs.labels, minlength=len(outputs.train_counts)) > 0
  by_count = np.argsort(-outputs.train_counts, kind="stable")
  return by_count[tested[by_count]]


def class_accuracy(outputs: TestOutputs) -> np.ndarray:
  """A_SW of each class, [N]; nan for one without test images."""
  n = len(outputs.train_counts)
  count = np.bincount(outputs.labels, minlength=n)
  right = np.bincount(outputs.labels, weights=outputs.right, minlength=n)
  return np.where(count > 0, right / np.maximum(count, 1), math.nan)


def _accuracy(seen: Sequence[tuple[Group, TestOutputs]]) -> Plot | None:
  _, first = seen[0]
  classes = order(first)
  figure = new_figure(5.2, 3.4)
  axis = figure.subplots()
  places = np.arange(len(classes))
  same = [(g, e) for g, e in seen if e.class_names == first.class_names]
  for k, (group, outputs) in enumerate(same):
    share = 100 * class_accuracy(outputs)[classes]
    label = plain(group.label) if len(same) > 1 else "A_SW"
    if len(classes) <= 30 and len(same) == 1:
      axis.bar(places, share, 0.8, color=COLORS[k % 8], label=label)
    else:
      axis.plot(
        places, share, ".-" if len(classes) <= 200 else "-", color=COLORS[k % 8], label=label,
        linewidth=1,
      )  # fmt: skip
  _bands(axis, first.train_counts[classes])
  _name_classes(axis, [first.class_names[c] for c in classes])
  axis.set_ylabel("classified correctly, %")
  axis.set_ylim(0, 104)
  numbers = first.train_counts[classes]
  if numbers.max() > 1.25 * numbers.min():  # else nothing is to be seen in it
    counts = axis.twinx()
    counts.plot(places, numbers, ":", color=INK, linewidth=1.2)
    counts.set_ylabel("training images (dotted)")
    counts.set_ylim(0, 1.04 * numbers.max())
    counts.grid(False)
    counts.spines["right"].set_visible(True)
  if len(same) > 1:
    add_legend(figure, axis)
  several = len(seen) > 1
  text = f"{len(classes)} classes{'; of ' + same[0][0].label if several else ''}: "
  text += _ends(class_accuracy(first)[classes], [first.class_names[c] for c in classes])
  shots = _by_shots(first)
  if len(shots) > 1:
    text += f" Mean over the images: {', '.join(f'{name} {x:.1f} %' for name, x in shots)}."
  text += _left_out(len(seen) - len(same))
  tested = np.bincount(first.labels, minlength=len(first.train_counts))
  names = [f"A_SW, % {group.label if several else ''}".strip() for group, _ in same]
  rows = [
    [first.class_names[c], int(first.train_counts[c]), int(tested[c])]
    + [float(100 * class_accuracy(e)[c]) for _, e in same]
    for c in classes
  ]
  table = Table(["class", "training images", "test images", *names], rows)
  return Plot("Accuracy of each class", figure, text, table)


def _left_out(number: int) -> str:
  """Says that settings with other classes are not drawn; one place has room for one order."""
  if not number:
    return ""
  who = "1 setting has" if number == 1 else f"{number} settings have"
  return f" {who} other classes and {'is' if number == 1 else 'are'} not drawn."


def _ends(shares: np.ndarray, names: Sequence[str]) -> str:
  """The best and the worst class in words; where several are so, how many."""
  said = []
  for what, end in (("best", shares.max()), ("worst", shares.min())):
    found = np.flatnonzero(shares == end)
    who = f"“{names[found[0]]}”" if len(found) == 1 else f"{len(found)} classes"
    said.append(f"{what} {100 * end:.1f} % ({who})")
  return f"{', '.join(said)}." if shares.max() > shares.min() else f"all {100 * shares[0]:.1f} %."


def _by_shots(outputs: TestOutputs) -> list[tuple[str, float]]:
  counts = outputs.train_counts[outputs.labels]
  groups = (
    ("many", counts > MANY),
    ("medium", (counts >= FEW) & (counts <= MANY)),
    ("few", counts < FEW),
  )
  return [(name, 100 * float(outputs.right[w].mean())) for name, w in groups if w.any()]


def _bands(axis: Any, counts: np.ndarray) -> None:
  """Shades the medium-shot classes and names the three groups; nothing where there is but one."""
  ends = [0, int(np.sum(counts > MANY)), int(np.sum(counts >= FEW)), len(counts)]
  bands = [
    (name, a, b) for name, a, b in zip(("many", "medium", "few"), ends, ends[1:], strict=False)
  ]
  bands = [band for band in bands if band[1] < band[2]]
  if len(bands) < 2:
    return
  for k, (name, start, stop) in enumerate(bands):
    if k % 2:
      axis.axvspan(start - 0.5, stop - 0.5, color=GRID, alpha=0.2, linewidth=0, zorder=0)
    axis.text(
      (start + stop - 1) / 2, 1.0, name, ha="center", va="bottom", color=INK,
      transform=axis.get_xaxis_transform(), fontsize=8.5,
    )  # fmt: skip


def _name_classes(axis: Any, names: Sequence[str]) -> None:
  axis.grid(axis="x", visible=False)
  if len(names) <= _NAMED:
    shown = [short(name, 12) for name in names]
    turned = max(map(len, shown)) > 4
    axis.set_xticks(
      range(len(names)), shown, rotation=40 if turned else 0, ha="right" if turned else "center"
    )
  else:
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("class, from the most to the fewest training images")


def bias_plot(outputs: TestOutputs) -> Plot | None:
  """Draws the scores of each class around its bias: figure 3 of the uniform paper.

  Type I negatives of a class are its images' scores for the others; type II are the others' images'
  scores for it.
  """
  scores = outputs.scores
  if scores is None:
    return None
  classes = order(outputs)
  figure = new_figure(5.2, 3.6)
  axis = figure.subplots()
  places = np.arange(len(classes))
  kinds = (
    ("positive", scores.positive_by_class, COLORS[0], -0.22),
    ("type I negatives", scores.type_one_by_class, COLORS[1], 0.0),
    ("type II negatives", scores.type_two_by_class, COLORS[2], 0.22),
  )
  many = len(classes) > 40
  for name, spread, color, shift in kinds:
    mean = spread.mean()[classes]
    ends = [spread.low[classes], spread.high[classes]]
    if many:
      axis.plot(places, mean, color=color, label=name, linewidth=1)
      axis.fill_between(places, *ends, color=color, alpha=0.15, linewidth=0)
    else:
      x = places + shift
      axis.vlines(x, *ends, color=color, linewidth=1.4, alpha=0.7)
      axis.plot(x, mean, "o", color=color, label=name, markersize=3.5)
  bias = outputs.bias
  values = np.broadcast_to(bias, outputs.train_counts.shape)[classes]
  axis.plot(places, values, color=INK, drawstyle="steps-mid", label="bias b", linewidth=1.3)
  _name_classes(axis, [outputs.class_names[c] for c in classes])
  axis.set_ylabel("score on scale · c")
  add_legend(figure, axis)
  shape = "one bias for all classes" if not bias.ndim else "a bias of its own for each class"
  text = (
    f"For each class the mean and the whole range of its scores, and {shape}. Positives: images of"
    " the class; type I negatives: their scores for other classes; type II: scores of other"
    " classes' images for this class."
  )
  headings = ["class", "b"]
  for name, *_ in kinds:
    headings += [f"{name}: least", "mean", "largest"]
  rows = []
  for place, c in enumerate(classes):
    row: list[Any] = [outputs.class_names[c], float(values[place])]
    for _, spread, *_ in kinds:
      row += [float(x[c]) for x in (spread.low, _mean(spread), spread.high)]
    rows.append(row)
  return Plot("Scores of each class and the bias", figure, text, Table(headings, rows))


def _mean(spread: Spread) -> np.ndarray:
  return spread.mean()


def _geometry(seen: Sequence[tuple[Group, TestOutputs]]) -> Plot | None:
  """Compactness, separability and the classifier's separability of each class."""
  measured = [(g, e) for g, e in seen if e.compactness is not None]
  if not measured:
    return None
  _, first = measured[0]
  known, several = len(measured), len(measured) > 1
  measured = [(g, e) for g, e in measured if e.class_names == first.class_names]
  classes = order(first)
  kinds = ("compactness", "separability", "classifier_separability")
  figure = new_figure(5.2, 4.4)
  axes = figure.subplots(len(kinds), 1, sharex=True)
  for axis, kind in zip(axes, kinds, strict=True):
    for k, (group, outputs) in enumerate(measured):
      values = getattr(outputs, kind)[classes]
      axis.plot(
        np.arange(len(classes)),
        values,
        ".-",
        color=COLORS[k % 8],
        linewidth=1,
        label=plain(group.label),
      )
    axis.set_ylabel({"classifier_separability": "classifier's\nseparability"}.get(kind, kind))
  _bands(axes[0], first.train_counts[classes])
  _name_classes(axes[-1], [first.class_names[c] for c in classes])
  if len(measured) > 1:
    add_legend(figure, axes[0])
  rows = [
    [first.class_names[c]] + [float(getattr(e, kind)[c]) for _, e in measured for kind in kinds]
    for c in classes
  ]
  named = [f"{kind.replace('_', ' ')}" for kind in kinds]
  headings = [
    f"{name} {group.label if several else ''}".strip() for group, _ in measured for name in named
  ]
  means = ", ".join(
    f"{name} {np.nanmean(getattr(first, kind)[classes]):.1f}"
    for name, kind in zip(named, kinds, strict=True)
  )
  of = f" of {measured[0][0].label}" if several else ""
  text = f"Of each class, ordered by training images. Mean{of}: {means}."
  text += _left_out(known - len(measured))
  table = Table(["class", *headings], rows)
  return Plot("Compactness and separability of each class", figure, text, table)
