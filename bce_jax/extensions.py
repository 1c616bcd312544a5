"""Code from outside this package that a config names: "package.module" or "package.module:object".

It is found where Python finds modules, and in the current directory, which is put on `sys.path`
for it (and stays there if the code is found in it: worker processes need it too). A module has the
few names that ours have, of which it needs the last only:

  OPTIONS   {key: default}, a group of the config: see `OPTIONS` of the doors in the documentation
  MEANINGS  {key: a line for people}
  RANGES    {key: (low, whether low itself is allowed, high)} of the numbers among them
  check     check(config), which raises ValueError for what can't be used
  create    what it is created by; its arguments are those of the door

An object of a module, a function or a class, stands for `create` alone; its keyword arguments that
have defaults, but for those that the door gives, are its options.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from bce_jax.names import nearest

Range = tuple[float, bool, float]


class Plugin(NamedTuple):
  """The `OPTIONS`, `RANGES`, `check` and `create` of a module, ours or not, with defaults.

  Attributes:
    name: as in a config.
    OPTIONS: its keys and their defaults.
    MEANINGS: lines on them, for people.
    RANGES: of the numbers among them.
    check: refuses a config.
    create: makes what it is for.
    outside: whether it is none of this package.
    is_module: whether the name is a module's; else `create` is the object that it names.
  """

  name: str
  OPTIONS: Mapping[str, Any]
  MEANINGS: Mapping[str, str]
  RANGES: Mapping[str, Range]
  check: Callable[[Any], None]
  create: Callable[..., Any]
  outside: bool = False
  is_module: bool = True


def _allowed(config: Any) -> None:
  del config


def own(name: str, create: Callable[..., Any], module: ModuleType | None = None) -> Plugin:
  """Returns a `Plugin` of this package, by its function or by its module.

  Args:
    name: as in a config.
    create: makes what it is for.
    module: with the other names; None: it has no options.
  """
  return Plugin(
    name,
    getattr(module, "OPTIONS", {}),
    getattr(module, "MEANINGS", {}),
    getattr(module, "RANGES", {}),
    getattr(module, "check", _allowed),
    create,
  )


def is_outside(name: object) -> bool:
  """Whether a name that is none of ours can be that of a module, or of an object in one.

  A name without a dot and a colon is one if there is a file, or a package, of that name.

  >>> is_outside("mine.nets:Small"), is_outside("resnet21")
  (True, False)
  """
  if not isinstance(name, str) or not name:
    return False
  if ":" in name or "." in name:
    return True
  if not name.isidentifier():
    return False
  with _current_folder():
    try:
      spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
      return False
  return spec is not None and spec.origin is not None


def find(
  key: str,
  name: str,
  names: Sequence[str],
  own: Callable[[str], Plugin],
  *,
  positional: int = 0,
  given: Collection[str] = (),
) -> Plugin:
  """Returns the plugin that a name in a config stands for, ours or from outside.

  Args:
    key: of the config, for messages.
    name: its value.
    names: ours.
    own: returns the one of a name of ours.
    positional: how many arguments `create` gets by position: no options.
    given: keyword arguments that it gets of the door, if it takes them: neither.

  Raises:
    ValueError: one line: an unknown name, with the nearest; a missing module or object; a module
      that can't be imported.
  """
  if name in names:
    return own(name)
  if not is_outside(name):
    raise ValueError(
      f"unknown config.{key} {name!r}; did you mean {nearest(name, names)!r}?"
      f" expected one of {', '.join(names)}"
    )
  return _plugin(key, name, positional, tuple(given))


def _plugin(key: str, name: str, positional: int, given: Sequence[str]) -> Plugin:
  said = f"config.{key} {name!r}"
  module, target = load(said, name)
  if target is module or (target is getattr(module, "create", None) and hasattr(module, "OPTIONS")):
    if not callable(getattr(module, "create", None)):
      functions = [k for k, v in vars(module).items() if callable(v) and k[:1] != "_"]
      near = f"; did you mean {name}:{nearest('create', functions)}?" if functions else ""
      raise ValueError(f"{said}: the module {module.__name__} has no function 'create'{near}")
    source: Any = module
    create = module.create
    options = getattr(module, "OPTIONS", None)
    if options is None:
      options = _options_of(create, positional, given)
  else:
    if not callable(target):
      raise ValueError(f"{said} is {target!r}: expected a function, a class or a module")
    source, create, options = None, target, _options_of(target, positional, given)
  ranges, meanings = getattr(source, "RANGES", {}), getattr(source, "MEANINGS", {})
  _check_options(said, options)
  _check_of_options(said, options, ranges, meanings)
  check = getattr(source, "check", _allowed)
  if not callable(check):
    raise ValueError(f"{said}: its 'check' is {check!r}: expected a function of a config")
  return Plugin(
    name,
    dict(options),
    meanings,
    ranges,
    functools.partial(calling, said, check),
    create,
    outside=True,
    is_module=source is not None,
  )


def _check_options(said: str, options: Any) -> None:
  """Refuses options that a config can't hold."""
  if not isinstance(options, Mapping) or not all(isinstance(k, str) for k in options):
    raise ValueError(f"{said}: OPTIONS is {options!r}: expected a dict of keys and defaults")
  for key, value in options.items():
    if not key.isidentifier() or hasattr(ConfigDict, key):
      raise ValueError(f"{said}: OPTIONS has the key {key!r}: expected another name")
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(x is None or isinstance(x, bool | int | float | str) for x in parts):
      raise ValueError(
        f"{said}: OPTIONS has {key!r} as {value!r:.60}: expected a bool, a number, text, none or a"
        " tuple of such"
      )


