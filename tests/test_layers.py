"""Imports run downwards only, and one loss in other JAX code does not pull a training stack in."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "bce_jax"

TEXT = {"names", "keys", "terminal"}
FORMULAS = {"checks", "explicit", "norms", "losses", "metrics"}
METHODS = TEXT | FORMULAS | {"atomic", "interrupts", "results", "models", "data", "objectives"}
# Each layer and what it may import of this package.
BELOW = {
  "names": set(),
  "keys": {"names"},
  "terminal": set(),
  "checks": set(),
  "atomic": set(),
  "interrupts": set(),
  "explicit": set(),
  "sharding": set(),
  "extensions": {"names"},
  "results": {"names", "terminal"},
  "norms": {"checks", "explicit"},
  "losses": {"checks", "explicit", "norms"},
  "metrics": {"checks", "explicit", "norms"},
  "models": {"names", "extensions", "checks", "losses", "metrics"},
  "data": {"names", "extensions", "checks"},
  "objectives": {"names", "extensions", "checks", "results", "losses", "metrics", "models", "data"},
  "optim": {"extensions"},
  "config": METHODS | {"extensions", "optim"},
  "runs": METHODS | {"extensions", "config"},
  "evaluation": METHODS | {"extensions", "config", "runs", "sharding"},
  "report": METHODS | {"extensions", "config", "runs"},
  "training": METHODS | {"extensions", "config", "optim", "runs", "sharding", "evaluation"},
  "cli": METHODS | {"extensions", "config", "runs", "evaluation", "report", "training"},
}


def imported_modules(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: a relative import"
      yield node.module
      if node.module == "bce_jax":
        yield from (f"bce_jax.{alias.name}" for alias in node.names)


def layer_files():
  for path in sorted(PACKAGE.rglob("*.py")):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer != "__init__":
      yield layer, path


@pytest.mark.parametrize(
  ("layer", "path"), [pytest.param(*x, id=str(x[1].name)) for x in layer_files()]
)
def test_imports_run_downwards(layer, path):
  for name in imported_modules(path):
    if name.startswith("bce_jax."):
      target = name.split(".")[1]
      assert target == layer or target in BELOW[layer], f"{path} imports {name}"


@pytest.mark.parametrize("layer", ["losses", "metrics", "checks", "explicit", "norms"])
def test_formulas_need_jax_numpy_and_jaxtyping_only(layer):
  allowed = {"jax", "numpy", "jaxtyping", "bce_jax"} | set(sys.stdlib_module_names)
  for owner, path in layer_files():
    if owner == layer:
      for name in imported_modules(path):
        assert name.split(".")[0] in allowed, f"{path} imports {name}"


def test_importing_the_package_is_light():
  heavy = ("tensorflow", "flax", "orbax", "clu", "matplotlib", "optax", "grain", "sklearn", "torch")
  script = (
    "import sys, bce_jax; bce_jax.losses, bce_jax.metrics;"
    f" print([m for m in {heavy} if m in sys.modules])"
  )
  out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


def test_formulas_are_private_modules_behind_a_public_face():
  for package in ("losses", "metrics"):
    files = {path.name for layer, path in layer_files() if layer == package}
    assert all(name.startswith("_") for name in files)
  for layer, path in layer_files():
    for name in imported_modules(path):
      private = name.startswith("bce_jax.") and any(x.startswith("_") for x in name.split("."))
      assert not private or name.split(".")[1] == layer, f"{path} imports the private {name}"


def test_no_function_hides_a_module_of_its_name():
  for path in PACKAGE.rglob("__init__.py"):
    modules = {file.stem for file in path.parent.glob("*.py")}
    modules |= {file.parent.name for file in path.parent.glob("*/__init__.py")}
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.ImportFrom):
        of_package = node.module == ".".join(path.relative_to(PACKAGE.parent).parent.parts)
        names = set() if of_package else {a.asname or a.name for a in node.names}
      elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        names = {node.name}
      else:
        continue
      assert not names & modules, f"{path}: {names & modules}"


def test_there_is_no_grab_bag():
  names = {path.stem for _, path in layer_files()}
  assert not names & {"utils", "util", "helpers", "misc", "common"}
