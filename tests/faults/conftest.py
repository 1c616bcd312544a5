"""Runs that are interrupted, and what they are compared with: the same run left alone."""

import atexit
import dataclasses
import fcntl
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bce_jax.cli import train as cli
from bce_jax.runs import checkpoint

ROOT = pathlib.Path(__file__).parent.parent.parent
DRIVER = pathlib.Path(__file__).parent / "driver.py"
LIMIT = 120  # seconds that no run of these tests takes, on a machine however busy

# Checkpoints of steps 7, 10, 14, 20, 21 and 24; the best on the validation split is that of 10.
SMALL = (
  "--config=digits",
  "--config.model=small_network",
  "--config.batch_size=16",
  "--config.steps=24",
  "--config.log_every_steps=5",
  "--config.eval_every_epochs=0.13",
  "--config.checkpoint_every_steps=7",
  "--config.eval_batch_size=360",
  "--config.eval_geometry=false",
  "--config.report=false",
)


def environment(devices):
  return os.environ | {
    "OPENBLAS_NUM_THREADS": "1",  # so that scikit-learn starts no threads, which a fork would lose
    "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"])),
    "XLA_FLAGS": re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"]),
  }


@dataclasses.dataclass
class Ended:
  """A run that has ended: its exit code and what it printed."""

  code: int
  out: str
  err: str

  @property
  def told(self):
    """The lines of bce-train itself, which a run that fails ends with: one."""
    return [line for line in self.err.splitlines() if line.startswith("bce-train: ")]

  def fails(self, code, *words):
    """With one line that says `words`, and nothing that only a programmer understands."""
    assert self.code == code, self.err
    assert len(self.told) == 1, self.err
    assert all(word in self.told[0] for word in words), self.told
    assert "Traceback" not in self.err, self.err
    return self.told[0]

  def resumed(self):
    """The step that it went on from; 0 when it started anew."""
    lines = [line for line in self.err.splitlines() if line.startswith("resumed from")]
    return int(lines[0].rsplit(" ", 1)[1].rstrip(".")) if lines else 0


class Run:
  """A run in a process of its own, forked by the driver."""

  def __init__(self, workdir, argv, devices, faults, largest_file):
    self.folder = pathlib.Path(tempfile.mkdtemp())
    job = {
      "folder": str(self.folder),
      "argv": [*(argv or SMALL), "--workdir", str(workdir)],
      "devices": devices,
      "faults": faults,
      "largest_file": largest_file,
    }
    server = driver_process()
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()

  def send_signal(self, number):
    os.kill(int(wait_for(self.folder / "pid").read_text()), number)

  def wait(self):
    """Returns how it ended."""
    try:
      code = int(wait_for(self.folder / "code").read_text())
    except TimeoutError:
      self.send_signal(signal.SIGKILL)
      pytest.fail(f"still running: {(self.folder / 'err').read_text()}")
    return Ended(code, *((self.folder / name).read_text() for name in ("out", "err")))


@functools.cache
def driver_process():
  process = subprocess.Popen(
    [sys.executable, str(DRIVER)], cwd=ROOT, env=environment(1), stdin=subprocess.PIPE, text=True
  )

  def stop():
    process.stdin.close()
    process.wait()

  atexit.register(stop)
  return process


def wait_for(path, limit=LIMIT):
  """Waits until there is a file."""
  deadline = time.monotonic() + limit
  while not path.exists():
    if time.monotonic() > deadline:
      raise TimeoutError(f"no {path} in {limit} s")
    time.sleep(0.005)
  return path


def begin(workdir, *argv, devices=1, faults=(), largest_file=None):
  """Starts a run."""
  return Run(workdir, argv, devices, faults, largest_file)


def run(workdir, *argv, **options):
  """Runs to the end."""
  return begin(workdir, *argv, **options).wait()


def command(workdir, *argv, devices=1, limit=LIMIT, **options):
  """Runs to the end as people do, by a command line."""
  process = subprocess.run(
    [sys.executable, "-m", "bce_jax.cli.train", *(argv or SMALL), "--workdir", str(workdir)],
    cwd=ROOT,
    env=environment(devices),
    capture_output=True,
    text=True,
    timeout=limit,
    check=False,
    **options,
  )
  return Ended(process.returncode, process.stdout, process.stderr)


