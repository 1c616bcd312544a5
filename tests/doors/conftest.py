"""A package as a lab would write one, in a folder that programs are called from."""

import os
import shutil
import sys

import pytest

NAME = "house"

FILES = {
  "__init__.py": "",
  "net.py": '''
import flax.linen as nn
import jax.numpy as jnp


class Tiny(nn.Module):
  """One layer; its options are its attributes."""

  width: int = 4
  dtype: type = jnp.float32

  @nn.compact
  def __call__(self, images, *, train):
    features = nn.relu(nn.Conv(self.width, (3, 3), dtype=self.dtype)(images)).mean((1, 2))
    return features.astype(jnp.float32), {}


class Dropping(nn.Module):
  """Dropout, and no parameters of its own but for the head's."""

  @nn.compact
  def __call__(self, images, *, train):
    pixels = images.reshape(len(images), -1)
    return nn.Dropout(0.5, deterministic=not train)(pixels), {}


class Counting(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    self.variable("counters", "calls", lambda: jnp.zeros(()))
    return nn.Dense(3)(images.mean((1, 2))), {}


class Whole(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    return jnp.int32(nn.Dense(3)(images.mean((1, 2)))), {}


def leaves():
  raise SystemExit(3)


class Bare(nn.Module):
  @nn.compact
  def __call__(self, images, *, train):
    return images.mean((1, 2))


def broken():
  return Tiny(width=None)


def nothing():
  return None


A_NUMBER = 3
''',
  "data.py": '''
import numpy as np

from bce_jax.data.sources import ArraySource, Dataset

OPTIONS = {"images": 16, "grays": 100}
MEANINGS = {"images": "how many there are"}
RANGES = {"images": (2, True, 64)}


class Stripes:
  """Images that are made when asked for; a `Source` without its base."""

  def __init__(self, indices, grays):
    self.indices, self.grays = indices, grays
    self.labels = (indices % 2).astype(np.int32)
    self.image_shape = (8, 8, 1)

  def __len__(self):
    return len(self.indices)

  def images(self, indices):
    rng = [np.random.default_rng(int(i)) for i in self.indices[indices]]
    images = np.stack([r.integers(0, self.grays, self.image_shape) for r in rng])
    images[self.labels[indices] == 1, ::2] += 60
    return images.astype(np.uint8)

  def take(self, indices):
    return Stripes(self.indices[indices], self.grays)


def check(config):
  if config.data_options.images % 2:
    raise ValueError(f"config.data_options.images is {config.data_options.images}: expected even")


def create(config, progress):
  options = config.data_options
  train = Stripes(np.arange(options.images), options.grays)
  test = Stripes(np.arange(100, 100 + options.images), options.grays)
  return Dataset(train, None, test, ("plain", "striped"))


def no_dataset(config):
  return 3


def floats(config):
  split = Stripes(np.arange(4), 9)
  split.images = lambda indices: np.zeros((len(indices), 8, 8, 1), np.float32)
  return Dataset(split, None, split, ("plain", "striped"))


class Faulty(Stripes):
  """Gives one image as it should, more in another way."""

  def images(self, indices):
    images = np.arange(len(indices) * 64, dtype=np.uint8).reshape(-1, 8, 8, 1)
    if len(indices) == 1:
      return images
    if self.grays == 1:
      raise OSError("the disk is gone")
    return {2: images / 255, 3: images[:-1], 4: list(images)}[self.grays]

  def take(self, indices):
    return Faulty(self.indices[indices], self.grays)


def faulty(config, *, way=1):
  split = Faulty(np.arange(8), way)
  split.labels, split.image_shape = split.labels.tolist(), [8, 8, 1]
  return Dataset(split, None, split, ["plain", "striped"])


def of_floats(config):
  split = ArraySource(np.zeros((4, 8, 8, 1), np.float32), np.arange(4) % 2)
  return Dataset(split, None, split, ("plain", "striped"))


def named_twice(config):
  split = Stripes(np.arange(4), 9)
  return Dataset(split, None, split, ("plain", "plain"))


def more_labels(config):
  split = Stripes(np.arange(4), 9)
  return Dataset(split, None, split, ("plain",))
''',
  "augmentation.py": """
import jax.numpy as jnp


def brighter(key, images, rows, *, by=1):
  return images + jnp.uint8(by)


def floats(key, images, rows):
  return images / 255


def larger(key, images, rows):
  return jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, 1)))


def create(config):
  return lambda key, images, rows: images // config.augmentation_options.divisor


OPTIONS = {"divisor": 2}
""",
  "update.py": """
import jax.numpy as jnp
import optax


def lion(config, schedule, decay, *, b1=0.9):
  return optax.chain(optax.scale_by_lion(b1), *decay, optax.scale_by_learning_rate(schedule))


def plain(config, schedule):
  return optax.sgd(schedule)


def linear(config, steps, *, end=0.0):
  return optax.linear_schedule(config.learning_rate, end, steps)


def fails(config, steps):
  return undefined_name


def number(config, schedule):
  return 3


def several(config, steps):
  return lambda step: jnp.ones(3)


def no_schedule(config, steps):
  return 0.1
""",
  "method.py": """
import jax.numpy as jnp

from bce_jax.objectives import Objective, Views

OPTIONS = {"weight": 2.0}
RANGES = {"weight": (0, False, 10)}


def create(config, problem):
  def views(key, batch, memory):
    return Views(batch.images, batch.labels)

  def loss(params, outputs, labels, memory, step):
    z = outputs.scores.decision
    sign = jnp.where(jnp.arange(z.shape[-1]) == labels[:, None], 1.0, -1.0)
    hinge = jnp.mean(jnp.sum(jnp.maximum(0.0, 1.0 - sign * z) ** 2, -1))
    return config.objective.weight * hinge, memory + 1, {"hinge": hinge}

  return Objective(views=views, loss=loss, memory=lambda params: jnp.float32(0.0))


def untraceable(config, problem, *, logged="scalar"):
  def loss(params, outputs, labels, memory, step):
    z = outputs.scores.decision
    if logged == "a branch" and z.mean() > 0:
      return z.mean(), memory, {}
    return z.mean(), memory, {"z": z.mean() if logged == "scalar" else z}

  views = lambda key, batch, memory: Views(batch.images, batch.labels)
  return Objective(views=views, loss=loss)


def _of(mean, **parts):
  views = lambda key, batch, memory: Views(batch.images, batch.labels)
  loss = lambda params, outputs, *rest: mean(outputs.scores.decision.mean(), *rest)
  return Objective(views=views, loss=loss, **parts)


def of_two(config, problem):
  return _of(lambda z, labels, memory, step: (z, memory))


def growing(config, problem):
  return _of(lambda z, labels, m, step: (z, (m, m), {}), memory=lambda params: jnp.zeros(3))


def clashing(config, problem):
  return _of(lambda z, labels, memory, step: (z, memory, {"learning_rate": z}))


def no_objective(config, problem):
  return "joint"
""",
  "loss.py": """
import jax
import jax.numpy as jnp


def focal(logits, labels, *, bias, scale, smoothing=0.0, power=2.0):
  own = jax.nn.one_hot(labels, logits.shape[-1])
  z = scale * logits - bias
  signed = jnp.where(own > 0, z, -z)
  return jnp.sum(jax.nn.sigmoid(-signed) ** power * jax.nn.softplus(-signed), -1)
""",
  "writers.py": '''
import json


class Lines:
  """Appends records to a file of its own in the run folder."""

  def __init__(self, workdir, config):
    self._file = open(workdir / "lines.txt", "a")
    self._file.write(f"{config.steps} steps\\n")

  def write(self, record):
    self._file.write(json.dumps(record) + "\\n")

  def close(self):
    self._file.write("closed\\n")
    self._file.close()


class Failing:
  def __init__(self, workdir, config):
    pass

  def write(self, record):
    raise OSError("no room")


def nothing(workdir, config):
  return 3
''',
  "lacking.py": "import no_such_library\n",
  "failing.py": "values = {}\nvalues['missing']\n",
  "unreadable.py": "def create(:\n",
  "odd.py": "OPTIONS = ['width']\ndef create(): pass\n",
  "options.py": "OPTIONS, RANGES, MEANINGS, check = {}, {}, {}, print\ndef create(config): pass\n",
  "mismatched.py": "OPTIONS = {'width': 3}\nRANGES = {'wdith': (0, True, 1)}\ndef create(): pass\n",
}


def forget():
  """Python forgets the package, as a new process would not know it."""
  for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
    del sys.modules[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """The folder with the package, which is the current one."""
  folder = tmp_path_factory.mktemp("lab")
  (folder / NAME).mkdir()
  for file, text in FILES.items():
    (folder / NAME / file).write_text(text)
  before, path = os.getcwd(), list(sys.path)
  os.chdir(folder)
  yield folder
  os.chdir(before)
  sys.path[:] = path
  forget()


@pytest.fixture
def moved(place, tmp_path, monkeypatch):
  """Another current folder, in which there is no such package."""
  shutil.rmtree(place / NAME / "__pycache__", ignore_errors=True)
  monkeypatch.setattr(sys, "path", [x for x in sys.path if x not in ("", str(place))])
  monkeypatch.chdir(tmp_path)
  forget()
  yield place
  forget()
