"""What all four launchers have in common."""

import ast
import importlib.util
import pathlib
import re
import shlex
import subprocess

import pytest

import bce_jax

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"
TPU = ("create", "start", "--name", "pod", "--zone", "z", "--accelerator-type", "v5litepod-16")
SHARED = ("--volume-claim", "claim", "--mount-path", "/shared")
GKE = ("--name", "a", "--image", "i", *SHARED)
ON_TPU = ("--tpu-accelerator", "tpu-v6e-slice", "--tpu-topology", "4x4", "--tpu-chips-per-node")
XPK = ("--xpk", "--name", "a", "--image", "i", "--cluster", "c")
RIGHT = {
  "local.py": (),
  "slurm.py": (),
  "tpu_pod.py": TPU,
  "gke.py": (*GKE, *ON_TPU, "4"),
}
WORKDIR = ("--", "--workdir", "/shared/run")


@pytest.mark.parametrize("name", RIGHT)
def test_without_a_tool_dry_run_still_works(launch, no_tools, name):
  out = launch(name, *RIGHT[name], "--dry-run", *WORKDIR, env=no_tools)
  assert (out.returncode, out.stderr) == (0, "")
  assert "/shared/run" in out.stdout


@pytest.mark.parametrize(
  ("name", "tool"),
  [("slurm.py", "sbatch"), ("tpu_pod.py", "gcloud"), ("gke.py", "kubectl")],
)
def test_a_missing_tool_is_reported_in_one_line(launch, no_tools, name, tool):
  out = launch(name, *RIGHT[name], *WORKDIR, env=no_tools)
  assert (out.returncode, out.stdout) == (2, "")
  assert re.fullmatch(rf"{name}: {tool} is not installed .*--dry-run shows .*\n", out.stderr)


def test_the_version_is_that_of_the_package(launch):
  out = launch("local.py", "--version")
  assert (out.returncode, out.stdout) == (0, f"bce_jax {bce_jax.__version__}\n")


@pytest.mark.parametrize("name", RIGHT)
def test_help_is_the_docstring(launch, name):
  out = launch(name, "--help")
  assert out.returncode == 0
  assert f"python launch/{name}" in out.stdout
  assert "--dry-run" in out.stdout


WRONG = [
  *((name, (*words, "--"), "no --workdir behind --") for name, words in RIGHT.items()),
  *((name, words, "no --workdir behind --") for name, words in RIGHT.items()),
  *(
    (name, (*words, "--", "--workdir"), "--workdir behind -- has no")
    for name, words in RIGHT.items()
  ),
  *((name, (*words, "--", "--workdir="), "an unset variable") for name, words in RIGHT.items()),
  *(
    (name, (*words, *WORKDIR, "--process-id=3"), "--process-id=3 behind --: the launcher says this")
    for name, words in RIGHT.items()
  ),
  *(
    (name, (*words, "--bogus", *WORKDIR), "unrecognized arguments: --bogus")
    for name, words in RIGHT.items()
  ),
  ("local.py", ("--num-processes", "0", *WORKDIR), "'0' is not a whole number of 1 or more"),
  ("local.py", ("--num-processes", "two", *WORKDIR), "'two' is not a whole number of 1 or more"),
  ("local.py", ("--program", "", *WORKDIR), "--program is empty"),
  ("slurm.py", ("--partition", "a b", *WORKDIR), "'a b': expected a word without spaces"),
  ("slurm.py", ("--gpus-per-node", "a100", *WORKDIR), "'a100': expected a number of GPUs"),
  (
    "slurm.py",
    ("--gpus-per-node=4", "--ntasks-per-node=1", *WORKDIR),
    "--ntasks-per-node 1: on SLURM, JAX gives each task one GPU, expected 4",
  ),
  ("slurm.py", ("--sbatch-option=constraint=x", *WORKDIR), "expected --name or --name=value"),
  ("tpu_pod.py", ("create", *TPU[2:6], *WORKDIR), "create needs --accelerator-type"),
  ("tpu_pod.py", ("begin", *TPU[2:], *WORKDIR), "invalid choice: 'begin'"),
  ("tpu_pod.py", (*TPU[:-1], "tpu7x-8", *WORKDIR), "'tpu7x-8': expected generation-size"),
  (
    "tpu_pod.py",
    (*TPU, "--", "--workdir", "runs/x"),
    "expected an absolute path that all hosts see",
  ),
  ("tpu_pod.py", (*TPU, "--", "--workdir=gs://bucket/x"), "expected an absolute path"),
  ("tpu_pod.py", (*TPU, "--nfs", "10.0.0.2:/share", *WORKDIR), "--nfs needs --mount-path"),
  (
    "tpu_pod.py",
    (*TPU, "--nfs", "s:/share", "--mount-path", "/mnt", *WORKDIR),
    "--workdir /shared/run: expected a folder below --mount-path /mnt",
  ),
  ("gke.py", (*GKE, *WORKDIR), "expected either --tpu-accelerator or --gpu-accelerator"),
  (
    "gke.py",
    (*GKE, *ON_TPU, "3", *WORKDIR),
    "--tpu-topology 4x4 has 16 chips: expected a multiple",
  ),
  ("gke.py", (*GKE, "--tpu-topology", "4by4", *WORKDIR), "'4by4': expected AxB or AxBxC"),
  ("gke.py", (*GKE, "--tpu-topology", "4x4", *WORKDIR), "needs --tpu-accelerator"),
  ("gke.py", (*GKE, *ON_TPU, "4", "--num-nodes", "2", *WORKDIR), "--num-nodes is for GPUs"),
  ("gke.py", (*GKE[:4], *ON_TPU, "4", *WORKDIR), "a JobSet needs --volume-claim: all nodes"),
  ("gke.py", (*GKE, *ON_TPU, "4", "--", "--workdir", "/else"), "below --mount-path /shared"),
  ("gke.py", ("--name", "Not OK", *GKE[2:], *WORKDIR), "'Not OK': expected up to 40"),
  ("gke.py", (*GKE, *ON_TPU, "4", "--cluster", "c", *WORKDIR), "--cluster goes with --xpk only"),
  ("gke.py", (*XPK, *WORKDIR), "--xpk needs --tpu-type or --device-type"),
  ("gke.py", (*XPK, *SHARED, *WORKDIR), "--volume-claim is for a JobSet"),
]


