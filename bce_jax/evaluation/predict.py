"""Scores of images from a run folder alone, and which classes are above their thresholds.

Nothing of the data a run was trained on is needed: config.json and dataset.json tell what the
network is made of and how images are brought before it, a checkpoint holds its numbers.
"""

import collections
import concurrent.futures
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from bce_jax import config as config_lib
from bce_jax import sharding
from bce_jax.data import images, search, sources
from bce_jax.data.depth import is_dark
from bce_jax.data.preprocess import Preprocess
from bce_jax.evaluation import inference
from bce_jax.evaluation.inference import Variables
from bce_jax.runs import checkpoint, files, outside, records, run_config
from bce_jax.sharding import StateSharding


class TrainedNetwork(NamedTuple):
  """A trained network, on its devices, and what it expects of an image.

  Attributes:
    class_names: of its scores.
    image_shape: height, width, channels.
    image_size: side of the square every image becomes; None: it must have that shape already.
    bias: the learned thresholds, on scale · c: [] or [N].
    loss: it was trained with.
    batch_size: the most images at once.
    mesh: the devices.
    outputs: uint8 [B, H, W, C] → (scale · c [B, N], features [B, D]), on the devices; B a multiple
      of the devices along 'data'.
    full_scale: value of white in images of more than 8 bits; None: as each file says.
    notes: what of it was other code when it was trained, a line each.
  """

  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_size: int | None
  bias: np.ndarray
  loss: str
  batch_size: int
  mesh: Mesh
  outputs: Callable[[np.ndarray], tuple[jax.Array, jax.Array]]
  full_scale: float | None = None
  notes: tuple[str, ...] = ()


class Decision(NamedTuple):
  """The classes that the thresholds accept for one image, and the best class.

  Attributes:
    best: the class whose score is the furthest above its threshold, or the least below it.
    score: its score.
    threshold: its threshold.
    above: number of classes above their thresholds: none rejects the image, one is clear.
  """

  best: int
  score: np.floating
  threshold: np.floating
  above: int


def load(workdir: pathlib.Path, *, which: str = "latest") -> TrainedNetwork:
  """Loads the network of a run folder onto all devices.

  Args:
    workdir: the run folder.
    which: "latest" or "best" (on the validation split).

  Raises:
    ValueError: when there is no such checkpoint, or a file is damaged.
  """
  config = run_config.written_config(workdir)
  config.metrics = ""  # nothing is evaluated: they need not be here
  config_lib.check(config, evaluate_only=True)
  notes = outside.changes(workdir, config_lib.from_outside(config), only=["model"])
  data = records.read_json(workdir / files.DATASET, "class_names", "image_shape", "mean", "std")
  height, width, channels = data["image_shape"]
  model = config_lib.build_model(config, len(data["class_names"]))
  # On other devices than it was trained on, perhaps.
  mesh = sharding.make_mesh(math.gcd(config.class_devices, jax.device_count()))
  mean, std = (np.asarray(data[key], np.float32) for key in ("mean", "std"))
  network = inference.Network(
    model,
    Preprocess(mean, std, crop_padding=0, flip=False),
    inference.variables_sharding(model, (height, width, channels), mesh),
  )
  variables = _restored(workdir, config, which, network.state_sharding)
  bias = sharding.to_host(variables["params"]["head"]["bias"])
  variables = network.state_sharding.put(variables)

  def outputs(variables: Variables, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = network.outputs(variables, network.pixels(batch))
    return found.scores.scaled, found.features

  step = network.jit(outputs)
  return TrainedNetwork(
    class_names=tuple(data["class_names"]),
    image_shape=(height, width, channels),
    image_size=config.data.image_size,
    bias=bias,
    loss=config.loss,
    batch_size=config.eval_batch_size,
    mesh=mesh,
    outputs=lambda batch: step(variables, sharding.put_batch(batch, mesh)),
    full_scale=config.data.full_scale,
    notes=tuple(notes),
  )


def _restored(
  workdir: pathlib.Path, config: ConfigDict, which: str, state_sharding: StateSharding
) -> Variables:
  """Returns the variables of a checkpoint, which must fit the network.

  Raises:
    ValueError: when there is no such checkpoint, or it is of another network.
  """
  like = state_sharding.like
  with checkpoint.existing(workdir, which, config.best_metric) as (checkpoints, step):
    params, batch_stats = checkpoints.network(step, state_sharding.abstract)
  variables = {
    "params": {name: params.get(name, {}) for name in like["params"]},
    "batch_stats": batch_stats or {},
  }
  if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, like):
    raise ValueError(
      f"{workdir}: the checkpoint of step {step} holds another network than {files.CONFIG} and"
      f" {files.DATASET} tell of"
    )
  return variables


