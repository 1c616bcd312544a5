"""bce-train: trains from a config file, or judges what was trained.

  bce-train --workdir runs/digits
  bce-train --config configs/cifar10.py:bce-nu --config.data.folder=DIR --workdir runs/cifar10
  bce-train --evaluate-only --workdir runs/digits

--config takes a file with get_config(), or the name of a config that comes with the package (the
default is digits); behind a colon, an argument for get_config. Run again on the same folder it goes
on from the newest checkpoint. On several hosts each starts this program, with --distributed or the
three options below it, and the same folder. Exit codes: 0 done, 1 training failed, 2 something
given is wrong, 143 ended by SIGTERM, with a checkpoint saved.
"""

import argparse
import ast
import contextlib
import errno
import importlib.util
import io
import os
import pathlib
import re
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

import bce_jax
from bce_jax.names import nearest

_CONFIG_FOLDERS = (
  pathlib.Path(bce_jax.__file__).parent / "configs",  # in a wheel
  pathlib.Path(bce_jax.__file__).parent.parent / "configs",  # in a checkout
)

# A disk that is full, for all or for this user, or broken: nothing that was given is wrong.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def config_path(name: str) -> pathlib.Path:
  """Finds a config: a file, or the name of one that comes with the package.

  Raises:
    ValueError: when there is none, with the nearest name.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  shipped = {p.stem: p for folder in _CONFIG_FOLDERS for p in sorted(folder.glob("[!_]*.py"))}
  if path.stem in shipped and path.name in (path.stem, f"{path.stem}.py"):
    return shipped[path.stem]
  near = nearest(path.stem, shipped)
  raise ValueError(
    f"no config file {name!r}; did you mean {near!r}? with the package come {', '.join(shipped)}"
  )


def load_config(reference: str) -> ConfigDict:
  """Loads FILE, FILE:argument, NAME or NAME:argument.

  Raises:
    ValueError: for a missing file, or one that makes no config; one line.
  """
  name, colon, argument = reference.partition(":")
  path = config_path(name)
  spec = importlib.util.spec_from_file_location(f"bce_jax_config_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(argument) if colon else module.get_config()
  except Exception as error:  # the file is the user's: whatever it raises is told in one line
    reason = " ".join(str(error).split())
    raise ValueError(f"config {path}: {type(error).__name__}: {reason}") from error
  if not isinstance(config, ConfigDict):
    raise ValueError(f"config {path}: get_config() must return a ConfigDict, got {config!r}")
  return config


def override(config: ConfigDict, key: str, text: str) -> None:
  """Sets config.key to what `text` says, in the key's own type.

  Raises:
    ValueError: for an unknown key, or text that is not of the key's type.
  """
  from bce_jax.training import config as config_lib

  if key == "objective.name":  # brings its own options
    config_lib.set_objective(config, text)
    return
  config_lib.refuse_unknown_keys([key], config)
  group, _, name = key.rpartition(".")
  target = config[group] if group else config
  kind = target.get_type(name)
  value: Any = text
  if kind is not str:
    words = {"true": "True", "false": "False", "none": "None"}
    with contextlib.suppress(ValueError, SyntaxError):
      value = ast.literal_eval(words.get(text.lower(), text))
  optional = config_lib.flatten(config_lib.default(config.objective.name))[key] is None
  fits = (
    (value is None and optional)
    or (kind is float and isinstance(value, int | float) and not isinstance(value, bool))
    or (kind is int and isinstance(value, int) and not isinstance(value, bool))
    or (kind in (bool, str) and isinstance(value, kind))
  )
  if not fits:
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    wanted = names[kind] + (" or none" if optional else "")
    raise ValueError(f"--config.{key}={text}: expected {wanted}")
  target[name] = float(value) if kind is float and value is not None else value


def apply_overrides(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
  """Sets the keys in their order, but first of all the method, which brings its own.

  Raises:
    ValueError: as `override`.
  """
  for key, text in sorted(overrides, key=lambda pair: pair[0] != "objective.name"):
    override(config, key, text)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Takes --config.key=value and --config.key value out of the arguments."""
  rest, overrides, words = [], [], iter(argv)
  for word in words:
    key = word.lstrip("-")
    if not (word.startswith("-") and key.startswith("config.")):
      rest.append(word)
      continue
    key, equals, value = key.removeprefix("config.").partition("=")
    if not equals:
      value = next(words, "--")
      if value.startswith("--"):
        raise ValueError(f"--config.{key} needs a value")
    overrides.append((key, value))
  return rest, overrides


