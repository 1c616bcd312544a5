"""The printed tables of results: each line follows from the result's row in `bce_jax.results`."""

import math
import re
from collections.abc import Iterable
from typing import Any

from bce_jax import results
from bce_jax.results import Result, Values


def lines(rows: Iterable[Result], values: Values) -> list[tuple[str, str]]:
  """Returns (name, value) as text for each row that has a line.

  Args:
    rows: as `results.known` gives them.
    values: results by key.
  """
  out: list[tuple[str, str]] = []
  for row in rows:
    if not row.line:
      continue
    name, value = _filled(row.words("line"), values), text(row, values)
    if row.joined and out:
      before = out.pop()
      name, value = f"{before[0]}, {name}", f"{before[1]}, {value}"
    out.append((name, value))
  return out


def _filled(words: str, values: Values) -> str:
  """Puts results into words such as "t = {threshold!r}"."""
  return re.sub(r"\{(\w+)!r\}", lambda found: repr(values.get(found[1])), words)


def text(row: Result, values: Values) -> str:
  """Returns a result as a printed table shows it, with what stands beside it.

  Args:
    row: of the result.
    values: results by key; None and nan are shown as missing.
  """
  value, ends = values[row.key], results.ends(row, values)
  if row.exact:  # where all scores are tied there is no such threshold; JSON has no infinity
    return "none" if value is None or not math.isfinite(value) else repr(value)
  shown = _percent(value) if row.unit == "%" else _number(value)
  if shown == "none":
    return shown
  if len(ends) == 1:
    spread = f"{100 * ends[0]:.2f}" if row.unit == "%" else _number(ends[0])
    return f"{shown} ± {spread}"
  if len(ends) == 2:
    if row.suffixes == results.INTERVAL:
      shown = between(value, *ends)
    return f"{shown}  ({_number(ends[0])} … {_number(ends[1])})"
  return shown


def _percent(value: Any) -> str:
  return "      –" if value is None or math.isnan(value) else f"{100 * value:6.2f} %"


def _number(value: Any) -> str:
  return "none" if value is None or math.isnan(value) else f"{value:.6g}"


def between(threshold: float, low: float | None, high: float | None) -> str:
  """Returns a best threshold as text, with enough digits (6 or more) to lie in its open interval.

  >>> between(0.123456789, 0.12345678, 0.1234568)
  '0.12345679'
  """
  low, high = -math.inf if low is None else low, math.inf if high is None else high
  for digits in range(6, 17):
    shown = f"{threshold:.{digits}g}"
    if low < float(shown) < high:
      return shown
  return repr(threshold)
