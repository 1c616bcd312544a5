"""The examples of docs/extending.md and docs/results.md work as they stand."""

import json
import pathlib
import re
import shlex

import pytest

from bce_jax.cli import train

pytestmark = pytest.mark.slow

DOCS = pathlib.Path(__file__).parents[2] / "docs"
TEXT = "".join((DOCS / name).read_text() for name in ("extending.md", "results.md"))
FILES = re.findall(r"```python\n# (\w+\.py)(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
  dict(word[2:].split("=") for word in shlex.split(command) if word.startswith("--config."))
  for command in re.findall(r"```bash\nbce-train (.*?)```", TEXT, re.DOTALL)
]


@pytest.fixture
def place(tmp_path, monkeypatch):
  for name, text in FILES:
    (tmp_path / name).write_text(f"#{text}")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  return tmp_path


def run(options, workdir):
  options = options | {"config.steps": "2", "config.log_every_steps": "1", "config.report": "false"}
  words = [f"--{key}={value}" for key, value in options.items()]
  assert train.main(["--config=digits", *words, "--workdir", str(workdir)]) == 0
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return json.loads((workdir / "results.json").read_text()), [json.loads(line) for line in lines]


def test_all_but_the_method_in_one_run(place):
  of_all = {k: v for options in COMMANDS for k, v in options.items() if "objective" not in k}
  named = ("model", "data.name", "loss", "metrics", "writers", "optimizer.name")
  assert {f"config.{key}" for key in named} <= of_all.keys()
  results, _ = run(of_all, place / "run")
  assert results["risk"] == pytest.approx(1 - results["sample_wise_accuracy"])
  assert len((place / "run" / "lines.txt").read_text().splitlines()) >= 3
  config = json.loads((place / "run" / "config.json").read_text())
  assert config["data_options"] == {"images": 400}
  assert config["model_options"] == {"width": 32}


def test_the_method(place):
  [method] = [options for options in COMMANDS if "config.objective.name" in options]
  _, lines = run(method | {"config.model": "net:Tiny"}, place / "run")
  logged = [line for line in lines if line["split"] == "train"]
  weight = float(method["config.objective.weight"])
  assert [line["loss"] for line in logged] == pytest.approx([weight * x["hinge"] for x in logged])
