"""launch/tpu_pod.py with a stub for gcloud; what it runs on the hosts with stubs for systemd."""

import json
import pathlib
import shlex
import subprocess
import sys

import pytest

NAMED = ("--name", "pod", "--zone", "us-central2-b")
KIND = ("--accelerator-type", "v5litepod-16")
NFS = ("--nfs", "10.0.0.2:/share", "--mount-path", "/mnt/share")
WORKDIR = ("--workdir", "/mnt/share/run")
TPUS = ["gcloud", "compute", "tpus"]
WHERE = "--zone=us-central2-b"


@pytest.fixture
def commands(launch):
  """The commands that a dry run prints."""

  def make(*words):
    out = launch(
      "tpu_pod.py", *words[: words.index("--")], "--dry-run", *words[words.index("--") :]
    )
    assert (out.returncode, out.stderr) == (0, "")
    text = out.stdout.replace("\\\n", "")
    lexer = shlex.shlex(text, posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    out, command = [], []
    for word in lexer:
      if set(word) == {"\n"}:
        out.append(command)
        command = []
      else:
        command.append(word)
    return [command for command in out if command and command[0] not in ("#", "set")]

  return make


def test_create(commands):
  (command,) = commands("create", *NAMED, *KIND, "--spot", "--project", "p", "--")
  assert command == [
    *TPUS,
    *("tpu-vm", "create", "pod", "--accelerator-type=v5litepod-16"),
    *("--version=v2-alpha-tpuv5-lite", "--spot", WHERE, "--project=p"),
  ]


@pytest.mark.parametrize(
  ("kind", "version"),
  [
    ("v6e-16", "v2-alpha-tpuv6e"),
    ("v5p-32", "v2-alpha-tpuv5"),
    ("v4-32", "tpu-ubuntu2204-base"),
    ("v3-32", "tpu-ubuntu2204-base"),
  ],
)
def test_the_runtime_that_fits(commands, kind, version):
  (command,) = commands("create", *NAMED, "--accelerator-type", kind, "--")
  assert f"--version={version}" in command
  own = ("--runtime-version", "mine")
  (command,) = commands("create", *NAMED, "--accelerator-type", kind, *own, "--")
  assert "--version=mine" in command


def test_create_through_the_queue(commands):
  create, wait = commands("create", *NAMED, *KIND, "--queued-resource", "--spot", "--")
  assert create == [
    *TPUS,
    *("queued-resources", "create", "pod", "--node-id=pod", "--accelerator-type=v5litepod-16"),
    *("--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--async", WHERE),
  ]
  assert wait == [
    *TPUS,
    "queued-resources",
    "describe",
    "pod",
    "--format=value(state.state)",
    WHERE,
  ]


def test_install(commands, command):
  build, copy, install = commands("install", *NAMED, *NFS, "--")
  assert build[1:4] == ["-m", "pip", "wheel"]
  assert copy[3:5] == ["tpu-vm", "scp"]
  assert copy[5].endswith("/launch/tpu_install.sh")
  wheel = copy[6].rpartition("/")[2]
  assert copy[7:] == ["pod:", "--worker=all", WHERE]
  assert install[3:7] == ["tpu-vm", "ssh", "pod", "--worker=all"]
  (typed,) = [word for word in install if word.startswith("--command=")]
  assert shlex.split(typed.removeprefix("--command=")) == [
    *("bash", "tpu_install.sh", f"./{wheel}[tpu]", "3.12", "10.0.0.2:/share", "/mnt/share")
  ]


def test_install_something_else(commands):
  package = "bce_jax[tpu] @ git+https://example.org/bce_jax"
  copy, install = commands("install", *NAMED, "--package", package, "--python=3.13", "--")
  assert copy[5:7] == [copy[5], "pod:"]
  (typed,) = [word for word in install if word.startswith("--command=")]
  typed = shlex.split(typed.removeprefix("--command="))
  assert typed == ["bash", "tpu_install.sh", package, "3.13"]


def test_stop_and_delete(commands):
  stop, delete = commands("stop", "delete", *NAMED, "--internal-ip", "--")
  assert "--internal-ip" in stop
  assert "--command=sudo systemctl stop bce-train || true" in stop
  assert delete == [*TPUS, "tpu-vm", "delete", "pod", WHERE]
  (delete,) = commands("delete", *NAMED, "--queued-resource", "--")
  assert delete == [*TPUS, "queued-resources", "delete", "pod", "--force", WHERE]


ALL = ("create", "install", "start", "follow", "status", "stop", "delete")


def test_the_dry_run_is_a_clean_script(launch, check_shell, awkward):
  words = (*ALL, "--dry-run", *NAMED, *KIND, "--queued-resource", *NFS, "--", *awkward, *WORKDIR)
  out = launch("tpu_pod.py", *words)
  assert out.returncode == 0
  # SC2088: ~ is one of the awkward arguments; SC1003: so is \\ before a quote.
  check_shell(out.stdout, "SC2088", "SC1003", "SC2026")


def test_it_runs_what_the_dry_run_prints(launch, stub, awkward):
  stub.make("gcloud", "print('ACTIVE')")
  words = ("start", "follow", "status", "stop", *NAMED, "--queued-resource")
  words = (*words, "--", *awkward, *WORKDIR)
  out = launch("tpu_pod.py", *words, env=stub.env)
  assert (out.returncode, out.stderr) == (0, "")
  ran = stub.notes()
  assert len(ran) == 7
  stub.forget()
  printed = launch("tpu_pod.py", words[0], "--dry-run", *words[1:]).stdout
  subprocess.run(["bash", "-c", printed], env=stub.env, check=True, capture_output=True)
  assert stub.notes() == ran


def test_it_waits_for_the_queue(launch, stub):
  stub.make("gcloud", "print('ACTIVE')")
  out = launch("tpu_pod.py", "create", *NAMED, *KIND, "--queued-resource", env=stub.env)
  assert out.returncode == 0
  assert "the queued resource is ACTIVE" in out.stdout
  assert [note[3:5] for note in stub.notes()] == [
    ["queued-resources", "create"],
    ["queued-resources", "describe"],
  ]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_the_queue_gives_nothing(launch, stub, state):
  stub.make("gcloud", f"print({state!r})")
  out = launch("tpu_pod.py", "create", "follow", *NAMED, *KIND, "--queued-resource", env=stub.env)
  assert out.returncode == 1
  assert f"no slice: {state}" in out.stderr
  assert len(stub.notes()) == 2


def test_a_step_that_fails_ends_it(launch, stub):
  stub.make("gcloud", "sys.exit(3)")
  out = launch("tpu_pod.py", "stop", "delete", *NAMED, env=stub.env)
  assert out.returncode == 1
  assert out.stderr.endswith("ended with exit code 3\n")
  assert len(stub.notes()) == 1


@pytest.fixture
def host(stub, tmp_path, commands, awkward):
  """Runs what `start` sends to the hosts, in a home folder with the starter in it."""
  home = tmp_path / "home of user"
  home.mkdir()

  def start(state):
    (home / "told").unlink(missing_ok=True)
    stub.make("systemctl", f"if sys.argv[1] == 'show': print({state!r})")
    stub.make("sudo", "os.execvp(sys.argv[1], sys.argv[1:])")
    stub.make("systemd-run", "i = sys.argv.index('/bin/bash'); os.execv('/bin/bash', sys.argv[i:])")
    program = home / "bce_jax" / "bin" / "bce-train"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
      f"#!{sys.executable}\nimport json, sys; json.dump(sys.argv[1:], open('told', 'w'))"
    )
    program.chmod(0o755)
    copy, run = commands("start", *NAMED, "--max-restarts=7", "--", *awkward, *WORKDIR)
    (home / "tpu_start.sh").write_text(pathlib.Path(copy[5]).read_text())
    (typed,) = [word for word in run if word.startswith("--command=")]
    env = {**stub.env, "HOME": str(home)}
    return home, subprocess.run(
      ["bash", "-c", typed.removeprefix("--command=")],
      cwd=home,
      env=env,
      capture_output=True,
      text=True,
      check=False,
    )

  return start


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_start_on_a_host(host, stub, awkward, state):
  home, out = host(state)
  assert (out.returncode, out.stderr) == (0, "")
  told = json.loads((home / "told").read_text())
  assert tuple(told) == ("--distributed", *awkward, *WORKDIR)
  (service,) = [note for note in stub.notes() if note[0] == "systemd-run"]
  wanted = {
    "--unit=bce-train",
    f"--working-directory={home}",
    "--property=KillMode=mixed",  # SIGTERM for bce-train, not for what it has started
    "--property=TimeoutStopSec=300",
    "--property=Restart=on-failure",
    "--property=RestartPreventExitStatus=2 143",
    "--property=StartLimitBurst=8",
    f"--property=StandardOutput=append:{home}/bce-train.log",
  }
  assert wanted <= set(service)


def test_no_second_run_on_a_host(host, stub):
  for state in ("active", "activating", "deactivating"):
    home, out = host(state)
    assert out.returncode == 2
    assert f"bce-train is {state} already" in out.stderr
    assert not (home / "told").exists()
