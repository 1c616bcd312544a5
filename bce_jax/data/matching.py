"""Finds the images that a list names among files whose paths are written otherwise."""

import difflib
from collections.abc import Hashable, Iterable, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from bce_jax.data import folders

Parts = tuple[str, ...]  # folders and the bare name of an image
Name = TypeVar("Name", bound=Hashable)
_LOOKED_AT = 5000  # names that are compared letter by letter


class Match(NamedTuple):
  """Where the images of a list are.

  Attributes:
    rows: of each name of the list.
    how: what had to be assumed, for people; "" where every name, perhaps with another ending, is
      held as it is.
  """

  rows: Int[np.ndarray, " m"]
  how: str


def find(listed: Sequence[str], held: Sequence[str], where: str) -> Match:
  r"""Finds each name of a list among the paths at hand.

  A name may be held as it is; with \ for /, or ./ before it; with another ending of images; or with
  folders before it that the other side does not have. Where both have some before it, that must be
  one thing for the whole list: /mnt/lfw on one side, and D:/faces on the other.
  Each way is tried for what the one before has not found.

  Args:
    listed: names of a list.
    held: the names to find them in.
    where: what holds these, for messages.

  Returns:
    `Match`.

  Raises:
    ValueError: naming one that is not there and one that is, or two that may both be meant; it
      begins with the name.

  >>> find(["lfw\\Ada\\1.jpg"], ["Bob/1.png", "Ada/1.png"], "a file").rows
  array([1])
  """
  clean = [plain(name) for name in held]
  ends = [bare(name) for name in clean]
  ways = [_places(names) for names in (held, clean, ends, [name.casefold() for name in ends])]
  rows: list[list[int]] = []
  for name in listed:
    wanted = plain(name)
    spellings = (name, wanted, bare(wanted), bare(wanted).casefold())
    found = (way.get(spelling) for way, spelling in zip(ways, spellings, strict=True))
    rows.append(next((these for these in found if these), []))
  how = ""
  missing = [k for k, found in enumerate(rows) if not found]
  if missing:
    names = [_parts(listed[k]) for k in missing]
    parts = [_parts(name) for name in held]
    taken = {row for these in rows for row in these}
    for way in (_within, _by_prefix):
      places, said = way(names, parts, taken)
      if all(places):
        how = said
        for k, these in zip(missing, places, strict=True):
          rows[k] = these
        break
    else:
      raise ValueError(_absent(listed, missing, held, where))
  for name, these in zip(listed, rows, strict=True):
    if len(these) > 1:
      first, second = these[:2]
      raise ValueError(
        f"{name}, which may be row {first} ({held[first]}) or row {second} ({held[second]}) of"
        f" {where}: expected one"
      )
  return Match(np.array([these[0] for these in rows], np.int64), how)


def _within(
  names: Sequence[Parts], held: Sequence[Parts], taken: Set[int]
) -> tuple[list[list[int]], str]:
  """One side has folders before a name that the other side lacks."""
  whole, by_tail = _places(held), _places(parts[k:] for parts in held for k in range(1, len(parts)))
  owner = [row for row, parts in enumerate(held) for _ in range(1, len(parts))]
  found: list[list[int]] = []
  sides = set()
  for parts in names:
    longer = [owner[place] for place in by_tail.get(parts, [])]
    shorter = next((whole[parts[k:]] for k in range(1, len(parts)) if parts[k:] in whole), [])
    found.append(longer or shorter)
    sides.add("the file" if longer else "the list")
  # Two names of one row: what their folders say is not known to the file.
  rows = {parts: tuple(these) for parts, these in zip(names, found, strict=True)}
  if len(set(rows.values())) < len(rows) or taken & {x for these in found for x in these}:
    return [[] for _ in names], ""
  return (
    found,
    f"paths were found by their ends, with more folders in {' and '.join(sorted(sides))}",
  )


def _by_prefix(
  names: Sequence[Parts], held: Sequence[Parts], taken: Set[int]
) -> tuple[list[list[int]], str]:
  """Paths of two machines, or of two places: what stands before is one thing on each side."""
  rows = _places(held)
  first = names[0]
  if len(set(names)) < 2:
    return [[] for _ in names], ""
  # Of paths that are not full ones, a folder of their own must agree: p0/1 and p1/1 are two images.
  least = 1 if is_absolute(first) and all(map(is_absolute, held)) else 2
  shortest = min(map(len, names))
  for k in range(1, shortest - least + 1):  # as few folders as can be
    before, rest = first[:k], first[k:]
    working = []
    for prefix in sorted({parts[: -len(rest)] for parts in held if parts[-len(rest) :] == rest}):
      found = [rows.get((*prefix, *name[k:]), []) if name[:k] == before else [] for name in names]
      if all(found) and not taken & {row for these in found for row in these}:
        working.append((prefix, found))
    if len(working) == 1:
      prefix, found = working[0]
      theirs = "/".join(prefix) or "."
      return found, f"paths were found with {'/'.join(before)} of the list taken as {theirs}"
    if working:
      break
  return [[] for _ in names], ""


def _absent(listed: Sequence[str], missing: Sequence[int], held: Sequence[str], where: str) -> str:
  name = listed[missing[0]]
  last = _parts(name)[-1]
  alike = [other for other in held if _parts(other)[-1] == last] or list(held)
  near = difflib.get_close_matches(name, alike[:_LOOKED_AT], n=1, cutoff=0.0)
  return (
    f"{name}, which is not among the {len(held):,} paths of {where} ({len(missing):,} of"
    f" {len(listed):,} are missing); it holds {near[0]}"
  )


def _places(names: Iterable[Name]) -> dict[Name, list[int]]:
  """At which places each name stands."""
  places: dict[Name, list[int]] = {}
  for place, name in enumerate(names):
    places.setdefault(name, []).append(place)
  return places


def plain(name: str) -> str:
  """Returns a path with / as the only separator, and without '.' parts."""
  parts = name.strip().replace("\\", "/").split("/")
  kept = [part for k, part in enumerate(parts) if part != "." and (part or not k)]
  return "/".join(kept)


def _parts(name: str) -> Parts:
  """Folders and the name without the ending of an image."""
  return tuple(bare(plain(name)).split("/"))


def is_absolute(parts: Sequence[str]) -> bool:
  """Whether a path starts at the root, a drive or a home folder."""
  return parts[0] in ("", "~") or parts[0][1:] == ":"


def bare(name: str) -> str:
  """Returns a path without its ending, since .jpg and .png are one image.

  Not all that follows a dot is one: subject01.happy and subject01.sad are two images.
  """
  ending = next((x for x in folders.ENDINGS if name.lower().endswith(x)), "")
  return name[: len(name) - len(ending)]
