"""Keys of evaluation, records, checkpoints and the report."""

from bce_jax import results
from bce_jax.config.key import BEST, EVALUATION, FINITE, NOTHING, POSITIVE, RECORDS, Group, Key

GROUP = Group(
  "Evaluation, records, report",
  {
    "log_every_steps": Key(50, RECORDS, "steps between two records of training", least=1),
    "eval_every_epochs": Key(1.0, RECORDS, "epochs between two evaluations", range=POSITIVE),
    # Takes [N, D] and [D, D] in float64.
    "eval_geometry": Key(
      True, EVALUATION, "measure compactness, separability and neural collapse too"
    ),
    "eval_flip": Key(False, EVALUATION, "evaluate with test-time horizontal flip too"),
    "eval_logit_adjustment": Key(
      0.0, EVALUATION, "evaluate z − τ log π too (post-hoc adjustment)", range=FINITE
    ),
    "metrics": Key(
      "", EVALUATION, "metrics of your own: package.module:function, several with commas"
    ),
    "writers": Key(
      "", RECORDS, "writers of records of your own: package.module:function, several with commas"
    ),
    "checkpoint_every_steps": Key(
      None, RECORDS, "checkpoints besides those after each evaluation", kind=int, least=1
    ),
    "best_metric": Key(
      "uniform_accuracy",
      BEST,
      "what makes a checkpoint the best, on the validation split",
      choices=results.BEST_METRICS,
    ),
    "report": Key(
      True,
      NOTHING,
      "whether bce-train makes report.html at the end; bce-report makes it at any time",
    ),
  },
)
