"""Starts one run as several processes on this machine.

  python launch/local.py --num-processes 2 --cpu-devices-per-process 4 -- \\
    --config digits --workdir runs/digits --config.seed=1
  python launch/local.py --num-processes 4 --gpus-per-process 2 -- --config digits --workdir DIR

Each process has CPU devices of its own (fake ones, for trying things out), or its share of the
GPUs in CUDA_VISIBLE_DEVICES (without it: 0, 1, …). Its lines begin with its number. When one
fails the others are sent SIGTERM, and SIGKILL after --grace-seconds. SIGTERM, SIGINT and SIGHUP go
on to all; a second one ends everything at once. The exit code is that of the process that failed
first, 128 + the signal when a signal ended it; 0 when all have done their work.
"""

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import launcher

_FAKE_DEVICES = "--xla_force_host_platform_device_count"
_POLL_SECONDS = 0.05


class Process(NamedTuple):
  """One to be started.

  Attributes:
    command: its words.
    environment: what it gets beside this process' own.
  """

  command: list[str]
  environment: dict[str, str]


def free_port() -> int:
  """A port that nobody listens on, just now."""
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return int(listener.getsockname()[1])


def _cpu_environment(devices: int, inherited: Mapping[str, str]) -> dict[str, str]:
  flags = re.sub(rf"{_FAKE_DEVICES}=\S*", "", inherited.get("XLA_FLAGS", "")).split()
  return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{_FAKE_DEVICES}={devices}"])}


def _gpu_environment(
  index: int, gpus: int, processes: int, inherited: Mapping[str, str]
) -> dict[str, str]:
  visible = inherited.get("CUDA_VISIBLE_DEVICES")
  names = [str(k) for k in range(gpus * processes)]
  if visible is not None:
    names = [name for name in visible.split(",") if name]
  if len(names) < gpus * processes:
    raise ValueError(
      f"CUDA_VISIBLE_DEVICES={visible} has {len(names)} GPUs: {processes} processes of"
      f" --gpus-per-process {gpus} need {gpus * processes}"
    )
  return {"CUDA_VISIBLE_DEVICES": ",".join(names[index * gpus : (index + 1) * gpus])}


def processes(
  args: argparse.Namespace, training: Sequence[str], port: int, inherited: Mapping[str, str]
) -> list[Process]:
  """Lists what is to be started.

  Raises:
    ValueError: for fewer GPUs than asked for.
  """
  out = []
  for index in range(args.num_processes):
    devices = args.gpus_per_process or args.cpu_devices_per_process
    environment = {
      "PYTHONUNBUFFERED": "1",
      # Nobody outside this machine can reach the coordinator.
      "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
      # Told, so that JAX does not take a SLURM or Kubernetes job around this one for its own.
      "JAX_LOCAL_DEVICE_IDS": ",".join(str(k) for k in range(devices)),
    }
    if args.gpus_per_process:
      environment |= _gpu_environment(index, devices, args.num_processes, inherited)
    else:
      environment |= _cpu_environment(devices, inherited)
    command = [*args.program, "--coordinator", f"127.0.0.1:{port}"]
    command += ["--num-processes", str(args.num_processes), "--process-id", str(index), *training]
    out.append(Process(command, environment))
  return out


_printing = threading.Lock()


def _print_prefixed(prefix: bytes, source: IO[bytes], sink: IO[bytes]) -> None:
  """Copies lines, whole ones even when several processes have something to say."""
  for line in iter(source.readline, b""):
    end = b"" if line.endswith(b"\n") else b"\n"
    with _printing, contextlib.suppress(OSError, ValueError):  # a reader that left: go on reading
      sink.write(prefix + line + end)
      sink.flush()


def _start(
  index: int, process: Process
) -> tuple["subprocess.Popen[bytes]", list[threading.Thread]]:
  child = subprocess.Popen(
    process.command,
    env={**os.environ, **process.environment},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    start_new_session=True,  # Ctrl-C reaches this process alone, which tells the others
  )
  prefix = f"[{index}] ".encode()
  threads = []
  for source, sink in ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer)):
    thread = threading.Thread(target=_print_prefixed, args=(prefix, source, sink), daemon=True)
    thread.start()
    threads.append(thread)
  return child, threads


def _kill(child: "subprocess.Popen[bytes]") -> None:
  """Ends a process and all that it has started."""
  with contextlib.suppress(ProcessLookupError, PermissionError):
    os.killpg(child.pid, signal.SIGKILL)