class Parser(argparse.ArgumentParser):
  """Raises ValueError, where argparse would print its usage and leave."""

  def __init__(self, **options: Any):
    """As of argparse, but -1e-3 and -inf are numbers too, not options."""
    super().__init__(**options)
    self._negative_number_matcher = re.compile(r"-\.?\d|-inf|-nan")

  def error(self, message: str) -> Any:
    """Is called by argparse with what was wrong."""
    raise ValueError(message)


def parser_of(program: str, doc: str | None) -> Parser:
  """Makes a parser whose help is a module's docstring: "program: summary", and all that follows."""
  summary, _, details = (doc or "").partition("\n\n")
  return Parser(
    prog=program,
    description=summary.removeprefix(f"{program}: "),
    epilog=details,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  parser = parser_of("bce-train", __doc__)
  parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="config file or name (digits)")
  parser.add_argument("--workdir", metavar="DIR", required=True, help="run folder")
  parser.add_argument(
    "--evaluate-only", action="store_true", help="judge the run folder's checkpoint, train nothing"
  )
  parser.add_argument(
    "--checkpoint",
    choices=("latest", "best"),
    help="which one --evaluate-only judges: latest (the default) or best on the validation split",
  )
  parser.add_argument(
    "--distributed",
    action="store_true",
    help="one of several processes; the others are found as Cloud TPU, GKE or SLURM tell",
  )
  parser.add_argument("--coordinator", metavar="HOST:PORT", help="the same, told: of process 0")
  parser.add_argument("--num-processes", metavar="N", type=int, help="… how many there are")
  parser.add_argument("--process-id", metavar="I", type=int, help="… which one this is, from 0")
  parser.add_argument("--version", action="version", version=f"bce_jax {bce_jax.__version__}")
  rest, overrides = split_overrides(argv)
  return parser.parse_args(rest), overrides


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  args, overrides = _parse(argv)
  if not args.workdir or args.config == "":
    raise ValueError("--workdir and --config can't be empty (an unset variable?)")
  if args.checkpoint and not args.evaluate_only:
    raise ValueError("--checkpoint goes with --evaluate-only")
  told = (args.coordinator, args.num_processes, args.process_id)
  if any(x is not None for x in told):
    _check_processes(*told)
  workdir = pathlib.Path(args.workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir {workdir} is a file: expected a folder")
  if args.evaluate_only and not workdir.is_dir():
    raise ValueError(f"--workdir {workdir} does not exist: expected a run folder")
  if args.evaluate_only and not (workdir / "config.json").is_file():
    raise ValueError(f"--workdir {workdir} is not a run folder: it has no config.json")

  # Here, since `--help` and a mistyped option need not wait for them.
  import jax

  from bce_jax.training import config as config_lib
  from bce_jax.training import distributed
  from bce_jax.training import workdir as workdir_lib

  _cache_compilations()
  if args.evaluate_only and args.config is None:
    config = workdir_lib.config_of(workdir)
  else:
    config = load_config(args.config or "digits")
  apply_overrides(config, overrides)
  config_lib.check(config)
  keys = workdir_lib.JUDGING_KEYS if args.evaluate_only else workdir_lib.RESUMING_KEYS
  workdir_lib.refuse_other_config(workdir, config, except_keys=keys)
  if args.distributed or args.coordinator:  # after all that every process can find wrong by itself
    distributed.start(*told)
  try:
    if args.evaluate_only:
      text = _judge(config, workdir, args.checkpoint or "latest")
    else:
      text = _train(config, workdir)
    if not jax.process_index():  # of several the first tells
      print(text, flush=True)
      if not args.evaluate_only:
        _report(config, workdir)
  except Exception as error:
    ended = _ended_early(error)
    if ended is None:
      raise
    code, line = ended
    print(f"bce-train: {line}", file=sys.stderr)
    return code
  return 0


def _train(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains, unless the folder holds a finished run; returns what is to be told of it."""
  from bce_jax.training import experiment, loop
  from bce_jax.training import workdir as workdir_lib

  results = workdir_lib.finished(workdir)
  if results is not None:
    told = f"{workdir} holds a finished run; nothing is trained twice"
    return f"{told}\n{_tables(results)}"
  results = loop.train(experiment.build(config, progress=_bar), workdir)
  seconds, rate = results["seconds"], results["images_per_second"]
  told = f"{seconds:.1f} s, {rate:,.0f} images/s; everything is in {workdir}"
  return f"{_tables(results)}\n{told}"


def _report(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Makes the page of a finished run, unless it is there already or not wanted."""
  from bce_jax.cli import report
  from bce_jax.report import page

  if not config.report or (workdir / page.FILE).exists():
    return
  try:
    print(f"{report.write_run_page(workdir)} shows it")
  except Exception as error:
    if isinstance(error, OSError) and error.errno in _DISK:
      raise
    # The run is finished, and its figures are told: a picture of them is no reason to fail.
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    told = f"the run is finished, but its page could not be made ({reason})"
    print(f"bce-train: {told}; bce-report {workdir} tries again", file=sys.stderr)


def _judge(config: ConfigDict, workdir: pathlib.Path, which: str) -> str:
  """Judges a checkpoint; returns what is to be told of it."""
  from bce_jax.training import experiment, loop

  parts = experiment.build(config, progress=_bar, judging=True)
  figures = loop.evaluate_only(parts, workdir, which=which)
  told = f"{workdir}, {which} checkpoint, step {figures['step']}"
  return f"{told}\n{_tables(figures)}"


def _tables(figures: dict[str, Any]) -> str:
  """The figures of the test split, and those of a verification if there was one."""
  from bce_jax.training import verifying
  from bce_jax.training.figures import table

  tables = [table("test", figures)]
  if "verification_auc" in figures:
    tables.append(verifying.table(figures))
  return "\n".join(tables)


def _bar(items: Any, total: int, desc: str) -> Any:
  from tqdm import tqdm

  return tqdm(items, total=total, desc=desc, disable=not sys.stderr.isatty())


def _ended_early(error: Exception) -> tuple[int, str] | None:
  """Exit code and line for a run that ended before its time; None where something given is wrong.

  What nobody has foreseen is None too.
  """
  import jax

  from bce_jax.training import checkpoint, distributed
  from bce_jax.training.figures import NonFiniteError
  from bce_jax.training.preemption import PreemptedError

  again = "run the same command again to go on"
  if isinstance(error, PreemptedError):
    return 143, f"{error}; {again}"
  if distributed.lost_another(error):
    reason = " ".join(str(error).split())[:200]
    return 1, (
      f"process {jax.process_index()} of {jax.process_count()} can't reach another, which may be"
      f" lost ({reason}); start all of them again: they go on from the newest checkpoint"
    )
  if isinstance(error, NonFiniteError | checkpoint.SaveError):
    return 1, str(error)
  if isinstance(error, OSError) and error.errno in _DISK:
    return 1, f"{error}; {again}"
  return None


def _check_processes(coordinator: str | None, count: int | None, number: int | None) -> None:
  if coordinator is None or count is None or number is None:
    raise ValueError("--coordinator, --num-processes and --process-id go together")
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
    raise ValueError(f"--coordinator {coordinator}: expected HOST:PORT, with a port of 1 … 65535")
  try:
    socket.getaddrinfo(host.strip("[]"), port)
  except OSError as error:
    raise ValueError(f"--coordinator {coordinator}: {error.strerror or error}") from None
  if count < 1 or not 0 <= number < count:
    raise ValueError(
      f"--num-processes {count} --process-id {number}: expected 0 ≤ process id < processes"
    )


def _cache_compilations() -> None:
  """Keeps compiled programs, so that a second start takes seconds; JAX's own settings win."""
  import jax

  if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "bce_jax" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def console(
  name: str,
  run: Callable[[Sequence[str]], int],
  argv: Sequence[str] | None,
  *,
  interrupted: str = "interrupted; run the same command again to go on",
) -> int:
  """Runs a console script: errors of the user's making become one line and exit code 2.

  Where whoever reads stdout has had enough, such as `head`, the exit code is 141, without a word.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of ASCII costs signs, not the results
    sys.stdout.reconfigure(errors="replace")
  try:
    try:
      return run(sys.argv[1:] if argv is None else argv)
    finally:
      print(end="", flush=True)  # here, and not when Python ends; there may be no stdout
  except (ValueError, OSError) as error:
    if isinstance(error, BrokenPipeError) and _nobody_reads():
      return 141
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"{name}: {interrupted}", file=sys.stderr)
    return 130


def _nobody_reads() -> bool:
  """Whether it is stdout that broke, and no other pipe; if so, nothing more is written there."""
  try:
    print(end="", flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
  return False


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  try:
    code = console("bce-train", run, argv)
  except Exception:
    if not _one_of_several():
      raise
    traceback.print_exc()
    code = 1
  if code and _one_of_several():
    from bce_jax.training import distributed

    distributed.leave(code)
  return code


def _one_of_several() -> bool:
  """Whether this process has joined others; without importing JAX to find out."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


if __name__ == "__main__":
  sys.exit(main())
