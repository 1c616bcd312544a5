"""bce-predict: labels for images that nobody labeled, with a reject class, as CSV.

  bce-predict runs/digits photos
  bce-predict runs/digits photos more/photos one.png --output labels.csv
  bce-predict runs/digits photos --threshold 3.5 --reject unknown

An image gets the class whose score is the furthest above its threshold, and where none is above,
the reject class. Thresholds are the biases that training learned; --threshold takes one number for
all classes, such as the best one in results.json. RUN is a run folder of bce-train, of which
config.json, dataset.json and a checkpoint are read: its training data are not needed.

Folders are searched with all that is in them; what is no image is passed over, and counted. Each
image has a line, those of a folder sorted by name: file, label, score (scale · c, of the best
class), threshold (of that class), above (how many classes are above theirs: 0 rejected, 1 clear,
more ambiguous) and best (the best class, rejected or not). A file that can't be used costs only
itself.

Exit codes: 0 done, 1 some files can't be used, 2 something given is wrong, or no file can be used.
"""

import argparse
import contextlib
import csv
import io
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from bce_jax import atomic, terminal
from bce_jax.cli import console
from bce_jax.runs import files

if TYPE_CHECKING:
  import numpy as np

  from bce_jax.evaluation.predict import TrainedNetwork

COLUMNS = ("file", "label", "score", "threshold", "above", "best")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = console.parser_of("bce-predict", __doc__)
  parser.add_argument("run", metavar="RUN", help="run folder of bce-train")
  parser.add_argument("images", metavar="FOLDER", nargs="+", help="folder of images, or an image")
  parser.add_argument(
    "--checkpoint",
    choices=("latest", "best"),
    default="latest",
    help="which one: latest (the default) or best on the validation split",
  )
  parser.add_argument(
    "--threshold", metavar="T", type=float, help="for all classes, in place of the learned biases"
  )
  parser.add_argument(
    "--reject", metavar="NAME", default="none", help="label where no class is above (none)"
  )
  parser.add_argument(
    "--output",
    metavar="FILE.csv",
    help="where the table goes; else it is printed, on a terminal in columns",
  )
  return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  args = _parse(argv)
  start = time.monotonic()
  workdir = pathlib.Path(args.run)
  output = None if args.output is None else pathlib.Path(args.output)
  _check(args, workdir, output)
  # Here, since `--help` and a mistyped option need not wait for them.
  import numpy as np

  from bce_jax.cli import orbax_errors
  from bce_jax.evaluation import predict

  paths = _list(args.images)
  console.cache_compilations()
  orbax_errors.one_error_for_all()
  network = predict.load(workdir, which=args.checkpoint)
  _print_warnings(args, workdir, network)
  thresholds = network.bias if args.threshold is None else np.asarray(args.threshold, np.float64)
  dark: list[str] = []
  counts = _write_labels(args, output, network, thresholds, paths, dark)
  _say(
    f"{counts.labeled:,} images, {counts.rejected:,} rejected, {counts.ambiguous:,} ambiguous;"
    f" {time.monotonic() - start:.1f} s"
  )
  if dark:
    _say(
      f"{len(dark):,} images of more than 8 bits are all but black, such as {min(dark)}: if they"
      " hold 8 bits in 16, save them with 8"
    )
  if counts.labeled < len(paths):
    _say(f"{len(paths) - counts.labeled:,} of {len(paths):,} files can't be used")
    return 1
  return 0


def _check(args: argparse.Namespace, workdir: pathlib.Path, output: pathlib.Path | None) -> None:
  """Refuses what can be seen to be wrong at once."""
  if not workdir.is_dir():
    raise ValueError(f"{workdir} is not a folder: expected a run folder of bce-train")
  if not (workdir / files.CONFIG).is_file():
    raise ValueError(f"{workdir} is not a run folder: it has no {files.CONFIG}")
  if args.threshold is not None and not math.isfinite(args.threshold):
    raise ValueError(f"--threshold {args.threshold}: expected a finite number")
  if output is not None:
    _check_output(output)


def _print_warnings(
  args: argparse.Namespace, workdir: pathlib.Path, network: "TrainedNetwork"
) -> None:
  """Says what a user should know of the run before trusting its labels."""
  from bce_jax.runs import run_config

  if line := run_config.edited(workdir, believed=True):
    _say(line)
  for line in network.notes:
    _say(line)
  if args.reject in ("", *network.class_names):
    reason = "it is a class" if args.reject else "it is empty"
    raise ValueError(f"--reject {args.reject!r}: {reason}; expected a name that no class has")
  if not (workdir / files.RESULTS).is_file():
    _say(f"{workdir} has not ended: these are labels of its {args.checkpoint} checkpoint")
  if args.threshold is None and network.loss.startswith("soft"):
    _say(
      f"{workdir} was trained with {network.loss!r}, and softmax learns no threshold: expect the"
      " reject class to mean little without --threshold"
    )


