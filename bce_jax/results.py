"""The one table of results: each one's key, symbol, heading, unit, and where it is shown.

A new metric gets one row here. The printed tables, the report's tiles, curves and columns, what
config.best_metric may be, which way a sweep's bold goes and the lists in docs/ follow from it. An
objective or a metric from outside brings rows of its own: a tuple `RESULTS` in its module.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Values = Mapping[str, Any]  # results by key, as in results.json


class Curve(NamedTuple):
  """Where a result is drawn over the epochs: its chart, and its label there.

  Attributes:
    chart: its title; results of one chart are drawn together.
    label: of the line in the legend, and of the axis where the line is the chart's only one.
  """

  chart: str
  label: str


class Result(NamedTuple):
  """A result: its key, what it is called, its unit, and where it is shown.

  `line`, `tile`, `column` and `curve` say where: False is nowhere, True under its symbol and
  heading, anything else under those words.

  Attributes:
    key: its name in results.json and metrics.jsonl.
    heading: its name in words.
    meaning: what it is, in half a sentence, for the docs and below its own chart.
    symbol: a short name, as in the papers.
    unit: "%" of a share in [0, 1], which is shown times 100; otherwise free, mostly empty.
    better: which way is better; None where neither is, as of a bias.
    group: the part of the docs and of the printed tables it belongs to.
    line: in the printed tables; may hold other results, such as "t = {threshold!r}".
    tile: on the report's first lines.
    column: in the table of a sweep and of a report of several runs.
    curve: over epochs in the report; a scalar that has no row gets one too.
    suffixes: of the keys that stand beside it: "_std", or the ends of an interval.
    part_of: key of the result that this one is a part of. Parts are shown where there are two or
      more, and their columns stand beside the whole's.
    main: whether it is drawn where there is room for few.
    selects: whether config.best_metric may name it.
    exact: whether the printed tables show all of its digits.
    joined: whether the printed tables show it in the line of the row before.
  """

  key: str
  heading: str
  meaning: str = ""
  symbol: str = ""
  unit: str = ""
  better: Literal["up", "down"] | None = None
  group: str = ""
  line: bool | str = False
  tile: bool | str = False
  column: bool | str = False
  curve: bool | Curve = False
  suffixes: tuple[str, ...] = ()
  part_of: str = ""
  main: bool = False
  selects: bool = False
  exact: bool = False
  joined: bool = False

  @property
  def short(self) -> str:
    """Its symbol; its heading where it has none."""
    return self.symbol or self.heading

  @property
  def factor(self) -> int:
    """What a value is multiplied by to be shown: 100 for %."""
    return 100 if self.unit == "%" else 1

  def words(self, where: Literal["line", "tile", "column"]) -> str:
    """Returns what the result is called in a table, on a tile or above a column."""
    said: bool | str = getattr(self, where)
    if isinstance(said, str):
      return said
    if where == "line":
      return f"{self.symbol:<6} {self.heading}" if self.symbol else self.heading
    if where == "tile":
      return f"{self.symbol}: {self.heading}" if self.symbol else self.heading
    return self.short

  def drawn(self) -> Curve:
    """Returns where its curve is drawn: in a chart of its own, where the row names none."""
    if isinstance(self.curve, Curve):
      return self.curve
    title = self.heading[:1].upper() + self.heading[1:]
    return Curve(self.heading if self.heading == self.key else title, self.short)


ACCURACIES, BIAS_CHART = "Accuracies", "Bias and best threshold"  # charts with several lines
INTERVAL = ("_low", "_high")
FAR = (1e-4, 1e-3, 1e-2, 1e-1)  # that a verification is measured at
_TAR = "verification_tar_at_far_"


def _share(key: str, heading: str, meaning: str = "", **options: Any) -> Result:
  """A share of which more is better."""
  usual: dict[str, Any] = {"unit": "%", "better": "up", "group": "accuracy"}
  return Result(key, heading, meaning, **usual | options)


_SAMPLE_WISE = _share(
  "sample_wise_accuracy", "sample-wise accuracy (top-1)",
  "share of images whose own class has the largest score (arg max)", symbol="A_SW", line=True,
  tile="A_SW: arg max (top-1)", column="All (A_SW)", curve=Curve(ACCURACIES, "A_SW"),
  main=True, selects=True,
)  # fmt: skip
_CLASS_WISE = _share(
  "class_wise_accuracy", "class-wise accuracy", "the best threshold of each class", symbol="A_CW",
  line=True, tile="A_CW: a threshold per class", curve=Curve(ACCURACIES, "A_CW"), selects=True,
)  # fmt: skip
_UNIFORM = _share(
  "uniform_accuracy", "uniform accuracy, best threshold",
  "share of images whose own class alone has a score above one threshold for all, the best one",
  symbol="A_Uni", line=True, tile="A_Uni: the best one threshold", column="A_Uni",
  curve=Curve(ACCURACIES, "A_Uni"), main=True, selects=True,
)  # fmt: skip
_SHOTS = tuple(
  _share(
    f"{name}_accuracy", f"sample-wise accuracy, {name}-shot",
    f"of the classes of {count} training images; absent where there are none", line=line,
    tile=f"{name}-shot classes", column=name.capitalize(), part_of="sample_wise_accuracy",
  )
  for name, count, line in (
    ("many", "more than 100", "A_SW   of classes of > 100 training images"),
    ("medium", "20 to 100", "A_SW   of classes of 20 … 100 training images"),
    ("few", "fewer than 20", "A_SW   of classes of < 20 training images"),
  )
)  # fmt: skip


def _in_another_way(
  prefix: str, words: str, column: str, meaning: str, of: Iterable[Result]
) -> list[Result]:
  """Rows of accuracies of other scores: their keys begin with a prefix."""
  places = {
    "sample_wise_accuracy": {"line": f"A_SW   {words}", "column": column and f"All, {column}"},
    "uniform_accuracy": {"line": f"A_Uni  {words}"},
  }
  named = [(row.key, f"{row.heading}, {words}") for row in of]
  return [_share(prefix + key, what, meaning, **places.get(key, {})) for key, what in named]


def _cut(name: str, where: str) -> list[Result]:
  """Rows of what a threshold leaves out."""
  blank = " " * len(where)
  return [
    Result(f"{key}_above_{name}", f"{heading} above the {name}", f"share of images with {meaning}",
           unit="%", group="accuracy", line=line)
    for key, heading, meaning, line in (
      ("none", "no class", "no score above it", f"{where}no class above"),
      ("several_or_wrong", "several or a wrong one",
       "scores of several classes, or of another one, above it", f"{blank}several or a wrong one"),
    )
  ]  # fmt: skip


_RAW = _in_another_way(
  "raw_", "without the bias", "", "on scale · c, where the bias is one per class",
  (_SAMPLE_WISE, _CLASS_WISE, _UNIFORM),
)  # fmt: skip
_ACCURACY = (
  Result("images", "images", "images that were evaluated", group="accuracy"),
  _SAMPLE_WISE,
  _CLASS_WISE,
  _UNIFORM,
  _share(
    "uniform_accuracy_at_bias", "uniform accuracy at the bias", "the learned bias as the threshold",
    line="       … at the learned bias", tile="A_Uni at the learned bias", column="A_Uni at bias",
    curve=Curve(ACCURACIES, "A_Uni at the bias"),
  ),
  _share(
    "uniform_accuracy_at_threshold", "uniform accuracy at a given threshold",
    "of bce-eval --threshold", line="       … at the given threshold",
  ),
  _share(
    "uniform_accuracy_at_validation_threshold", "uniform accuracy at the validation threshold",
    "at the threshold that is best on the validation split",
    line="       … at the validation threshold",
    tile="A_Uni at the validation split's best threshold", column="A_Uni at val. threshold",
  ),
  *_SHOTS,
  *_in_another_way(
    "flip_", "with horizontal flip", "flip", "of scores averaged over image and flipped image",
    (_SAMPLE_WISE, _UNIFORM, *_SHOTS)),
  *_in_another_way(
    "adjusted_", "after logit adjustment", "adjusted", "of z − τ log π",
    (_SAMPLE_WISE, _UNIFORM, *_SHOTS)),
  *_cut("bias", "at the bias: "),
  *_cut("threshold", "at the threshold: "),
  *(one._replace(line=False) for one in _RAW[:2]),
  _RAW[2]._replace(line="A_Uni  on scale · c, without the bias"),
)  # fmt: skip

_THRESHOLDS = (
  Result(
    "bias", "learned bias", "on scale · c; of a bias per class the mean, and the range",
    symbol="b", group="threshold", line=True, tile="learned bias b",
    curve=Curve(BIAS_CHART, "bias b"), suffixes=("_min", "_max"),
  ),
  Result(
    "threshold_on_decision", "best threshold on scale · c − b", "of a bias per class",
    symbol="t*", group="threshold", line=True,
  ),
  Result(
    "threshold", "best threshold",
    "t* of the uniform accuracy, on scale · c, and the interval in which all are as good",
    symbol="t*", group="threshold", line="t*     best threshold (its interval)",
    tile="best threshold t*", curve=Curve(BIAS_CHART, "best threshold t*"),
    suffixes=INTERVAL,
  ),
)  # fmt: skip
# Where each class has a bias of its own, `bias` is their mean and `threshold` is without them:
# (line, tile).
_DIVERSE = {
  "bias": ("b      learned bias, mean (least … largest)", "learned bias b, mean"),
  "threshold": (
    "t*     best threshold on scale · c, without the bias (its interval)",
    "best threshold t*, without the bias",
  ),
}

_GEOMETRY = (
  *(
    Result(
      key, name, meaning, group="geometry", line=f"{name} (± std over classes)", column=column,
      curve=Curve(f"{title} over epochs", title.lower()), suffixes=("_std",),
    )
    for key, name, title, column, meaning in (
      ("compactness", "compactness", "Compactness", True,
       "100 × mean cosine between two images of one class; 100 is a point"),
      ("separability", "separability", "Separability", True,
       "100 × (1 − mean cosine to the other classes' means)"),
      ("classifier_separability", "classifier separability", "Separability of the classifier",
       "of classifier", "100 × (1 − mean cosine to the other rows of the classifier)"),
    )
  ),
  Result("nc1", "NC1", "neural collapse: variation within classes; 0 is collapsed",
         group="geometry", line=True),
  Result("nc2", "NC2", "neural collapse: distance of the class means from a simplex",
         group="geometry", line=True, joined=True),
  Result("nc3", "NC3", "neural collapse: distance of the classifier from the class means",
         group="geometry", line=True, joined=True),
)  # fmt: skip


def _verified(name: str, heading: str, meaning: str = "", **options: Any) -> Result:
  """A share of a verification's pairs of which more is better."""
  return _share(f"verification_{name}", heading, meaning, **{"group": "verification"} | options)


