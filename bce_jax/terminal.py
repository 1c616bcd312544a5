"""Text that fits a terminal: its width, and lines and tables laid out for it."""

import os
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

USUAL = 80  # columns, of a file that is read later
_KEEP: tuple[Literal["start", "ends", "end"], ...] = ("start", "ends", "end")


def columns(stream: Any) -> int | None:
  """Returns the width of a terminal in columns; None where it is unknown, or no terminal.

  Args:
    stream: such as sys.stderr; may be None or closed.
  """
  try:
    if not stream.isatty():
      return None
    columns = os.get_terminal_size(stream.fileno()).columns
  except (AttributeError, OSError, ValueError):
    return None
  # Some terminals have no width (a pty that nobody set up).
  return columns if columns > 0 else None


def width(text: str) -> int:
  """Returns how many columns a text takes: Chinese letters take two, accents none.

  >>> width("bias"), width("数字")
  (4, 4)
  """
  zero = ("Mn", "Me", "Cf")
  return sum(
    2 if unicodedata.east_asian_width(letter) in "WF" else unicodedata.category(letter) not in zero
    for letter in text
  )


def shorten(text: str, most: int, *, keep: Literal["start", "ends", "end"] = "start") -> str:
  """Returns a text of at most so many columns, with … for what is left out.

  Args:
    text: one line; what is no letter in it, such as a line break, becomes a space.
    most: ≥ 1.
    keep: what of it; of a path its end tells more.

  >>> shorten("a long name", 7), shorten("photos/2026/one.png", 10, keep="end")
  ('a long…', '…6/one.png')
  >>> shorten("bce3s_seed=0", 7, keep="ends")
  'bce…d=0'
  """
  text = "".join(letter if letter.isprintable() else " " for letter in text)
  if width(text) <= most:
    return text
  end = {"start": 0, "ends": (most - 1) // 2, "end": most - 1}[keep]
  return f"{_first(text, most - 1 - end)}…{_first(text[::-1], end)[::-1]}"


def _first(text: str, most: int) -> str:
  """The letters at the start that so many columns have room for."""
  kept = ""
  for letter in text:
    if width(kept + letter) > most:
      break
    kept += letter
  return kept


def cut(text: str, most: int | None) -> str:
  """Returns a line without its last fields, which two spaces stand between, where it is too long.

  >>> cut("step 20  loss 0.1  bias 3", 20)
  'step 20  loss 0.1'
  """
  fields = text.split("  ")
  while most is not None and len(fields) > 1 and width("  ".join(fields)) > most:
    fields.pop()
  return "  ".join(fields)


def pad(text: str, to: int) -> str:
  """Returns a text with spaces behind it, so many columns wide."""
  return text + " " * (to - width(text))


def wrap(text: str, most: int | None, *, indent: str = "  ") -> list[str]:
  """Breaks a line where it has two spaces, else between words; what follows is indented.

  Args:
    text: one line.
    most: columns; None leaves it as it is.
    indent: of all lines but the first.

  >>> wrap("step 20  loss 0.1 of all  bias 3", 18)
  ['step 20', '  loss 0.1 of all', '  bias 3']
  """
  if most is None or width(text) <= most:
    return [text]
  start = text[: len(text) - len(text.lstrip())]
  lines = [start]
  for part in text.strip().split("  "):
    joined = f"{lines[-1]}  {part}" if lines[-1].strip() else lines[-1] + part
    if width(joined) <= most:
      lines[-1] = joined
      continue
    if lines[-1].strip():
      lines.append(indent)
    if width(lines[-1] + part) <= most:
      lines[-1] += part
      continue
    start = lines.pop()
    lines += _words(part, most, start, indent)
  return lines


def _words(text: str, most: int, start: str, indent: str) -> list[str]:
  room = max(most, len(indent) + 8)  # of anything narrower no line can be read
  options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
  return textwrap.wrap(text, room, initial_indent=start, subsequent_indent=indent, **options)


def two_columns(title: str, rows: Sequence[tuple[str, str]], *, most: int | None = None) -> str:
  """Lays names and values out between two rules; names that are too long go on in a second line.

  Args:
    title: above them.
    rows: (name, value). Spaces in front of a name, and its first word where three spaces follow,
      are what its second line is indented by.
    most: columns; None: those of the terminal that stdout is, else 80.

  Returns:
    Lines of at most so many columns where values leave room for that.
  """
  most = most or columns(sys.stdout) or USUAL
  values = max(width(value) for _, value in rows)
  names = max(width(name) for name, _ in rows)
  if names + 2 + values > most:
    names = min(names, max(most - 2 - values, 24))
  out = []
  for name, value in rows:
    first, *others = _words_of_name(name, names)
    out += [f"{pad(first, names)}  {value}", *others]
  rule = "─" * min(names + 2 + max(values, 24), max(most, 8))
  return "\n".join([*wrap(title, most), rule, *(line.rstrip() for line in out), rule])


def _words_of_name(name: str, most: int) -> list[str]:
  """A name in lines of at most so many columns."""
  if width(name) <= most:
    return [name]
  head, gap, rest = name.partition("   ")
  start = len(head) + len(gap) + len(rest) - len(rest.lstrip()) if gap else 0
  return _words(name[start:], most, name[:start], " " * min(start or 2, most // 2))


def grid(rows: Sequence[Sequence[str]], *, most: int, fixed: int = 1) -> list[str]:
  """Lays a table out in so many columns of a terminal; what does not fit continues below.

  Args:
    rows: the headings, then lines of as many cells.
    most: columns of the terminal.
    fixed: how many of the first cells are repeated in each part.

  Returns:
    Lines; an empty one between two parts.
  """
  spans = [max(width(row[k]) for row in rows) for k in range(len(rows[0]))]
  # What is repeated leaves half of the width for the rest, if texts can still be told apart then.
  kept: dict[int, Literal["start", "ends", "end"]] = {}
  room = list(spans)
  while sum(room[:fixed]) > max(most // 2 - 2 * fixed, 6 * fixed):
    room[room.index(max(room[:fixed]))] -= 1
  for k in range(fixed):
    texts = {row[k] for row in rows}
    for keep in _KEEP:
      if len({shorten(text, room[k], keep=keep) for text in texts}) == len(texts):
        spans[k], kept[k] = room[k], keep
        break
  before = sum(span + 2 for span in spans[:fixed])
  parts: list[list[int]] = [[]]
  used = before
  for k in range(fixed, len(spans)):
    if parts[-1] and used + spans[k] > most:
      parts.append([])
      used = before
    parts[-1].append(k)
    used += spans[k] + 2
  lines: list[str] = []
  for part in parts:
    if lines:
      lines.append("")
    shown = [*range(fixed), *part]
    for number, row in enumerate(rows):
      cells = [pad(shorten(row[k], spans[k], keep=kept.get(k, "start")), spans[k]) for k in shown]
      lines.append("  ".join(cells).rstrip())
      if not number:
        lines.append("  ".join("─" * spans[k] for k in shown))
  return lines
