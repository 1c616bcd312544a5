"""bce-eval: judges anybody's classifier from its scores, by the uniform accuracy.

  bce-eval FILE.npz
  bce-eval LOGITS.npy LABELS.npy --bias 4.2 --plot scores.png
  bce-eval runs/digits --threshold 3.5
  bce-eval EMBEDDINGS.npz --threshold 0.3 --pairs pairs.txt

FILE.npz holds logits [n, N] and labels [n] and may hold bias ([] or [N]), train_counts [N],
features [n, D] and the classifier's weights [N, D]. Without logits, features and labels are
verified: is a pair of samples of one identity, by the cosine? All pairs are asked, or with --pairs
those of a list (LFW's pairs.txt or CSV), by paths [n]; bias and scale give the threshold
t = bias / scale, else --threshold. Logits are scores before a bias is subtracted,
z = logits - bias; a model that adds its bias, and decides at 0, has --bias 0. A run folder of
bce-train is judged by what it holds. Files are read a few rows at a time: they may be larger than
memory. Exit codes: 0 done, 2 something given is wrong.
"""

import argparse
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import bce_jax
from bce_jax.cli import train, verify
from bce_jax.names import did_you_mean

if TYPE_CHECKING:
  import numpy as np

  from bce_jax import metrics
  from bce_jax.data.arrays import StoredArray
  from bce_jax.training.figures import Figures, Judged

_PICTURES = (".png", ".svg", ".pdf")
_BIG = 2**26  # bytes: of a larger file it is shown how far it is


class Given(NamedTuple):
  """What there is of a model, each checked against the others.

  Attributes:
    name: of the file, for people.
    logits: [n, N].
    labels: int64 [n], each in [0, N).
    bias: [] or [N], finite; or None.
    train_counts: int64 [N]; or None.
    features: [n, D]; or None.
    weights: [N, D]; or None.
  """

  name: str
  logits: "StoredArray"
  labels: "np.ndarray"
  bias: "np.ndarray | None"
  train_counts: "np.ndarray | None"
  features: "StoredArray | None"
  weights: "np.ndarray | None"


class Outcome(NamedTuple):
  """What there is to tell.

  Attributes:
    title: what was judged.
    unit: in the plural.
    figures: named as in results.json.
    judged: of each sample; None where only figures are known.
    distributions: of scale · c; None where nobody wants them.
    bias: as of `Given`.
  """

  title: str
  unit: str
  figures: "Figures"
  judged: "Judged | None"
  distributions: "metrics.ScoreDistributions | None"
  bias: "np.ndarray | None"


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  try:
    return _run(_parse(argv))
  except RuntimeError as error:
    from bce_jax.training.figures import NonFiniteError  # here: it takes JAX

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
    embedded = _embeddings(paths)
    if embedded is not None:
      return _verified(paths[0], embedded, args)
    outcome = _judge(_files(paths, args), args)
  if args.plot is not None:
    _plot(outcome, args.plot)
  if args.json:
    _print_json(outcome.figures)
    return 0
  from bce_jax.training.figures import table

  print(table(outcome.title, outcome.figures, unit=outcome.unit))
  if "verification_auc" in outcome.figures:
    from bce_jax.training import verifying

    print(verifying.table(outcome.figures))
  if args.plot is not None:
    print(f"picture in {args.plot}")
  return 0


def _embeddings(paths: Sequence[pathlib.Path]) -> "Mapping[str, StoredArray] | None":
  """What a file of features without logits holds; None for any other."""
  from bce_jax.data import arrays

  if len(paths) > 1 or arrays.is_npy(paths[0]):
    return None
  held = arrays.open_arrays(paths[0])
  return held if verify.wanted(held) else None


def _verified(
  path: pathlib.Path, held: "Mapping[str, StoredArray]", args: argparse.Namespace
) -> int:
  """Judges embeddings and tells of it."""
  from bce_jax.training import verifying

  train._cache_compilations()
  figures, points = verify.judge(path, held, args)
  if args.plot is not None:
    from bce_jax.report import verification
    from bce_jax.report.svg import style

    with style():
      verification.picture(points, figures, title=str(path)).savefig(args.plot, dpi=150)
  if args.json:
    _print_json(figures)
    return 0
  print(verifying.table(figures))
  if args.plot is not None:
    print(f"picture in {args.plot}")
  return 0