_counted = functools.partial(_verified, unit="", better=None)  # a number, or a threshold


def _tar(key: str) -> Result:
  """TAR at a FAR; those of 1e-3 and 1e-2 are what papers compare."""
  rate = float(key.removeprefix(_TAR))
  power = f"{rate:.0e}".replace("e-0", "e-")
  return Result(
    key, f"TAR at FAR {power}",
    "the largest share of genuine pairs accepted with at most this share of impostors; nothing is"
    " interpolated, and a rate below one impostor is left out",
    symbol=f"TAR at FAR {power}" if rate < 0.1 else "", unit="%", better="up", group="verification",
    line=f"TAR    at a FAR of {rate:g}", column=rate in (1e-3, 1e-2) and f"TAR @ {power}",
  )  # fmt: skip


_VERIFICATION = (
  _counted("images", "images", "images that were compared"),
  _counted("identities", "identities", "classes never trained on"),
  _counted("genuine_pairs", "genuine pairs", "pairs of one identity"),
  _counted("impostor_pairs", "impostor pairs", "pairs of two identities"),
  _verified(
    "equal_error_rate", "equal error rate",
    "where the shares of genuine pairs refused and of impostors accepted are equal; between two"
    " thresholds on a straight line", symbol="EER", better="down", line=True,
    tile="equal error rate of unseen classes", column=True,
  ),
  _verified("auc", "AUC", "how likely a genuine pair scores higher than an impostor",
            symbol="AUC", line="AUC"),
  *(_tar(f"{_TAR}{rate:g}") for rate in FAR),
  _verified(
    "rank_one", "rank-1 identification",
    "share of images whose nearest first image of an identity is of their own", symbol="rank-1",
    line="rank-1 identification", tile="rank-1 identification of unseen classes", column="rank 1",
  ),
  _verified(
    "fold_accuracy", "accuracy over the folds",
    "of listed pairs in folds: each fold at the threshold that is best on the others, mean and"
    " standard deviation over the folds", symbol="accuracy over folds",
    line="accuracy over the folds", column="folds", suffixes=("_std",),
  ),
  _counted("fold_threshold", "mean threshold over the folds"),
  _counted("threshold", "the one threshold",
           "t = b / γ (of softmax: not trained), or bce-eval --threshold; absent with a bias per"
           " class, or scores that are no cosines"),
  _verified(
    "true_accept_at_threshold", "TAR at the one threshold",
    "share of genuine pairs that it accepts, learned on other identities", symbol="TAR at b/γ",
    line="one threshold, t = {verification_threshold!r}: TAR",
  ),
  _verified(
    "false_accept_at_threshold", "FAR at the one threshold", "share of impostors that it accepts",
    symbol="FAR at b/γ", better="down", line="                 FAR",
  ),
  _verified("accuracy_at_threshold", "accuracy at the one threshold", "of all pairs",
            line="                 accuracy of all pairs"),
  _verified(
    "balanced_accuracy_at_threshold", "balanced accuracy at the one threshold",
    "mean of the shares of both kinds of pairs that it gets right",
    symbol="accuracy at b/γ, both kinds alike",
    line="                 … both kinds weighing alike",
    tile="unseen pairs at b/γ, both kinds alike", column="verified at b/γ",
  ),
  _counted("equal_error_threshold", "threshold of the equal error rate",
           "where the one threshold would have been best", line=True, exact=True),
)  # fmt: skip
_TRAINING = tuple(
  row._replace(group="training")
  for row in (
    Result("loss", "training loss", "mean loss of the steps since the last record",
           better="down", curve=Curve("Training loss", "loss")),
    Result("learning_rate", "learning rate", "of the last step before each record",
           curve=Curve("Learning rate", "learning rate")),
    Result("accuracy", "training accuracy", "top-1 on the training batches", unit="%", better="up"),
    Result("grad_norm", "gradient norm", "before clipping"),
    Result("images_per_second", "images per second", better="up"),
    Result("seconds", "seconds", "of training, compiling and evaluating", better="down"),
    Result("step", "step", "updates that were made"),
  )
)  # fmt: skip


