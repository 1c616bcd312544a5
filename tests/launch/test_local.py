"""launch/local.py with a small program in place of bce-train."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

# It does what --does says: one word for every process, separated by commas.
PROGRAM = """
import json, os, signal, subprocess, sys, time
words = sys.argv[1:]
index = int(words[words.index("--process-id") + 1])
does = next(w for w in words if w.startswith("--does="))[7:].split(",")
does = does[min(index, len(does) - 1)]
def end(number, frame):
  print("told", number, flush=True)
  os._exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
  signal.signal(number, signal.SIG_IGN if does == "deaf" else end)
if does == "tell":
  names = ("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS")
  print(json.dumps([words, {n: os.environ.get(n) for n in names}]))
elif does == "lines":
  print("one\\ntwo", flush=True)
  print("wrong", file=sys.stderr, flush=True)
  print("unfinished", end="", flush=True)
elif does == "kill":
  os.kill(os.getpid(), signal.SIGKILL)
elif does == "child":
  child = subprocess.Popen(["sleep", "60"])
  print("child", child.pid, flush=True)
elif does in ("wait", "deaf"):
  print("ready", flush=True)
  time.sleep(60)
else:
  time.sleep(0.2)
  sys.exit(int(does))
"""


@pytest.fixture
def options(tmp_path):
  program = tmp_path / "a program.py"
  program.write_text(PROGRAM)
  return ("--program", shlex.join([sys.executable, "-S", str(program)]))


@pytest.fixture
def start(options, launch):
  def run(does, *argv, **more):
    return launch("local.py", *options, *argv, "--", "--workdir", "w", f"--does={does}", **more)

  return run


def told(out):
  """What each process has told of itself."""
  lines = sorted(line for line in out.stdout.splitlines() if line.startswith("["))
  return [json.loads(line.partition(" ")[2]) for line in lines]


def test_each_process_learns_who_it_is(start):
  out = start("tell", "--num-processes", "3", "--cpu-devices-per-process", "4")
  assert (out.returncode, out.stderr) == (0, "")
  processes = told(out)
  ports = {words[1] for words, _ in processes}
  assert len(ports) == 1
  assert ports.pop().startswith("127.0.0.1:")
  for index, (words, environment) in enumerate(processes):
    assert words[0] == "--coordinator"
    assert words[2:6] == ["--num-processes", "3", "--process-id", str(index)]
    assert words[6:] == ["--workdir", "w", "--does=tell"]
    assert environment["JAX_PLATFORMS"] == "cpu"
    # Those of these tests stay, but for the number of devices.
    others = [x for x in os.environ["XLA_FLAGS"].split() if "device_count" not in x]
    wanted = [*others, "--xla_force_host_platform_device_count=4"]
    assert environment["XLA_FLAGS"].split() == wanted
    assert environment["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"


def test_other_xla_flags_stay(start):
  flags = "--xla_a=1 --xla_force_host_platform_device_count=8 --xla_b=2"
  out = start("tell", env={**os.environ, "XLA_FLAGS": flags})
  wanted = "--xla_a=1 --xla_b=2 --xla_force_host_platform_device_count=1"
  assert [environment["XLA_FLAGS"] for _, environment in told(out)] == [wanted] * 2


@pytest.mark.parametrize(
  ("visible", "shares"), [(None, ["0,1", "2,3"]), ("7,5,3,1", ["7,5", "3,1"])]
)
def test_gpus_are_shared_out(start, visible, shares):
  env = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")}
  out = start(
    "tell",
    "--gpus-per-process=2",
    env=env if visible is None else {**env, "CUDA_VISIBLE_DEVICES": visible},
  )
  assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in told(out)] == shares
  assert [environment["JAX_LOCAL_DEVICE_IDS"] for _, environment in told(out)] == ["0,1", "0,1"]
  assert [environment["JAX_PLATFORMS"] for _, environment in told(out)] == [None, None]


def test_too_few_gpus(start):
  out = start("tell", "--gpus-per-process=2", env={**os.environ, "CUDA_VISIBLE_DEVICES": "0,1,2"})
  assert out.returncode == 2
  assert "has 3 GPUs: 2 processes of --gpus-per-process 2 need 4" in out.stderr


def test_lines_begin_with_the_number(start):
  out = start("lines")
  assert out.returncode == 0
  wanted = ["one", "two", "unfinished"]
  assert sorted(out.stdout.splitlines()) == [f"[{k}] {word}" for k in (0, 1) for word in wanted]
  assert sorted(out.stderr.splitlines()) == ["[0] wrong", "[1] wrong"]


def test_one_that_fails_ends_the_others(start):
  before = time.monotonic()
  out = start("wait,3,wait", "--num-processes", "3")
  assert time.monotonic() - before < 5
  assert out.returncode == 3
  assert "process 1 ended with exit code 3" in out.stderr
  assert "[0] told 15" in out.stdout
  assert "[2] told 15" in out.stdout


@pytest.mark.slow
def test_one_that_does_not_listen_is_killed(start):
  before = time.monotonic()
  out = start("deaf,4", "--grace-seconds", "1")
  assert 1 <= time.monotonic() - before < 6
  assert out.returncode == 4
  assert "SIGKILL for process 0" in out.stderr


def test_a_signal_that_ended_a_process_is_in_the_exit_code(start):
  assert start("kill,wait").returncode == 128 + signal.SIGKILL


def test_one_that_is_done_waits_for_the_others(start):
  out = start("0,tell")
  assert (out.returncode, len(told(out)), out.stderr) == (0, 1, "")


def test_nothing_is_left_behind(start):
  out = start("child", "--num-processes", "1")
  assert out.returncode == 0
  pid = int(out.stdout.split()[-1])
  for _ in range(50):
    try:
      with open(f"/proc/{pid}/stat") as file:
        if file.read().split()[2] == "Z":
          return
    except FileNotFoundError:
      return
    time.sleep(0.05)
  raise AssertionError(f"process {pid} is still there")


def running(command, options, does, *argv):
  """The launcher, once both processes are ready."""
  words = command("local.py", *options, *argv, "--", "--workdir", "w", f"--does={does}")
  process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  lines = sorted(process.stdout.readline() for _ in range(2))
  assert lines == ["[0] ready\n", "[1] ready\n"]
  return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(command, options, number):
  process = running(command, options, "wait")
  process.send_signal(number)
  out, err = process.communicate(timeout=10)
  assert process.returncode == 128 + number
  assert sorted(out.splitlines()) == [f"[0] told {number:d}", f"[1] told {number:d}"]
  assert f"{number.name} passed on" in err


def test_a_second_signal_ends_at_once(command, options):
  process = running(command, options, "deaf", "--grace-seconds", "60")
  process.terminate()
  assert "SIGTERM passed on, 60 s to end" in process.stderr.readline()
  process.terminate()
  _, err = process.communicate(timeout=10)
  assert process.returncode == 128 + signal.SIGKILL
  assert "SIGKILL for process 0, 1" in err


def test_a_program_that_is_not_there(launch):
  out = launch("local.py", "--program", "/no/such program", "--", "--workdir", "w")
  assert out.returncode == 2
  assert out.stderr.startswith("local.py: --program /no/such can't be started")
  assert out.stderr.count("\n") == 1


def test_dry_run_prints_what_would_be_run(start, launch, options, awkward, tmp_path):
  argv = ("--dry-run", "--", *awkward, "--workdir", "w", "--does=tell")
  out = launch("local.py", *options, *argv, cwd=tmp_path)
  assert out.returncode == 0
  ran = subprocess.run(["bash", "-c", out.stdout], capture_output=True, text=True, check=True)
  processes = [json.loads(line) for line in ran.stdout.splitlines()]
  assert [words[5] for words, _ in processes] == ["0", "1"]
  for words, environment in processes:
    assert tuple(words[6:]) == (*awkward, "--workdir", "w", "--does=tell")
    assert environment["JAX_PLATFORMS"] == "cpu"
