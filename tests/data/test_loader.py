"""Loader: the order is a function of (seed, step), whoever reads; every test image counts once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bce_jax.data import loader, sources

N = 23


def array_source(n=N):
  """Images that carry their own index, in two bytes."""
  index = np.arange(n)
  images = np.stack([index % 256, index // 256], axis=-1).astype(np.uint8)
  return sources.ArraySource(images.reshape(n, 1, 2, 1), index % 7)


def indices(batch):
  low, high = batch["images"][:, 0, 0, 0], batch["images"][:, 0, 1, 0]
  return low.astype(int) + 256 * high.astype(int)


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  paths = [str(tmp_path / f"{i:02d}.png") for i in range(N)]
  for path in paths:
    Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).save(path)
  return paths


@pytest.fixture
def folder_source(files):
  return sources.FolderSource(files, np.arange(N) % 7)


def assert_equal(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      assert type(batch[name]) is np.ndarray  # and none in shared memory
      assert batch[name].dtype == other[name].dtype
      np.testing.assert_array_equal(batch[name], other[name])


# The order


def test_order_is_fixed_for_good():
  assert loader.order(0, 0, 8).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
  assert loader.order(1, 3, 8).tolist() == [7, 5, 2, 1, 6, 4, 3, 0]


def test_order_differs_by_seed_and_epoch():
  orders = [loader.order(seed, epoch, 50).tolist() for seed in range(4) for epoch in range(4)]
  assert len({tuple(order) for order in orders}) == 16
  assert all(sorted(order) == list(range(50)) for order in orders)


def test_order_is_uniform():
  first = [loader.order(0, epoch, 4)[0] for epoch in range(2000)]
  # Binomial(2000, 1/4): deviation 19.4.
  assert np.abs(np.bincount(first) - 500).max() < 90


@given(
  n=st.integers(1, 40),
  batch_size=st.integers(1, 40),
  seed=st.integers(0, 5),
  epoch=st.integers(0, 3),
)
def test_batch_indices_are_the_epoch_in_its_order(n, batch_size, seed, epoch):
  batch_size = min(batch_size, n)
  steps = n // batch_size
  batches = [
    loader.batch_indices(epoch * steps + k, seed=seed, n=n, batch_size=batch_size)
    for k in range(steps)
  ]
  expected = loader.order(seed, epoch, n)[: steps * batch_size]
  np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_batch_indices_cannot_be_spoilt():
  options = {"seed": 0, "n": 10, "batch_size": 5}
  first = loader.batch_indices(0, **options)
  kept = first.copy()
  first[:] = 0
  np.testing.assert_array_equal(loader.batch_indices(0, **options), kept)


def test_images_dropped_change_from_epoch_to_epoch():
  dropped = [
    set(range(10)) - {*loader.batch_indices(k, seed=0, n=10, batch_size=9)} for k in range(9)
  ]
  assert len({index for (index,) in dropped}) > 3


# Training batches


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
def test_train_batches_follow_the_order(prefetch):
  source = array_source(700)
  batches = list(
    loader.train_batches(
      source, seed=3, batch_size=64, first_step=0, last_step=25, prefetch=prefetch
    )
  )
  assert len(batches) == 25
  for step, batch in enumerate(batches):
    expected = loader.batch_indices(step, seed=3, n=700, batch_size=64)
    np.testing.assert_array_equal(indices(batch), expected)
    np.testing.assert_array_equal(batch["labels"], expected % 7)
    assert (batch["images"].dtype, batch["labels"].dtype) == (np.uint8, np.int32)
    assert set(batch) == {"images", "labels"}


@pytest.mark.parametrize("first_step", [1, 4, 5, 6, 19, 20])
def test_a_resumed_run_sees_the_rest_of_the_batches(first_step):
  options = {"seed": 1, "batch_size": 4, "last_step": 20}  # five steps per epoch
  whole = list(loader.train_batches(array_source(), first_step=0, **options))
  rest = list(loader.train_batches(array_source(), first_step=first_step, **options))
  assert_equal(rest, whole[first_step:])


@pytest.mark.slow
def test_worker_processes_change_nothing(folder_source):
  options = {"seed": 1, "batch_size": 4, "first_step": 3, "last_step": 16}  # 13: shared unevenly
  expected = [
    {"images": folder_source.images(chosen), "labels": folder_source.labels[chosen]}
    for step in range(3, 16)
    for chosen in [loader.batch_indices(step, seed=1, n=N, batch_size=4)]
  ]
  for workers in (0, 3):
    assert_equal(loader.train_batches(folder_source, workers=workers, **options), expected)
  assert not multiprocessing.active_children()


@pytest.mark.slow
def test_worker_processes_leave_jax_alone():
  assert jax.devices()  # initialized here, as in training

  class Probe:  # a local class: Grain sends its code along, so that no test module is imported
    labels = np.zeros(4, np.int32)
    image_shape = (1, 1, 3)

    def __len__(self):
      return 4

    def images(self, indices):
      import multiprocessing
      import sys

      bridge = sys.modules.get("jax._src.xla_bridge")
      started = bridge is not None and bridge.backends_are_initialized()
      in_worker = multiprocessing.parent_process() is not None
      loaded = any(
        name in sys.modules for name in ("flax", "tensorflow", "sklearn", "bce_jax.models")
      )
      return np.full((len(indices), 1, 1, 3), [started, in_worker, loaded], np.uint8)

  batch = next(
    loader.train_batches(Probe(), seed=0, batch_size=2, first_step=0, last_step=1, workers=1)
  )
  assert batch["images"][0, 0, 0].tolist() == [0, 1, 0]


def test_a_source_in_memory_starts_no_process():
  options = {"seed": 0, "batch_size": 4, "first_step": 0, "last_step": 50}
  batches = loader.train_batches(array_source(), workers=2, **options)
  np.testing.assert_array_equal(
    indices(next(batches)), loader.batch_indices(0, seed=0, n=N, batch_size=4)
  )
  assert not multiprocessing.active_children()


@pytest.mark.slow
def test_leaving_early_ends_the_workers(folder_source):
  batches = loader.train_batches(
    folder_source, seed=0, batch_size=4, first_step=0, last_step=10**6, workers=2
  )
  next(batches), next(batches)  # one from each
  assert len(multiprocessing.active_children()) == 2
  batches.close()
  assert not multiprocessing.active_children()


def test_no_steps_left():
  options = {"seed": 0, "batch_size": 4, "first_step": 5, "last_step": 5}
  assert list(loader.train_batches(array_source(), **options)) == []


# Evaluation batches


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 24, 100])
def test_every_image_counts_once(batch_size):
  batches = list(loader.evaluation_batches(array_source(), batch_size=batch_size))
  for batch in batches:
    assert batch["images"].shape == (batch_size, 1, 2, 1)
    assert batch["labels"].shape == batch["where"].shape == (batch_size,)
    assert (batch["where"].dtype, batch["labels"].dtype) == (bool, np.int32)
    np.testing.assert_array_equal(batch["labels"], indices(batch) % 7)
    assert (indices(batch)[~batch["where"]] == 0).all()
  counted = np.concatenate([indices(batch)[batch["where"]] for batch in batches])
  assert counted.tolist() == list(range(N))
  assert len(batches) == -(-N // batch_size)


@pytest.mark.slow
def test_evaluation_with_workers(folder_source):
  expected = list(loader.evaluation_batches(folder_source, batch_size=4))
  assert_equal(loader.evaluation_batches(folder_source, batch_size=4, workers=2), expected)


# What is refused


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"batch_size": 24}, r"batch_size is 24 with 23 training images; expected 1 … 23"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"first_step": -1}, "first_step is -1"),
    ({"first_step": 9}, "first_step is 9 and last_step is 5"),
    ({"workers": -1}, "workers is -1"),
    ({"prefetch": -2}, "prefetch is -2"),
  ],
)
def test_train_batches_refuses_at_once(options, message):
  with pytest.raises(ValueError, match=message):
    loader.train_batches(
      array_source(), **{"seed": 0, "batch_size": 4, "first_step": 0, "last_step": 5} | options
    )


def test_evaluation_batches_refuses_at_once():
  with pytest.raises(ValueError, match="batch_size is 0 with 23 images"):
    loader.evaluation_batches(array_source(), batch_size=0)
  with pytest.raises(ValueError, match="with 0 images"):
    loader.evaluation_batches(array_source(0), batch_size=2)


def test_indices_refuse_negative_numbers():
  with pytest.raises(ValueError, match="step is -1"):
    loader.batch_indices(-1, seed=0, n=4, batch_size=2)
  with pytest.raises(ValueError, match="epoch is -1"):
    loader.order(0, -1, 4)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_unreadable_image_is_named(files, folder_source, workers):
  with open(files[11], "wb") as file:
    file.write(b"no image")
  with pytest.raises(ValueError, match="cannot be read as an image") as error:
    list(loader.evaluation_batches(folder_source, batch_size=4, workers=workers))
  assert str(error.value).startswith(files[11])
  assert "\n" not in str(error.value)
  assert not hasattr(error.value, "__notes__")  # Grain's, about its traceback
  assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_dies_is_reported(folder_source):
  batches = loader.train_batches(
    folder_source, seed=0, batch_size=4, first_step=0, last_step=10**6, workers=1
  )
  next(batches)
  os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
  with pytest.raises(ValueError, match=r"has died: .*exit code -9.*data.workers=0") as error:
    list(batches)
  assert "\n" not in str(error.value)


PROGRAM = """
import multiprocessing, signal, sys
import numpy as np
from bce_jax.data import loader, sources

