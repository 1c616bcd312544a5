"""bce-report: one self-contained page of one run, or of several side by side.

  bce-report runs/digits
  bce-report runs/ce runs/bce runs/bce3s --output compared.html
  bce-report runs/sweep/*/ --map pca

A finished run of bce-train has its report.html already; this makes it anew, or sets several runs
side by side: mean and standard deviation over those that differ by their seed only. One run's page
goes into its folder, that of several into report.html here; --output says otherwise. Nothing is
trained or evaluated: what a run folder holds is drawn. Beside finished runs, others and folders
that are none are skipped, and listed. Exit codes: 0 done, 2 something given is wrong.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bce_jax.cli import console
from bce_jax.runs import files

if TYPE_CHECKING:  # it brings JAX, for which `--help` need not wait
  from bce_jax.report.comparison import Run


def read(folder: pathlib.Path, *, name: str, settings: Mapping[str, Any] | None = None) -> "Run":
  """Reads a finished run from its folder, for the page.

  Args:
    folder: the run folder.
    name: what to call it.
    settings: what distinguishes it from others, where known.

  Returns:
    What the page draws.

  Raises:
    ValueError: when its run has not ended, or a file is damaged.
  """
  from bce_jax.report import comparison
  from bce_jax.runs import provenance, records, result_rows, run_config, test_outputs

  if not (folder / files.CONFIG).is_file():
    raise ValueError(f"{folder} is not a run folder: it has no {files.CONFIG}")
  if not (folder / files.RESULTS).is_file():
    raise ValueError(f"{folder} has no {files.RESULTS}: its run has not ended")
  needed = ("sample_wise_accuracy", "uniform_accuracy", "uniform_accuracy_at_bias", "threshold")
  values = records.read_json(folder / files.RESULTS, *needed)
  outside = result_rows.kept(values)
  values.pop("provenance", None)
  if line := run_config.edited(folder):
    print(f"{folder}: {line}", file=sys.stderr)
  lines = records.read_metrics(folder)
  if not all({"epoch", "split"} <= record.keys() for record in lines):
    raise ValueError(f"{folder / files.METRICS} is damaged: a record lacks its epoch or split")
  lines = [record for record in lines if record["split"] != records.SKIPPED]
  config = _config(run_config.trained_by(folder))
  own = (*result_rows.of_objective(config.get("objective.name")), *outside)
  # Results that only training has, as it last logged them.
  columns = [row.key for row in own if row.column and row.key not in values]
  for record in lines:
    if record.get("split") == "train":
      values |= {key: record[key] for key in columns if key in record}
  outputs = test_outputs.read(folder) if test_outputs.path_in(folder).exists() else None
  return comparison.Run(
    settings=dict(settings or {}),
    results=values,
    name=name,
    config=config,
    records=lines,
    outputs=outputs,
    dataset=records.read_json(place) if (place := folder / files.DATASET).is_file() else {},
    sessions=provenance.read(folder).get("sessions", ()),
    rows=own,
  )


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
  """The config, flat; keys that an older version did not have are at their defaults.

  That of a newer version, with keys or methods that are not known here, is left as it is.
  """
  from bce_jax import config as config_lib

  try:
    return config_lib.flatten(config_lib.from_dict(values))
  except (ValueError, TypeError, KeyError, AttributeError):
    return config_lib.flatten(values)


def write_page(
  runs: Sequence["Run"],
  path: pathlib.Path,
  *,
  title: str,
  map_method: str = "tsne",
  missing: Mapping[str, str] | None = None,
) -> None:
  """Writes the page of runs whose settings are known; `missing` are others: {name: reason}."""
  from bce_jax.report import page

  page.write(path, page.build(runs, title=title, map_method=map_method, missing=missing))


def write_run_page(folder: pathlib.Path, *, map_method: str = "tsne") -> pathlib.Path:
  """Writes report.html of one finished run into its folder; returns its path."""

  name = folder.resolve().name
  path = folder / files.REPORT
  write_page([read(folder, name=name)], path, title=name, map_method=map_method)
  return path


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = console.parser_of("bce-report", __doc__)
  parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder of bce-train")
  parser.add_argument("--output", metavar="FILE.html", help="where the page goes")
  parser.add_argument("--title", help="of the page; the run's name, or how many there are")
  parser.add_argument(
    "--map",
    choices=("tsne", "pca"),
    default="tsne",
    help="how features are laid out in the plane: t-SNE (the default) or PCA",
  )
  return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  args = _parse(argv)
  by_place: dict[pathlib.Path, pathlib.Path] = {}  # each run once, however it is spelled
  for name in args.runs:
    by_place.setdefault(pathlib.Path(name).resolve(), pathlib.Path(name))
  folders = list(by_place.values())
  for folder in folders:
    if not folder.is_dir():
      raise ValueError(f"{folder} is not a folder: expected a run folder of bce-train")
  from bce_jax.report.settings import with_settings

  # A sweep's folder holds others beside its runs, which `sweep/*/` names too, and unfinished runs.
  needed = (files.CONFIG, files.RESULTS)
  finished = [f for f in folders if all((f / name).is_file() for name in needed)]
  unfinished: dict[str, str] = {}
  if finished:
    for folder in folders:
      if folder not in finished:
        other = not (folder / files.CONFIG).is_file()
        why = f"it has no {files.CONFIG}" if other else "its run has not ended"
        print(f"{folder} is skipped: {why}", file=sys.stderr)
        if not other:  # a folder that is no run lacks nothing
          unfinished[str(folder)] = why
    folders = finished
  default = folders[0] / files.REPORT if len(folders) == 1 else pathlib.Path(files.REPORT)
  path = pathlib.Path(args.output) if args.output else default
  if path.is_dir():
    raise ValueError(f"--output {path} is a folder: expected a file")
  if not path.parent.is_dir():
    raise ValueError(f"--output {path}: {path.parent} is not a folder")
  names = _names(folders)
  runs = [read(folder, name=name) for folder, name in zip(folders, names, strict=True)]
  title = args.title or (names[0] if len(runs) == 1 else f"{len(runs)} runs side by side")
  write_page(with_settings(runs), path, title=title, map_method=args.map, missing=unfinished)
  print(path)
  return 0


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The folders' own names; with those above them where two have the same."""
  parts = [folder.resolve().parts for folder in folders]
  depth = 1
  while len({p[-depth:] for p in parts}) < len(parts) and depth < max(map(len, parts)):
    depth += 1
  return ["/".join(p[-depth:]) for p in parts]


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  return console.run_as("bce-report", run, argv, interrupted="interrupted")


if __name__ == "__main__":
  sys.exit(main())
