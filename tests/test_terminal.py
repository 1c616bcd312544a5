"""Tables and lines fit terminals of any width, and nothing is lost of them."""

import io
import os
import pty
import struct

import pytest

from bce_jax import terminal
from bce_jax.evaluation import summary, verification
from bce_jax.report import comparison

# All that a table of results can hold, with the longest numbers there are.
RESULTS = {
  "images": 1234567,
  "bias": -1234.567,
  "bias_min": -2345.678,
  "bias_max": 12345.67,
  "threshold": 123.4567,
  "threshold_low": -123.4567,
  "threshold_high": 1234.567,
  "threshold_on_decision": 1.2,
  "nc1": 0.123456,
  "nc2": 0.123456,
  "nc3": 0.00123456,
  **dict.fromkeys(
    ["sample_wise_accuracy", "class_wise_accuracy", "uniform_accuracy", "raw_uniform_accuracy"]
    + [f"{name}_accuracy" for name in ("many", "medium", "few")]
    + [f"uniform_accuracy_at_{name}" for name in ("bias", "threshold", "validation_threshold")]
    + [f"{kind}_above_{x}" for kind in ("none", "several_or_wrong") for x in ("bias", "threshold")]
    + [f"{kind}_{x}_accuracy" for kind in ("flip", "adjusted") for x in ("sample_wise", "uniform")],
    0.98765,
  ),
  **dict.fromkeys(["compactness", "separability", "classifier_separability"], 107.1875),
  **dict.fromkeys(["compactness_std", "separability_std", "classifier_separability_std"], 10.2345),
}


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_table_of_figures_fits(monkeypatch, columns):
  title = "/a/very/long/path/of/some/run/folder, latest checkpoint, step 123456, test"
  monkeypatch.setattr(terminal, "columns", lambda stream: 300)
  whole = summary.table(title, RESULTS)
  monkeypatch.setattr(terminal, "columns", lambda stream: columns)
  text = summary.table(title, RESULTS)
  assert max(map(terminal.width, text.splitlines())) <= columns
  assert sorted(text.replace("─", "").split()) == sorted(whole.replace("─", "").split())
  value = f"{RESULTS['bias']:.6g}  ("
  [line] = [line for line in text.splitlines() if line.startswith("b  ")]
  assert value in line  # beside its name's first line


def test_a_table_of_a_verification_fits(make_run, monkeypatch):
  run = make_run(pairs=True)
  values = run.results | {"verification_images": 12345, "verification_accuracy_at_threshold": 0.5}
  for columns in (60, 80):
    monkeypatch.setattr(terminal, "columns", lambda stream: columns)  # noqa: B023
    assert max(map(len, verification.table(values).splitlines())) <= columns


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_comparison_is_broken_into_parts(make_run, columns):
  names = ["bce3s-released-with-a-long-name-1", "bce3s-released-with-a-long-name-2"]
  runs = [
    make_run(seed=seed, pairs=True)._replace(
      settings={"config": name, "objective.contrast_weight": 0.1, "seed": seed}
    )
    for name in names
    for seed in (0, 1)
  ]
  headings, *rows = comparison.cells(runs)
  lines = comparison.fitted(runs, columns).splitlines()
  assert max(map(len, lines)) <= columns
  text = "\n".join(lines)
  table, note = text.split("\n\n± is the standard deviation")
  assert "than twice the combined" in " ".join(note.split())
  text = table
  assert all(text.count(cell) >= 1 for row in rows for cell in row[2:])
  assert all(heading in text for heading in headings[2:])
  parts = text.split("\n\n")
  assert len(parts) == (1 if columns == 200 else len(parts))
  for part in parts:  # each row is named in each part, and two are told apart
    assert "contrast" in part
    starts = [line.split("  ")[0] for line in part.splitlines()[2:]]
    assert len(set(starts)) == len(rows)


def test_names_of_any_letters_are_shortened_by_what_they_take():
  assert terminal.shorten("数字数字", 5) == "数字…"
  assert terminal.width(terminal.shorten("é" * 30, 10)) == 10
  assert terminal.shorten("a\nb\x1b[31m", 20) == "a b [31m"  # nothing that moves the cursor


def test_the_width_of_terminals_and_of_what_is_none(tmp_path):
  assert terminal.columns(None) is None
  assert terminal.columns(io.StringIO()) is None
  with open(tmp_path / "file", "w") as file:
    assert terminal.columns(file) is None
  ours, theirs = pty.openpty()
  with open(theirs, "w") as stream, open(ours):
    assert terminal.columns(stream) is None  # nobody has set it
    fcntl_size(theirs, 91)
    assert terminal.columns(stream) == 91


def fcntl_size(terminal_, columns):
  import fcntl
  import termios

  fcntl.ioctl(terminal_, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
  assert os.get_terminal_size(terminal_).columns == columns


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 80])
def test_lines_are_wrapped_and_nothing_is_lost(columns):
  line = "step 20 validation  A_SW 98.60%  at the bias 97.20%  b 6.103  t* 6.471 and more words"
  lines = terminal.wrap(line, columns)
  assert " ".join(lines).split() == line.split()
  if columns >= 20:
    assert max(map(len, lines)) <= columns
