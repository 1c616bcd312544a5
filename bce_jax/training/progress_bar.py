"""Progress of a run: a bar on a terminal, plain lines in a log."""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm
from tqdm.std import Bar

from bce_jax import terminal
from bce_jax.runs import run_log

_MAIN = ("loss", "accuracy", "bias")  # what is shown first; others follow where there is room
# Columns of the bar, its ends among them: at least, beside what is less important, at most.
_BAR, _ROOMY_BAR, _LONGEST_BAR = 10, 20, 40
EVALUATING = "evaluating"


class _Words(NamedTuple):
  """How much room words take: written out, shorter, shortest."""

  accuracy: str
  rate: str
  comma: str


_WORDS = (
  _Words("accuracy", "images/s", ","),
  _Words("acc", "images/s", ","),
  _Words("acc", "images/s", ""),
  _Words("acc", "img/s", ""),
)


class Pace:
  """Measures the time of training steps alone, with the wait for their images.

  What compiling, writing records, evaluating and saving checkpoints take is left out, and so is the
  first step, within which the program is compiled, as time and as images.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    """Nothing was measured yet; the clock stands."""
    self._clock = clock
    self._since: float | None = None
    self._seconds, self._steps = 0.0, 0  # since the last lap
    self._laps: collections.deque[tuple[int, float]] = collections.deque(maxlen=5)

  def stop(self) -> None:
    """Stops the clock: what follows is no training step."""
    if self._since is not None:
      self._seconds += self._clock() - self._since
    self._since = None

  def go(self) -> None:
    """Starts the clock: training steps follow."""
    if self._since is None:
      self._since = self._clock()

  def step(self) -> None:
    """Counts a step; not one during which the clock stood."""
    self._steps += self._since is not None

  def lap(self) -> float:
    """Stops the clock; returns steps per second since the last lap, nan where none was measured."""
    self.stop()
    steps, seconds = self._steps, self._seconds
    if steps:
      self._laps.append((steps, seconds))
    self._seconds, self._steps = 0.0, 0
    return steps / max(seconds, 1e-9) if steps else math.nan

  def seconds_per_step(self) -> float | None:
    """Returns the seconds per step of the last laps; None before the first few steps."""
    steps, seconds = (sum(values) for values in zip((0, 0.0), *self._laps, strict=True))
    if steps < 3:  # of a long first lap what there is, without the steps that still wait to be done
      running = 0.0 if self._since is None else self._clock() - self._since
      steps, seconds = steps + self._steps, seconds + self._seconds + running
    return seconds / steps if steps >= 3 else None


class Progress:
  """Shows where training stands, the newest values, images per second and the time left."""

  def __init__(
    self,
    *,
    first: int,
    total: int,
    images_per_step: int,
    evaluate_every: int | None = None,
    shown: bool = True,
  ):
    """Starts at step `first` of `total`; where several processes train, one of them shows it."""
    self._shown = shown
    self._step, self._total = first, total
    self._images = images_per_step
    self._every = evaluate_every or total
    self._pace = Pace()
    self._compiled: set[str] = set()
    self._evaluation = 0.0  # seconds that one takes
    self._doing = ""
    self._values: dict[str, float] = {}
    self._epoch, self._rate = 0.0, math.nan
    self._terminal = shown and terminal.columns(sys.stderr) is not None
    self._bar = _Line(self._bar_line, total=total, initial=first, disable=not self._terminal)

  def advance(self) -> None:
    """Counts a step."""
    self._step += 1
    self._pace.step()
    self._bar.update()

  def stepping(self) -> None:
    """Notes that the next step follows."""
    self._pace.go()

  @contextlib.contextmanager
  def doing(self, what: str, *, compiling: str = "") -> Iterator[None]:
    """Context manager: shows what is being done; its time is left out of the rate.

    Args:
      what: such as `EVALUATING`.
      compiling: what is shown instead when it is done for the first time, in the log too.
    """
    start = time.monotonic()
    first = bool(compiling) and compiling not in self._compiled
    self._compiled.add(compiling)
    self._doing = f"{compiling if first else what} …"
    self._pace.stop()
    if self._terminal:
      self._bar.refresh()
      if first:
        run_log.note(self._doing)
    elif first:
      self.say(self._doing)
    try:
      yield
    finally:
      self._doing = ""
      if what == EVALUATING and not first:
        self._evaluation = time.monotonic() - start

  def images_per_second(self) -> float:
    """Returns the rate of the steps since it was last asked for; nan where there was none.

    As of `Pace`: images trained on, over the time that steps took by themselves. What follows until
    `stepping` is left out.
    """
    self._rate = self._pace.lap() * self._images
    return self._rate

  def show(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
    """Shows values on the bar, or in a line of the log.

    Images per second are those that `images_per_second` has last returned.

    Args:
      step: they are of.
      epoch: likewise.
      values: "loss", "accuracy" (as a share) and "bias" first, others where there is room.
    """
    self._values, self._epoch = dict(values), epoch
    where = [f"step {step:>{len(str(self._total))}}/{self._total}", f"epoch {epoch:.1f}"]
    line = "  ".join([*where, *self._fields(_WORDS[0]), *self._others()])
    if self._terminal:
      self._bar.refresh()
      run_log.note(line)
    else:
      self.say(line)

  def say(self, line: str) -> None:
    """Prints a line, above the bar if there is one, and there in as many as the width asks for."""
    if not self._shown:
      return
    if self._terminal:
      lines = terminal.wrap(line, terminal.columns(sys.stderr))
      self._bar.write("\n".join(lines), file=sys.stderr)
    else:
      print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Closes the bar."""
    self._bar.close()

  def _seconds_left(self) -> float | None:
    """Of steps and evaluations; None before the first few steps, and when all are done."""
    pace = self._pace.seconds_per_step()
    if pace is None or self._step >= self._total:
      return None
    done = max(self._step - 1, 0) // self._every  # one after this step is still to come
    evaluations = math.ceil(self._total / self._every) - done + 1  # the last is of the test split
    return (self._total - self._step) * pace + evaluations * self._evaluation

  def _fields(self, words: _Words) -> list[str]:
    """What is shown first, the most important in front."""
    values = self._values
    fields = []
    for name in _MAIN:
      if name in values:
        accuracy = f"{words.accuracy} {100 * values[name]:.1f}%"
        fields.append(accuracy if name == "accuracy" else f"{name} {values[name]:.4g}")
    if math.isfinite(self._rate):
      rate = f"{self._rate:{words.comma}.0f}" if self._rate >= 100 else f"{self._rate:.3g}"
      fields.append(f"{rate} {words.rate}")
    left = None if self._doing else self._seconds_left()
    return fields if left is None else [*fields, f"{_duration(left)} left"]

  def _others(self) -> list[str]:
    """What is shown besides."""
    return [f"{name} {value:.4g}" for name, value in self._values.items() if name not in _MAIN]

  def _bar_line(self, columns: int, bar: Callable[[float, int], str]) -> str:
    before = [self._doing] if self._doing else []
    others = [f"epoch {self._epoch:.1f}", *self._others()]
    if not self._values:
      before, others = [*before, f"step {self._step}/{self._total}"], []
    choices = [[*before, *self._fields(words)] for words in _WORDS]
    return fit(columns, self._step / self._total, choices, others, bar=bar)


