"""The script for sbatch: read as SLURM reads it, and run with stubs for srun and scontrol."""

import json
import shlex
import subprocess
import sys

import pytest

OPTIONS = (
  *("--partition", "gpu", "--account", "me", "--nodes", "4", "--gpus-per-node", "a100:8"),
  *("--cpus-per-task", "6", "--time", "1-12:00:00", "--max-restarts", "3"),
  *("--sbatch-option=--constraint=nvlink|ib", "--sbatch-option=--exclusive"),
)


@pytest.fixture
def script(launch, awkward):
  def make(*options):
    out = launch("slurm.py", "--dry-run", *options, "--", *awkward, "--workdir", "/shared/run")
    assert (out.returncode, out.stderr) == (0, "")
    return out.stdout

  return make


@pytest.fixture
def job(script, stub, tmp_path):
  """Runs the script as a job would, `srun` ending with the given code."""

  def run(code, *options, restarts=None):
    stub.make("bce-train")
    stub.make("srun", f"sys.exit({code})")
    stub.make("scontrol")
    env = {**stub.env, "SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "4"}
    env |= {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    path = tmp_path / "job.sbatch"
    path.write_text(script(*options))
    return subprocess.run(["bash", path], env=env, capture_output=True, text=True, check=False)

  return run


def header(text):
  """The options, as sbatch finds them: before the first line of the script itself."""
  lines = text.splitlines()
  assert lines[0] == "#!/bin/bash"
  options = {}
  for line in lines[1:]:
    if line and not line.startswith("#"):
      break
    if line.startswith("#SBATCH "):
      words = shlex.split(line.removeprefix("#SBATCH "), comments=True)
      assert len(words) == 1
      name, _, value = words[0].partition("=")
      options[name] = value
  return options


def test_the_options(script):
  assert header(script(*OPTIONS)) == {
    "--job-name": "bce-train",
    "--nodes": "4",
    "--ntasks-per-node": "8",  # one a GPU
    "--gpus-per-node": "a100:8",
    "--cpus-per-task": "6",
    "--time": "1-12:00:00",
    "--partition": "gpu",
    "--account": "me",
    "--output": "bce-train-%j.out",
    "--open-mode": "append",
    "--signal": "TERM@180",
    "--requeue": "",
    "--constraint": "nvlink|ib",
    "--exclusive": "",
  }


def test_on_cpu_nodes_one_process_a_node(script):
  options = header(script("--nodes", "2"))
  assert options["--ntasks-per-node"] == "1"
  assert "--gpus-per-node" not in options
  assert header(script("--ntasks-per-node", "2"))["--ntasks-per-node"] == "2"


def test_it_is_a_clean_script(script, check_shell):
  check_shell(script())
  check_shell(script(*OPTIONS, "--setup", "module load cuda", "--setup", "export A='b c'"))


def test_arguments_reach_the_program_as_they_are(job, stub, awkward):
  out = job(0, *OPTIONS)
  assert (out.returncode, out.stderr) == (0, "")
  (srun,) = stub.notes()
  assert srun[0] == "srun"
  assert {"--kill-on-bad-exit=0", "--wait=150"} <= set(srun)
  at = srun.index("bce-train")
  assert tuple(srun[at + 1 :]) == ("--distributed", *awkward, "--workdir", "/shared/run")


@pytest.mark.parametrize(
  ("code", "restarts", "requeued"),
  [
    (0, None, False),
    (1, None, True),
    (2, None, False),
    (143, None, True),
    (143, 2, True),
    (137, 2, True),
    (1, 3, False),
    (143, 3, False),
  ],
)
def test_what_is_queued_again(job, stub, code, restarts, requeued):
  out = job(code, "--max-restarts", "3", restarts=restarts)
  asked = ["scontrol", "requeue", "Incomplete", "17"] in stub.notes()
  assert asked == requeued
  assert out.returncode == (0 if requeued else code)


def test_setup_comes_first(job, stub):
  job(0, "--setup", "export GREETING='it is $5'", "--program", "env python")
  (srun,) = stub.notes()
  assert srun[srun.index("env") :][:3] == ["env", "python", "--distributed"]


def test_a_program_that_is_not_there_is_not_queued_again(job, stub):
  out = job(0, "--program", "no-such-program")
  assert out.returncode == 2
  assert "no-such-program is not on the PATH" in out.stderr
  assert stub.notes() == []


def test_it_is_given_to_sbatch(launch, stub, script, awkward):
  stub.make("sbatch", reads_stdin=True)
  out = launch("slurm.py", "--", *awkward, "--workdir", "/shared/run", env=stub.env)
  assert (out.returncode, out.stderr) == (0, "")
  assert stub.notes() == [["sbatch", script()]]


def test_sbatch_refuses(launch, stub):
  stub.make("sbatch", "print('no such partition', file=sys.stderr); sys.exit(1)")
  out = launch("slurm.py", "--", "--workdir", "/shared/run", env=stub.env)
  assert out.returncode == 1
  assert out.stderr.splitlines()[-1] == "slurm.py: `sbatch` ended with exit code 1"


def test_the_words_of_the_program_are_seen_by_it(script, tmp_path, awkward, stub):
  """srun replaced by a program that runs what it is given."""
  told = tmp_path / "told.json"
  stub.make("srun", "os.execvp(sys.argv[4], sys.argv[4:])")
  program = tmp_path / "told.py"
  program.write_text(f"import json, sys; json.dump(sys.argv[1:], open({str(told)!r}, 'w'))")
  text = script("--program", f"{sys.executable} {program}")
  env = {**stub.env, "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1"}
  subprocess.run(["bash"], input=text, text=True, env=env, check=True, capture_output=True)
  assert tuple(json.loads(told.read_text())) == (
    "--distributed",
    *awkward,
    "--workdir",
    "/shared/run",
  )
