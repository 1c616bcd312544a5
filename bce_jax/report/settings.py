"""The settings of compared runs: the keys in which their configs differ, or the runs' names."""

import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bce_jax.config import may_change
from bce_jax.report.comparison import RUN, SEED, Run, grouped

_LONG = 48  # letters that a setting may take in a legend

# Where data lie is no setting; other data in another folder are found by `_folders`.
_FOLDER = "data.folder"
# What changes no result: how fast data are read, whether a page is made.
NEUTRAL = (_FOLDER, *may_change(on="comparison"))


def with_settings(runs: Sequence[Run]) -> list[Run]:
  """Returns the runs with the keys in which they differ as their settings.

  They are put in order: by numbers from the least, by words as they first appear. Where the keys
  are too many for a legend, the runs' names stand for them, in the order given.

  Args:
    runs: with their configs.
  """
  configs = [
    {key: value for key, value in run.config.items() if key not in NEUTRAL} | folder
    for run, folder in zip(runs, _folders(runs), strict=True)
  ]
  keys = dict.fromkeys(key for config in configs for key in config)
  differing = [key for key in keys if len({frozen(c.get(key)) for c in configs}) > 1]
  seen = {key: list(dict.fromkeys(frozen(c.get(key)) for c in configs)) for key in keys}

  ordering = sorted(differing, key=lambda key: key == SEED)  # by the seed last

  def place(config: Mapping[str, Any]) -> list[float]:
    values = [config.get(key) for key in ordering]
    numeric = [isinstance(x, int | float) and not isinstance(x, bool) for x in values]
    return [
      float(str(x)) if number else seen[key].index(frozen(x))
      for key, x, number in zip(ordering, values, numeric, strict=True)
    ]

  named = [
    run._replace(settings={key: config[key] for key in differing if key in config})
    for run, config in zip(runs, configs, strict=True)
  ]
  if any(len(group.label) > _LONG for group in grouped(named)):
    return _named(named)
  return [named[k] for k in sorted(range(len(runs)), key=lambda k: place(configs[k]))]


def _named(runs: Sequence[Run]) -> list[Run]:
  """The runs with names for settings; of several seeds with what their names have in common."""
  groups = grouped(runs)
  names = [_common([run.name for run in group.runs]) for group in groups]
  if "" in names or len(set(names)) < len(names):
    names = [group.runs[0].name for group in groups]
  return [
    run._replace(settings={RUN: name} | {key: x for key, x in run.settings.items() if key == SEED})
    for name, group in zip(names, groups, strict=True)
    for run in group.runs
  ]


def _common(names: Sequence[str]) -> str:
  """How all of several names begin, without the word "seed" at its end."""
  if len(names) == 1:
    return names[0]
  alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
  return re.sub(r"[-_=./ ]*(seed)?[-_=./ ]*$", "", "".join(letters[0] for letters in alike))


def _folders(runs: Sequence[Run]) -> list[dict[str, str]]:
  """The data.folder of each run, as short as possible; nothing where all are the same.

  One set of images may lie in several places, and a place may come to hold other images: what is in
  dataset.json decides.
  """
  # Runs of one place first, then the places: a run that others can't be compared with, say because
  # its images are of another size, goes with those of its folder.
  units: list[list[Run]] = []
  for run in runs:
    near = (u for u in units if u[0].config.get(_FOLDER) == run.config.get(_FOLDER))
    unit = next((u for u in near if not any(_other_data(run, x) for x in u)), None)
    units.append([run]) if unit is None else unit.append(run)
  sets: list[list[Run]] = []
  for unit in units:
    same = (s for s in sets if not any(_other_data(x, y) for x in unit for y in s))
    found = next(same, None)
    sets.append(list(unit)) if found is None else found.extend(unit)
  if len(sets) < 2:
    return [{} for _ in runs]
  paths = [str(s[0].config.get(_FOLDER) or "no folder") for s in sets]
  parts = [pathlib.PurePath(path).parts for path in paths]
  longest = max(map(len, parts))
  tails = (["/".join(p[-depth:]) for p in parts] for depth in range(1, longest))
  names = next((t for t in tails if len(set(t)) == len(set(paths))), paths)
  earlier = [names[:k].count(name) for k, name in enumerate(names)]
  names = [f"{name} ({k + 1})" if k else name for name, k in zip(names, earlier, strict=True)]
  which = {id(run): name for members, name in zip(sets, names, strict=True) for run in members}
  return [{_FOLDER: which[id(run)]} for run in runs]


def _other_data(one: Run, two: Run) -> bool:
  """Whether two runs are known to be of different data.

  Counts and statistics count only where what is made of the data is the same in both configs.
  """
  if not one.dataset or not two.dataset:
    return False
  if one.dataset.get("class_names") != two.dataset.get("class_names"):
    return True
  made = [
    {
      key: value
      for key, value in run.config.items()
      if key not in NEUTRAL
      and (key.startswith("data.") or key in ("objective.name", "verification.identities"))
    }
    for run in (one, two)
  ]
  compared = ("train_counts", "mean", "std")
  return made[0] == made[1] and any(one.dataset.get(k) != two.dataset.get(k) for k in compared)


def frozen(value: Any) -> str:
  """A value of a config as text, the same for equal ones."""
  return json.dumps(value, sort_keys=True, default=str)