def _say(line: str) -> None:
  with _printing:
    print(f"local.py: {line}", file=sys.stderr, flush=True)


def _wait(children: Sequence["subprocess.Popen[bytes]"], told: list[int], grace: float) -> int:
  """Waits until all have ended; returns the code of the first that failed.

  Args:
    children: the processes.
    told: signals that this process has got; a handler appends to it.
    grace: seconds between SIGTERM and SIGKILL.
  """
  first_code, deadline, passed_on = 0, float("inf"), 0
  running = dict(enumerate(children))
  while running:
    while passed_on < len(told):
      number = told[passed_on]
      seconds = 0 if passed_on else grace
      deadline = min(deadline, time.monotonic() + seconds)
      passed_on += 1
      _say(f"{signal.Signals(number).name} passed on, {seconds:g} s to end; once more ends at once")
      for child in running.values():
        child.send_signal(number)
    for index, child in list(running.items()):
      code = child.poll()
      if code is None:
        continue
      del running[index]
      if code and not first_code:
        first_code = code if code > 0 else 128 - code
        _say(f"process {index} ended with exit code {first_code}")
        if running and deadline == float("inf"):
          _say(f"the others are sent SIGTERM, {grace:g} s to end")
          deadline = time.monotonic() + grace
          for other in running.values():
            other.terminate()
    if running and time.monotonic() >= deadline:
      _say(f"SIGKILL for process {', '.join(str(index) for index in running)}")
      deadline = float("inf")
      for child in running.values():
        _kill(child)
    time.sleep(_POLL_SECONDS)
  return first_code


def run_all(planned: Sequence[Process], grace: float) -> int:
  """Starts all, waits for all, and leaves none behind; returns the exit code.

  Raises:
    ValueError: when the program can't be started.
  """
  told: list[int] = []

  def notice(number: int, frame: Any) -> None:
    del frame
    told.append(number)

  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  before = {n: signal.getsignal(n) for n in numbers}
  for number, handler in before.items():
    if handler is not signal.SIG_IGN:  # as of SIGHUP under nohup
      signal.signal(number, notice)
  children: list[subprocess.Popen[bytes]] = []
  threads: list[threading.Thread] = []
  try:
    for index, process in enumerate(planned):
      child, readers = _start(index, process)
      children.append(child)
      threads += readers
    return _wait(children, told, grace)
  except OSError as error:
    raise ValueError(f"--program {planned[0].command[0]} can't be started: {error}") from error
  finally:
    for child in children:
      _kill(child)  # what they have started and left, too
    for thread in threads:
      thread.join(timeout=5)
    for number, handler in before.items():
      signal.signal(number, handler)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = launcher.parser("local.py", __doc__)
  parser.add_argument("--num-processes", metavar="N", type=launcher.whole_number(1), default=2)
  devices = parser.add_mutually_exclusive_group()
  devices.add_argument(
    "--cpu-devices-per-process",
    metavar="N",
    type=launcher.whole_number(1),
    default=1,
    help="fake devices of each process (1)",
  )
  devices.add_argument("--gpus-per-process", metavar="N", type=launcher.whole_number(1))
  parser.add_argument(
    "--grace-seconds",
    metavar="S",
    type=launcher.whole_number(0),
    default=60,
    help="between SIGTERM and SIGKILL (60)",
  )
  parser.add_argument(
    "--program",
    metavar="COMMAND",
    type=shlex.split,
    default=[sys.executable, "-m", "bce_jax.cli.train"],
    help="what is started (bce-train of this Python)",
  )
  args = parser.parse_args(argv)
  if not args.program:
    raise ValueError("--program is empty: expected a command")
  return args


def run(argv: Sequence[str]) -> int:
  """Does what the arguments say; returns the exit code.

  Raises:
    ValueError: one line, for anything given that is wrong.
  """
  options, training = launcher.split(argv)
  args = _parse(options)
  launcher.workdir_of(training)
  planned = processes(args, training, free_port(), os.environ)
  if args.dry_run:
    for process in planned:
      settings = [f"{name}={value}" for name, value in process.environment.items()]
      print(launcher.shell(["env", *settings, *process.command]))
    return 0
  return run_all(planned, args.grace_seconds)


if __name__ == "__main__":
  sys.exit(launcher.console("local.py", run, None))
