"""Several runs compared: groups that differ by their seed only, and a table of their results."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bce_jax import results, terminal
from bce_jax.results import Result
from bce_jax.runs.test_outputs import TestOutputs

CSV_WORDS = ("folder", "failed")  # columns behind the results
SEED = "seed"
RUN = "run"  # a setting that is a name, where all that differs would take too long


class Run(NamedTuple):
  """A finished run, as the report reads it from its folder.

  Attributes:
    settings: what distinguishes it from the others: {key: value}, in the order to show.
    results: as in its results.json.
    name: of its folder.
    config: {"group.key": value}, all of it.
    records: of its metrics.jsonl.
    outputs: of its evaluation of the test split; None where there is none.
    dataset: as in its dataset.json; empty where that is not known.
    sessions: from which it comes, with versions, devices and times; none of older runs.
    rows: of the results that its objective and its own metrics bring.
  """

  settings: Mapping[str, Any]
  results: Mapping[str, Any]
  name: str = ""
  config: Mapping[str, Any] = {}
  records: Sequence[Mapping[str, Any]] = ()
  outputs: TestOutputs | None = None
  dataset: Mapping[str, Any] = {}
  sessions: Sequence[Mapping[str, Any]] = ()
  rows: Sequence[Result] = ()


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
    """What distinguishes it from other groups, short; the folder's name where nothing does."""
    words = [
      _word(value)
      if key in ("config", "loss", "objective.name", RUN)
      else f"{key.split('.')[-1]} {_word(value)}"
      for key, value in self.settings.items()
    ]
    return ", ".join(words) or self.runs[0].name or "run"

  @property
  def counted(self) -> list[Run]:
    """The runs without repetitions: the first of each seed; all whose seed is not known."""
    seeds = [run.config.get(SEED, run.settings.get(SEED)) for run in self.runs]
    return [r for k, r in enumerate(self.runs) if seeds[k] is None or seeds[k] not in seeds[:k]]

  def mean_and_std(self, name: str) -> tuple[float, float]:
    """Mean and sample standard deviation of a result over the runs that count, one per seed.

    The mean is nan where one of them lacks it; the standard deviation too where there is but one.
    """
    values = [run.results.get(name) for run in self.counted]
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


def rows_of(runs: Sequence[Run]) -> list[Result]:
  """Rows of the results that at least one of the runs has, in the table's order."""
  values = {key: x for run in runs for key, x in run.results.items() if x is not None}
  return results.known(values, [row for run in runs for row in run.rows])


def columns_of(runs: Sequence[Run]) -> list[Result]:
  """Rows of the results that a table of these runs has columns for."""
  return results.with_columns(rows_of(runs))


NONE_FINISHED = "No run has finished."


def markdown(runs: Sequence[Run], failed: Mapping[str, str] | None = None) -> str:
  """A table in Markdown, mean ± standard deviation over seeds, and what it leaves out below it.

  Bold is an accuracy that is ahead of all others in its column by more than twice the combined
  standard error, √(s₁²/n₁ + s₂²/n₂): never that of a single run, and none of equals.

  Args:
    runs: finished.
    failed: {name: reason, in one line} of those that are not.
  """
  return "\n\n".join([_table(runs) if runs else NONE_FINISHED, *remarks(runs, failed)])


def remarks(runs: Sequence[Run], failed: Mapping[str, str] | None = None) -> list[str]:
  """What stands below a table: notes, and the runs that failed."""
  parts = notes(runs) if runs else []
  if failed:
    parts.append("\n".join(["Failed:", "", *(f"- {name}: {why}" for name, why in failed.items())]))
  return parts


def cells(runs: Sequence[Run]) -> list[list[str]]:
  """Returns headings, then a row of text per setting; what is clearly best between asterisks."""
  groups, columns = grouped(runs), columns_of(runs)
  keys = setting_names(groups)
  rows = [[*keys, *(column.words("column") for column in columns), "runs"]]
  rows += [[str(g.settings.get(key, "")) for key in keys] for g in groups]
  for column in columns:
    ahead, factor = clearly_best(column, groups), column.factor
    for group, row in zip(groups, rows[1:], strict=True):
      mean, std = group.mean_and_std(column.key)
      text = _number(mean * factor, std * factor, digits=2 if factor == 1 else 1)
      row.append(f"**{text}**" if group is ahead else text)
  for group, row in zip(groups, rows[1:], strict=True):
    row.append(str(len(group.counted)))
  return rows


def _table(runs: Sequence[Run]) -> str:
  rows = cells(runs)
  widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
  lines = [
    "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
  ]
  rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
  return "\n".join([lines[0], rule, *lines[1:]])


