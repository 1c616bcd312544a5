"""bce-sweep: trains several configs, or one with varied keys, and sets the runs side by side.

  bce-sweep --config digits_lt:ce --config digits_lt:bce3s --workdir DIR
  bce-sweep --config cifar_lt:cpu --one-at-a-time --vary seed=0,1 \\
    --vary objective.contrast_weight=0,0.05,0.1,0.2 \\
    --vary objective.temperature=0.1,0.5,1 --workdir DIR

Each run gets a folder of its own below DIR, as bce-train makes it, and its output in DIR/logs. At
the end DIR holds table.md (mean ± standard deviation over seeds), table.csv (every result of every
run), plot.png and report.html; runs that failed are listed with the reason. Other
--config.key=value are for all runs. Run again it goes on where it was: what is finished is not
trained again. A run that fails does not stop the others. Ctrl-C lets the runs save a checkpoint
and end, a second one ends them at once. Exit codes: 0 done, 1 a run failed, 2 something given is
wrong, 130 ended by Ctrl-C, SIGTERM or SIGHUP.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bce_jax import atomic, interrupts, terminal
from bce_jax.cli import configs, console, report
from bce_jax.runs import files

if TYPE_CHECKING:  # they bring JAX, for which `--help` need not wait
  from ml_collections import ConfigDict

  from bce_jax.report.comparison import Run

AGAIN = "run the same command again to go on"


class Plan(NamedTuple):
  """One run of a sweep, not yet started: its config, its changed keys and its folder.

  Attributes:
    reference: of its config.
    overrides: (key, value) as on the command line.
    config: both together.
    settings: what distinguishes it from the others.
    name: of its folder.
  """

  reference: str
  overrides: tuple[tuple[str, str], ...]
  config: "ConfigDict"
  settings: dict[str, Any]
  name: str


def plans(
  references: Sequence[str],
  varied: Sequence[tuple[str, Sequence[str]]],
  overrides: Sequence[tuple[str, str]],
  *,
  one_at_a_time: bool,
) -> list[Plan]:
  """Lists the runs: every config with every combination of values, each config checked.

  Args:
    references: of configs, as of bce-train.
    varied: (key, values) each.
    overrides: (key, value), for all runs.
    one_at_a_time: each key alone, the others at the config's own value; "seed" goes with all.

  Raises:
    ValueError: for a config or a value that no run could use.
  """
  from bce_jax import config as config_lib
  from bce_jax.report import comparison

  choices = [[(key, value) for value in values] for key, values in varied]
  if one_at_a_time:
    seeds = [c for c in choices if c[0][0] == comparison.SEED]
    others = [c for c in choices if c[0][0] != comparison.SEED]
    products = [p for c in others or [[]] for p in itertools.product(*([c] if c else []), *seeds)]
  else:
    products = list(itertools.product(*choices))
  out: list[Plan] = []
  shown = _short(references)
  for reference, changes in itertools.product(dict.fromkeys(references), products):
    config = configs.load_config(reference)
    configs.apply_overrides(config, (*overrides, *changes))
    config_lib.check(config)
    flat = config_lib.flatten(config)
    settings: dict[str, Any] = {"config": shown[reference]} if len(references) > 1 else {}
    settings |= {key: flat[key] for key, _ in changes}
    if any(plan.settings == settings for plan in out):
      continue  # the same value, written in another way
    name = _folder_name(reference, changes, {plan.name for plan in out})
    out.append(Plan(reference, (*overrides, *changes), config, settings, name))
  return out


def _short(references: Sequence[str]) -> dict[str, str]:
  """How configs differ: of one file, the words behind the colon that not all have."""
  parts = {reference: reference.partition(":") for reference in references}
  if len({name for name, _, _ in parts.values()}) > 1 or not all(w for _, _, w in parts.values()):
    return {reference: reference for reference in references}
  words = {reference: part[2].split(",") for reference, part in parts.items()}
  common = set.intersection(*(set(w) for w in words.values()))
  short = {r: ",".join(x for x in w if x not in common) or ",".join(w) for r, w in words.items()}
  return short if len(set(short.values())) == len(short) else {r: r for r in references}


def _folder_name(reference: str, changes: Sequence[tuple[str, str]], taken: set[str]) -> str:
  """A folder name for a run: short enough for a file system, and none of `taken`."""
  config, _, argument = reference.partition(":")
  parts = [pathlib.Path(config).stem, argument, *(f"{key}={value}" for key, value in changes)]
  name = re.sub(r"[^\w.=+-]+", "-", "_".join(part for part in parts if part))
  if len(name) > 150:
    name = f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
  numbered = (f"{name}-{k}" for k in itertools.count(2))
  return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  parser = console.parser_of("bce-sweep", __doc__, takes_keys=True)
  parser.add_argument(
    "--config", metavar="FILE[:ARGUMENT]", action="append", help="config file or name; repeatable"
  )
  parser.add_argument(
    "--vary", metavar="KEY=V1,V2,…", action="append", default=[], help="values of a key; repeatable"
  )
  parser.add_argument(
    "--one-at-a-time", action="store_true", help="vary each key alone instead of all combinations"
  )
  parser.add_argument(
    "--jobs",
    metavar="N",
    type=int,
    help="runs at the same time; else one for every two cores, one alone on an accelerator",
  )
  parser.add_argument("--workdir", metavar="DIR", required=True, help="folder of the run folders")
  rest, overrides = configs.split_overrides(argv)
  return parser.parse_args(rest), overrides


def _varied(words: Sequence[str]) -> list[tuple[str, list[str]]]:
  out: dict[str, list[str]] = {}
  for word in words:
    key, _, values = word.partition("=")
    key = key.strip().removeprefix("config.")
    chosen = [value.strip() for value in values.split(",") if value.strip()]
    if not chosen:
      raise ValueError(f"--vary {word}: expected KEY=V1,V2,…")
    if key in out:
      raise ValueError(f"--vary {key} is given twice: expected one list of values")
    out[key] = chosen
  return list(out.items())


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  args, overrides = _parse(argv)
  jobs = _jobs() if args.jobs is None else args.jobs
  if jobs < 1:
    raise ValueError(f"--jobs must be at least 1, got {jobs}")
  if not args.config:
    raise ValueError("--config is needed: a config file or name, repeatable")
  for reference in args.config:
    configs.config_path(reference.partition(":")[0])
  workdir = pathlib.Path(args.workdir)
  if not args.workdir or (workdir.exists() and not workdir.is_dir()):
    raise ValueError(f"--workdir {args.workdir!r}: expected a folder")
  planned = plans(args.config, _varied(args.vary), overrides, one_at_a_time=args.one_at_a_time)
  from bce_jax.runs import run_config
  from bce_jax.runs.lock import locked

  (workdir / "logs").mkdir(parents=True, exist_ok=True)
  with locked(workdir):
    say(f"{len(planned)} run(s) into {workdir}")
    running = Running()
    try:
      with running.ended_by_signals():
        return _run_all(planned, workdir, jobs, running)
    except KeyboardInterrupt:
      interrupts.ends()
      ended = sum(run_config.finished(workdir / plan.name) is not None for plan in planned)
      line = f"interrupted; {AGAIN}: {ended} of {len(planned)} runs are finished"
      print(f"bce-sweep: {line}", file=sys.stderr)
      return 130


def _jobs() -> int:
  """How many runs go at the same time where nobody says: an accelerator is one run's alone."""
  platforms = os.environ.get("JAX_PLATFORMS", "")
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  accelerated = bool(plugins) or importlib.util.find_spec("libtpu") is not None
  if accelerated and platforms != "cpu":
    return 1
  held = hasattr(os, "sched_getaffinity")  # not on macOS; a job scheduler may leave us a few cores
  cores = len(os.sched_getaffinity(0)) if held else os.cpu_count() or 1
  return max(1, cores // 2)


class Running:
  """The processes of a sweep that train now, and how a signal ends all of them."""

  def __init__(self) -> None:
    """None yet."""
    self._processes: set[subprocess.Popen[str]] = set()
    self._ending = False

  @contextlib.contextmanager
  def ended_by_signals(self) -> Iterator[None]:
    """Context manager: Ctrl-C, SIGTERM or SIGHUP lets the runs save and end; a second Ctrl-C kills.

    Raises:
      KeyboardInterrupt: for the first.
    """
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
      signal.signal(number, self._end)
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  @contextlib.contextmanager
  def counted(self, process: "subprocess.Popen[str]") -> Iterator[None]:
    """Context manager: a signal ends this process too."""
    self._processes.add(process)
    if self._ending:  # it was started meanwhile
      process.terminate()
    try:
      yield
    finally:
      self._processes.discard(process)

  def _end(self, number: int, frame: types.FrameType | None) -> None:
    if not self._ending:
      self._ending = True
      for process in tuple(self._processes):
        process.terminate()  # not SIGINT, which a background job's children may ignore
      interrupts.raise_from(frame, number, KeyboardInterrupt())
    elif number == signal.SIGINT:
      for process in tuple(self._processes):
        with contextlib.suppress(OSError):
          os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
      os.write(2, f"bce-sweep: interrupted again: ended at once; {AGAIN}\n".encode())
      os._exit(130)


def _run_all(
  planned: Sequence[Plan], workdir: pathlib.Path, jobs_at_once: int, running: Running
) -> int:
  """Trains what is not finished and compares what is; returns the exit code."""
  with concurrent.futures.ThreadPoolExecutor(jobs_at_once) as pool:
    jobs = [
      pool.submit(_train, plan, workdir, f"[{k}/{len(planned)}] ", running)
      for k, plan in enumerate(planned, start=1)
    ]
    try:
      codes = [job.result() for job in jobs]
    except KeyboardInterrupt:
      pool.shutdown(wait=False, cancel_futures=True)
      say("the runs save and end; Ctrl-C once more ends them at once")
      raise
  failed = {
    plan.name: _why(code, workdir / "logs" / f"{plan.name}.log")
    for plan, code in zip(planned, codes, strict=True)
    if code
  }
  runs = []
  for plan in planned:
    if plan.name not in failed:
      try:
        runs.append(report.read(workdir / plan.name, name=plan.name, settings=plan.settings))
      except ValueError as error:  # of one folder that is damaged; the others are compared
        failed[plan.name] = " ".join(str(error).split())
  missing = [(plan, failed[plan.name]) for plan in planned if plan.name in failed]
  _compare(runs, missing, workdir)
  for name, why in failed.items():
    say(f"bce-sweep: {name} failed: {why}")
  return 1 if failed else 0


def _train(plan: Plan, workdir: pathlib.Path, prefix: str, running: Running) -> int:
  """Trains one run in a process of its own; its lines go to a log and, numbered, to stderr."""
  from bce_jax.runs import run_config

  folder = workdir / plan.name
  log_path = workdir / "logs" / f"{plan.name}.log"
  try:
    config = plan.config.copy_and_resolve_references()
    run_config.find_paths(folder, config)  # as bce-train does
    run_config.refuse_other_config(folder, config, except_keys=run_config.may_change(folder))
    paged = not plan.config.report or (folder / files.REPORT).exists()
    if run_config.finished(folder) is not None and paged:
      say(f"{prefix}{plan.name} is finished")
      return 0
  except ValueError as error:
    with open(log_path, "a") as log:
      log.write(f"{error}\n")
    return 2
  command = [sys.executable, "-m", "bce_jax.cli.train", "--config", plan.reference]
  command += [f"--config.{key}={value}" for key, value in plan.overrides]
  command += ["--workdir", str(folder)]
  say(f"{prefix}{plan.name}")
  with (
    open(log_path, "a") as log,
    # In a session of its own: Ctrl-C reaches this process alone, which ends its runs.
    subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    ) as process,
    running.counted(process),
  ):
    assert process.stdout is not None
    for line in process.stdout:
      log.write(line)
      log.flush()
      if line.startswith(("step ", "bce-train:", "resumed", "starts")):
        say(prefix + line.rstrip())
  return process.returncode