def killed(workdir, *argv, at, count=1, **options):
  """Runs until it kills itself at a point."""
  ended = run(workdir, *argv, faults=[[at, count, "kill"]], **options)
  assert ended.code == -signal.SIGKILL, ended
  return ended


def records(workdir):
  """metrics.jsonl without what no repetition reproduces."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{**line, "images_per_second": None} for line in lines if line["split"] != "session"]


def results(workdir):
  values = json.loads((workdir / "results.json").read_text())
  return values | {"seconds": None, "images_per_second": None, "provenance": None}


def steps(workdir):
  """Of the checkpoints there are, in order."""
  return sorted(
    int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit()
  )


def arrays(workdir, step=None):
  """The arrays of a checkpoint, the newest unless told, by name."""
  folder = workdir / "checkpoints" / str(step or steps(workdir)[-1]) / "state"
  with ocp.StandardCheckpointer() as reader:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      reader.metadata(folder).item_metadata.tree,
    )
    state = reader.restore(folder, like)
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def best(workdir):
  store = checkpoint.Checkpoints(workdir, best_metric="uniform_accuracy", read_only=True)
  try:
    return store.best_step()
  finally:
    store.close()


def same(workdir, whole):
  """Asserts that a run ended as one that was left alone did, bit for bit."""
  assert records(workdir) == records(whole)
  assert results(workdir) == results(whole)
  ours, theirs = arrays(workdir), arrays(whole)
  assert ours.keys() == theirs.keys()
  for name, array in theirs.items():
    assert array.dtype == ours[name].dtype
    assert array.tobytes() == ours[name].tobytes(), name
  assert best(workdir) == best(whole)
  assert not list(workdir.rglob("*tmp*"))
  assert not (workdir / "lock").exists()


def shared(tmp_path_factory, name, make):
  """A folder that is made once, whichever of pytest's processes comes first."""
  base = tmp_path_factory.getbasetemp()
  if os.environ.get("PYTEST_XDIST_WORKER"):
    base = base.parent
  folder = base / name
  with open(base / f"{name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not folder.exists():
      make(base / f"{name}.making")
      (base / f"{name}.making").rename(folder)
  return folder


@pytest.fixture(scope="session")
def lab():
  """The helpers above."""
  return types.SimpleNamespace(**globals())


@pytest.fixture(scope="session")
def driver():
  spec = importlib.util.spec_from_file_location("faults_driver", DRIVER)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
  """A run left alone, on one device."""

  def make(workdir):
    ended = command(workdir)
    assert ended.code == 0, ended

  return shared(tmp_path_factory, "whole", make)


@pytest.fixture(scope="session")
def whole_here(tmp_path_factory):
  """A run left alone in the process of the tests, on its eight devices."""

  def make(workdir):
    assert cli.main([*SMALL, "--workdir", str(workdir)]) == 0

  return shared(tmp_path_factory, "whole_here", make)


@pytest.fixture(scope="session")
def stopped_here(whole_here, tmp_path_factory, driver):
  """A run stopped by SIGTERM at step 16, with the checkpoints 10, 14 and 16, in this process."""

  def make(workdir):
    with pytest.MonkeyPatch.context() as patch:
      driver.watch(driver.Faults([["step 16", 1, "term"]]).point, patch.setattr)
      assert cli.main([*SMALL, "--workdir", str(workdir)]) == 143

  return shared(tmp_path_factory, "stopped_here", make)


@pytest.fixture
def stopped(stopped_here, tmp_path):
  """A copy of it, to be damaged."""
  shutil.copytree(stopped_here, tmp_path / "stopped")
  return tmp_path / "stopped"


@pytest.fixture
def here(capsys, monkeypatch, driver):
  """Runs bce-train in the process of the tests, which is much quicker than a new one."""

  def start(workdir, *argv, faults=()):
    capsys.readouterr()
    with monkeypatch.context() as patch:
      driver.watch(driver.Faults(faults).point, patch.setattr)
      code = cli.main([*(argv or SMALL), "--workdir", str(workdir)])
    printed = capsys.readouterr()
    return Ended(code, printed.out, printed.err)

  start.driver = driver
  return start
