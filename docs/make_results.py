"""Writes the lists of results in docs/ from the one table in bce_jax/results.py.

  python docs/make_results.py

Each stands between <!-- results: GROUP … --> and <!-- end of results -->.
"""

import pathlib
import re

from bce_jax import results
from bce_jax.results import Result
from bce_jax.runs import result_rows

HERE = pathlib.Path(__file__).parent
FILES = ("results.md", "verification.md")
_LIST = re.compile(r"(<!-- results: ([\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def filled(text: str) -> str:
  """Returns a page with its lists made anew."""
  return _LIST.sub(lambda found: f"{found[1]}\n{listed(found[2])}\n{found[3]}", text)


def listed(group: str) -> str:
  """Returns the list of a group of results, or of a method's own, as a table in Markdown."""
  name = group.partition(" ")[2]
  rows = result_rows.of_objective(name) if name else results.RESULTS
  lines = ["| key | what | unit | better |", "|---|---|---|---|"]
  lines += [_line(row) for row in rows if name or row.group == group]
  return "\n".join(lines) + "\n"


def _line(row: Result) -> str:
  beside = "".join(f", `…{suffix}`" for suffix in row.suffixes)
  symbol = (
    f"{row.symbol}, " if row.symbol and row.symbol != row.heading and len(row.symbol) < 6 else ""
  )
  what = f"{symbol}{row.heading}" + (f": {row.meaning}" if row.meaning else "")
  what = what.replace("*", "\\*")
  unit = "share" if row.unit == "%" else row.unit
  return f"| `{row.key}`{beside} | {what} | {unit} | {row.better or ''} |"


if __name__ == "__main__":
  for file in FILES:
    path = HERE / file
    path.write_text(filled(path.read_text()))
