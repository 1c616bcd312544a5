"""The nearest valid name to a mistyped one, for messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, held: Iterable[str], *, used: Iterable[str] = ()) -> str:
  """Returns a hint for a name that a file lacks: the nearest that it holds, and all.

  Args:
    name: the one that it lacks.
    held: the names of what it holds.
    used: those that mean something else.

  >>> did_you_mean("logits", ["scores", "labels"], used=["labels"])
  "did you mean 'scores'? it holds scores, labels"
  >>> did_you_mean("logits", ["labels"], used=["labels"])
  'it holds labels'
  """
  held, used = list(held), set(used)
  free = [choice for choice in held if choice not in used]
  hint = f"did you mean {nearest(name, free)!r}? " if free else ""
  return f"{hint}it holds {', '.join(held)}"


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
