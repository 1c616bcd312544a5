"""Prints the lower bounds of pyproject.toml as constraints for pip: the oldest supported."""

import pathlib
import re
import tomllib

PROJECT = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())
for requirement in PROJECT["project"]["dependencies"]:
  name, bound, version = re.fullmatch(r"([\w.-]+)(?:(>=)([\w.]+))?", requirement).groups()
  if bound:
    print(f"{name}=={version}")
