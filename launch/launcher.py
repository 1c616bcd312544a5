"""What the launchers share: their command line, running or printing commands, errors in one line.

Every launcher is called as

  python launch/X.py [launch options] -- --config digits --workdir DIR --config.seed=1

and hands what stands behind -- to bce-train as it is.
"""

import argparse
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

HERE = pathlib.Path(__file__).resolve().parent

# What a launcher says to bce-train itself.
_OURS = ("--distributed", "--coordinator", "--num-processes", "--process-id")


class CommandError(RuntimeError):
  """A command that was run has failed."""


class Parser(argparse.ArgumentParser):
  """Raises ValueError, where argparse would print its usage and leave."""

  def error(self, message: str) -> NoReturn:
    """Is called by argparse with what was wrong."""
    raise ValueError(message)


def parser(name: str, description: str | None) -> Parser:
  """A parser whose --help shows the module's docstring; --dry-run is there already."""
  summary, _, details = (description or "").partition("\n\n")
  out = Parser(
    prog=name,
    usage=f"python launch/{name} [options] -- --config CONFIG --workdir DIR …",
    description=summary,
    epilog=details,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  out.add_argument("--dry-run", action="store_true", help="print what would be done, do nothing")
  out.add_argument("--version", action="version", version=f"bce_jax {_version()}")
  return out


def _version() -> str:
  """That of the package beside this folder; a launcher needs nothing of it but that."""
  path = HERE.parent / "bce_jax" / "__init__.py"
  found = re.search(r'__version__ = "(.*)"', path.read_text() if path.is_file() else "")
  return found[1] if found else "unknown"


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Splits the arguments at the first --: the launcher's, and bce-train's."""
  words = list(argv)
  if "--" not in words:
    return words, []
  at = words.index("--")
  return words[:at], words[at + 1 :]


def workdir_of(training: Sequence[str]) -> str:
  """The --workdir among bce-train's arguments, after checking what can be checked from here.

  Raises:
    ValueError: when it is missing, or the arguments say what only the launcher can say.
  """
  for word in training:
    if word.partition("=")[0] in _OURS:
      raise ValueError(f"{word} behind --: the launcher says this itself, leave it away")
  for k, word in enumerate(training):
    name, equals, value = word.partition("=")
    if name == "--workdir":
      value = value if equals else "".join(training[k + 1 : k + 2])
      if not value or value.startswith("--"):
        raise ValueError("--workdir behind -- has no value (an unset variable?): expected a folder")
      return value
  raise ValueError("no --workdir behind --: expected -- --config CONFIG --workdir DIR …")


def shared_workdir_of(training: Sequence[str], mount_path: str | None) -> str:
  """`workdir_of` for hosts that are not this one: absolute, and below what is mounted there.

  Raises:
    ValueError: when no such host could use it.
  """
  workdir = workdir_of(training)
  if not workdir.startswith("/"):
    raise ValueError(f"--workdir {workdir}: expected an absolute path that all hosts see")
  if mount_path and not pathlib.PurePosixPath(workdir).is_relative_to(mount_path):
    raise ValueError(f"--workdir {workdir}: expected a folder below --mount-path {mount_path}")
  return workdir


def whole_number(least: int) -> Callable[[str], int]:
  """An argparse type: a whole number, `least` or more."""

  def convert(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
      raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return int(text)

  return convert


def pattern(regex: str, expected: str) -> Callable[[str], str]:
  """An argparse type: text of which all matches `regex`, described by `expected`."""

  def convert(text: str) -> str:
    if not re.fullmatch(regex, text):
      raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
    return text

  return convert


def shell(command: Sequence[str], width: int = 100) -> str:
  """The command as a line for a shell, an option a line where it is long."""
  line = shlex.join(command)
  if len(line) <= width:
    return line
  lines = [shlex.quote(command[0])]
  for word in command[1:]:
    quoted = shlex.quote(word)
    new = word.startswith("--") and word != "--"
    lines += [quoted] if new else []
    lines[-1] += "" if new else f" {quoted}"
  return " \\\n  ".join(lines)


def fill(template: str, values: Mapping[str, str]) -> str:
  """The file of this folder, with each @name@ replaced; a name that is missing is a KeyError."""
  text = (HERE / template).read_text()
  return re.sub(r"@(\w+)@", lambda match: values[match[1]], text)


def need(tool: str, where: str) -> None:
  """Refuses to go on without a tool.

  Raises:
    ValueError: when it is not installed.
  """
  if shutil.which(tool) is None:
    raise ValueError(f"{tool} is not installed ({where}); --dry-run shows what would be run")


def run(command: Sequence[str], *, stdin: str | None = None) -> None:
  """Runs a command, its output on the terminal.

  Raises:
    CommandError: when it fails, with its code.
  """
  code = subprocess.run(command, input=stdin, text=True, check=False).returncode
  if code:
    raise CommandError(f"`{shlex.join(command)}` ended with exit code {code}")


def console(name: str, main: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> Any:
  """Runs a launcher: 2 for what was given wrong, 1 for a command that failed, one line for both."""
  try:
    return main(sys.argv[1:] if argv is None else argv)
  except (ValueError, OSError) as error:
    code, reason = 2, " ".join(str(error).split())
  except CommandError as error:
    code, reason = 1, " ".join(str(error).split())
  except KeyboardInterrupt:
    code, reason = 130, "interrupted"
  print(f"{name}: {reason}", file=sys.stderr)
  return code