def main():
  signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have turned it off
  workers, paths = int(sys.argv[1]), sys.argv[2:]
  source = sources.FolderSource(paths, np.zeros(len(paths), int))
  batches = loader.train_batches(
    source, seed=0, batch_size=4, first_step=0, last_step=int(10**6), workers=workers)
  for _ in range(workers):
    next(batches)  # one from each worker: all have started
  print(*[child.pid for child in multiprocessing.active_children()], flush=True)
  sys.stdin.readline()

if __name__ == "__main__":
  sys.exit(main())
"""


def is_alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  with open(f"/proc/{pid}/stat") as file:  # a zombie only waits to be counted
    return file.read().split()[2] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks at processes as Linux shows them")
@pytest.mark.parametrize(("how", "workers"), [("exit", 2), ("interrupt", 1), ("kill", 1)])
def test_a_program_leaves_nothing_behind(files, tmp_path, how, workers):
  """A plain program, like a console script: absl has parsed no flags, and it may be killed."""
  program = tmp_path / "program.py"
  program.write_text(textwrap.dedent(PROGRAM))
  root = os.path.dirname(os.path.dirname(os.path.dirname(loader.__file__)))
  process = subprocess.Popen(
    [sys.executable, program, str(workers), *files],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": root},
    text=True,
    start_new_session=True,
  )
  children = [int(pid) for pid in process.stdout.readline().split()]
  assert len(children) == workers
  if how == "kill":
    process.kill()
  if how == "interrupt":  # as a terminal does it, to all of them
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)
  # This ends once the workers have closed stderr too.
  _, errors = process.communicate("\n" if how == "exit" else None, timeout=60)
  assert not any(is_alive(pid) for pid in children)
  if how == "exit":
    assert process.returncode == 0
    assert errors == ""  # no warnings about leaked memory
  if how == "interrupt":
    assert errors.count("KeyboardInterrupt") == 1  # the main process' own


# Class-weighted sampling, and partners

# 400 images of class 0, 100 of 1, 25 of 2, 5 of 3.
COUNTS = np.array([400, 100, 25, 5])


def long_tailed_source():
  index = np.arange(COUNTS.sum())
  images = np.stack([index % 256, index // 256], axis=-1).astype(np.uint8)
  return sources.ArraySource(images.reshape(-1, 1, 2, 1), np.repeat(np.arange(4), COUNTS))


def weighted(**options):
  source = options.pop("source", None) or long_tailed_source()
  defaults = {"seed": 0, "batch_size": 50, "first_step": 0, "last_step": 200}
  return list(loader.train_batches(source, **(defaults | options)))


@pytest.mark.parametrize("exponent", [-0.5, 0.3, 1.0])
@pytest.mark.parametrize("which", ["labels", "partner_labels"])
def test_a_class_is_drawn_as_often_as_its_count_to_the_power_of_one_minus_q(exponent, which):
  name = "sampling_exponent" if which == "labels" else "partner_exponent"
  drawn = np.concatenate([batch[which] for batch in weighted(**{name: exponent})])
  expected = COUNTS ** (1.0 - exponent)
  expected = expected / expected.sum()
  deviation = np.sqrt(expected * (1 - expected) / len(drawn))
  assert (np.abs(np.bincount(drawn) / len(drawn) - expected) < 5 * deviation).all()


def test_partners_at_exponent_0_are_drawn_from_all_images_with_replacement():
  batches = weighted(partner_exponent=0.0)
  counts = np.zeros(COUNTS.sum())
  for batch in batches:
    image = {"images": batch["partner_images"]}
    np.add.at(counts, indices(image), 1)
  assert counts.sum() == 10_000
  # Poisson of mean 18.9.
  assert counts.min() > 2
  assert counts.max() < 45
  assert abs(counts.var() / counts.mean() - 1) < 0.3
  assert batches[0].keys() == {"images", "labels", "partner_images", "partner_labels"}


def test_partners_leave_the_order_as_it_is_and_fit_their_labels():
  source = long_tailed_source()
  plain, paired = weighted(last_step=5), weighted(last_step=5, partner_exponent=1.0)
  for batch, other in zip(plain, paired, strict=True):
    np.testing.assert_array_equal(batch["images"], other["images"])
    np.testing.assert_array_equal(
      source.labels[indices({"images": other["partner_images"]})], other["partner_labels"]
    )
    assert other["partner_labels"].dtype == np.int32


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_drawn_batches_are_a_function_of_seed_and_step(folder_source, workers):
  options = {"sampling_exponent": 0.5, "partner_exponent": 1.0, "batch_size": 4}
  whole = weighted(source=folder_source, last_step=6, **options)
  resumed = weighted(source=folder_source, first_step=3, last_step=6, workers=workers, **options)
  assert_equal(resumed, whole[3:])
  other = weighted(source=folder_source, last_step=6, **(options | {"seed": 1}))
  assert any(
    not np.array_equal(a["images"], b["images"]) for a, b in zip(whole, other, strict=True)
  )
  assert any(not np.array_equal(batch["labels"], batch["partner_labels"]) for batch in whole)


@pytest.mark.parametrize(("exponent", "label"), [(1e4, 3), (-1e4, 0)])
def test_an_extreme_exponent_draws_the_extreme_class(exponent, label):
  batches = weighted(last_step=20, partner_exponent=exponent)
  drawn = np.concatenate([indices({"images": batch["partner_images"]}) for batch in batches])
  members = np.flatnonzero(long_tailed_source().labels == label)
  assert set(drawn) <= set(members)
  assert len(set(drawn)) > min(len(members), 300) * 0.8


def test_sampling_at_exponent_0_visits_every_image_once_an_epoch():
  batches = weighted(source=array_source(20), batch_size=5, last_step=4, sampling_exponent=0.0)
  assert sorted(np.concatenate([indices(batch) for batch in batches])) == list(range(20))
