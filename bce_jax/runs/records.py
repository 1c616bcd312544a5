"""What a run writes for people and programs: JSON files, metrics.jsonl, TensorBoard events."""

import io
import json
import math
import os
import pathlib
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer import record_writer

from bce_jax import atomic
from bce_jax.runs import files

SKIPPED = "skipped"  # the split of a record of a damaged image: its file, and the reason

SESSION = "session"  # the split of what metrics.jsonl begins with: the run's sessions

Record = dict[str, Any]


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes a JSON file atomically."""
  with atomic.opened(path) as file:
    file.write(json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path, *keys: str) -> dict[str, Any]:
  """Reads a JSON object that has `keys`.

  Raises:
    ValueError: when there is none, it is not JSON, or lacks a key.
  """
  try:
    values = json.loads(path.read_text())
  except OSError as error:
    raise ValueError(f"{path} can't be read: {error.strerror}") from None
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from None
  if not isinstance(values, dict) or not values.keys() >= set(keys):
    missing = sorted(set(keys) - set(values)) if isinstance(values, dict) else "an object"
    raise ValueError(f"{path} is damaged: it lacks {missing}")
  return values


def read_metrics(workdir: pathlib.Path) -> list[Record]:
  """Returns the records of a run folder's metrics.jsonl, without what it says of its sessions.

  A line cut off by a kill is left out.
  """
  return [json.loads(line) for line in lines_until(workdir, sys.maxsize)]


def _finite(values: Any) -> Any:
  """JSON has no nan and no infinity: null stands for them."""
  if isinstance(values, dict):
    return {key: _finite(value) for key, value in values.items()}
  if isinstance(values, list | tuple):
    return [_finite(value) for value in values]
  return None if isinstance(values, float) and not math.isfinite(values) else values


class RecordWriter:
  """Appends records to metrics.jsonl, a line each, and to TensorBoard's events.

  Attributes:
    lines: of metrics.jsonl so far, without those of sessions. They are part of a checkpoint too, so
      that a resumed run has all of its records, whatever became of the file.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    lines: list[str] | None,
    *,
    step: int = 0,
    sessions: Sequence[Record] = (),
    writes: bool = True,
    others: Sequence[tuple[str, Any]] = (),
    say: Callable[[str], object] = print,
  ):
    """Opens the files, with the lines of a checkpoint in place of those in metrics.jsonl.

    Args:
      workdir: the run folder.
      lines: those until the step to go on from; records after it are made again.
      step: that step.
      sessions: of the run, this one last: the lines that metrics.jsonl begins with.
      writes: False only keeps the lines: on all hosts but one.
      others: (name, writer) of writers from outside, see `config.writers`; they get every record.
      say: is called with a line where one of them fails; it gets no more records.
    """
    self.lines = list(lines or [])
    self._others, self._say = list(others), say
    self._file: _Appended | None = None
    self._events: _Appended | None = None
    if not writes:
      return
    path = workdir / files.METRICS
    with atomic.opened(path) as file:
      for one in sessions:
        file.write(_session_line(one, one["from_step"]) + "\n")
      file.write("".join(line + "\n" for line in self.lines))
    self._file = _Appended(path)
    self._events = _Appended(workdir / _events_name(workdir))
    try:
      for event in _first_events(step, sessions):
        self._events.write(_event(event))
    except OSError:
      self.close()
      raise

  def write(self, record: Record) -> None:
    """Writes one record: "step", "split" and named numbers."""
    line = json.dumps(_finite(record), allow_nan=False)
    self.lines.append(line)
    self._hand_on(record)
    if self._file is None or self._events is None:
      return
    self._file.write(f"{line}\n".encode())
    values = [
      Summary.Value(tag=f"{record['split']}/{name}", simple_value=value)
      for name, value in record.items()
      if isinstance(value, int | float) and name != "step" and math.isfinite(value)
    ]
    summary = Summary(value=values)
    self._events.write(_event(Event(wall_time=time.time(), step=record["step"], summary=summary)))

  def _hand_on(self, record: Record) -> None:
    """Gives a record to the writers from outside; what goes wrong there ends no training."""
    for name, writer in tuple(self._others):
      try:
        writer.write(_finite(record))
      except Exception as error:
        self._others.remove((name, writer))
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self._say(f"config.writers {name!r} failed and gets no more records: {reason}")

  def end(self, session: Record, step: int) -> None:
    """Writes how a session has ended, at a step."""
    if self._file is not None and self._events is not None:
      self._file.write(f"{_session_line(session, step)}\n".encode())
      self._events.write(_event(_session_event(session, step)))

  def close(self) -> None:
    """Closes all of it."""
    for name, writer in self._others:
      try:
        getattr(writer, "close", lambda: None)()
      except Exception as error:
        self._say(
          f"config.writers {name!r} failed at its end: {' '.join(str(error).split())[:200]}"
        )
    for file in (self._file, self._events):
      if file is not None:
        file.close()


