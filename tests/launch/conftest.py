"""Calls the launchers as people do, with stubs in place of the tools that are not here."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"

# Words that a shell, systemd, YAML and Kubernetes all would like to change.
AWKWARD = (
  "--config",
  "my config.py:a b",
  '--config.text=it\'s "so" $HOME $(HOME) $$ `id` \\n #no 100%',
  "--config.empty=",
  "--config.lines=a\nb",
  "--config.words=* ? ~ ; & | < > {x} [y] é ",
)


@pytest.fixture
def awkward():
  return AWKWARD


@pytest.fixture
def command():
  """The words that start a launcher."""
  return lambda name, *argv: [sys.executable, str(LAUNCH / name), *argv]


@pytest.fixture
def launch(command):
  """Runs a launcher to its end."""

  def run(name, *argv, **options):
    return subprocess.run(
      command(name, *argv), capture_output=True, text=True, timeout=30, check=False, **options
    )

  return run


@pytest.fixture
def stub(tmp_path):
  """Makes a tool that notes its arguments (and what it is told on stdin) and says what it should.

  Its notes are a list of [name, argument, …].
  """
  folder, notes = tmp_path / "stubs", tmp_path / "notes.jsonl"
  folder.mkdir()

  class Stubs:
    def __init__(self):
      self.env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def make(self, name, script="", reads_stdin=False):
      stdin = ", sys.stdin.read()" if reads_stdin else ""
      path = folder / name
      path.write_text(
        f"#!{sys.executable} -S\n"
        "import json, os, sys\n"
        f"with open({str(notes)!r}, 'a') as notes:\n"
        f"  notes.write(json.dumps([{name!r}, *sys.argv[1:]{stdin}]) + '\\n')\n"
        f"{script}\n"
      )
      path.chmod(path.stat().st_mode | stat.S_IEXEC)
      return path

    def notes(self):
      return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def forget(self):
      notes.unlink(missing_ok=True)

  return Stubs()


@pytest.fixture
def no_tools(tmp_path):
  """An environment in which no tool is installed."""
  return {**os.environ, "PATH": str(tmp_path)}


@pytest.fixture
def check_shell(tmp_path):
  """Checks a shell script by bash -n and shellcheck."""

  def check(text, *ignored):
    script = tmp_path / "checked.sh"
    script.write_text(text)
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    # SC2016 warns of $ in single quotes, which is where the user's $ must be.
    words = [str(shellcheck), "--shell=bash", f"--exclude={','.join(('SC2016', *ignored))}"]
    out = subprocess.run([*words, str(script)], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout + out.stderr

  return check
