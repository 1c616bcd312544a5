"""Keys of evaluation, records, checkpoints and the report."""

from bce_jax import results
from bce_jax.config.key import BEST, EVALUATION, FINITE, NOTHING, POSITIVE, RECORDS, Group, Key

GROUP = Group(
  "Evaluation, records, report",
  {
    "log_every_steps": Key(
      50, RECORDS, "steps between two training records in metrics.jsonl", least=1
    ),
    "eval_every_epochs": Key(1.0, RECORDS, "epochs between two evaluations", range=POSITIVE),
    # Takes [N, D] and [D, D] in float64.
    "eval_geometry": Key(
      True, EVALUATION, "also measure compactness, separability and neural collapse of the features"
    ),
    "eval_flip": Key(False, EVALUATION, "also evaluate with test-time horizontal flip"),
    "eval_logit_adjustment": Key(
      0.0,
      EVALUATION,
      "τ: also evaluate z − τ log π, post-hoc logit adjustment; 0: don't",
      range=FINITE,
    ),
    "metrics": Key(
      "", EVALUATION, "metrics of your own: package.module:function, separated by commas"
    ),
    "writers": Key(
      "",
      RECORDS,
      "writers of your own for a run's records: package.module:function, separated by commas",
    ),
    "checkpoint_every_steps": Key(
      None,
      RECORDS,
      "steps between two checkpoints; none: only after each evaluation",
      kind=int,
      least=1,
    ),
    "best_metric": Key(
      "uniform_accuracy",
      BEST,
      "validation result that the best checkpoint is chosen by",
      choices=results.BEST_METRICS,
      outside="a result of config.metrics",
    ),
    "report": Key(
      True,
      NOTHING,
      "write report.html at the end of training; bce-report writes it at any time",
    ),
  },
)