def _compare(
  runs: Sequence["Run"], missing: Sequence[tuple[Plan, str]], workdir: pathlib.Path
) -> None:
  """Sets the finished runs side by side; those missing are listed with the reason."""
  from bce_jax.report import comparison, studies

  failed = {plan.name: why for plan, why in missing}
  table = comparison.markdown(runs, failed)
  listed = [(plan.settings, plan.name, why) for plan, why in missing]
  lines = comparison.comma_separated(runs, listed)
  for file, text in (("table.md", table + "\n"), ("table.csv", lines)):
    with atomic.opened(workdir / file) as out:
      out.write(text)
  columns = terminal.columns(sys.stdout)
  print(table if columns is None else comparison.fitted(runs, columns, failed), flush=True)
  made = ["table.md", "table.csv"]
  name = workdir.resolve().name
  drawn: dict[str, Callable[[pathlib.Path], object]] = {
    "plot.png": lambda path: studies.picture(runs, name).savefig(path, dpi=150),
    "report.html": lambda path: report.write_page(runs, path, title=name, missing=failed),
  }
  for file, draw in drawn.items() if runs else ():
    try:
      draw(workdir / file)
      made.append(file)
    except Exception as error:  # the runs are finished, whatever a picture of them comes to
      say(f"bce-sweep: {file} could not be made: {type(error).__name__}: {error}")
  print(f"{', '.join(made)} are in {workdir}")


def _why(code: int, log: pathlib.Path) -> str:
  """Why a run failed, in one line: what it said last, or the signal that ended it."""
  lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
  last = " ".join(lines[-1].split()) if lines else "it said nothing"
  if code >= 0:
    return last
  known = {number.value: number.name for number in signal.Signals}
  return f"ended by {known.get(-code, f'signal {-code}')}; it said last: {last}"


_lock = threading.Lock()


def say(line: str) -> None:
  """Prints a line in one piece, even when several runs print at once."""
  columns = terminal.columns(sys.stderr)
  lines = [terminal.cut(line, columns)] if " step " in line else terminal.wrap(line, columns)
  with _lock:
    print("\n".join(lines), file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  return console.run_as("bce-sweep", run, argv)


if __name__ == "__main__":
  sys.exit(main())