def files_of(path: str) -> tuple[list[str], str]:
  """Returns the images below a folder, sorted, each behind the folder's name as it is written.

  What is no folder is taken for an image, whatever its ending.

  Returns:
    (the images; what else there was and is passed over, in words, empty for nothing).

  Raises:
    ValueError: where there is nothing.
  """
  if os.path.isdir(path):
    found = search.search(pathlib.Path(path))
    return [os.path.join(path, name) for name in found.files], search.describe(found.passed)
  if not os.path.lexists(path):
    raise ValueError(f"{path} does not exist: expected a folder of images, or an image")
  return [path], ""


def batch_size_for(network: TrainedNetwork, count: int) -> int:
  """Returns how many of `count` images go through a network at once.

  A few need not wait for a large batch; powers of two, so that few sizes are compiled.
  """
  size = min(network.batch_size, 1 << max(count - 1, 0).bit_length())
  return size + -size % network.mesh.shape["data"]


def run_batch(
  network: TrainedNetwork,
  images: Sequence[UInt8[np.ndarray, "h w c"]] | UInt8[np.ndarray, "n h w c"],
  size: int,
  *,
  features: bool = False,
) -> Float[np.ndarray, "n _"]:
  """Returns scores scale · c of images, or their features: a row per image.

  Args:
    network: as `load` returns it.
    images: n ≤ size of them, of the network's shape.
    size: of the batch, which is filled up.
    features: in place of the scores.
  """
  batch = np.zeros((size, *network.image_shape), np.uint8)
  for row, image in enumerate(images):
    batch[row] = image
  rows: np.ndarray = sharding.to_host(network.outputs(batch)[features])
  return rows[: len(images)]


def scored(
  network: TrainedNetwork,
  paths: Sequence[str],
  *,
  features: bool = False,
  threads: int | None = None,
  progress: sources.Progress | None = None,
  dark: list[str] | None = None,
) -> Iterator[tuple[str, Float[np.ndarray, " N"] | ValueError]]:
  """Yields each path with its image's scores scale · c, or with what is wrong with it, in order.

  One batch is decoded while another is computed; more are never in memory.

  Args:
    network: as `load` returns it.
    paths: image files.
    features: yield the features, [D], in place of the scores.
    threads: how many decode; None for one per core.
    progress: wraps the reading; called like tqdm.
    dark: gets the paths of images of more than 8 bits that 8 bits leave next to nothing of.
  """
  size = batch_size_for(network, len(paths))
  read = _in_order(lambda path: _read(network, path, dark), paths, ahead=size, threads=threads)
  shown: Iterable[Any] = read
  if progress is not None:
    shown = progress(read, total=len(paths), desc="predicting")
  pairs = zip(paths, shown, strict=True)
  blank = np.zeros(network.image_shape, np.uint8)
  try:
    while part := list(itertools.islice(pairs, size)):
      pixels = [blank if isinstance(image, ValueError) else image for _, image in part]
      rows = run_batch(network, pixels, size, features=features)
      for (path, image), row in zip(part, rows, strict=True):
        if isinstance(image, ValueError):
          yield path, image
        elif np.isnan(row).any():
          yield path, ValueError(f"{path} has a {'feature' if features else 'score'} that is nan")
        else:
          yield path, row
  finally:
    read.close()


def _read(
  network: TrainedNetwork, path: str, dark: list[str] | None
) -> UInt8[np.ndarray, "h w c"] | ValueError:
  """Decodes an image as training did; returns the error of one that can't be used."""
  height, width, channels = network.image_shape
  try:
    image, depth = images.read(
      path, image_size=network.image_size, channels=channels, full_scale=network.full_scale
    )
  except ValueError as error:
    return error
  if dark is not None and is_dark(depth):
    dark.append(path)
  if image.shape[:2] != (height, width):
    return ValueError(
      f"{path} is {image.shape[0]} x {image.shape[1]} (height x width), but the run was trained on"
      f" images of {height} x {width} with config.data.image_size none: expected that size"
    )
  return image


def _in_order(
  function: Callable[[str], Any], items: Iterable[str], *, ahead: int, threads: int | None
) -> Generator[Any]:
  """Yields function(item) in the order of the items, with at most so many of them done ahead."""
  pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count())
  waiting: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def decide(scores: Float[np.ndarray, " N"], thresholds: Float[np.ndarray, "..."]) -> Decision:
  """Compares the scores of one image with their thresholds; above is strictly above.

  Args:
    scores: scale · c, [N].
    thresholds: one for all classes, [], or one per class, [N].

  >>> decide(np.float32([2, 5, 4]), np.float32([3, 3, 1])).best
  2
  >>> decide(np.float32([2, 5, 4]), np.float32(4.5)).above
  1
  """
  thresholds = np.broadcast_to(thresholds, scores.shape)
  # In float64, as metrics.accuracy_at compares: there the difference of two float32 is not rounded
  # to 0, nor is a threshold of more digits rounded to a score.
  margins = scores.astype(np.float64) - thresholds
  best = int(np.argmax(margins))
  return Decision(best, scores[best], thresholds[best], int(np.sum(margins > 0)))
