"""Several runs side by side: which differ by their seed only, and a table of their figures."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bce_jax import terminal
from bce_jax.report.evidence import Evidence

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
  ("compactness", "compactness", 1),
  ("separability", "separability", 1),
  ("classifier_separability", "of classifier", 1),
  ("verification_equal_error_rate", "EER", 100),
  ("verification_tar_at_far_0.001", "TAR @ 1e-3", 100),
  ("verification_tar_at_far_0.01", "TAR @ 1e-2", 100),
  ("verification_rank_one", "rank 1", 100),
  ("verification_fold_accuracy", "folds", 100),
  ("verification_balanced_accuracy_at_threshold", "verified at b/γ", 100),
  ("positive_cosine", "own cosine", 1),
  ("negative_cosine", "others' cosine", 1),
)
SHOTS = ("many_accuracy", "medium_accuracy", "few_accuracy")
SEED = "seed"
RUN = "run"  # a setting that is a name, where to tell all that differs would take too long


class Run(NamedTuple):
  """A finished run.

  Attributes:
    settings: what tells it from the others: {key: value}, in the order to show.
    figures: as in its results.json.
    name: of its folder.
    config: {"group.key": value}, all of it.
    records: of its metrics.jsonl.
    evidence: of its last look at the test split; None where there is none.
    dataset: as in its dataset.json; empty where that is not known.
  """

  settings: Mapping[str, Any]
  figures: Mapping[str, Any]
  name: str = ""
  config: Mapping[str, Any] = {}
  records: Sequence[Mapping[str, Any]] = ()
  evidence: Evidence | None = None
  dataset: Mapping[str, Any] = {}


class Group(NamedTuple):
  """Runs that differ by their seed only.

  Attributes:
    settings: without the seed.
    runs: one or more.
  """

  settings: Mapping[str, Any]
  runs: Sequence[Run]

  @property
  def label(self) -> str:
    """What tells it from other groups, short; the folder's name where nothing does."""
    words = [
      _word(value)
      if key in ("config", "loss", "objective.name", RUN)
      else f"{key.split('.')[-1]} {_word(value)}"
      for key, value in self.settings.items()
    ]
    return ", ".join(words) or self.runs[0].name or "run"

  def mean_and_std(self, name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of a figure; nan where a run lacks it, or is alone."""
    values = [run.figures.get(name) for run in self.runs]
    numbers = [float(x) for x in values if x is not None]
    if len(numbers) < len(values):
      return math.nan, math.nan
    spread = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return statistics.fmean(numbers), spread


def _word(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def grouped(runs: Sequence[Run]) -> list[Group]:
  """Puts runs together that differ by their seed only, in the order of their first."""
  groups: dict[tuple[Any, ...], Group] = {}
  for run in runs:
    settings = {key: value for key, value in run.settings.items() if key != SEED}
    group = groups.setdefault(tuple(settings.items()), Group(settings, []))
    groups[tuple(settings.items())] = group._replace(runs=[*group.runs, run])
  return list(groups.values())


def columns_of(runs: Sequence[Run]) -> list[tuple[str, str, int]]:
  """The columns that at least one of the runs has a figure for.

  Where all classes are of one group (many, medium, few) its column would repeat the first.
  """
  known = [c for c in COLUMNS if any(run.figures.get(c[0]) is not None for run in runs)]
  shots = [c for c in known if c[0] in SHOTS]
  return [c for c in known if c not in shots or len(shots) > 1]


def cells(runs: Sequence[Run]) -> list[list[str]]:
  """Headings, then a row of text a setting; the best accuracy of a column between asterisks."""
  groups, columns = grouped(runs), columns_of(runs)
  keys = setting_names(groups)
  best = {
    name: _best(name, [group.mean_and_std(name)[0] for group in groups])
    for name, _, factor in columns
    if factor == 100 and len(groups) > 1
  }
  rows = [[*keys, *(heading for _, heading, _ in columns), "runs"]]
  for group in groups:
    row = [str(group.settings.get(key, "")) for key in keys]
    for name, _, factor in columns:
      mean, spread = group.mean_and_std(name)
      text = _number(mean * factor, spread * factor, digits=2 if factor == 1 else 1)
      row.append(f"**{text}**" if mean == best.get(name) else text)
    rows.append([*row, str(len(group.runs))])
  return rows


def markdown(runs: Sequence[Run]) -> str:
  """A table in Markdown, mean ± deviation over seeds, the best accuracy of a column in bold."""
  rows = cells(runs)
  widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
  lines = [
    "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
  ]
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  return "\n".join([lines[0], rule, *lines[1:]])


def fitted(runs: Sequence[Run], columns: int) -> str:
  """The same table for a terminal: what is too wide for it goes on in parts below."""
  keys = setting_names(grouped(runs))
  headings, *rows = cells(runs)
  last = [key.rpartition(".")[2] for key in keys]
  if len(set(last)) == len(last):  # without its group a key takes less room
    headings[: len(keys)] = last
  return "\n".join(terminal.grid([headings, *rows], most=columns, fixed=len(keys)))


def _best(name: str, values: Sequence[float]) -> float:
  """The largest, of an error the least; nan where there is none."""
  known = [x for x in values if not math.isnan(x)]
  return (min if name.endswith("error_rate") else max)(known, default=math.nan)


def comma_separated(runs: Sequence[Run]) -> str:
  """A line a run, with every number of its results."""
  keys = setting_names([Group(run.settings, [run]) for run in runs])
  names = sorted({name for run in runs for name in run.figures} - set(keys))
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow([*keys, *names])
  for run in runs:
    settings = [run.settings.get(key, "") for key in keys]
    writer.writerow([*settings, *(run.figures.get(name, "") for name in names)])
  return out.getvalue()


def setting_names(groups: Sequence[Group]) -> list[str]:
  """All settings that tell the runs apart, in the order of their first appearance."""
  return list(dict.fromkeys(key for group in groups for key in group.settings))


def _number(mean: float, spread: float, *, digits: int) -> str:
  if math.isnan(mean):
    return "–"
  return f"{mean:.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")