def _check_of_options(said: str, options: Mapping[str, Any], ranges: Any, meanings: Any) -> None:
  """Refuses ranges and meanings that are none."""
  for what, values in (("RANGES", ranges), ("MEANINGS", meanings)):
    if not isinstance(values, Mapping):
      raise ValueError(f"{said}: {what} is {values!r:.60}: expected a dict by the keys of OPTIONS")
  unknown = next((k for k in (*ranges, *meanings) if k not in options), None)
  if unknown is not None:
    near = f"; did you mean {nearest(unknown, options)!r}?" if options else ""
    raise ValueError(f"{said}: RANGES or MEANINGS has {unknown!r}, which OPTIONS lacks{near}")
  for key, bounds in ranges.items():
    three = isinstance(bounds, list | tuple) and len(bounds) == 3
    if not three or not all(isinstance(x, int | float) for x in bounds):
      raise ValueError(
        f"{said}: RANGES has {bounds!r:.60} for {key!r}: expected (low, whether low is allowed,"
        " high)"
      )
    if not (options[key] is None or isinstance(options[key], int | float)):
      raise ValueError(
        f"{said}: RANGES has {key!r}, whose default is {options[key]!r:.60}: no number"
      )
  for key, meaning in meanings.items():
    if not isinstance(meaning, str):
      raise ValueError(f"{said}: MEANINGS has {meaning!r:.60} for {key!r}: expected text")


def load(said: str, name: str) -> tuple[ModuleType, Any]:
  """Imports the module of a name.

  Args:
    said: what the name is of, for messages.
    name: "package.module" or "package.module:object".

  Returns:
    (the module, what the name stands for: it, or the object).

  Raises:
    ValueError: one line: for a missing module or object; for a module that can't be imported.
  """
  place, colon, path = name.partition(":")
  if not all(part.isidentifier() for part in place.split(".")) or (
    colon and not all(part.isidentifier() for part in path.split("."))
  ):
    raise ValueError(f"{said}: expected package.module or package.module:object")
  module = _import(said, place)
  target: Any = module
  for part in path.split(".") if colon else ():
    if not hasattr(target, part):
      held = [x for x in getattr(target, "__dict__", ()) if not x.startswith("_")]
      near = f"; did you mean {nearest(part, held)!r}?" if held else ""
      raise ValueError(f"{said}: {place} has no {path!r}{near}")
    target = getattr(target, part)
  return module, target


def load_function(said: str, name: str, usual: str) -> tuple[ModuleType, Callable[..., Any]]:
  """Imports the function or class that a name stands for; of a module its own one.

  Args:
    said: as for `load`.
    name: likewise.
    usual: what the function of a module is called.

  Returns:
    (the module; the function).

  Raises:
    ValueError: as `load`, and for what can't be called.
  """
  module, target = load(said, name)
  if target is module:
    target = getattr(module, usual, None)
    if target is None:
      raise ValueError(f"{said}: the module {module.__name__} has no function {usual!r}")
  if not callable(target):
    raise ValueError(f"{said} is {target!r}: expected a function or a module")
  return module, target


def _import(said: str, place: str) -> ModuleType:
  with _current_folder():
    importlib.invalidate_caches()
    try:
      return importlib.import_module(place)
    except ModuleNotFoundError as error:
      lacking = error.name or ""
      if place == lacking or place.startswith(f"{lacking}."):
        raise ValueError(
          f"{said}: there is no module {lacking!r}, neither in {os.getcwd()} nor installed"
          f"{_neighbor(lacking)}"
        ) from None
      raise ValueError(f"{said}: importing {place} failed: {_in_one_line(error)}") from error
    except (Exception, SystemExit) as error:  # whatever it raises is reported in one line
      raise ValueError(f"{said}: importing {place} failed: {_in_one_line(error)}") from error