def _print_json(figures: "Figures") -> None:
  print(json.dumps({key: _finite(x) for key, x in figures.items()}, allow_nan=False))


def main(argv: Sequence[str] | None = None) -> int:
  """The console script."""
  return train.console("bce-eval", run, argv, interrupted="interrupted")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = train.parser_of("bce-eval", __doc__)
  parser.add_argument(
    "files", metavar="FILE", nargs="+", help="an .npz, two .npy (logits, labels) or a run folder"
  )
  parser.add_argument("--bias", metavar="B|FILE.npy", help="one number, or one a class in a file")
  parser.add_argument(
    "--threshold", metavar="T", type=_number, help="judge this one too, on the logits' scale"
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
  parser.add_argument("--version", action="version", version=f"bce_jax {bce_jax.__version__}")
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
  """Before anything is read: what is wrong here would be told minutes later."""
  if path.suffix.lower() not in _PICTURES:
    raise ValueError(f"--plot {path}: expected a name that ends in {', '.join(_PICTURES)}")
  if not path.absolute().parent.is_dir():
    raise ValueError(f"--plot {path}: there is no folder {path.parent}")


def _stay_on_the_host() -> None:
  """Scores are judged on the host; to take a GPU for it would keep it from whoever trains there."""
  if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _files(paths: Sequence[pathlib.Path], args: argparse.Namespace) -> Given:
  """Opens what was given and checks that it fits together.

  Raises:
    ValueError: naming what does not.
  """
  from bce_jax.data import arrays

  if len(paths) > 2:
    raise ValueError(f"expected an .npz, LOGITS.npy LABELS.npy or a run folder, got {len(paths)}")
  if args.pairs is not None:
    given = " ".join(map(str, paths))
    raise ValueError(
      f"--pairs is of features without logits: expected an .npz with such, got {given}"
    )
  found: dict[str, StoredArray] = {}
  if len(paths) == 2:
    found = {"logits": arrays.open_array(paths[0]), "labels": arrays.open_array(paths[1])}
  elif arrays.is_npy(paths[0]):
    raise ValueError(f"{paths[0]} holds one array: give logits and labels, LOGITS.npy LABELS.npy")
  else:
    held = arrays.open_arrays(paths[0])
    wanted = ("logits", "labels", "bias", "train_counts", "features", "weights")
    for name in wanted[:2]:
      if name not in held:
        hint = did_you_mean(name, held, used=wanted)
        raise ValueError(f"{paths[0]} has no {name!r}; {hint}")
    found = {name: held[name] for name in wanted if name in held}
  logits = found["logits"]
  if len(logits.shape) != 2 or 0 in logits.shape:
    raise ValueError(
      f"{logits.name} has shape {logits.shape}: expected logits of shape [samples, classes]"
    )
  size, num_classes = logits.shape
  labels = _labels(found["labels"], size, num_classes)
  bias = _bias(args.bias, found.get("bias"), num_classes)
  counts = found.get("train_counts")
  train_counts = None if counts is None else _whole(counts.name, counts.load())
  if args.train_counts is not None:
    train_counts = _train_counts(args.train_counts)
  if train_counts is not None:
    where = "--train-counts" if args.train_counts is not None or counts is None else counts.name
    if train_counts.shape != (num_classes,) or train_counts.min() < 0:
      got: Any = train_counts.shape
      if got == (num_classes,):
        got = train_counts.min()
      raise ValueError(
        f"{where}: expected {num_classes} numbers of training images, each at least 0, got {got}"
      )
  features, weights = found.get("features"), found.get("weights")
  if features is not None and (len(features.shape) != 2 or features.shape[0] != size):
    raise ValueError(f"{features.name} has shape {features.shape}: expected ({size}, D)")
  return Given(
    name=" ".join(str(path) for path in paths[:1]),
    logits=logits,
    labels=labels,
    bias=bias,
    train_counts=train_counts,
    features=features,
    weights=None if features is None or weights is None else _weights(weights, features, logits),
  )


def _labels(stored: "StoredArray", size: int, num_classes: int) -> "np.ndarray":
  """Class ids as int64 [n], each in [0, N)."""
  shape = stored.shape
  if shape not in ((size,), (size, 1)):
    hint = " (for one-hot labels save labels.argmax(1))" if shape == (size, num_classes) else ""
    raise ValueError(
      f"{stored.name} has shape {shape}{hint}: expected ({size},), one label for each of the"
      f" {size:,} rows of logits"
    )
  labels = _whole(stored.name, stored.load().reshape(-1))
  wrong = (labels < 0) | (labels >= num_classes)
  if wrong.any():
    from_one = labels.min() == 1 and labels.max() == num_classes
    hint = "; they seem to begin at 1" if from_one else ""
    raise ValueError(
      f"{stored.name}: {wrong.sum():,} of {size:,} labels are out of range, the first is"
      f" {labels[wrong][0]}: expected 0 … {num_classes - 1}{hint}"
    )
  return labels


def _whole(name: str, values: "np.ndarray") -> "np.ndarray":
  """Whole numbers as int64; floats that are whole are taken too."""
  import numpy as np

  if values.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {values.dtype}: expected whole numbers")
  with np.errstate(invalid="ignore"):
    # What int64 can't hold comes out as another number; so does what is not whole, or nan.
    whole = values.astype(np.int64)
    bad = whole != values
    bad |= np.abs(values.astype(np.float64)) >= 2.0**63
  if bad.any():
    raise ValueError(f"{name}: expected whole numbers, got {values[bad].flat[0]}")
  return whole


def _bias(option: str | None, stored: "StoredArray | None", num_classes: int) -> Any:
  """[] or [N], finite; the option goes before what the file holds."""
  import numpy as np

  from bce_jax.data import arrays

  name = f"--bias {option}"
  if option is not None:
    try:
      bias: np.ndarray = np.asarray(float(option))
    except ValueError:
      if not pathlib.Path(option).exists():
        raise ValueError(f"{name}: expected a number or an .npy file") from None
      bias = arrays.open_array(pathlib.Path(option)).load()
  elif stored is not None:
    name, bias = stored.name, stored.load()
  else:
    return None
  if bias.dtype.kind not in "iuf":
    raise ValueError(f"{name} has dtype {bias.dtype}: expected real numbers")
  if bias.size == 1:
    bias = bias.reshape(())
  if bias.shape not in ((), (num_classes,)):
    raise ValueError(f"{name} has shape {bias.shape}: expected one number or ({num_classes},)")
  if bias.dtype not in (np.float32, np.float64):
    with np.errstate(over="ignore"):  # of a wider float: what is infinite then is refused
      bias = bias.astype(np.float64)
  if not np.isfinite(bias).all():
    raise ValueError(f"{name}: expected finite numbers, got {bias[~np.isfinite(bias)].flat[0]}")
  return bias


def _weights(stored: "StoredArray", features: "StoredArray", logits: "StoredArray") -> Any:
  from bce_jax.training import stored as stored_lib

  expected = (logits.shape[1], features.shape[1])
  if stored.shape != expected:
    raise ValueError(f"{stored.name} has shape {stored.shape}: expected {expected}")
  return stored.load().astype(stored_lib.computed_in(stored))


def _train_counts(option: str) -> "np.ndarray":
  """Numbers from a comma list, an .npy file, a text or JSON file, or a run folder."""
  import numpy as np

  from bce_jax.data import arrays

  path, name = pathlib.Path(option), f"--train-counts {option}"
  if path.is_dir():
    path = path / "dataset.json"
  if not path.is_file():
    if not re.fullmatch(r"[-\d.e+]+([,\s]+[-\d.e+]+)*[,\s]*", option):
      raise ValueError(f"{name}: expected a file, a run folder or numbers with commas between them")
    text = option
  else:
    with open(path, "rb") as file:
      binary = file.read(6) == b"\x93NUMPY"
    if binary:
      return _whole(name, arrays.open_array(path).load())
    text = path.read_text("utf-8-sig", errors="replace")
  try:
    if text.lstrip().startswith(("[", "{")):
      read = json.loads(text)
      numbers = read["train_counts"] if isinstance(read, dict) else read
    else:
      numbers = [float(word) for word in re.split(r"[,\s]+", text.strip(", \n\t\r")) if word]
    return _whole(name, np.array(numbers, np.float64))
  except KeyError:
    raise ValueError(f"{name}: {path} has no 'train_counts'") from None
  except (ValueError, TypeError) as error:
    if str(error).startswith(name):
      raise
    raise ValueError(f"{name}: expected whole numbers ({' '.join(str(error).split())})") from None


def _judge(given: Given, args: argparse.Namespace) -> Outcome:
  """Looks at the scores, and sums up."""
  from bce_jax.training import stored
  from bce_jax.training.figures import summarize

  train._cache_compilations()
  logits, features = given.logits, given.features
  # One bias for all classes moves all scores alike: they are judged where they are, so that nothing
  # is rounded and nothing but what belongs to the bias depends on it.
  unified = None if given.bias is None or given.bias.ndim else float(given.bias)
  bias = None if unified is not None else given.bias
  with _bar(logits, "scores") as bar:
    judged, distributions = stored.scores(
      logits, given.labels, bias, distributions=args.plot is not None, progress=bar.update
    )
  moments = None
  if features is not None:
    with _bar(features, "features") as bar:
      moments = stored.moments(
        features, given.labels, num_classes=logits.shape[1], progress=bar.update
      )
  figures = summarize(
    judged,
    given.labels,
    bias,
    train_counts=given.train_counts,
    num_classes=logits.shape[1],
    threshold=args.threshold,
    moments=moments,
    weights=given.weights,
  )
  if unified is not None:
    figures |= stored.at_unified_bias(judged, unified)
  return Outcome(given.name, "samples", figures, judged, distributions, given.bias)


def _run_folder(path: pathlib.Path, args: argparse.Namespace) -> Outcome:
  """What a run of bce-train holds: judged.npz of its end, else its latest checkpoint."""
  from bce_jax.report import evidence
  from bce_jax.training.figures import Judged, summarize

  if not (path / "config.json").is_file():
    raise ValueError(f"{path} is not a run folder: it has no config.json")
  if not (path / evidence.FILE).is_file():
    if args.threshold is not None or args.plot is not None:
      raise ValueError(
        f"{path} has no {evidence.FILE}: --threshold and --plot need a run that has ended"
      )
    return _latest_checkpoint(path)
  _stay_on_the_host()
  kept = evidence.read(path)
  judged = Judged(
    kept.positive, kept.hardest_negative, kept.scaled_positive, kept.scaled_hardest_negative
  )
  figures = summarize(
    judged, kept.labels, kept.bias, train_counts=kept.train_counts, threshold=args.threshold
  )
  results = path / "results.json"
  if results.is_file():  # and what was not kept for each image
    try:
      figures = {**json.loads(results.read_text()), **figures}
    except (ValueError, TypeError) as error:
      raise ValueError(f"{results} is damaged: {error}") from None
  return Outcome(f"{path}, test", "images", figures, judged, kept.scores, kept.bias)


def _latest_checkpoint(path: pathlib.Path) -> Outcome:
  """Judges a run that has not ended, on its test split, as bce-train --evaluate-only does."""
  from bce_jax.training import experiment, loop
  from bce_jax.training import workdir as workdir_lib

  train._cache_compilations()
  parts = experiment.build(workdir_lib.config_of(path), judging=True)
  figures = loop.evaluate_only(parts, path)
  title = f"{path}, latest checkpoint, step {figures['step']}, test"
  return Outcome(title, "images", figures, None, None, None)


def _plot(outcome: Outcome, path: pathlib.Path) -> None:
  """Draws the scores on scale · c, which bias and threshold are on."""
  if outcome.judged is None or outcome.distributions is None:
    raise ValueError(f"--plot {path}: of {outcome.title} no distributions of scores were kept")
  from bce_jax.report import distributions
  from bce_jax.report.svg import style

  figures = outcome.figures
  raw = "raw_" if "raw_uniform_accuracy" in figures else ""
  title = (
    f"{outcome.title}{' without its bias' if raw else ''}:"
    f" A_SW {100 * figures[f'{raw}sample_wise_accuracy']:.2f} %,"
    f" A_Uni {100 * figures[f'{raw}uniform_accuracy']:.2f} %"
  )
  figure = distributions.picture(
    outcome.distributions,
    outcome.judged.scaled_positive,
    outcome.judged.scaled_hardest_negative,
    title=title,
    bias=outcome.bias,
    threshold=figures["threshold"],
    interval=(figures["threshold_low"], figures["threshold_high"]),
  )
  with style():
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