def _one_score(name: str, t: str) -> list[Result]:
  """Rows of what one threshold makes of one score per sample."""
  rates = (
    ("accuracy", "accuracy", f"{t}: accuracy"),
    ("true_positive_rate", "TPR", "       TPR, positives above (recall)"),
    ("false_positive_rate", "FPR", "       FPR, negatives above"),
    ("precision", "precision", "       precision"),
  )
  return [
    _share(f"{key}_at_{name}", f"{heading} at the {name}", group="binary", line=line,
           better="down" if key.startswith("false") else "up")
    for key, heading, line in rates
  ] + [
    Result(f"{key}_at_{name}", f"{key.replace('_', ' ')} at the {name}", group="binary")
    for key in ("true_positives", "false_positives", "true_negatives", "false_negatives")
  ]  # fmt: skip


_BINARY = (
  Result("positives", "positive samples", group="binary"),
  Result("negatives", "negative samples", group="binary"),
  _share("auc", "area under the ROC curve", symbol="AUC", group="binary", line=True),
  _share("equal_error_rate", "equal error rate", symbol="EER", better="down", group="binary",
         line=True),
  Result("equal_error_threshold", "its threshold", group="binary",
         line="       its threshold", exact=True),
  _share("best_accuracy", "accuracy, best threshold", group="binary", line=True),
  Result("given_threshold", "given threshold", group="binary"),
  *_one_score("bias", "at the bias, t = {bias!r}"),
  *_one_score("threshold", "at the given threshold, t = {given_threshold!r}"),
)  # fmt: skip
RESULTS: tuple[Result, ...] = (
  *(*_ACCURACY, *_THRESHOLDS, *_GEOMETRY, *_VERIFICATION, *_TRAINING, *_BINARY),
)
BEST_METRICS = tuple(row.key for row in RESULTS if row.selects)
_BY_KEY = {row.key: row for row in RESULTS}