def _neighbor(lacking: str) -> str:
  """Which module of the same package may be meant by one that there is not."""
  package, _, last = lacking.rpartition(".")
  folders = getattr(sys.modules.get(package), "__path__", ())
  held = [module.name for module in pkgutil.iter_modules(folders)]
  return f"; did you mean '{package}.{nearest(last, held)}'?" if held else ""


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
  """Context manager: modules are looked for in the current directory first, or where it was."""
  here = os.getcwd()
  if here in sys.path or "" in sys.path:
    yield
    return
  before = set(sys.modules)
  sys.path.insert(0, here)
  try:
    yield
  finally:
    found = (getattr(sys.modules[x], "__file__", None) for x in set(sys.modules) - before)
    if not any(file and file.startswith(os.path.join(here, "")) for file in found):
      with contextlib.suppress(ValueError):
        sys.path.remove(here)


def calling(said: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
  """Calls a function from outside; an error of it is reported in one line.

  Args:
    said: what it is, for people.
    function: called with the rest.

  Raises:
    ValueError: its own, where that names a key of the config; else, and for any other error, one
      line that says what it is and where it is from.
  """
  try:
    return function(*args, **options)
  except (Exception, SystemExit) as error:
    if isinstance(error, ValueError) and (type(error) is not ValueError or _names(error, said)):
      raise
    raise ValueError(f"{said}: {_in_one_line(error)}") from error


def _names(error: ValueError, said: str) -> bool:
  """Whether an error says itself what is wrong of what."""
  return "config." in str(error) or str(error).startswith(said)


def _in_one_line(error: BaseException) -> str:
  """An error in one line: its type, what it says, and where it is from."""
  words = " ".join(str(error).split())
  if isinstance(error, SyntaxError):
    return f"{type(error).__name__}: {words}"
  ours = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
  frames = traceback.extract_tb(error.__traceback__)
  theirs = [
    f for f in frames
    if not f.filename.startswith((ours, "<")) and "site-packages" not in f.filename
    and f.filename != os.__file__ and "importlib" not in f.filename
  ]  # fmt: skip
  where = f" ({os.path.basename(theirs[-1].filename)}, line {theirs[-1].lineno})" if theirs else ""
  kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
  return f"{kind}{words}{where}"


def make(
  key: str, plugin: Plugin, *args: Any, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
  """Calls the `create` of a plugin with the arguments that it takes.

  Args:
    key: of the config, for messages.
    plugin: as `find` returned it.
    args: by position.
    given: keyword arguments of the door, of which it may take some.
    options: its own, as the config has them; it may read them there instead.
  """
  keywords = {**given, **options}
  taken = accepted(plugin.create, keywords)
  keywords = {name: value for name, value in keywords.items() if name in taken}
  if not plugin.outside:  # whose errors name what is wrong themselves
    return plugin.create(*args, **keywords)
  return calling(f"config.{key} {plugin.name!r}", plugin.create, *args, **keywords)


def accepted(function: Callable[..., Any], names: Collection[str]) -> set[str]:
  """Returns which of some keyword arguments a function takes; all where it takes any."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except (ValueError, TypeError):  # of one in C, nobody knows
    return set(names)
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return set(names)
  by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return {p.name for p in parameters if p.kind in by_keyword} & set(names)


def _options_of(
  function: Callable[..., Any], positional: int, given: Sequence[str]
) -> dict[str, Any]:
  """Keyword arguments with a default that a config can hold: a bool, a number, text or None."""
  try:
    parameters = list(inspect.signature(function).parameters.values())[positional:]
  except (ValueError, TypeError):
    return {}
  kinds = (bool, int, float, str)
  return {
    p.name: p.default
    for p in parameters
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    and p.name not in (*given, "parent", "name")  # those of every flax module
    and (p.default is None or isinstance(p.default, kinds))
  }


def describe(name: str) -> dict[str, Any]:
  """Returns what a run records of a module from outside: where it is from, version or digest.

  Args:
    name: as in a config; it has been imported.

  Returns:
    {"name", "module", "file", "sha256"}, and of an installed distribution its name and "version".
  """
  place = name.partition(":")[0]
  file = getattr(sys.modules[place], "__file__", None)
  out: dict[str, Any] = {"name": name, "module": place}
  if file is not None:
    with open(file, "rb") as opened:
      digest = hashlib.file_digest(opened, "sha256").hexdigest()
    out |= {"file": os.path.abspath(file), "sha256": digest}
  owners = importlib.metadata.packages_distributions().get(place.partition(".")[0])
  if owners:
    out |= {"distribution": owners[0], "version": importlib.metadata.version(owners[0])}
  return out


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Says how a module from outside differs from the one that a run has used; empty if it does not.

  Args:
    before: as `describe` returned it then.
    now: as it returns it now.
  """
  place = now.get("module")
  if before.get("version") != now.get("version"):
    versions = [x.get("version", "of no version") for x in (before, now)]
    return f"{place} was {versions[0]} and is {versions[1]}"
  if before.get("sha256") != now.get("sha256"):
    was, is_now = (str(x.get("sha256"))[:12] for x in (before, now))
    return f"the file of {place} has changed: its sha256 was {was}… and is {is_now}…"
  return ""