def fit(
  columns: int,
  share: float,
  choices: Sequence[Sequence[str]],
  others: Sequence[str],
  *,
  bar: Callable[[float, int], str],
) -> str:
  """Returns a progress line: the share done, a bar, and as many fields as leave it a useful length.

  Args:
    columns: of the terminal; the last one is left free, since some go on in the next line there.
    share: done, in [0, 1].
    choices: the same fields, the most important first, in ever fewer letters: the first that fit
      are shown, else as many of the last as fit.
    others: shown besides, where there is room.
    bar: draws one: (share, length) → text.
  """
  columns = max(columns - 1, 1)
  start = f"{math.floor(100 * min(share, 1)):3d}% "
  room = columns - len(start) - _BAR

  def needed(fields: Sequence[str]) -> int:
    return sum(2 + terminal.width(field) for field in fields)

  shown = list(next((c for c in choices if needed(c) <= room), choices[-1]))
  while others and needed([*shown, others[0]]) <= room - _ROOMY_BAR + _BAR:
    shown, others = [*shown, others[0]], others[1:]
  while shown and needed(shown) > room:
    shown.pop()
  length = min(columns - len(start) - needed(shown), _LONGEST_BAR)
  drawn = bar(share, length) if length > 2 else ""
  return "  ".join([start + drawn, *shown])[:columns]


class _Line(tqdm):
  """tqdm's place on the terminal, and when it draws; what it draws is another's."""

  def __init__(self, line: Callable[[int, Callable[[float, int], str]], str], **options: Any):
    self._line = line
    # It need not ask for a size: of a terminal without rows it would show nothing.
    super().__init__(ncols=terminal.USUAL, nrows=20, **options)

  def __str__(self) -> str:
    columns = terminal.columns(sys.stderr) or terminal.USUAL
    if self.ascii:
      return self._line(columns - 2, self._drawn).replace("…", "...")
    return self._line(columns, self._drawn)

  def _drawn(self, share: float, length: int) -> str:
    inner = max(length - 2, 1)
    return f"|{Bar(min(max(share, 0.0), 1.0), inner, Bar.ASCII if self.ascii else Bar.UTF)}|"


def _duration(seconds: float) -> str:
  """Returns a time, as exact as anybody needs it.

  >>> [_duration(s) for s in (41, 354, 754, 5000, 270000)]
  ['41s', '5m54s', '12m', '1h23m', '3d03h']
  """
  whole = round(seconds)
  for size, unit, part, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
    if whole >= size:
      exact = f"{whole % size // part:02d}{below}" if unit != "m" or whole < 600 else ""
      return f"{whole // size}{unit}{exact}"
  return f"{whole}s"
