"""bce-eval: evaluates anybody's classifier from its scores, by the uniform accuracy.

  bce-eval FILE.npz
  bce-eval LOGITS.npy LABELS.npy --bias 4.2 --plot scores.png
  bce-eval runs/digits --threshold 3.5
  bce-eval EMBEDDINGS.npz --threshold 0.3 --pairs pairs.txt

FILE.npz holds logits [n, N] and labels [n] and may hold bias ([] or [N]), train_counts [N],
class_names [N], features [n, D] and the classifier's weights [N, D]. Labels are class ids, one-hot
rows, or text that is found among the class names. Logits are scores before a bias is subtracted,
z = logits - bias; a model that adds its bias, and decides at 0, has --bias 0.

Logits [n] with labels of two kinds (0 and 1, -1 and 1, true and false, same and different) are one
score per sample: AUC, equal error rate, the best threshold, and the confusion matrix at --threshold
and at the bias.

Without logits, features and labels are verified: is a pair of samples of one identity, by the
cosine? All pairs are asked, or with --pairs those of a list (LFW's pairs.txt, or a table such as
path1,path2,same, with or without a header), by paths [n]; bias and scale give the threshold
t = bias / scale, else --threshold.

Names such as scores, probs, targets, y_true and embeddings are known too: what is taken as what is
named on stderr, as are scores of +infinity or at the end of their dtype, and arrays that nothing is
done with. A run folder of bce-train is evaluated by what it holds. Files are read a few rows at a
time: they may be larger than memory. Exit codes: 0 done, 2 something given is wrong.
"""

import argparse
import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bce_jax.cli import binary, console, given, verify
from bce_jax.runs import files

if TYPE_CHECKING:
  import numpy as np

  from bce_jax import metrics
  from bce_jax.data.arrays import StoredArray
  from bce_jax.evaluation.summary import EvalOutputs, Results
  from bce_jax.results import Result

_PICTURES = (".png", ".svg", ".pdf")
_BIG = 2**26  # bytes: of a larger file it is shown how far it is


class Outcome(NamedTuple):
  """What bce-eval has found: results, and what its plot is drawn from.

  Attributes:
    title: what was evaluated.
    unit: in the plural.
    results: named as in results.json.
    outputs: of each example; None where only results are known.
    distributions: of scale · c; None where nobody wants them.
    bias: as of `Given`.
    rows: of the results that a run's own metrics bring.
  """

  title: str
  unit: str
  results: "Results"
  outputs: "EvalOutputs | None"
  distributions: "metrics.ScoreDistributions | None"
  bias: "np.ndarray | None"
  rows: "Sequence[Result]" = ()


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  try:
    return _run(_parse(argv))
  except RuntimeError as error:
    from bce_jax.evaluation.summary import NonFiniteError  # here: it takes JAX

    if isinstance(error, NonFiniteError):  # not of a training: the scores were given
      raise ValueError(str(error)) from None
    raise


def _run(args: argparse.Namespace) -> int:
  paths = [pathlib.Path(path) for path in args.files]
  if args.plot is not None:
    _check_plot(args.plot)
  if paths[0].is_dir():
    if len(paths) > 1 or any(x is not None for x in (args.bias, args.train_counts, args.pairs)):
      raise ValueError(
        f"{paths[0]} is a run folder, with a bias and training counts of its own:"
        " expected nothing beside it but --threshold, --plot and --json"
      )
    outcome = _run_folder(paths[0], args)
  else:
    _stay_on_the_host()
    found = given.open_files(paths)
    if verify.wanted(found, args):
      return _verified(paths[0], found, args)
    if binary.wanted(found):
      return _two_kinds(paths[0], found, args)
    outcome = _evaluate(given.read(paths[0], found, args), args)
  if args.plot is not None:
    _plot(outcome, args.plot, args.threshold)
  if args.json:
    _print_json(outcome.results)
    return 0
  from bce_jax.evaluation.summary import table

  print(table(outcome.title, outcome.results, unit=outcome.unit, rows=outcome.rows))
  if "verification_auc" in outcome.results:
    from bce_jax.evaluation import verification

    print(verification.table(outcome.results))
  if args.plot is not None:
    print(f"picture in {args.plot}")
  return 0


