"""What the console scripts have in common: help, errors in a line, exit codes, a bar."""

import argparse
import difflib
import os
import pathlib
import re
import select
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import bce_jax
from bce_jax import interrupts, terminal
from bce_jax.keys import usual_key
from bce_jax.names import nearest


class Parser(argparse.ArgumentParser):
  """An argument parser that raises ValueError, where argparse would print its usage and exit."""

  takes_keys = False  # whether --config.KEY=VALUE goes with it

  def __init__(self, **options: Any):
    """As of argparse, but -1e-3 and -inf are numbers too, not options."""
    super().__init__(**options)
    self._negative_number_matcher = re.compile(r"-\.?\d|-inf|-nan")

  def error(self, message: str) -> Any:
    """Raises what argparse found wrong."""
    words = message.removeprefix("unrecognized arguments: ")
    raise ValueError(message if words == message else message + self._hint(words.split()[0]))

  def _hint(self, word: str) -> str:
    """What an option that is none may mean."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
      return ""
    near = nearest(name, (option for option in self._option_string_actions if len(option) > 2))
    if difflib.SequenceMatcher(None, name, near).ratio() > 0.75:
      return f"; did you mean {near}?"
    key = usual_key(name) if self.takes_keys else None
    if key is not None:
      return f"; did you mean --config.{key}?"
    return f"; {self.prog} --help shows the options"


class _Help(argparse.RawDescriptionHelpFormatter):
  """Fills paragraphs to the terminal's width; what is indented, such as commands, stays."""

  def __init__(self, prog: str):
    known = terminal.columns(sys.stdout) or terminal.USUAL
    super().__init__(prog, width=max(min(known, 100) - 2, 20))

  def _fill_text(self, text: str, width: int, indent: str) -> str:
    return "\n\n".join(
      part
      if any(line.startswith(" ") for line in part.splitlines())
      else textwrap.fill(part, width, break_on_hyphens=False, break_long_words=False)
      for part in text.strip("\n").split("\n\n")
    )


def parser_of(program: str, doc: str | None, *, takes_keys: bool = False) -> Parser:
  """Makes a parser whose help is a module's docstring.

  Args:
    program: its name.
    doc: the docstring.
    takes_keys: whether --config.KEY=VALUE goes with it, for which a mistyped option may be meant.
  """
  summary, _, details = (doc or "").partition("\n\n")
  parser = Parser(
    prog=program,
    description=summary.removeprefix(f"{program}: "),
    epilog=details,
    formatter_class=_Help,
    allow_abbrev=False,
  )
  parser.takes_keys = takes_keys
  parser.add_argument("--version", action="version", version=f"bce_jax {bce_jax.__version__}")
  return parser


def run_as(
  name: str,
  function: Callable[[Sequence[str]], int],
  argv: Sequence[str] | None,
  *,
  interrupted: str = "interrupted; run the same command again to go on",
) -> int:
  """Runs a console script: a mistake of the user becomes one line on stderr and exit code 2.

  Where whoever reads stdout has had enough, such as `head`, the exit code is 141, without a word.
  """
  reconfigure = getattr(sys.stdout, "reconfigure", None)
  if reconfigure is not None:  # a terminal of ASCII costs signs, not the results
    reconfigure(errors="replace")
  try:
    with interrupts.raising():
      try:
        return function(sys.argv[1:] if argv is None else argv)
      finally:
        print(end="", flush=True)  # here, and not when Python ends; there may be no stdout
  except (ValueError, OSError) as error:
    if isinstance(error, BrokenPipeError) and _nobody_reads():
      return 141
    line = f"{name}: {' '.join(str(error).split())}"
    print("\n".join(terminal.wrap(line, terminal.columns(sys.stderr))), file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    interrupts.ends()
    print(f"{name}: {interrupted}", file=sys.stderr)
    return 130


def _nobody_reads() -> bool:
  """Whether it is stdout that broke, and no other pipe; if so, nothing more is written there."""
  try:
    print(end="", flush=True)
    pipe = select.poll()  # nothing may be left to print, after more than a buffer holds
    pipe.register(sys.stdout.fileno(), 0)
    if not pipe.poll(0):
      return False
  except BrokenPipeError:
    pass
  except (AttributeError, OSError, ValueError):  # no such call, or no stdout
    return False
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return True


def cache_compilations() -> None:
  """Turns JAX's compilation cache on, for a fast second start; its own settings win."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "bce_jax" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def progress_bar(items: Any, total: int, desc: str) -> Any:
  """Yields items, with a progress bar on stderr where that is a terminal."""
  from tqdm import tqdm

  return tqdm(items, total=total, desc=desc, disable=not sys.stderr.isatty())
