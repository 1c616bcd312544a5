"""The images that a run is trained and evaluated on, file by file, to know whether they change.

Of each file its path below the data folder, its label and its size are kept, and of some 1,000 a
checksum of their beginning, so that files which changed places are noticed where all have one size.
Nothing else is read. The list, a line a file, lies packed beside dataset.json, which holds digests
of it: where those agree nobody opens it.
"""

import concurrent.futures
import gzip
import hashlib
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bce_jax import atomic
from bce_jax.data.pairs import PairList
from bce_jax.data.sources import ArraySource, Dataset, Source
from bce_jax.runs import files

_SAMPLE = 1000  # files that are read, about; all where there are no more
_BEGINNING = 2**16  # bytes of each
_CHUNK = 4096
_MOVED, _CLASS, _NEW = "was in the split", "was of class", "is new"
_THREADS = 16  # which wait for a file system, perhaps one behind a network


class DataFiles(NamedTuple):
  """The image files of a run, with sizes and checksums.

  Attributes:
    digests: of each split, {"count": images, "digest": of its lines}, as in dataset.json.
    lines: (split, label, size, checksum, path) of every image, tabs between them.
  """

  digests: dict[str, dict[str, Any]]
  lines: list[bytes]


def describe(dataset: Dataset, config: ConfigDict) -> DataFiles:
  """Lists every file of a set with size and label, without reading it.

  Args:
    dataset: its splits, whichever it has.
    config: says which folders the paths are in.

  Raises:
    ValueError: for a file that is gone, by name.
  """
  splits = {k: v for k, v in dataset._asdict().items() if isinstance(v, Source)}
  count = sum(len(source) for source in splits.values())
  every = 1 << max(0, (count // _SAMPLE).bit_length())
  digests: dict[str, dict[str, Any]] = {}
  lines: list[bytes] = []
  for name, source in splits.items():
    listed = name == "unseen" and dataset.listed is not None
    folder = config.verification.folder if listed else config.data.folder
    of_split = list(_lines(name, source, folder, every))
    digests[name] = {"count": len(of_split), "digest": _digest(of_split)}
    lines += of_split
  if dataset.listed is not None:
    digests["pairs"] = _digest_of_pairs(dataset.listed)
  return DataFiles(digests, lines)


def write(workdir: pathlib.Path, data: DataFiles) -> None:
  """Writes the list of a run folder, atomically."""
  with (
    atomic.opened(workdir / files.DATASET_FILES, "wb") as file,
    gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
  ):
    for start in range(0, len(data.lines), _CHUNK):
      packed.write(b"".join(line + b"\n" for line in data.lines[start : start + _CHUNK]))


def difference(
  workdir: pathlib.Path,
  before: Mapping[str, Any],
  now: DataFiles,
  class_names: tuple[Sequence[str], Sequence[str]],
  *,
  damaged: int = 0,
) -> str:
  """Returns how the files of a run folder differ from those there are now; empty where equal.

  Args:
    workdir: the run folder.
    before: the digests in its dataset.json.
    now: what there is.
    class_names: of the labels then and now.
    damaged: how many files may be others, or missing: as many as the run may pass over.

  Returns:
    The first file that differs, in the order of the run, how, and how many there are.
  """
  changed = [
    name for name in sorted(before.keys() | now.digests.keys())
    if before.get(name) != now.digests.get(name)
  ]  # fmt: skip
  if not changed:
    return ""
  if changed == ["pairs"]:
    counts = [x["pairs"]["count"] if "pairs" in x else 0 for x in (before, now.digests)]
    return f"the list of pairs differs: it held {counts[0]:,} and holds {counts[1]:,}"
  try:
    then = gzip.decompress((workdir / files.DATASET_FILES).read_bytes()).split(b"\n")[:-1]
  except (OSError, EOFError, zlib.error):
    where = files.DATASET_FILES
    return f"the files of {', '.join(changed)} differ ({where}, which names them, can't be read)"
  gone, new = _by_path(then, now.lines), _by_path(now.lines, then)
  paths = [*gone, *(path for path in new if path not in gone)]
  difference = {path: _difference(gone.get(path), new.get(path), class_names) for path in paths}
  differing = [path for path in paths if difference[path]]
  if 0 < len(differing) <= damaged and not any(
    difference[p].startswith((_NEW, _CLASS)) for p in differing
  ):
    return ""
  if differing:
    # One that changed its split only may have done so because another one came or went.
    first = next((p for p in differing if not difference[p].startswith(_MOVED)), differing[0])
    more = f" ({len(differing):,} files differ)" if len(differing) > 1 else ""
    return f"{_shown(first)} {difference[first]}{more}"
  return f"the order of the files of {', '.join(changed)} differs"


def _lines(name: str, source: Source, folder: str, every: int) -> Iterator[bytes]:
  """Of each image: split, label, size, checksum, path."""
  paths: Sequence[str] | None = getattr(source, "paths", None)
  if paths is None:
    yield from _lines_of_arrays(name, source)
    return
  prefix = os.path.join(folder, "")

  def below(path: str) -> str:
    return path[len(prefix) :] if path.startswith(prefix) else path

  def look(start: int) -> list[bytes]:
    out = []
    for k in range(start, min(start + _CHUNK, len(paths))):
      place = os.fsencode(below(paths[k])).replace(b"\\", b"\\\\")
      place = place.replace(b"\n", b"\\n").replace(b"\t", b"\\t")
      try:
        size = os.stat(paths[k]).st_size
        chosen = zlib.crc32(place) % every == 0
        check = f"{_checksum(paths[k]):08x}" if chosen else "-"
      except OSError as error:
        raise ValueError(f"{paths[k]} can't be read: {error.strerror}") from None
      out.append(f"{name}\t{source.labels[k]}\t{size}\t{check}\t".encode() + place)
    return out

  starts = range(0, len(paths), _CHUNK)
  if len(starts) == 1:
    yield from look(0)
    return
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for lines in pool.map(look, starts):
      yield from lines


def _lines_of_arrays(name: str, source: Source) -> Iterator[bytes]:
  """Of images that lie in no files: by their numbers, and what is in them if they are in memory."""
  held = isinstance(source, ArraySource)
  for start in range(0, len(source), _CHUNK):
    rows = np.arange(start, min(start + _CHUNK, len(source)))
    images = source.images(rows) if held else [None] * len(rows)
    for k, image in zip(rows, images, strict=True):
      check = "-" if image is None else f"{zlib.crc32(image.tobytes()):08x}"
      size = 0 if image is None else image.nbytes
      yield f"{name}\t{source.labels[k]}\t{size}\t{check}\timage {k} of {name}".encode()


def _checksum(path: str) -> int:
  with open(path, "rb") as file:
    return zlib.crc32(file.read(_BEGINNING))


def _digest(lines: Sequence[bytes]) -> str:
  digest = hashlib.sha256()
  for line in lines:
    digest.update(line + b"\n")
  return digest.hexdigest()


def _digest_of_pairs(listed: PairList) -> dict[str, Any]:
  digest = hashlib.sha256("\n".join(listed.paths).encode(errors="surrogateescape"))
  for array in (listed.pairs, listed.same, listed.folds):
    digest.update(np.ascontiguousarray(array).tobytes())
  return {"count": len(listed.same), "digest": digest.hexdigest()}


def _by_path(lines: Sequence[bytes], others: Sequence[bytes]) -> dict[bytes, list[bytes]]:
  """The lines that are none of the others, by their paths."""
  known = set(others)
  parts = (line.split(b"\t") for line in lines if line not in known)
  return {part[4]: part for part in parts if len(part) == 5}


def _difference(
  before: Sequence[bytes] | None,
  now: Sequence[bytes] | None,
  class_names: tuple[Sequence[str], Sequence[str]],
) -> str:
  """How a file differs; nothing where only one of the two was read."""
  if before is None or now is None:
    return _NEW if before is None else "is missing"
  was, is_now = (_label(x, names) for x, names in zip((before, now), class_names, strict=True))
  if was != is_now:
    return f"{_CLASS} {was} and is of class {is_now}"
  if before[2] != now[2]:
    return f"had {int(before[2]):,} bytes and has {int(now[2]):,}"
  if before[3] != now[3] and b"-" not in (before[3], now[3]):
    return "has other contents"
  if before[0] != now[0]:
    return f"{_MOVED} {before[0].decode()} and is in {now[0].decode()}"
  return ""


def _label(line: Sequence[bytes], class_names: Sequence[str]) -> str:
  """A class by its name; by its number among those that are not trained on."""
  label = int(line[1])
  known = line[0] != b"unseen" and label < len(class_names)
  return repr(class_names[label]) if known else str(label)


def _shown(path: bytes) -> str:
  return os.fsdecode(path).encode(errors="replace").decode()
