"""Choosing by name, for messages to people."""

import difflib
from collections.abc import Iterable


def nearest(name: object, choices: Iterable[object]) -> str:
  """Returns the choice that looks most like `name`; of equals, the one that starts like it.

  >>> nearest("resnet21", ["resnet12", "resnet20", "resnet32"])
  'resnet20'
  """

  def likeness(choice: str) -> tuple[float, int]:
    matcher = difflib.SequenceMatcher(None, str(name), choice)
    first = matcher.get_matching_blocks()[0]
    return matcher.ratio(), first.size if first.a == first.b == 0 else 0

  return max(map(str, choices), key=likeness)
