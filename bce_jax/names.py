"""Choosing by name, for messages to people."""

import difflib
import os
from collections.abc import Iterable


def nearest(name: object, choices: Iterable[object]) -> str:
  """Returns the choice that looks most like `name`; of equals, the one that starts like it.

  >>> nearest("resnet21", ["resnet12", "resnet20", "resnet32"])
  'resnet20'
  """

  def likeness(choice: str) -> tuple[float, int]:
    ratio = difflib.SequenceMatcher(None, str(name), choice).ratio()
    return ratio, len(os.path.commonprefix([str(name), choice]))

  return max(map(str, choices), key=likeness)
