"""The types of the table of config keys: a key, and a group of keys with its rules."""

import math
from typing import Any, NamedTuple

Range = tuple[float, bool, float]  # low, whether low itself is allowed, high

POSITIVE: Range = (0, False, math.inf)
AT_LEAST_0: Range = (0, True, math.inf)
FINITE: Range = (-math.inf, False, math.inf)
SHARE: Range = (0, True, 1)

# What a key changes.
NETWORK = "network"
UPDATES = "updates"
DATA = "data"
ORDER = "data order"
READING = "how a folder is read"
BEST = "best checkpoint"
EVALUATION = "evaluation"
RECORDS = "records"
FILES = "where files lie"  # and how many may be damaged; dataset.json holds which they are
NOTHING = "nothing"

# What may differ from the config that a run was started with.
_MAY_CHANGE = {
  # Training goes on: neither the network nor the data nor their order.
  "resume": (EVALUATION, RECORDS, FILES, NOTHING),
  # The run has ended: nothing that its results would be others with.
  "finished": (FILES, NOTHING),
  # A checkpoint is evaluated, perhaps on another folder.
  "evaluate": (EVALUATION, RECORDS, FILES, NOTHING, READING),
  # Runs are compared, as with the same settings.
  "comparison": (NOTHING,),
}
OCCASIONS = tuple(_MAY_CHANGE)


class Key(NamedTuple):
  """A config key: its default, what it may be, what it changes and what it means.

  Attributes:
    default: its value where nothing is said; none: of a key that may be none.
    changes: what it changes, one of the words above; see `may_change`.
    meaning: one line for people.
    kind: its type; of the default, where that is not none.
    choices: the values there are; none: any in its range.
    least: the least whole number it may be.
    range: of a real number: low, whether low itself is allowed, high.
    below: a real number that it must be less than.
    path: whether it names a file or a folder; a relative one starts from the current folder.
    outside: whether it takes the name of code from outside too, see `bce_jax.extensions`; or in
      words what else it takes.
  """

  default: Any
  changes: str
  meaning: str
  kind: type | None = None
  choices: tuple[Any, ...] | None = None
  least: int | None = None
  range: Range | None = None
  below: float | None = None
  path: bool = False
  outside: bool | str = False

  def may_change(self, on: str) -> bool:
    """Whether the key may differ from the value that a run was started with; see `OCCASIONS`."""
    return self.changes in _MAY_CHANGE[on]

  def expected(self) -> str:
    """Says in words which values the key may have.

    >>> Key(0.9, UPDATES, "", range=(0, True, 1), below=1).expected()
    'a number ≥ 0 and < 1'
    >>> Key(None, UPDATES, "", kind=int, least=2).expected()
    'a whole number ≥ 2, or none'
    """
    kind = self.kind or type(self.default)
    if self.choices is not None:
      said = f"one of {', '.join(str(x) for x in self.choices if x is not None)}"
      other = "package.module:object" if self.outside is True else self.outside
      said += f", or {other}" if other else ""
    elif kind is bool:
      said = "true or false"
    elif kind is str:
      said = "a path" if self.path else "text"
    elif kind is int:
      least = "" if self.least is None else f" ≥ {self.least}"
      said = f"a whole number{least}{self._bounds()}"
    else:
      said = "a number" + self._bounds()
    return said + (", or none" if self.default is None else "")

  def _bounds(self) -> str:
    low, closed, high = self.range or FINITE
    bounds = [] if low == -math.inf else [f"{'≥' if closed else '>'} {low:g}"]
    if self.below is not None:
      bounds.append(f"< {self.below:g}")
    elif high != math.inf:
      bounds.append(f"≤ {high:g}")
    return f" {' and '.join(bounds)}" if bounds else ""


class Group(NamedTuple):
  """Keys that belong together, in the order they are shown, and the rules between them.

  Attributes:
    title: for people.
    keys: {key: row}; a key is "name" or "group.name".
  """

  title: str
  keys: dict[str, Key]
