"""What a long run shows: on terminals of every width, and in a log."""

import io
import math
import re
import sys

import pytest

from bce_jax import terminal
from bce_jax.training import progress_bar as progress_lib
from bce_jax.training import trainer
from bce_jax.training.progress_bar import EVALUATING, Pace, Progress

USUAL = {"loss": 0.06336, "grad_norm": 1.917, "accuracy": 0.9844, "bias": 6.103}
LONG = {"loss": 1234.5, "grad_norm": 1e9, "accuracy": 1.0, "bias": -12.345}
COSINES = {"positive_cosine": 0.31, "negative_cosine": -0.01, "class_class": 2.0}


class Terminal(io.StringIO):
  encoding = "utf-8"

  def isatty(self):
    return True

  def lines(self):
    """What stood in the last line, one after the other."""
    return [line.rstrip() for line in re.split(r"[\r\n]", self.getvalue()) if line.strip()]


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress_lib.time, "monotonic", clock)
  monkeypatch.setattr(progress_lib.Pace.__init__, "__defaults__", (clock,))
  return clock


@pytest.fixture
def on_terminal(monkeypatch):
  def make(columns):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(terminal, "columns", lambda stream: columns)
    return screen

  return make


def run(clock, values, *, steps=60, total=1_000_000, seconds=0.00103, size=127):
  """Compiles for 100 s, then trains and evaluates once; returns the rate as it was recorded."""
  progress = Progress(first=0, total=total, images_per_step=size, evaluate_every=steps)
  with progress.doing("training", compiling="compiling the training step"):
    clock.now += 100
    progress.advance()
  progress.stepping()
  for _ in range(steps - 1):
    clock.now += seconds
    progress.advance()
  rate = progress.images_per_second()
  progress.show(steps, 319.99, values)
  with progress.doing(EVALUATING, compiling="compiling the evaluation"):
    clock.now += 50
  progress.say(f"step {steps} validation  A_SW 98.60  A_Uni 97.20  at b 97.20 %  b 6.1")
  progress.stepping()
  progress.close()
  return rate


@pytest.mark.parametrize(
  ("columns", "values", "fields"),
  [
    (80, USUAL, ["loss 0.06336", "acc 98.4%", "bias 6.103", "123301 images/s", "17m left"]),
    (80, LONG, ["loss 1234", "acc 100.0%", "bias -12.35", "123,301 images/s", "17m left"]),
    (80, USUAL | COSINES, ["loss 0.06336", "acc 98.4%", "bias 6.103"]),
    (60, USUAL, ["loss 0.06336", "acc 98.4%", "bias 6.103"]),
    (60, LONG | COSINES, ["loss 1234", "acc 100.0%", "bias -12.35"]),
    (120, LONG, ["loss 1234", "accuracy 100.0%", "bias -12.35", "123,301 images/s", "17m left"]),
    (200, USUAL | COSINES, ["accuracy 98.4%", "epoch 320.0", "grad_norm 1.917", "class_class 2"]),
    (20, LONG, []),
    (3, LONG, []),
    (1, LONG, []),
  ],
)
def test_the_most_important_is_shown_beside_a_bar(on_terminal, clock, columns, values, fields):
  screen = on_terminal(columns)
  rate = run(clock, values)
  assert rate == pytest.approx(127 / 0.00103)  # neither compiling nor the first step counts
  lines = screen.lines()
  assert all(len(line) < columns or columns == 1 for line in lines if "%" in line[:5])
  if columns < 60:
    return
  shown = next(line for line in reversed(lines) if "loss" in line and "…" not in line)
  assert len(re.search(r"\|(.*)\|", shown)[1]) >= 8
  places = [shown.find(field) for field in fields]
  assert -1 not in places, shown
  assert places == sorted(places)
  assert ("grad_norm" in shown) == (columns == 200)


def test_what_takes_long_is_named_and_no_time_left_before_the_first_steps(on_terminal, clock):
  screen = on_terminal(80)
  run(clock, USUAL, steps=3)
  lines = screen.lines()
  compiling = [k for k, line in enumerate(lines) if "compiling the training step …" in line]
  [evaluation] = [k for k, line in enumerate(lines) if "compiling the evaluation …" in line][:1]
  left = [k for k, line in enumerate(lines) if " left" in line]
  assert compiling[0] < evaluation
  assert not [k for k in left if k < evaluation]  # two steps were measured: too few


def test_a_log_has_all_in_a_line_and_the_recorded_rate(monkeypatch, clock):
  log = io.StringIO()
  monkeypatch.setattr(sys, "stderr", log)
  rate = run(clock, USUAL | COSINES)
  compiling, line, evaluation, results = log.getvalue().splitlines()
  assert (compiling, evaluation) == ("compiling the training step …", "compiling the evaluation …")
  assert line == (
    f"step      60/1000000  epoch 320.0  loss 0.06336  accuracy 98.4%  bias 6.103"
    f"  {rate:,.0f} images/s  17m left  grad_norm 1.917  positive_cosine 0.31"
    "  negative_cosine -0.01  class_class 2"
  )
  assert results.startswith("step 60 validation")


def test_the_time_of_evaluations_and_steps_is_left(clock, monkeypatch):
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  progress = Progress(first=0, total=100, images_per_step=1, evaluate_every=10)
  progress.stepping()
  for step in range(1, 21):
    clock.now += 2
    progress.advance()
    if step % 10 == 0:
      assert progress.images_per_second() == pytest.approx(0.5)
      with progress.doing(EVALUATING, compiling="compiling the evaluation"):
        clock.now += 30 if step == 10 else 7
      progress.stepping()
  progress.images_per_second()
  progress.show(20, 2.0, {"loss": 1.0})
  progress.say("")
  # 80 steps, the evaluation after each tenth, that of this step among them, and the last one.
  assert "3m53s left" not in sys.stderr.getvalue().splitlines()[0]
  assert f"{progress_lib._duration(80 * 2 + 10 * 7)} left" in sys.stderr.getvalue()


def test_a_pace_without_steps():
  pace = Pace(Clock())
  assert math.isnan(pace.lap())
  assert pace.seconds_per_step() is None
  pace.step()  # the clock stands: the first one, which compiles
  assert math.isnan(pace.lap())


def test_a_terminal_of_ascii(on_terminal, clock):
  screen = on_terminal(80)
  screen.encoding = "ascii"
  Terminal.encoding = "ascii"
  try:
    run(clock, USUAL)
  finally:
    Terminal.encoding = "utf-8"
  assert screen.getvalue().isascii()
  assert "compiling the training step ..." in screen.getvalue()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_evaluation_fits_80_columns(split):
  names = ("sample_wise_accuracy", "uniform_accuracy", "uniform_accuracy_at_bias")
  results = dict.fromkeys(names, 0.98765) | {"bias": -4.72912, "threshold": 5.0}
  line = trainer._evaluation_line(31_200, split, results)
  assert line == f"step 31200 {split}  A_SW 98.77  A_Uni 98.77  at b 98.77 %  b -4.729  t* 5"
  assert len(line) <= 80