class _Counts(NamedTuple):
  """How many images were labeled, and of them rejected or ambiguous."""

  labeled: int = 0
  rejected: int = 0
  ambiguous: int = 0


def _write_labels(
  args: argparse.Namespace,
  output: pathlib.Path | None,
  network: "TrainedNetwork",
  thresholds: "np.ndarray",
  paths: Sequence[str],
  dark: list[str],
) -> _Counts:
  """Writes a row for each image, and says what is wrong with each file that can't be used."""
  from bce_jax.evaluation import predict

  # A bar would run into a table on the same terminal.
  hidden = output is None and sys.stdout.isatty()
  counts = _Counts()
  with _opened(output) as file:
    columns = terminal.columns(file)
    names = [*network.class_names, args.reject]
    write: Callable[[Sequence[Any]], object] = csv.writer(file, lineterminator="\n").writerow
    if columns is not None:
      write = _in_columns(file, columns, max(map(terminal.width, names)))
    for path, scores in predict.scored(
      network, paths, progress=None if hidden else console.progress_bar, dark=dark
    ):
      if isinstance(scores, ValueError):
        _say(str(scores))
        continue
      found = predict.decide(scores, thresholds)
      best = network.class_names[found.best]
      label = best if found.above else args.reject
      if not counts.labeled:
        write(COLUMNS)
      write((path, label, found.score, found.threshold, found.above, best))
      counts = _Counts(
        counts.labeled + 1,
        counts.rejected + (not found.above),
        counts.ambiguous + (found.above > 1),
      )
    if not counts.labeled:
      raise ValueError(f"none of {len(paths):,} files can be used")
  return counts


def _in_columns(file: TextIO, columns: int, longest: int) -> Callable[[Sequence[Any]], object]:
  """Writes rows for people: aligned, a line each, with names and paths as long as there is room.

  Args:
    file: a terminal.
    columns: how many it has.
    longest: columns that the longest label takes.
  """
  label = max(min(longest, 24, (columns - 52) // 2), len("label"))
  spans = [label, 9, 9, 5, label]
  spans = [max(columns - 1 - sum(spans) - 2 * len(spans), 12), *spans]

  def text(value: Any, k: int) -> str:
    if k in (2, 3) and not isinstance(value, str):
      return f"{float(value):{spans[k]}.4g}"
    short = terminal.shorten(str(value), spans[k], keep="start" if k else "end")
    return short.rjust(spans[k]) if k in (2, 3, 4) else terminal.pad(short, spans[k])

  def write(row: Sequence[Any]) -> None:
    file.write("  ".join(text(value, k) for k, value in enumerate(row)).rstrip() + "\n")

  return write


def _list(given: Sequence[str]) -> list[str]:
  """The images in what was given, each once, in the order of the command line."""
  from bce_jax.data import folders
  from bce_jax.evaluation import predict

  found = {path: predict.files_of(path) for path in given}
  files = {path: names for path, (names, _) in found.items()}
  for path, (_, passed) in found.items():
    if passed:
      _say(f"{path}: passed over {passed}")
  empty = [path for path in files if not files[path]]
  if len(empty) == len(files):
    expected = " ".join(folders.ENDINGS)
    raise ValueError(f"no images in {', '.join(empty)}: expected files {expected}")
  for path in empty:
    _say(f"no images in {path}")
  return list(dict.fromkeys(file for names in files.values() for file in names))


def _check_output(path: pathlib.Path) -> None:
  if path.is_dir():
    raise ValueError(f"--output {path} is a folder: expected a file")
  # What stands for a stream, even one into a file, as /dev/stdout may, is not to be replaced.
  stream = path.absolute().is_relative_to("/dev") or path.absolute().is_relative_to("/proc")
  if stream or (path.exists() and not path.is_file()):
    raise ValueError(f"--output {path} is a device or a pipe: expected a file, or no --output")
  if not path.parent.is_dir():
    raise ValueError(f"--output {path}: there is no folder {path.parent}")


@contextlib.contextmanager
def _opened(path: pathlib.Path | None) -> Iterator[TextIO]:
  """The file that the table goes into, which appears whole or not at all; None: stdout."""
  # A file's name may hold bytes that are no UTF-8: they come out as they are.
  options: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
  if path is None:
    if isinstance(sys.stdout, io.TextIOWrapper):
      sys.stdout.reconfigure(**options)
    yield sys.stdout
    sys.stdout.flush()
    return
  with atomic.opened(path, newline="", **options) as file:
    yield file


def _say(line: str) -> None:
  """Prints a line on stderr, above the bar if there is one."""
  from tqdm import tqdm

  tqdm.write(f"bce-predict: {' '.join(line.split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  return console.run_as("bce-predict", run, argv, interrupted="interrupted")


if __name__ == "__main__":
  sys.exit(main())