@pytest.fixture
def call(monkeypatch):
  """Calls a launcher in this process: there are many of these."""
  monkeypatch.syspath_prepend(str(LAUNCH))  # where `python launch/X.py` finds launcher

  def run(name, argv):
    spec = importlib.util.spec_from_file_location(f"launch_{name[:-3]}", LAUNCH / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.launcher.console(name, module.run, argv)

  return run


@pytest.mark.parametrize(("name", "argv", "said"), WRONG)
def test_wrong_input_is_reported_in_one_line(call, capsys, name, argv, said):
  assert call(name, ("--dry-run", *argv)) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith(f"{name}: ")
  assert err.count("\n") == 1
  assert said in err


def documented_commands():
  """All examples: of the page, and of the launchers' own docstrings."""
  page = (LAUNCH.parent / "docs" / "launch.md").read_text()
  texts = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
  texts += [ast.get_docstring(ast.parse((LAUNCH / name).read_text())) for name in RIGHT]
  for text in texts:
    for line in re.sub(r" *\\\n *", " ", text).splitlines():
      words = shlex.split(line) if line.strip().startswith("python launch/") else []
      if words and words[1] != "launch/X.py" and words[-3:-1] != ["start", "follow"]:
        # Where the rest is left out, anything will do.
        yield [*words[:-1], "--workdir", "/shared/x"] if words[-1] == "…" else words


@pytest.mark.parametrize("words", list(documented_commands()), ids=" ".join)
def test_every_example_is_right(call, capsys, monkeypatch, words):
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  assert call(words[1].removeprefix("launch/"), ["--dry-run", *words[2:]]) == 0
  out, err = capsys.readouterr()
  assert out
  assert err == ""


def test_shell_scripts_are_clean(check_shell):
  scripts = sorted(LAUNCH.glob("*.sh"))
  assert scripts
  for script in scripts:
    check_shell(script.read_text())


def test_what_is_printed_for_a_shell_is_read_by_it(awkward):
  code = "import launcher, sys; print(launcher.shell(sys.argv[1:]))"
  words = ["printf", "%s\\0", *awkward, "--", "--last"]
  out = subprocess.run(
    ["python3", "-c", code, *words], cwd=LAUNCH, capture_output=True, text=True, check=True
  )
  read = subprocess.run(["bash", "-c", out.stdout], capture_output=True, text=True, check=True)
  assert tuple(read.stdout.split("\0")[:-1]) == tuple(words[2:])
  assert shlex.split(out.stdout.replace("\\\n", "")) == words
