"""The notebook in examples/ still gives what is stored in it.

To execute it anew and store what comes out: python tests/examples/test_notebook.py
"""

import base64
import io
import os
import pathlib
import re
import tempfile

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "examples" / "one_threshold.ipynb"
METADATA = {
  "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
  "language_info": {"name": "python"},
}
# It is about plain JAX: neither of these is to be loaded by it.
HEAVY = ("flax", "optax", "orbax", "tensorflow", "torch")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def executed(notebook, folder):
  """A copy of the notebook, run in `folder` by a kernel that imports this source tree."""
  notebook = nbformat.from_dict(notebook)
  for cell in notebook.cells:
    cell.metadata = {}
    if cell.cell_type == "code":
      cell.outputs, cell.execution_count = [], None
  environment = dict(os.environ)
  # conftest.py asks for eight devices, somebody else for another backend of matplotlib.
  for name in ("XLA_FLAGS", "MPLBACKEND"):
    environment.pop(name, None)
  environment |= {
    "IPYTHONDIR": str(folder),
    "PYTHONPATH": str(ROOT),
  }
  client = nbclient.NotebookClient(
    notebook,
    timeout=120,
    kernel_name="python3",
    record_timing=False,
    coalesce_streams=True,
    resources={"metadata": {"path": str(folder)}},
  )
  client.execute(env=environment)
  notebook.metadata = METADATA
  return notebook


def texts(cell):
  """What a cell printed, piece by piece."""
  return [
    output.text if output.output_type == "stream" else output.data["text/plain"]
    for output in cell.outputs
  ]


def pictures(cell):
  return [
    Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
    for output in cell.outputs
    if "image/png" in output.get("data", {})
  ]


def close(stored, fresh):
  """Two numbers as printed: integers equal, others to 2 % and two units of the last place."""
  if "." not in stored:
    return stored == fresh
  decimals = len(stored.partition(".")[2].partition("e")[0])
  slack = 2.0 * 10.0**-decimals if "e" not in stored else 0.0
  return abs(float(stored) - float(fresh)) <= 0.02 * abs(float(stored)) + slack


def differences(stored, fresh):
  """Where two printed texts differ by more than another CPU's rounding does; spaces don't count."""
  words = [" ".join(NUMBER.sub(" # ", text).split()) for text in (stored, fresh)]
  if words[0] != words[1]:
    return words
  pairs = zip(NUMBER.findall(stored), NUMBER.findall(fresh), strict=True)
  return [f"{old} became {new}" for old, new in pairs if not close(old, new)]


@pytest.fixture(scope="module")
def stored():
  return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def fresh(stored, tmp_path_factory):
  notebook = nbformat.from_dict(stored)
  question = f"import sys\nprint(*sorted({set(HEAVY)} & set(sys.modules)))"
  notebook.cells.append(nbformat.v4.new_code_cell(question))
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    return executed(notebook, tmp_path_factory.mktemp("notebook"))


def code_cells(*notebooks):
  return zip(
    *([c for c in notebook.cells if c.cell_type == "code"] for notebook in notebooks),
    strict=False,  # the fresh one has one more
  )


@pytest.mark.slow
def test_it_prints_what_is_stored(stored, fresh):
  for old, new in code_cells(stored, fresh):
    assert len(texts(old)) == len(texts(new)), old.id
    for pair in zip(texts(old), texts(new), strict=True):
      assert differences(*pair) == [], old.id


@pytest.mark.slow
def test_its_pictures_are_drawn(stored, fresh):
  number = 0
  for old, new in code_cells(stored, fresh):
    assert len(pictures(old)) == len(pictures(new)) == old.source.count("plt.show()"), old.id
    for before, after in zip(pictures(old), pictures(new), strict=True):
      np.testing.assert_allclose(after.size, before.size, rtol=0.1)
      # Not blank, and about as much ink: fonts and rounding move single pixels.
      ink = [np.mean(np.asarray(image.convert("L")) < 250) for image in (before, after)]
      assert ink[0] > 0.01
      np.testing.assert_allclose(ink[1], ink[0], rtol=0.2)
      number += 1
  assert number == 3


@pytest.mark.slow
def test_it_warns_of_nothing(stored, fresh):
  for notebook in (stored, fresh):
    for cell in notebook.cells:
      for output in cell.get("outputs", []):
        assert output.output_type in ("stream", "display_data", "execute_result"), cell.id
        assert output.get("name") != "stderr", output.text


@pytest.mark.slow
def test_it_is_plain_jax(fresh):
  assert texts(fresh.cells[-1]) == ["\n"]


def test_it_is_small_and_clean(stored):
  assert NOTEBOOK.stat().st_size < 400_000
  assert stored.metadata == METADATA
  counts = [cell.execution_count for cell in stored.cells if cell.cell_type == "code"]
  assert counts == list(range(1, len(counts) + 1))
  for cell in stored.cells:
    assert not cell.metadata, cell.id
    for text in (cell.source, *(texts(cell) if cell.cell_type == "code" else ())):
      assert not re.search(r"(?<![\w.:/])/(home|opt|root|tmp|usr|work|Users)/", text), cell.id


@pytest.mark.parametrize(
  ("old", "new", "same"),
  [
    ("BCE  94.3 ± 0.6", "BCE 94.1 ± 0.7", True),
    ("t* 9.99", "t*  10.02", True),
    ("1797 images", "1796 images", False),
    ("BCE 94.3 ± 0.6", "BCE 90.6 ± 0.7", False),
    ("b 2.81 ± 0.03", "b 4.96 ± 0.03", False),
    ("b 2.81", "b −2.81", False),
    ("b 2.81", "b nan", False),
    ("b 2.81", "b 2.81 2.81", False),
    ("softmax 94.3", "BCE 94.3", False),
  ],
)
def test_the_comparison_sees_what_matters(old, new, same):
  assert (differences(old, new) == []) == same


if __name__ == "__main__":
  with tempfile.TemporaryDirectory() as scratch:
    result = executed(nbformat.read(NOTEBOOK, as_version=4), pathlib.Path(scratch))
  nbformat.write(result, NOTEBOOK)
