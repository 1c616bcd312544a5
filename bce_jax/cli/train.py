"""bce-train: trains from a config file, or evaluates what was trained.

  bce-train --workdir runs/digits
  bce-train --config cifar10:bce-nu --config.data.folder=DIR --workdir DIR
  bce-train --evaluate-only --workdir runs/digits
  bce-train --list

--config takes a file with get_config(), or the name of a config that comes with the package (the
default is digits; --list names them); behind a colon, an argument for get_config. Any key of it is
set by --config.KEY=VALUE (--help-config lists them). Run again on the same folder it goes on from
the newest checkpoint. On several hosts each starts this program, with --distributed or the three
options below it, and the same folder. Exit codes: 0 done, 1 training failed, 2 something given is
wrong, 143 ended by SIGTERM, with a checkpoint saved.
"""

import argparse
import contextlib
import errno
import os
import pathlib
import shlex
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

import bce_jax
from bce_jax import interrupts, terminal
from bce_jax.cli import configs, console
from bce_jax.runs import files, run_log
from bce_jax.runs.lock import locked

# A disk that is full, for all or for this user, or broken: nothing that was given is wrong.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _List(argparse.Action):
  """Prints the configs that come with the package, and ends."""

  def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
    super().__init__(option_strings, dest, nargs=0, **options)

  def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
    print(configs.listing(terminal.columns(sys.stdout) or terminal.USUAL))
    parser.exit()


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  parser = console.parser_of("bce-train", __doc__, takes_keys=True)
  parser.add_argument("--config", metavar="FILE[:ARGUMENT]", help="config file or name (digits)")
  helped = "--help-config" in argv
  parser.add_argument("--workdir", metavar="DIR", required=not helped, help="run folder")
  parser.add_argument(
    "--evaluate-only",
    action="store_true",
    help="evaluate the run folder's checkpoint, train nothing",
  )
  parser.add_argument(
    "--checkpoint",
    choices=("latest", "best"),
    help="of --evaluate-only: latest (the default) or best on the validation split",
  )
  parser.add_argument(
    "--distributed",
    action="store_true",
    help="one of several processes; the others are found through Cloud TPU, GKE or SLURM",
  )
  parser.add_argument("--coordinator", metavar="HOST:PORT", help="the same, given: of process 0")
  parser.add_argument("--num-processes", metavar="N", type=int, help="… how many there are")
  parser.add_argument("--process-id", metavar="I", type=int, help="… which one this is, from 0")
  parser.add_argument("--list", action=_List, help="list the configs that come with bce_jax")
  parser.add_argument(
    "--help-config",
    action="store_true",
    help="list all keys, or those of --config: value, what it may be, what it changes and means",
  )
  rest, overrides = configs.split_overrides(argv)
  return parser.parse_args(rest), overrides


def _help_config(reference: str | None, overrides: Sequence[tuple[str, str]]) -> list[str]:
  """All keys of a config, or of the default one."""
  from bce_jax import config as config_lib
  from bce_jax.config import help as help_lib

  config = config_lib.default() if reference is None else configs.load_config(reference)
  configs.apply_overrides(config, overrides)
  return help_lib.lines(config, terminal.columns(sys.stdout) or terminal.USUAL)


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  args, overrides = _parse(argv)
  if args.help_config:
    print("\n".join(_help_config(args.config, overrides)))
    return 0
  if not args.workdir or args.config == "":
    raise ValueError("--workdir and --config can't be empty (an unset variable?)")
  if args.checkpoint and not args.evaluate_only:
    raise ValueError("--checkpoint goes with --evaluate-only")
  processes = (args.coordinator, args.num_processes, args.process_id)
  if any(x is not None for x in processes):
    _check_processes(*processes)
  workdir = pathlib.Path(args.workdir)
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir {workdir} is a file: expected a folder")
  if args.evaluate_only and not workdir.is_dir():
    raise ValueError(f"--workdir {workdir} does not exist: expected a run folder")
  if args.evaluate_only and not (workdir / "config.json").is_file():
    raise ValueError(f"--workdir {workdir} is not a run folder: it has no config.json")

  if args.config is not None:
    configs.config_path(args.config.partition(":")[0])

  try:
    return _run(args, overrides, workdir)
  except ValueError:
    if not args.evaluate_only:
      _open_log(workdir)
    raise
  except KeyboardInterrupt as error:
    if not args.evaluate_only:
      _open_log(workdir)
    return _interrupted(error, None if args.evaluate_only else workdir)


def _run(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]], workdir: pathlib.Path
) -> int:
  """Trains or evaluates; returns the exit code."""
  # Here, since `--help` and a mistyped option need not wait for them.
  import jax

  from bce_jax import config as config_lib
  from bce_jax.cli import orbax_errors
  from bce_jax.runs import run_config
  from bce_jax.training import distributed

  console.cache_compilations()
  orbax_errors.one_error_for_all()
  if args.evaluate_only and args.config is None:
    config = run_config.config_of(workdir)
  else:
    config = configs.load_config(args.config or "digits")
  configs.apply_overrides(config, overrides)
  config_lib.check(config, evaluate_only=args.evaluate_only)
  said = run_config.find_paths(workdir, config)
  if run_config.begun(workdir) and (line := run_config.edited(workdir)):
    said.append(line)
  keys = run_config.may_change(workdir)
  if args.evaluate_only:
    keys = config_lib.may_change(on="evaluate")
  run_config.refuse_other_config(workdir, config, except_keys=keys)
  if args.distributed or args.coordinator:  # after all that every process can find wrong by itself
    distributed.start(args.coordinator, args.num_processes, args.process_id)
  for line in said if not jax.process_index() else ():
    print(line, file=sys.stderr)
  try:
    if args.evaluate_only:
      text = _evaluate(config, workdir, args.checkpoint or "latest")
    else:
      text = _train(config, workdir)
    if not jax.process_index():  # of several the first prints
      print(text, flush=True)
      if not args.evaluate_only:
        _report(config, workdir)
  except Exception as error:
    ended = _ended_early(error, workdir)
    if ended is None:
      raise
    code, line = ended
    print(f"bce-train: {line}", file=sys.stderr)
    return code
  return 0