def fitted(runs: Sequence[Run], columns: int, failed: Mapping[str, str] | None = None) -> str:
  """Returns `markdown` for a terminal: a table too wide for it continues in parts below."""
  if not runs:
    return markdown(runs, failed)
  keys = setting_names(grouped(runs))
  headings, *rows = cells(runs)
  last = [key.rpartition(".")[2] for key in keys]
  if len(set(last)) == len(last):  # without its group a key takes less room
    headings[: len(keys)] = last
  grid = "\n".join(terminal.grid([headings, *rows], most=columns, fixed=len(keys)))
  below = [
    "\n".join(line for said in text.splitlines() for line in terminal.wrap(said, columns))
    for text in remarks(runs, failed)
  ]
  return "\n\n".join([grid, *below])


def notes(runs: Sequence[Run]) -> list[str]:
  """Returns remarks that a reader of the table needs, a sentence or two each."""
  groups = grouped(runs)
  out = []
  if any(len(group.counted) > 1 for group in groups):
    out.append("± is the standard deviation (n − 1) over runs that differ by their seed only.")
    if len(groups) > 1:
      out[-1] += (
        " Bold: ahead of every other mean of its column by more than twice the combined standard"
        " error, √(s₁²/n₁ + s₂²/n₂)."
      )
  elif len(groups) > 1:
    out.append("One run each: no spread is known, so that none is called the best.")
  return [*out, *untrained_bias(runs), *repetitions(groups)]


def untrained_bias(runs: Sequence[Run]) -> list[str]:
  """Says of softmax runs, where there are any, that their results at the bias are not learned."""
  at_bias = ("uniform_accuracy_at_bias", "verification_balanced_accuracy_at_threshold")
  if not any(
    str(run.config.get("loss")).startswith("soft") and any(name in run.results for name in at_bias)
    for run in runs
  ):
    return []
  return [
    "Softmax does not train the level of its bias: what it has there depends on where the bias"
    " started. The fair comparison is at a threshold chosen on a validation split"
    " (data.validation_fraction)."
  ]


def repetitions(groups: Sequence[Group]) -> list[str]:
  """Names the runs that repeat another one's config and seed, and so say nothing of a spread."""
  out = []
  for group in groups:
    first = {run.config.get(SEED, run.settings.get(SEED)): run for run in reversed(group.runs)}
    counted = [id(run) for run in group.counted]
    for run in group.runs:
      if id(run) not in counted:
        seed = run.config.get(SEED, run.settings.get(SEED))
        out.append(
          f"{run.name} has the same config and the same seed, {seed}, as {first[seed].name}: it is"
          " not counted, since what they differ by is not the seed's."
        )
  return out


def clearly_best(row: Result, groups: Sequence[Group]) -> Group | None:
  """The group whose mean is ahead of all others by more than twice the combined standard error.

  Args:
    row: of a result; of an error rate the least is the best.
    groups: to be compared; those without the result are passed over.

  Returns:
    None where no group is ahead of all, one of them has a single run, or neither way is better.
  """
  found = [(group, *group.mean_and_std(row.key)) for group in groups]
  found = [x for x in found if not math.isnan(x[1])]
  if len(found) < 2 or row.better is None:
    return None
  sign = -1 if row.better == "down" else 1
  best, *others = sorted(found, key=lambda x: -sign * x[1])

  def variance(of: tuple[Group, float, float]) -> float:
    return of[2] ** 2 / len(of[0].counted)  # nan of a single run, which no comparison survives

  ahead = all(
    sign * (best[1] - other[1]) > 2 * math.sqrt(variance(best) + variance(other))
    for other in others
  )
  return best[0] if ahead else None


def comma_separated(
  runs: Sequence[Run], failed: Sequence[tuple[Mapping[str, Any], str, str]] = ()
) -> str:
  """Returns CSV, a line per run, with all its results; "failed" says why there are none.

  Args:
    runs: finished.
    failed: (settings, name, reason) of those that are not.
  """
  settings = [*(run.settings for run in runs), *(x[0] for x in failed)]
  keys = setting_names([Group(x, []) for x in settings])
  plain = [{n: x for n, x in r.results.items() if not isinstance(x, dict | list)} for r in runs]
  names = sorted({name for values in plain for name in values} - {*keys, *CSV_WORDS})
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow([*keys, *names, *CSV_WORDS])
  for run, values in zip(runs, plain, strict=True):
    cells = [values.get(name, "") for name in names]
    writer.writerow([*(run.settings.get(key, "") for key in keys), *cells, run.name, ""])
  for of_run, name, why in failed:
    writer.writerow([*(of_run.get(key, "") for key in keys), *("" for _ in names), name, why])
  return out.getvalue()


def setting_names(groups: Sequence[Group]) -> list[str]:
  """All settings in which the runs differ, in the order of their first appearance."""
  return list(dict.fromkeys(key for group in groups for key in group.settings))


def _number(mean: float, spread: float, *, digits: int) -> str:
  if math.isnan(mean):
    return "–"
  return f"{mean:.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")
