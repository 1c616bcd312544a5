"""Keys that take several names of code from outside, with commas between them."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


def listed(config: ConfigDict | Mapping[str, Any], key: str) -> list[str]:
  """Returns the names that a config has at a key; none where it is older than the key.

  >>> listed({"metrics": "mine:first, mine:second"}, "metrics"), listed({}, "metrics")
  (['mine:first', 'mine:second'], [])
  """
  said = config.get(key) if isinstance(config, dict) else getattr(config, key, None)
  return [name.strip() for name in (said or "").split(",") if name.strip()]


def refuse_repeated(config: ConfigDict, key: str) -> None:
  """Raises ValueError where a config has a name twice at a key."""
  found = listed(config, key)
  for k, name in enumerate(found):
    if name in found[:k]:
      raise ValueError(f"config.{key} {name!r} is named twice")