def _train(config: ConfigDict, workdir: pathlib.Path) -> str:
  """Trains, unless the folder holds a finished run; returns what is to be printed of it."""
  from bce_jax.runs import run_config
  from bce_jax.training import experiment, loop, preemption

  results = run_config.finished(workdir)
  if results is not None:
    said = f"{workdir} holds a finished run; nothing is trained twice"
    return f"{said}\n{_tables(results, config)}"
  stop = preemption.Preemption(workdir)
  with stop.listening():
    built = experiment.build(config, progress=console.progress_bar)
    results = loop.train(built, workdir, stop)
  seconds, rate = results["seconds"], results["images_per_second"]
  said = (
    f"{seconds:.1f} s with compiling and evaluating, {rate:,.0f} images/s over all of it;"
    f" everything is in {workdir}"
  )
  said = "\n".join(terminal.wrap(said, terminal.columns(sys.stdout)))
  return f"{_tables(results, config)}\n{said}"


def _report(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Makes the page of a finished run, unless it is there already or not wanted."""
  from bce_jax.cli import report

  if not config.report or (workdir / files.REPORT).exists():
    return
  try:
    print(f"{report.write_run_page(workdir)} shows it")
  except Exception as error:
    if isinstance(error, OSError) and error.errno in _DISK:
      raise
    # The run is finished, and its results are printed: a picture of them is no reason to fail.
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    said = f"the run is finished, but its page could not be made ({reason})"
    print(f"bce-train: {said}; bce-report {workdir} tries again", file=sys.stderr)


def _evaluate(config: ConfigDict, workdir: pathlib.Path, which: str) -> str:
  """Evaluates a checkpoint; returns what is to be printed of it."""
  import jax

  from bce_jax.runs import outside
  from bce_jax.training import experiment, loop

  built = experiment.build(config, progress=console.progress_bar, evaluate_only=True)
  if not jax.process_index():
    changed = outside.changes(workdir, built.outside)
    for line in (*changed, *built.dataset.notes, *(one.reason for one in built.dataset.skipped)):
      print(line, file=sys.stderr)
  results = loop.evaluate_only(built, workdir, which=which)
  said = f"{workdir}, {which} checkpoint, step {results['step']}"
  return f"{said}\n{_tables(results, config)}"


def _tables(results: dict[str, Any], config: ConfigDict) -> str:
  """The results of the test split, and those of a verification if there was one."""
  from bce_jax.config import metrics
  from bce_jax.evaluation import verification
  from bce_jax.evaluation.summary import table

  tables = [table("test", results, rows=metrics.rows(config, results))]
  if "verification_auc" in results:
    tables.append(verification.table(results))
  return "\n".join(tables)


def _open_log(workdir: pathlib.Path) -> None:
  """Opens the log of a run that could not go on, unless another process is at it."""
  jax = sys.modules.get("jax")  # without it nothing was read of the folder yet
  if jax is None or not (workdir / files.LOG).exists():
    return
  if not (_one_of_several() and jax.process_index()):
    with contextlib.suppress(ValueError, OSError), locked(workdir):
      run_log.open_in(workdir)


def _interrupted(error: KeyboardInterrupt, workdir: pathlib.Path | None) -> int:
  """Says what the same command does next, where it trains; returns the exit code."""
  from bce_jax.training import preemption

  interrupts.ends()
  said = str(error) or "Ctrl-C"
  if workdir is not None:
    said = f"{said}; {preemption.how_to_go_on(workdir)}"
  print(f"bce-train: {said}", file=sys.stderr)
  return getattr(error, "code", 130)


def _ended_early(error: Exception, workdir: pathlib.Path) -> tuple[int, str] | None:
  """Exit code and line for a run that ended before its time; None where something given is wrong.

  What nobody has foreseen is None too.
  """
  import jax

  from bce_jax.evaluation.summary import NonFiniteError
  from bce_jax.runs import checkpoint
  from bce_jax.training import distributed, preemption

  if distributed.lost_another(error):
    reason = " ".join(str(error).split())[:200]
    return 1, (
      f"process {jax.process_index()} of {jax.process_count()} can't reach another, which may be"
      f" lost ({reason}); start all of them again: they go on from the newest checkpoint"
    )
  if isinstance(error, NonFiniteError | checkpoint.SaveError):
    return 1, str(error)
  if isinstance(error, OSError) and error.errno in _DISK:
    return 1, f"{error}; {preemption.how_to_go_on(workdir)}"
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


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  with run_log.kept() as log:
    words = sys.argv[1:] if argv is None else argv
    log.note(
      f"bce-train {shlex.join(words)} (bce_jax {bce_jax.__version__}, process {os.getpid()})"
    )
    try:
      code = console.run_as("bce-train", run, argv)
    except Exception:
      if not _one_of_several():
        for line in traceback.format_exc().splitlines():
          log.note(line)
        raise
      traceback.print_exc()
      code = 1
    if not code:  # else the last line says why
      log.note("bce-train: done")
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