def _verified(
  path: pathlib.Path, held: "Mapping[str, StoredArray]", args: argparse.Namespace
) -> int:
  """Evaluates embeddings and prints the results."""
  from bce_jax.evaluation import verification

  console.cache_compilations()
  results, points = verify.evaluate(path, held, args)
  if args.plot is not None:
    from bce_jax.report.verification import picture

    picture(points, results, title=str(path)).savefig(args.plot, dpi=150)
  if args.json:
    _print_json(results)
    return 0
  print(verification.table(results))
  if args.plot is not None:
    print(f"picture in {args.plot}")
  return 0


def _two_kinds(
  path: pathlib.Path, found: "Mapping[str, StoredArray]", args: argparse.Namespace
) -> int:
  """Evaluates one score per example and prints the results."""
  from bce_jax.evaluation import binary as binary_lib

  results, scores, positive = binary.evaluate(path, found, args)
  if args.plot is not None:
    from bce_jax.report import binary as picture

    title = f"{path}: AUC {100 * results['auc']:.2f} %, best accuracy"
    title += f" {100 * results['best_accuracy']:.2f} %"
    picture.picture(scores, positive, results, title=title).savefig(args.plot, dpi=150)
  if args.json:
    _print_json(results)
    return 0
  print(binary_lib.table(str(path), results))
  if args.plot is not None:
    print(f"picture in {args.plot}")
  return 0


def _print_json(results: "Results") -> None:
  print(json.dumps({key: _finite(x) for key, x in results.items()}, allow_nan=False))


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  return console.run_as("bce-eval", run, argv, interrupted="interrupted")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = console.parser_of("bce-eval", __doc__)
  parser.add_argument(
    "files", metavar="FILE", nargs="+", help="an .npz, two .npy (logits, labels) or a run folder"
  )
  parser.add_argument("--bias", metavar="B|FILE.npy", help="one number, or one per class in a file")
  parser.add_argument(
    "--threshold", metavar="T", type=_number, help="evaluate this one too, on the logits' scale"
  )
  parser.add_argument(
    "--train-counts",
    metavar="FILE|N,N,…",
    help="training images of each class (.npy, text, JSON or a run folder): many, medium, few",
  )
  parser.add_argument(
    "--pairs", metavar="FILE", type=pathlib.Path, help="of features: the pairs to verify (LFW, CSV)"
  )
  parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
  parser.add_argument(
    "--plot", metavar="FILE", type=pathlib.Path, help="draw the scores into a .png, .svg or .pdf"
  )
  return parser.parse_args(argv)


