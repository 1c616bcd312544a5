"""Choosing by name, for messages to people."""

import difflib
from collections.abc import Iterable


def nearest(name: object, choices: Iterable[object]) -> str:
  """Returns the choice that looks most like `name`: one that it begins, or shares most with.

  Of choices that share as much, the one that starts like it.

  >>> nearest("exp", ["exponential", "step"])
  'exponential'
  >>> nearest("resnet21", ["resnet12", "resnet20", "resnet32"])
  'resnet20'
  """

  def likeness(choice: str) -> tuple[bool, float, int]:
    matcher = difflib.SequenceMatcher(None, str(name), choice)
    first = matcher.get_matching_blocks()[0]
    begins = bool(name) and choice.startswith(str(name))
    return begins, matcher.ratio(), first.size if first.a == first.b == 0 else 0

  return max(map(str, choices), key=likeness)
