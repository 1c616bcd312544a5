"""The confusion plot: what the worst classes are predicted as, and misclassified images."""

import base64
import html
import io

import numpy as np

from bce_jax.report.plot import Plot, Table
from bce_jax.report.svg import COLORS, INK, new_figure, short
from bce_jax.runs.test_outputs import TestOutputs

_CLASSES, _OTHERS = 8, 3


def plot(outputs: TestOutputs, label: str) -> Plot | None:
  """Draws which classes the worst ones are taken for; None where all is right or not known.

  Args:
    outputs: of the run.
    label: distinguishes the run from others; may be empty.
  """
  if outputs.predicted is None or outputs.right.all():
    return None
  rows = worst_classes(outputs)
  n = len(outputs.class_names)
  # What is as high for another class is counted as wrong, though arg max may name its own class.
  tie = ~outputs.right & (outputs.predicted == outputs.labels)
  predicted = np.where(tie, n, outputs.predicted)
  class_names = [*outputs.class_names, "a tie"]
  confusion = np.zeros((len(rows), n + 1), np.int64)
  for k, c in enumerate(rows):
    confusion[k] = np.bincount(predicted[outputs.labels == c], minlength=n + 1)
  # The worst classes themselves, what the worst of them are taken for, and what all are.
  totals = confusion.sum(axis=0)
  others = np.where(np.arange(n + 1) == rows[:, None], -1, confusion).argmax(axis=1)
  wanted = [*others[: _OTHERS - 1], *np.argsort(-totals, kind="stable")]
  columns = [*rows, *dict.fromkeys(c for c in wanted if c not in rows and totals[c])]
  columns = columns[: len(rows) + _OTHERS]
  shares = 100 * confusion / confusion.sum(axis=1, keepdims=True)
  shown = shares[:, columns]
  figure = new_figure(0.32 * len(columns) + 1.7, 0.34 * len(rows) + 1.4)
  axis = figure.subplots()
  axis.grid(False)
  for (i, j), value in np.ndenumerate(shown):
    if value > 0:
      axis.add_patch(_square(i, j, float(value), int(rows[i]) == int(columns[j])))
      axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=INK)
  axis.set_xlim(-0.5, len(columns) - 0.5)
  axis.set_ylim(len(rows) - 0.5, -0.5)
  names = [short(class_names[c]) for c in columns]
  turned = max(map(len, names)) > 3
  axis.set_xticks(
    range(len(columns)), names, rotation=45 if turned else 0, ha="right" if turned else "center"
  )
  axis.set_yticks(range(len(rows)), names[: len(rows)])
  axis.set_xlabel("predicted as")
  axis.set_ylabel("class")
  worst = rows[0]
  right = shares[0, worst]
  other = others[0]
  text = (
    f"In % of each class' test images, of the {len(rows)} classes with the lowest accuracy. The"
    f" worst is {class_names[worst]}: {right:.0f} % right,"
    f" {'as high for another class' if other == n else 'taken for ' + class_names[other]}"
    f" most often ({shares[0, other]:.0f} %)."
  )
  table = Table(
    ["class", "predicted as", "images", "% of the class"],
    [
      [class_names[c], class_names[j], int(confusion[k, j]), float(shares[k, j])]
      for k, c in enumerate(rows)
      for j in np.argsort(-confusion[k], kind="stable")[:5]
      if confusion[k, j]
    ],
  )
  title = f"What the worst classes are taken for{': ' if label else ''}{label}"
  return Plot(title, figure, text, table)


def worst_classes(outputs: TestOutputs) -> np.ndarray:
  """At most eight classes with the largest share of wrong images, the worst first."""
  n = len(outputs.class_names)
  count = np.bincount(outputs.labels, minlength=n)
  wrong = np.bincount(outputs.labels, weights=~outputs.right, minlength=n)
  share = wrong / np.maximum(count, 1)
  worst = np.argsort(-share, kind="stable")[:_CLASSES]
  return worst[wrong[worst] > 0]


def examples(outputs: TestOutputs) -> str:
  """Misclassified images as HTML, a row per class; empty without any."""
  if not len(outputs.example_rows):
    return ""
  labels = outputs.labels[outputs.example_rows]
  parts = []
  for c in dict.fromkeys(labels.tolist()):
    name = html.escape(outputs.class_names[c])
    items = []
    for image, row in zip(outputs.example_images, outputs.example_rows, strict=True):
      if outputs.labels[row] != c:
        continue
      said, taken = "misclassified", ""
      if outputs.predicted is not None:
        other = outputs.predicted[row]
        said = "as high for another class" if other == c else "predicted as "
        taken = "" if other == c else html.escape(outputs.class_names[other])
      alt = f"test image {row} of class {name}, {said}{taken}"
      items.append(
        f'<li><img src="{_data_url(image)}" alt="{alt}"><span>{said}<b>{taken}</b></span></li>'
      )
    parts.append(f"<div><h4>{name}</h4><ul class='examples'>{''.join(items)}</ul></div>")
  return f"<div class='wrong'>{''.join(parts)}</div>"


def _data_url(image: np.ndarray) -> str:
  from PIL import Image

  out = io.BytesIO()
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(pixels).save(out, format="PNG")
  return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _square(i: int, j: int, value: float, right: bool):
  from matplotlib.patches import Rectangle

  color = COLORS[2] if right else COLORS[5]
  alpha = 0.1 + 0.75 * value / 100
  return Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, color=color, alpha=alpha, linewidth=0)