def _number(text: str) -> float:
  """A finite number."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
  return value


def _check_plot(path: pathlib.Path) -> None:
  """Before anything is read: what is wrong here would be reported minutes later."""
  if path.suffix.lower() not in _PICTURES:
    raise ValueError(f"--plot {path}: expected a name that ends in {', '.join(_PICTURES)}")
  if not path.absolute().parent.is_dir():
    raise ValueError(f"--plot {path}: there is no folder {path.parent}")


def _stay_on_the_host() -> None:
  """Keeps to the host, where scores are evaluated: a GPU may be in use by whoever trains there."""
  if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _evaluate(model: given.Given, args: argparse.Namespace) -> Outcome:
  """Looks at the scores, and sums up."""
  from bce_jax.evaluation import from_files
  from bce_jax.evaluation.summary import summarize

  console.cache_compilations()
  logits, features = model.logits, model.features
  # One bias for all classes moves all scores alike: they are evaluated where they are, so nothing
  # is rounded and nothing but what belongs to the bias depends on it.
  unified = None if model.bias is None or model.bias.ndim else float(model.bias)
  bias = None if unified is not None else model.bias
  with _bar(logits, "scores") as bar:
    outputs, distributions, extremes = from_files.scores(
      logits, model.labels, bias, distributions=args.plot is not None, progress=bar.update
    )
  for line in extremes.lines(logits):
    print(f"bce-eval: {line}", file=sys.stderr)
  moments = None
  if features is not None:
    with _bar(features, "features") as bar:
      moments = from_files.moments(
        features, model.labels, num_classes=logits.shape[1], progress=bar.update
      )
  results = summarize(
    outputs,
    model.labels,
    bias,
    train_counts=model.train_counts,
    num_classes=logits.shape[1],
    threshold=args.threshold,
    moments=moments,
    weights=model.weights,
  )
  if unified is not None:
    results |= from_files.at_unified_bias(outputs, unified)
  results |= extremes.results()
  return Outcome(model.name, "samples", results, outputs, distributions, model.bias)


def _run_folder(path: pathlib.Path, args: argparse.Namespace) -> Outcome:
  """What a run of bce-train holds: test_outputs.npz of its end, else its latest checkpoint."""
  from bce_jax.evaluation.summary import EvalOutputs, summarize
  from bce_jax.runs import result_rows, test_outputs

  if not (path / "config.json").is_file():
    raise ValueError(f"{path} is not a run folder: it has no config.json")
  if not test_outputs.path_in(path).is_file():
    if args.threshold is not None or args.plot is not None:
      raise ValueError(
        f"{path} has no {files.TEST_OUTPUTS}: --threshold and --plot need a run that has ended"
      )
    return _latest_checkpoint(path)
  _stay_on_the_host()
  kept = test_outputs.read(path)
  outputs = EvalOutputs(
    kept.positive, kept.hardest_negative, kept.scaled_positive, kept.scaled_hardest_negative
  )
  results = summarize(
    outputs, kept.labels, kept.bias, train_counts=kept.train_counts, threshold=args.threshold
  )
  rows: Sequence["Result"] = ()
  file = path / files.RESULTS
  if file.is_file():  # and what was not kept for each image
    try:
      stored = json.loads(file.read_text())
      rows = result_rows.kept(stored)
      results = {**{k: v for k, v in stored.items() if k != "provenance"}, **results}
    except (ValueError, TypeError, AttributeError) as error:
      raise ValueError(f"{file} is damaged: {error}") from None
  return Outcome(f"{path}, test", "images", results, outputs, kept.scores, kept.bias, rows)


def _latest_checkpoint(path: pathlib.Path) -> Outcome:
  """Evaluates a run that has not ended, on its test split, as bce-train --evaluate-only does."""
  from bce_jax.cli import orbax_errors
  from bce_jax.config import metrics
  from bce_jax.runs import outside, run_config
  from bce_jax.training import experiment, loop

  console.cache_compilations()
  orbax_errors.one_error_for_all()
  if line := run_config.edited(path):
    print(f"bce-eval: {path}: {line}", file=sys.stderr)
  built = experiment.build(run_config.config_of(path), evaluate_only=True)
  for line in outside.changes(path, built.outside):
    print(f"bce-eval: {line}", file=sys.stderr)
  results = loop.evaluate_only(built, path)
  rows = metrics.rows(built.config, results)
  title = f"{path}, latest checkpoint, step {results['step']}, test"
  return Outcome(title, "images", results, None, None, None, rows)


def _plot(outcome: Outcome, path: pathlib.Path, given: float | None) -> None:
  """Draws the scores on scale · c, which bias and threshold are on."""
  if outcome.outputs is None or outcome.distributions is None:
    raise ValueError(f"--plot {path}: of {outcome.title} no distributions of scores were kept")
  from bce_jax.report import distributions

  results = outcome.results
  raw = "raw_" if "raw_uniform_accuracy" in results else ""
  title = (
    f"{outcome.title}{' without its bias' if raw else ''}:"
    f" A_SW {100 * results[f'{raw}sample_wise_accuracy']:.2f} %,"
    f" A_Uni {100 * results[f'{raw}uniform_accuracy']:.2f} %"
  )
  figure = distributions.picture(
    outcome.distributions,
    outcome.outputs.scaled_positive,
    outcome.outputs.scaled_hardest_negative,
    title=title,
    bias=outcome.bias,
    threshold=results["threshold"],
    interval=(results["threshold_low"], results["threshold_high"]),
    given=given,
  )
  figure.savefig(path, dpi=150)


def _bar(array: "StoredArray", what: str) -> Any:
  """How far it is in a large file, for who sits at a terminal."""
  from tqdm import tqdm

  size = math.prod(array.shape) * array.dtype.itemsize
  hidden = size < _BIG or not sys.stderr.isatty()
  return tqdm(total=array.shape[0], desc=what, unit=" rows", disable=hidden, leave=False)


def _finite(value: Any) -> Any:
  """JSON has no nan and no infinity: null stands for them."""
  return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
  sys.exit(main())
