"""Where results come from: the versions, devices and command line of each session of a run.

A run that is interrupted and goes on has several sessions. All of them lie in provenance.json, with
the config that the run was trained by, and in results.json and metrics.jsonl too.
"""

import contextlib
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

import bce_jax
from bce_jax.runs import files, records

Session = dict[str, Any]


def now() -> str:
  """The time, in UTC, as ISO 8601."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def session(step: int, outside: Mapping[str, Any] | None = None) -> Session:
  """Returns the record of this session: versions, devices, command line, first step.

  Args:
    step: of the checkpoint it goes on from, 0 for none.
    outside: what it uses that is none of this package, see `outside`.

  Returns:
    What is JSON; of processes and devices all of the run are counted.
  """
  devices: dict[str, int] = {}
  for device in jax.devices():
    devices[device.device_kind] = devices.get(device.device_kind, 0) + 1
  out: Session = {
    "started": now(),
    "from_step": step,
    "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
    "directory": os.getcwd(),
    "bce_jax": bce_jax.__version__,
    **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
    "python": platform.python_version(),
    "platform": platform.platform(),
    "backend": jax.default_backend(),
    "devices": devices,
    "processes": jax.process_count(),
    "host": socket.gethostname(),
    **({"outside": dict(outside)} if outside else {}),
  }
  package = pathlib.Path(bce_jax.__file__)
  for key, place, file in (("git", package.parent, package.name), ("directory_git", None, None)):
    state = git_state(str(place or pathlib.Path.cwd()), file)
    if state is not None and state != out.get("git"):
      out[key] = state
  return out


@functools.cache
def git_state(folder: str, file: str | None = None) -> dict[str, Any] | None:
  """Returns {"commit", "dirty"} of a repository; None without git, or outside one.

  Args:
    folder: in it.
    file: of the folder, which has to be tracked: a virtual environment lies in many a repository.
  """

  def run(*words: str) -> str | None:
    try:
      done = subprocess.run(
        ["git", "--no-optional-locks", "-C", folder, *words],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=10,
        check=False,
      )
    except (OSError, subprocess.SubprocessError):
      return None
    return done.stdout if done.returncode == 0 else None

  if file is not None and run("ls-files", "--error-unmatch", "--", file) is None:
    return None
  commit = run("rev-parse", "HEAD")
  changed = run("status", "--porcelain", "--untracked-files=no") if commit else None
  if not commit or changed is None:
    return None
  return {"commit": commit.strip(), "dirty": bool(changed.strip())}


def read(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns {"config", "sessions"} of a run folder; of an older or a damaged one, {}."""
  for name, within in ((files.PROVENANCE, ()), (files.RESULTS, ("provenance",))):
    try:
      values: Any = records.read_json(workdir / name)
      for key in within:
        values = values[key]
      sessions = all(isinstance(one, dict) for one in values["sessions"])
      if sessions and isinstance(values["config"], dict):
        return values
    except (ValueError, KeyError, TypeError):
      continue
  return {}


@contextlib.contextmanager
def recorded(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  step: int,
  *,
  outside: Mapping[str, Any] | None = None,
  writes: bool = True,
) -> Iterator[list[Session]]:
  """Context manager: records that a session has begun, and how it ends unless it is killed.

  Args:
    workdir: the run folder.
    config: that it trains by.
    step: it goes on from.
    outside: what it uses that is none of this package.
    writes: False on all hosts but one.

  Yields:
    All sessions, this one last.
  """
  sessions: list[Session] = [*read(workdir).get("sessions", []), session(step, outside)]

  def write() -> None:
    if writes:
      records.write_json(workdir / files.PROVENANCE, {"config": config, "sessions": sessions})

  write()
  try:
    yield sessions
  except BaseException as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    sessions[-1] |= {"ended": now(), "outcome": reason[:300]}
    with contextlib.suppress(OSError):  # what ended it is reported, not this
      write()
    raise
  write()


def finish(sessions: Sequence[Session], step: int) -> None:
  """Records in the last session that the run has ended, at a step."""
  sessions[-1].update(ended=now(), outcome=f"finished at step {step}")
