"""The one way that can run anywhere, for real: two processes train what one process trains."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent

CONFIG = (
  *("--config", "digits", "--config.model=resnet8", "--config.steps=12"),
  *("--config.batch_size=32", "--config.eval_every_epochs=0.2", "--config.log_every_steps=5"),
)


def test_two_processes_train_what_one_trains(tmp_path, command):
  env = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "PYTHONPATH": str(ROOT),
  }
  both, alone = tmp_path / "both", tmp_path / "alone"
  launched = command("local.py", "--num-processes", "2", "--cpu-devices-per-process", "1", "--")
  one = [sys.executable, "-m", "bce_jax.cli.train"]
  for start, workdir, devices in ((launched, both, 1), (one, alone, 2)):
    out = subprocess.run(
      [*start, *CONFIG, "--workdir", str(workdir)],
      env=env | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
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

  def figures(path):
    values = json.loads(path.read_text())
    return {k: v for k, v in values.items() if k not in ("seconds", "images_per_second")}

  def lines(path):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]

  assert figures(both / "results.json") == figures(alone / "results.json")
  assert lines(both / "metrics.jsonl") == lines(alone / "metrics.jsonl")
  assert len(lines(both / "metrics.jsonl")) > 3
