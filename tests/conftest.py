"""Eight CPU devices for every test, data that several share, and runs made up without training."""

import importlib.metadata
import os
import pathlib
import sys

# Before JAX starts: eight devices on any machine, so that what is split over devices is tested.
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiled quickly rather than to run quickly: most of the time of these tests is compiling.
# jaxlib 0.10 also has emitters that compile more quickly than those of today.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_force_host_platform_device_count=8",
    *["--xla_cpu_use_fusion_emitters=false"]
    * importlib.metadata.version("jaxlib").startswith("0.10."),
  ]
).strip()
# Compiled programs are shared by all tests, and by the processes they start: the smallest too, of
# which a start compiles a hundred.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".cache" / "jax")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import numpy as np
import pytest

from bce_jax import metrics
from bce_jax.report.comparison import Run
from bce_jax.runs.test_outputs import RocPoints, TestOutputs
from bce_jax.training import config as config_lib
from bce_jax.training import preemption

ROOT = pathlib.Path(__file__).parent.parent
# The network of most runs here, found as anybody's own is; by the processes they start too.
MODULES = str(ROOT / "tests" / "modules")
sys.path.append(MODULES)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (MODULES, os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="session")
def official():
  """Numbers from the papers' released PyTorch code."""
  with np.load(ROOT / "tests" / "golden" / "official_losses.npz") as archive:
    return dict(archive)


@pytest.fixture(scope="session")
def brute_force():
  """Uniform metrics by brute force over all midpoints."""
  with np.load(ROOT / "tests" / "golden" / "uniform_metrics.npz") as archive:
    return dict(archive)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
  """Digits as PNG files: FOLDER/{train,test}/<digit>/<number>.png, 12 and 4 of each class."""
  from PIL import Image
  from sklearn.datasets import load_digits

  root = tmp_path_factory.mktemp("images")
  grays, labels = load_digits(return_X_y=True)
  for digit in range(3):
    for number, index in enumerate(np.flatnonzero(labels == digit)[:16]):
      split = "train" if number < 12 else "test"
      folder = root / split / f"digit{digit}"
      folder.mkdir(parents=True, exist_ok=True)
      pixels = np.rint(grays[index] * (255 / 16)).astype(np.uint8).reshape(8, 8)
      Image.fromarray(pixels).save(folder / f"{number:02d}.png")
  return root


NAMES = ("plain", "<b>bold</b>", 'with "quotes" & more', "ünïcödé", "a very long name of a class")


