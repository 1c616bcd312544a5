"""The parts of a report page: tables, plots with their descriptions, sections."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
  """A table of cells; numbers are shown with few digits, None and nan as –.

  Attributes:
    headings: one per column.
    rows: as many cells each.
    words: how many of the first columns are words, which begin at the left; the others are
      numbers, which end at the right.
  """

  headings: Sequence[str]
  rows: Sequence[Sequence[Any]]
  words: int = 1


class Plot(NamedTuple):
  """A figure with its description in words, and its numbers as a table.

  Attributes:
    title: a few words.
    figure: of matplotlib.
    description: what is to be seen, in a sentence or two.
    table: the numbers behind it; None where the description says all.
  """

  title: str
  figure: Any
  description: str
  table: Table | None = None


class Section(NamedTuple):
  """A section of the page: a title, plots and HTML.

  Attributes:
    title: a few words.
    lead: how to read it, in a sentence or two.
    plots: in the order to show.
    html: what is no plot, already HTML.
  """

  title: str
  lead: str
  plots: Sequence[Plot] = ()
  html: str = ""


def cell(value: Any) -> str:
  """Returns a value as text, numbers with four significant digits."""
  if value is None or (isinstance(value, float) and math.isnan(value)):
    return "–"
  if isinstance(value, float):
    return f"{value:.4g}"
  return str(value)


def percent(share: float | None, digits: int = 1) -> str:
  """Returns a share as a percentage."""
  if share is None or math.isnan(share):
    return "–"
  return f"{100 * share:.{digits}f}\u00a0%"  # on one line
