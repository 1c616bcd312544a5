"""Which files below a folder are images, and what is passed over on the way."""

import collections
import os
import pathlib
import stat
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image, features

from bce_jax.data import images

_HEIF = (".heic", ".heif")
_AVIF = "avif" in features.modules and features.check("avif")
# What a file really holds is told by its first bytes, not by its name: see `images`.
ENDINGS = (
  *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
  *(".ppm", ".pgm", ".pbm", ".pnm", ".apng"),
  *((".avif",) if _AVIF else ()),
  *(_HEIF if images.HEIF else ()),
)

# What systems put beside people's files; compared in lower case.
_SYSTEM = {
  *("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
  *("lost+found", "$recycle.bin", "recycler", "system volume information", "__pycache__"),
  *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
HIDDEN = "hidden or of the system"
_LOOP, _AGAIN = "linked back to a folder above", "linked to a folder read already"
_BROKEN, _NO_IMAGE = "linked to nothing", "without an ending and no image"
OUTSIDE = "in no class folder"

Passed = collections.Counter[str]
"""How many of each kind were passed over: an ending, or one of the words above."""


class Found(NamedTuple):
  """The images found below a folder, and what was passed over.

  Attributes:
    files: the images, named from the folder with '/', sorted.
    passed: what was passed over.
    folders: each folder that was read, by device and inode.
  """

  files: list[str]
  passed: Passed
  folders: set[tuple[int, int]]


def hidden(name: str) -> bool:
  """Whether a file or folder is hidden, or a system's own."""
  return name.startswith(".") or name.lower() in _SYSTEM


def kind_of(path: str) -> str | None:
  """Returns the kind that a file is counted as if it is no image; None for an image.

  By its ending, `ENDINGS`; what has none is an image where its first bytes are an image's.
  """
  name = os.path.basename(path)
  if hidden(name):
    return HIDDEN
  if name.lower().endswith(ENDINGS):
    return None
  ending = os.path.splitext(name)[1].lower()
  if not os.path.exists(path):
    return _BROKEN
  if ending:
    return ending
  return None if _begins_like_an_image(path) else _NO_IMAGE


def _begins_like_an_image(path: str) -> bool:
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      return False
    with open(path, "rb") as file:
      start = file.read(32)
  except OSError:
    return False
  Image.init()
  accepts = (Image.OPEN[name][1] for name in images.FORMATS if name in Image.OPEN)
  if not any(accept is not None and accept(start) is True for accept in accepts):
    return False
  try:  # two letters may begin a text too
    images.header(path, upright=False)
  except images.DamagedError:
    return False
  except ValueError:  # an image, of values that nothing is known of
    return True
  return True


def search(path: pathlib.Path) -> Found:
  """Finds the images below a folder; linked folders are followed.

  A linked folder that leads back, to one that it lies in, or to one that was read already, is
  passed over.

  Raises:
    ValueError: for a folder that can't be searched: its images would be missing without a word.
  """
  found = Found([], collections.Counter(), set())
  # What is linked comes after all that lies here, so that nothing is known by a link's name only
  # because that name is the first.
  waiting = [str(path)]
  while waiting:
    links: list[str] = []
    for start in waiting:
      if start != str(path) and not _is_new(start, found):
        continue
      _walk(start, str(path), found, links)
    waiting = sorted(links)
  found.files.sort()
  return found._replace(passed=+found.passed)  # without zeros


def _is_new(link: str, found: Found) -> bool:
  """Whether a linked folder leads to what was not read; else counts it."""
  target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
  if os.path.commonpath([target, here]) == target:
    found.passed[_LOOP] += 1
    return False
  if _identity(target) in found.folders:
    found.passed[_AGAIN] += 1
    return False
  return True


def _walk(start: str, root: str, found: Found, links: list[str]) -> None:
  def refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename} can't be searched: {error.strerror}")

  for parent, folders, files in os.walk(start, onerror=refuse):
    found.folders.add(_identity(parent))
    found.passed[HIDDEN] += sum(map(hidden, folders))
    seen = [name for name in folders if not hidden(name)]
    links += [path for name in seen if os.path.islink(path := os.path.join(parent, name))]
    inside = [name for name in seen if not os.path.islink(os.path.join(parent, name))]
    read = [name for name in inside if _identity(os.path.join(parent, name)) in found.folders]
    found.passed[_AGAIN] += len(read)
    folders[:] = [name for name in inside if name not in read]
    here = pathlib.PurePath(os.path.relpath(parent, root)).as_posix()
    before = "" if here == "." else f"{here}/"
    for name in files:
      kind = kind_of(os.path.join(parent, name))
      if kind is None:
        found.files.append(before + name)
      else:
        found.passed[kind] += 1


def _identity(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_dev, status.st_ino


def subfolders(path: pathlib.Path) -> tuple[list[str], Passed]:
  """Returns the folders in a folder, sorted, and what lies beside them."""
  names, passed = [], Passed()
  for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
    if hidden(entry.name):
      passed[HIDDEN] += 1
    elif entry.is_dir():
      names.append(entry.name)
    else:
      passed[kind_of(entry.path) or OUTSIDE] += 1
  return names, passed


def describe(passed: Passed, *, most: int = 8) -> str:
  """Says what was passed over: "12 .heic (…), 3 .txt"; empty for nothing."""
  needs = "pillow-heif, which is not installed" if not images.HEIF else ""
  known = {ending: needs for ending in _HEIF if needs} | (
    {} if _AVIF else {".avif": "a newer Pillow"}
  )
  ranked = sorted(passed.items(), key=lambda item: (item[0] not in known, -item[1], item[0]))
  parts = [
    f"{count:,} {kind}{f' (needs {known[kind]})' if kind in known else ''}"
    for kind, count in ranked[:most]
    if count
  ]
  rest = sum(count for _, count in ranked[most:])
  return ", ".join(parts + ([f"{rest:,} of {len(ranked) - most} other kinds"] if rest else []))


def total(parts: Iterable[Passed]) -> Passed:
  """Adds up what was passed over."""
  return sum(parts, Passed())
