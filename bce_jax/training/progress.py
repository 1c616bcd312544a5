"""Where a long run stands: a bar on a terminal, plain lines in a log."""

import os
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
  """Shows steps done, rate, time left and the newest figures."""

  def __init__(self, *, first: int, total: int, images_per_step: int, shown: bool = True):
    """Starts at step `first` of `total`; where several processes train, one of them shows it."""
    self._shown = shown
    self._total = total
    self._images = images_per_step
    self._first, self._start = first, time.monotonic()
    self._paused = 0.0
    # Some terminals have no width (a pty that nobody set up), and a bar would have none either.
    self._terminal = (
      shown and sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    )
    self._bar = tqdm(
      total=total, initial=first, unit="step", dynamic_ncols=True, disable=not self._terminal
    )

  def advance(self) -> None:
    """One more step is done."""
    self._bar.update()

  def pause(self, seconds: float) -> None:
    """Leaves time spent on other work than steps out of the rate."""
    self._paused += seconds

  def show(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
    """Shows figures: behind the bar, or in a line of the log."""
    text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    if self._terminal:
      self._bar.set_postfix_str(f"epoch {epoch:.1f}  {text}")
      return
    passed = max(time.monotonic() - self._start - self._paused, 1e-9)
    rate = (step - self._first) / passed
    left = f"{(self._total - step) / rate:,.0f} s left" if rate else "…"
    self.say(
      f"step {step:>{len(str(self._total))}}/{self._total}  epoch {epoch:.1f}  {text}"
      f"  {rate * self._images:,.0f} images/s  {left}"
    )

  def say(self, line: str) -> None:
    """Prints a line, above the bar if there is one."""
    if not self._shown:
      return
    if self._terminal:
      self._bar.write(line, file=sys.stderr)
    else:
      print(line, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()
