"""Config files and names, and the keys set on the command line: --config, --config.key=value."""

import ast
import contextlib
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

import bce_jax
from bce_jax import terminal
from bce_jax.names import nearest

_CONFIG_FOLDERS = (
  pathlib.Path(bce_jax.__file__).parent / "configs",  # in a wheel
  pathlib.Path(bce_jax.__file__).parent.parent / "configs",  # in a checkout
)

# As in bce_jax.objectives, which takes seconds to import.
LOSSES = ("bce-u", "bce-d", "bce-nu", "bce-nd", "soft-u", "soft-d", "soft-nu", "soft-nd")


def config_path(name: str) -> pathlib.Path:
  """Finds a config: a file, or the name of one that comes with the package.

  Raises:
    ValueError: when there is none, with the nearest name.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  shipped = _shipped()
  if path.stem in shipped and path.name in (path.stem, f"{path.stem}.py"):
    return shipped[path.stem]
  near = nearest(path.stem, shipped)
  raise ValueError(
    f"no config file {name!r}; did you mean {near!r}? bce-train --list shows those that come with"
    " the package"
  )


def listing(columns: int) -> str:
  """Returns the configs that come with the package as text, with the words that each takes.

  Args:
    columns: of a line, at most.
  """
  lines = ["Configs that come with bce_jax: --config NAME, or NAME:WORDS", ""]
  found = _shipped()
  longest = max(map(len, found))
  for name, path in found.items():
    tree = ast.parse(path.read_text(encoding="utf-8"))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0].removesuffix(".")
    lines.append(terminal.shorten(f"{name:<{longest}}  {summary}", columns))
    indent = " " * (longest + 2)
    kinds = "; ".join(" ".join(kind) for kind in _words(tree))
    words = f"{indent}words: {kinds} (by itself {_default(tree)})"
    lines += terminal.wrap(words, columns, indent=indent + " " * len("words: "))
  for line in (
    f"LOSS: one of {', '.join(LOSSES)}.",
    "Of each kind, which ; parts, one word may be given, such as cifar_lt:bce,if10.",
  ):
    lines += ["", *terminal.wrap(line, columns, indent="")]
  return "\n".join(lines)


def _shipped() -> dict[str, pathlib.Path]:
  return {p.stem: p for folder in _CONFIG_FOLDERS for p in sorted(folder.glob("[!_]*.py"))}


def _default(tree: ast.Module) -> str:
  """The words that get_config has where none are given."""
  functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
  return str(ast.literal_eval(functions["get_config"].args.defaults[0]))


def _words(tree: ast.Module) -> list[tuple[str, ...]]:
  """The kinds of words that a config takes, WORDS in its file, which is not run for that."""
  named: dict[str, tuple[str, ...]] = {"LOSSES": ("LOSS",)}
  kinds: list[tuple[str, ...]] = []
  for node in tree.body:
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
      continue
    if node.targets[0].id != "WORDS":
      named[node.targets[0].id] = ast.literal_eval(node.value)
    elif isinstance(node.value, ast.Tuple):
      kinds = [
        named[x.id] if isinstance(x, ast.Name) else ast.literal_eval(x) for x in node.value.elts
      ]
  return kinds


def load_config(reference: str) -> ConfigDict:
  """Loads FILE, FILE:argument, NAME or NAME:argument.

  Raises:
    ValueError: for a missing file, or one that makes no config; one line.
  """
  name, colon, argument = reference.partition(":")
  path = config_path(name)
  spec = importlib.util.spec_from_file_location(f"bce_jax_config_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{path} is not a Python file")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(argument) if colon else module.get_config()
  except Exception as error:  # the file is the user's: whatever it raises is reported in one line
    reason = " ".join(str(error).split())
    raise ValueError(f"config {path}: {type(error).__name__}: {reason}") from error
  if not isinstance(config, ConfigDict):
    raise ValueError(f"config {path}: get_config() must return a ConfigDict, got {config!r}")
  return config


def override(config: ConfigDict, key: str, text: str) -> None:
  """Sets config.key to what `text` says, in the key's own type.

  Raises:
    ValueError: for an unknown key, or text that is not of the key's type.
  """
  from bce_jax import config as config_lib

  if key in _doors():  # brings its own options
    config_lib.set_name(config, key, text)
    return
  config_lib.refuse_unknown_keys([key], config)
  group, _, name = key.rpartition(".")
  target = config[group] if group else config
  kind = target.get_type(name)
  value: Any = text
  if kind is not str:
    words = {"true": "True", "false": "False", "none": "None"}
    with contextlib.suppress(ValueError, SyntaxError):
      value = ast.literal_eval(words.get(text.lower(), text))
  optional = config_lib.flatten(config_lib.like(config))[key] is None
  fits = (
    kind is type(None)  # an option from outside that is none, and may be anything
    or (value is None and optional)
    or (kind is float and isinstance(value, int | float) and not isinstance(value, bool))
    or (kind is int and isinstance(value, int) and not isinstance(value, bool))
    or (kind in (bool, str) and isinstance(value, kind))
    or (kind in (list, tuple) and isinstance(value, list | tuple))  # an option from outside
  )
  if not fits:
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    wanted = names.get(kind, "values with commas between them") + (" or none" if optional else "")
    raise ValueError(f"--config.{key}={text}: expected {wanted}")
  target[name] = kind(value) if kind in (float, list, tuple) and value is not None else value


def apply_overrides(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
  """Sets keys in their order, but first those that take a name, which bring keys of their own.

  Raises:
    ValueError: as `override`.
  """
  from bce_jax import config as config_lib

  names = _doors()
  for key, text in sorted(overrides, key=lambda pair: pair[0] not in names):
    if key not in names:
      config_lib.complete(config)
    override(config, key, text)


def _doors() -> tuple[str, ...]:
  """The keys that take a name, which brings options of its own."""
  from bce_jax import config as config_lib

  return tuple(door.key for door in config_lib.DOORS)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Splits a command line into (all other arguments, [(key, value) of each --config.key])."""
  rest, overrides, words = [], [], iter(argv)
  for word in words:
    key = word.lstrip("-")
    if not (word.startswith("-") and key.startswith("config.")):
      rest.append(word)
      continue
    key, equals, value = key.removeprefix("config.").partition("=")
    if not equals:
      value = next(words, "--")
      if value.startswith("--"):
        raise ValueError(f"--config.{key} needs a value")
    overrides.append((key, value))
  return rest, overrides
