"""The one way that can run anywhere, for real: two processes train what one process trains."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent.parent
PATH = os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"]))

CONFIG = (
  *("--config", "digits", "--config.model=small_network"),
  *("--config.steps=12", "--config.report=false"),
  *("--config.batch_size=32", "--config.eval_every_epochs=0.2", "--config.log_every_steps=5"),
)


def flags(devices):
  return re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"])


def test_two_processes_train_what_one_trains(tmp_path, command):
  env = os.environ | {"PYTHONPATH": PATH}
  both, alone = tmp_path / "both", tmp_path / "alone"
  launched = command("local.py", "--num-processes", "2", "--cpu-devices-per-process", "1", "--")
  one = [sys.executable, "-m", "bce_jax.cli.train"]
  for start, workdir, devices in ((launched, both, 1), (one, alone, 2)):
    out = subprocess.run(
      [*start, *CONFIG, "--workdir", str(workdir)],
      env=env | {"XLA_FLAGS": flags(devices)},
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    told = out.stdout + out.stderr
    assert told.count("A_SW   sample-wise accuracy") == 1  # by the first process alone
    assert "2 cpu device(s)" in told
  assert "of 2 processes" not in told

  def results(path):
    values = json.loads(path.read_text())
    varying = ("seconds", "images_per_second", "provenance")
    return {k: v for k, v in values.items() if k not in varying}

  def lines(path):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line for line in found if line["split"] != "session"]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]

  assert results(both / "results.json") == results(alone / "results.json")
  assert lines(both / "metrics.jsonl") == lines(alone / "metrics.jsonl")
  assert len(lines(both / "metrics.jsonl")) > 3


def test_what_is_wrong_for_all_is_reported_by_all(tmp_path):
  """Found after they have joined; a wrapper that starts a failed run again must not start this."""
  port = str(local_port())
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, "-m", "bce_jax.cli.train", "--config", "digits"),
        *("--config.batch_size=12", "--workdir", str(tmp_path / "run")),
        *("--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id", str(index)),
      ],
      env=os.environ | {"PYTHONPATH": PATH, "XLA_FLAGS": flags(4)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  for process in processes:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert "config.batch_size is 12, which 8 devices can't split" in error
  assert not (tmp_path / "run").exists()


def local_port():
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]