def table(extra: Sequence[Result] = ()) -> tuple[Result, ...]:
  """Returns all rows: ours, then those that others bring, each key once.

  Args:
    extra: rows of an objective or of metrics from outside; a key of ours stays ours.
  """
  others = {one.key: one for one in extra if one.key not in _BY_KEY}
  return (*RESULTS, *others.values())


def row(key: str, extra: Sequence[Result] = ()) -> Result:
  """Returns the row of a key; one that no row knows is called by its key.

  Args:
    key: as in results.json.
    extra: see `table`.

  >>> row("uniform_accuracy").symbol, row("mine").heading
  ('A_Uni', 'mine')
  """
  found = _BY_KEY.get(key) or next((one for one in extra if one.key == key), None)
  if found is None and key.startswith(_TAR):
    return _tar(key)
  return found or Result(key, key)


def is_ours(key: str) -> bool:
  """Whether a key is a result of this package, stands beside one, or is a record's own word.

  >>> is_ours("threshold_low"), is_ours("mine")
  (True, False)
  """
  ends = (one.key + suffix for one in RESULTS for suffix in one.suffixes)
  return key in _BY_KEY or key in ends or key.startswith(_TAR) or key in ("epoch", "split")


def known(values: Values, extra: Sequence[Result] = ()) -> list[Result]:
  """Returns the rows of the results at hand, in the table's order.

  A single part of another result is left out: it would repeat the whole.

  Args:
    values: results by key.
    extra: see `table`.
  """
  rows = [one for one in table(extra) if one.key in values]
  rows += [_tar(key) for key in values if key.startswith(_TAR) and key not in _BY_KEY]
  if values.get("bias_min") is not None:
    for k, one in enumerate(rows):
      line, tile = _DIVERSE.get(one.key, (one.line, one.tile))
      rows[k] = one._replace(line=line, tile=tile)
  parts = [one.part_of for one in rows]
  return [one for one in rows if not one.part_of or parts.count(one.part_of) > 1]


def ends(one: Result, values: Values) -> list[Any]:
  """Returns what stands beside a result: its standard deviation, or the ends of its interval."""
  keys = [one.key + suffix for suffix in one.suffixes]
  return [values[key] for key in keys] if all(key in values for key in keys) else []


def with_columns(rows: Iterable[Result]) -> list[Result]:
  """Returns the rows that have a column, parts beside their whole."""
  rows = [one for one in rows if one.column]
  parts = {one.key: [part for part in rows if part.part_of == one.key] for one in rows}
  wholes = [one for one in rows if one.part_of not in parts]
  return [beside for one in wholes for beside in (one, *parts[one.key])]
