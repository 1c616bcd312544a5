"""The files around the package: they parse, and what they name exists."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import bce_jax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read(name):
  return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_has_the_fields_that_the_form_asks_for():
  cited = read("CITATION.cff")
  assert cited["cff-version"] == "1.2.0"
  assert {"message", "title", "authors"} <= cited.keys()
  assert cited["version"] == bce_jax.__version__
  assert cited["license"] == PROJECT["project"]["license"]
  assert len(cited["references"]) == 2
  urls = set(PROJECT["project"]["urls"].values())
  for reference in cited["references"]:
    assert {"type", "title", "authors"} <= reference.keys()
    assert reference["url"] in urls
    assert reference["url"].removeprefix("https://") in (ROOT / "README.md").read_text().replace(
      "arXiv ", "arxiv.org/abs/"
    )


def test_the_version_stands_in_one_place():
  assert "version" not in PROJECT["project"]
  assert PROJECT["tool"]["hatch"]["version"]["path"] == "bce_jax/__init__.py"
  assert f"## [{bce_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_the_form_it_names():
  text = (ROOT / "CHANGELOG.md").read_text()
  released = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
  assert released[0] == "Unreleased"
  assert len(released) == len(re.findall("^## ", text, re.MULTILINE))
  kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
  assert set(re.findall("^### (.+)$", text, re.MULTILINE)) <= kinds


def test_hooks_run_the_checks_of_ci():
  [repository] = read(".pre-commit-config.yaml")["repos"]
  ci = (ROOT / ".ci" / "run").read_text()
  names = [" ".join(hook["entry"].split()[:2]) for hook in repository["hooks"]]
  assert names == [".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy"]
  assert all(name in ci for name in names)


def test_workflows_call_ci_on_every_python_that_is_supported():
  [path] = (ROOT / ".github" / "workflows").glob("*.yml")
  [job] = read(path.relative_to(ROOT))["jobs"].values()
  commands = [step["run"] for step in job["steps"] if "run" in step]
  assert commands == [".ci/run"]
  assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
  matrix = job["strategy"]["matrix"]
  listed = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if ":: 3." in c]
  assert matrix["python"] == listed
  assert {"python": listed[0], "packages": "oldest"} in matrix["include"]


def test_the_oldest_packages_are_the_lower_bounds():
  script = ROOT / ".ci" / "oldest.py"
  out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
  bounds = [d for d in PROJECT["project"]["dependencies"] if ">=" in d]
  assert out.stdout.splitlines() == [bound.replace(">=", "==") for bound in bounds]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_links_lead_somewhere(name):
  for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
    if "://" not in target:
      assert (ROOT / target).exists(), target


def test_contributing_has_the_commands_of_the_readme_and_of_ci():
  text = (ROOT / "CONTRIBUTING.md").read_text()
  install, tests, lint = re.search("```bash\n(.*?)\n```", text, re.DOTALL)[1].splitlines()
  readme = (ROOT / "README.md").read_text()
  assert f"{install} && {tests}" in readme
  ci = (ROOT / ".ci" / "run").read_text()
  assert all(command in ci for command in lint.split(" && "))
  for path in re.findall(r"`((?:bce_jax|tests)/[\w/.]+)`", text):
    assert (ROOT / re.sub(r"_?NAME\.py", "", path)).exists(), path


def test_opening_checkpoints_changes_no_logger(tmp_path):
  """Another program's logging is its own; ours set theirs in bce_jax/cli/orbax_errors.py."""
  program = (
    "import asyncio, logging, pathlib, sys\n"
    "from bce_jax.runs import checkpoint\n"
    "from orbax.checkpoint._src import asyncio_utils\n"
    "logging.getLogger('absl').setLevel(logging.INFO)\n"
    "checkpoint.Checkpoints(pathlib.Path(sys.argv[1]), best_metric='uniform_accuracy').close()\n"
    "assert logging.getLogger('absl').level == logging.INFO\n"
    "assert asyncio_utils.asyncio is asyncio\n"
  )
  out = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
  )
  assert out.returncode == 0, out.stderr
