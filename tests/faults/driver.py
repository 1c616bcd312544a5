"""Runs bce-train and does something to it at named points: faults are [POINT, N, ACTION].

Points are what Python tells its audit hooks before it does it ("os.rename FROM TO", "open FILE w",
paths from the run folder's parent on) and what `watch` adds ("step 7"). ACTION happens at the N-th
point that the regular expression POINT fits, once: kill, kill in SECONDS, term, term twice, int
(Ctrl-C), hup, full (the disk), spoil FILE, wait FILE (until it is there; FILE.reached tells that it
waits).
"""

import errno
import json
import os
import pathlib
import re
import resource
import select
import signal
import sys
import threading
import time


def watch(point, replace=setattr):
  """Calls point(name) where a run gets on; `replace` may be monkeypatch.setattr."""
  from bce_jax.evaluation import evaluate, evaluator
  from bce_jax.runs import checkpoint, records
  from bce_jax.training import loop, progress_bar

  def before(owner, name, label):
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
      point(label(*args, **kwargs))
      return function(*args, **kwargs)

    replace(owner, name, wrapped)

  def after(owner, name, label):
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
      result = function(*args, **kwargs)
      point(label(*args, **kwargs))
      return result

    replace(owner, name, wrapped)

  steps = [0]

  def first(self, *, first, **others):
    steps[0] = first
    return f"progress {first}"

  def step(self):
    steps[0] += 1
    return f"step {steps[0]}"

  before(loop, "train", lambda *_: "train")
  after(progress_bar.Progress, "__init__", first)
  after(progress_bar.Progress, "advance", step)
  after(records.RecordWriter, "write", lambda _, record: f"record {record['step']}")
  before(evaluate, "evaluate", lambda *_, **__: f"evaluate {steps[0]}")
  before(evaluator, "summarize", lambda *_, **__: f"results {steps[0]}")
  after(checkpoint.Checkpoints, "save", lambda *_, **__: f"save {steps[0]}")
  after(checkpoint.Checkpoints, "wait", lambda *_: f"wait {steps[0]}")


def kill(delay):
  if delay:
    timer = threading.Timer(float(delay.removeprefix("in ")), kill, [""])
    timer.daemon = True
    timer.start()
    return
  os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(60)


def term(twice):
  for _ in range(2 if twice else 1):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)


def interrupt(_):
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.01)


def hang_up(_):
  os.kill(os.getpid(), signal.SIGHUP)
  time.sleep(0.01)


def full(_):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil(file):
  pathlib.Path(file).write_bytes(b"spoilt")


def wait(file):
  pathlib.Path(file + ".reached").touch()
  while not os.path.exists(file):
    time.sleep(0.01)


ACTIONS = {
  "kill": kill, "term": term, "int": interrupt, "hup": hang_up,
  "full": full, "spoil": spoil, "wait": wait,
}  # fmt: skip


def act(action):
  word, _, rest = action.partition(" ")
  ACTIONS[word](rest)


class Faults:
  """Those that are still to come."""

  def __init__(self, faults):
    self._left = [[re.compile(what), count, action] for what, count, action in faults]
    self._lock = threading.RLock()

  def point(self, name):
    due = []
    with self._lock:
      for fault in list(self._left):
        if fault[0].fullmatch(name):
          fault[1] -= 1
          if not fault[1]:
            self._left.remove(fault)
            due.append(fault[2])
    for action in due:
      act(action)


def audit(point, within):
  """Calls point(event) for what is written within a folder."""

  def hook(event, args):
    if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
      return
    path = str(args[0])
    if event == "os.remove" and args[1] != -1:
      point(f"deleting {path}")  # shutil.rmtree names it from its folder on
    if within not in path:
      return
    if event == "open":
      if isinstance(args[1], str) and set(args[1]) & set("wax+"):
        point(f"open {path.split(within)[1]} {args[1]}")
    elif event == "os.rename":
      point(f"rename {path.split(within)[1]} {str(args[1]).split(within)[-1]}")
    else:
      point(f"{event.split('.')[1]} {path.split(within)[1]}")

  sys.addaudithook(hook)


def run(argv, faults):
  """bce-train, with faults."""
  faults = Faults(faults)
  audit(faults.point, str(pathlib.Path(argv[argv.index("--workdir") + 1]).absolute()) + "/")
  watch(faults.point)
  from bce_jax.cli import train

  return train.main(argv)


def serve():
  """Starts a run for each job that is read, and writes its exit code down.

  All is imported once; forked before JAX starts a thread, each run is a process of its own.
  """
  import sklearn.datasets
  import sklearn.model_selection  # noqa: F401 - what a run imports late

  from bce_jax.cli import train  # noqa: F401
  from bce_jax.training import experiment, loop  # noqa: F401

  assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
  running = {}
  jobs = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - select knows no buffer
  while True:
    ready, _, _ = select.select([jobs], [], [], 0.01)
    line = jobs.readline() if ready else None
    if line == b"":  # the tests have ended
      for child in running:
        os.kill(child, signal.SIGKILL)
      return 0
    if line:
      job = json.loads(line)
      child = os.fork()
      if not child:
        return begin(job)
      running[child] = pathlib.Path(job["folder"])
      told(running[child] / "pid", child)
    for child in list(running):
      done, status = os.waitpid(child, os.WNOHANG)
      if done:
        told(running.pop(child) / "code", os.waitstatus_to_exitcode(status))


def told(path, number):
  beside = path.with_suffix(".tmp")
  beside.write_text(str(number))
  beside.rename(path)


def begin(job):
  """In the fork: becomes the run."""
  folder = pathlib.Path(job["folder"])
  for number, name in enumerate(("/dev/null", folder / "out", folder / "err")):
    file = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    os.dup2(file, number)
    os.close(file)
  sys.stdin = open(os.devnull)  # noqa: SIM115
  devices = f"device_count={job['devices']}"
  os.environ["XLA_FLAGS"] = re.sub(r"device_count=\d+", devices, os.environ["XLA_FLAGS"])
  if job["largest_file"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], resource.RLIM_INFINITY))
  return run(job["argv"], job["faults"])


if __name__ == "__main__":
  sys.exit(serve())