def made_up(
  *, seed=0, num_classes=5, diverse=False, counts=None, pairs=False, size=(9, 6, 1), points=300
):
  """TestOutputs whose results are those of the scores it was made from, and the scores."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, num_classes, points).astype(np.int32)
  labels[:num_classes] = np.arange(num_classes)
  scores = rng.normal(0, 1.5, (points, num_classes)).astype(np.float32)
  scores[np.arange(points), labels] += 4
  bias = rng.normal(2, 0.5, num_classes) if diverse else np.asarray(2.0)
  bias = bias.astype(np.float32)
  z = scores - bias
  positive, negative = (np.asarray(x) for x in metrics.score_pairs(z, labels))
  scaled = [np.asarray(x) for x in metrics.score_pairs(scores, labels)]
  wrong = np.flatnonzero(negative >= positive)[:7]
  mapped = labels[labels < 10][:60]  # a map shows ten classes at most
  features = rng.normal(size=(len(mapped), 8)).astype(np.float32) + np.eye(8)[mapped % 8] * 4
  names = [*NAMES, *(f"class {k}" for k in range(num_classes))][:num_classes]
  curve = None
  if pairs:
    t = np.linspace(-1, 1, 50)
    curve = RocPoints(t, 1 - ((t + 1) / 2) ** 2, ((1 - t) / 2) ** 2)
  outputs = TestOutputs(
    class_names=tuple(names),
    train_counts=np.asarray(counts or [200, 150, 60, 10, 5] + [3] * num_classes)[:num_classes],
    labels=labels,
    predicted=np.argmax(z, 1).astype(np.int32),
    positive=positive,
    hardest_negative=negative,
    scaled_positive=scaled[0],
    scaled_hardest_negative=scaled[1],
    bias=bias,
    scores=metrics.score_distributions(scores, labels),
    decisions=metrics.score_distributions(z, labels) if diverse else None,
    compactness=rng.uniform(50, 90, num_classes),
    separability=rng.uniform(50, 90, num_classes),
    classifier_separability=rng.uniform(50, 90, num_classes),
    map_features=features.astype(np.float32),
    map_labels=mapped,
    example_images=rng.integers(0, 256, (len(wrong), *size), dtype=np.uint8),
    example_rows=wrong,
    pairs=curve,
  )
  return outputs, scores


def made_up_run(*, seed=0, name="run", config=None, **options):
  """A finished run with records of three evaluations."""
  outputs, _ = made_up(seed=seed, **options)
  z = (outputs.positive, outputs.hardest_negative)
  best = metrics.uniform_accuracy_from_pairs(
    *z, outputs.labels, num_classes=len(outputs.class_names)
  )
  mean = float(outputs.bias.mean())
  results = {
    "images": len(outputs.labels),
    "sample_wise_accuracy": best.sample_wise,
    "class_wise_accuracy": best.class_wise,
    "uniform_accuracy": best.uniform,
    "uniform_accuracy_at_bias": metrics.accuracy_at_from_pairs(*z, 0.0).accepted_right,
    "bias": mean,
    "threshold": best.threshold + mean,
    "threshold_low": best.threshold_low + mean,
    "threshold_high": best.threshold_high + mean,
    "many_accuracy": 0.9,
    "few_accuracy": 0.4,
  }
  if outputs.pairs is not None:
    results |= {
      "verification_genuine_pairs": 50,
      "verification_impostor_pairs": 500,
      "verification_equal_error_rate": 0.1,
      "verification_equal_error_threshold": 0.3,
      "verification_auc": 0.95,
      "verification_threshold": 0.25,
      "verification_true_accept_at_threshold": 0.9,
      "verification_false_accept_at_threshold": 0.15,
      "verification_balanced_accuracy_at_threshold": 0.875,
    }
  records = []
  for epoch in (1, 2, 3):
    train = {"loss": 3.0 / epoch**3, "learning_rate": 0.1 / epoch, "accuracy": 0.3 * epoch}
    records.append({"step": 10 * epoch, "epoch": float(epoch), "split": "train", **train})
    spread = {f"{n}_std": 2.0 for n in ("compactness", "separability", "classifier_separability")}
    values = dict.fromkeys(("compactness", "separability", "classifier_separability"), 60.0 + epoch)
    evaluated = {"step": 10 * epoch, "epoch": float(epoch), "split": "test"}
    records.append(evaluated | results | values | spread)
  whole = {"seed": seed, "loss": "bce-d", "model": "resnet8", "objective.name": "joint"}
  return Run({}, results, name, whole | (config or {}), records, outputs)


@pytest.fixture(scope="session")
def make_outputs():
  return made_up


@pytest.fixture(scope="session")
def make_run():
  return made_up_run


@pytest.fixture(scope="session")
def two_settings():
  """Two settings with two seeds each."""
  return [
    made_up_run(seed=seed, name=f"{loss}-{seed}", config={"loss": loss})
    for loss in ("bce-u", "soft-u")
    for seed in (0, 1)
  ]


def smallest():
  """A config of a small network, a few steps long."""
  config = config_lib.default()
  config.model = "small_network"
  config.scale = 16.0
  config.batch_size = 32
  config.eval_batch_size = 128
  config.steps = 6
  config.optimizer.learning_rate = 0.05
  config.data.crop_padding = 1
  config.data.flip = False
  config.log_every_steps = 3
  config.eval_every_epochs = 100.0
  return config


@pytest.fixture(scope="session")
def make_tiny():
  return smallest


@pytest.fixture
def tiny():
  return smallest()


class StopsAfter(preemption.Preemption):
  """Ends a run after a step, as a signal would."""

  def __init__(self, folder, step):
    super().__init__(folder, owns_process=False)
    self._step = step

  def reached(self, step):
    return step == self._step


@pytest.fixture(scope="session")
def stops_after():
  return StopsAfter