class _Appended:
  """A file that grows. Nothing is kept back: what can't be written raises here, with its name."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

  def write(self, data: bytes) -> None:
    try:
      while data:
        data = data[self._file.write(data) :]
    except OSError as error:
      raise OSError(error.errno, error.strerror, str(self._path)) from error

  def close(self) -> None:
    self._file.close()


def _events_name(workdir: pathlib.Path) -> str:
  """A name that TensorBoard reads after those that are there, which it takes in their order."""
  names = (path.name for path in workdir.glob("events.out.tfevents.*"))
  before = [int(x[1]) for x in (re.match(r"events\.out\.tfevents\.(\d+)", n) for n in names) if x]
  number = max([int(time.time()), *(n + 1 for n in before if n < 10**10)])
  host = socket.gethostname()
  return f"events.out.tfevents.{number:010d}.{host}.{os.getpid()}.{time.monotonic_ns()}"


def _first_events(step: int, sessions: Sequence[Record]) -> list[Event]:
  """The version; a session's start, which tells TensorBoard to drop later steps; what it is."""
  now, first = time.time(), step + 1 if step else 0
  start = SessionLog(status=SessionLog.START)
  events = [
    Event(wall_time=now, file_version="brain.Event:2"),
    Event(wall_time=now, step=first, session_log=start),
  ]
  return [*events, *(_session_event(one, first) for one in sessions[-1:])]


def _session_event(session: Record, step: int) -> Event:
  """A table, as text in Markdown."""
  rows = (f"| {key} | `{json.dumps(value)}` |" for key, value in session.items())
  text = text_pb("provenance", "\n".join(["| | |", "|---|---|", *rows]))
  summary = Summary.FromString(text.SerializeToString())  # made of the same file of the protocol
  return Event(wall_time=time.time(), step=step, summary=summary)


def _session_line(session: Record, step: int) -> str:
  """A line of metrics.jsonl; with a step and an epoch, as every record has."""
  line = {"step": step, "epoch": 0.0, "split": SESSION, SESSION: session}
  return json.dumps(_finite(line), allow_nan=False)


def _event(event: Event) -> bytes:
  """A record of TensorBoard's event files."""
  out = io.BytesIO()
  record_writer.RecordWriter(out).write(event.SerializeToString())
  return out.getvalue()


def lines_until(workdir: pathlib.Path, step: int) -> list[str]:
  """Returns the records of metrics.jsonl up to a step, as lines; sessions belong to none."""
  path = workdir / files.METRICS
  lines = path.read_text(errors="replace").splitlines() if path.exists() else []
  return [line for line in lines if _step(line) <= step]


def _step(line: str) -> float:
  """The step of a record of metrics.jsonl; a line cut off by a kill belongs to no step."""
  try:
    record = json.loads(line)
    return math.inf if record.get("split") == SESSION else record["step"]
  except (ValueError, KeyError, TypeError, AttributeError):
    return math.inf
