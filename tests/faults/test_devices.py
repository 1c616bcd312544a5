"""A run goes on with fewer or more devices, and with the classifier split over others."""

import json

import numpy as np
import pytest

from bce_jax.runs import checkpoint

pytestmark = pytest.mark.slow


def close(lab, workdir, whole, tolerance):
  """Results agree to what rounding grows to over the steps: see docs/scale.md, Data parallel."""
  ours, theirs = lab.records(workdir), lab.records(whole)
  assert [(r["step"], r["split"]) for r in ours] == [(r["step"], r["split"]) for r in theirs]
  for one, other in zip(ours, theirs, strict=True):
    if one["split"] == "train":
      for name in ("loss", "grad_norm", "bias"):
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, err_msg=str(one))
  a, b = lab.arrays(workdir), lab.arrays(whole)
  assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
  for name, array in b.items():
    scale = np.abs(array).max() if array.size else 0
    np.testing.assert_allclose(a[name], array, atol=tolerance * scale, err_msg=name)


def test_with_other_devices(whole, lab, tmp_path):
  workdir = tmp_path / "run"
  lab.run(workdir, devices=1, faults=[["step 8", 1, "term"]]).fails(143)
  ended = lab.run(workdir, devices=4, faults=[["step 16", 1, "term"]])
  ended.fails(143)
  assert ended.resumed() == 8
  assert "on 4 cpu device(s)" in ended.err
  ended = lab.run(workdir, devices=1)
  assert ended.code == 0, ended
  assert ended.resumed() == 16
  assert "on 1 cpu device(s)" in ended.err
  close(lab, workdir, whole, 2e-2)
  assert lab.records(workdir)[0] == lab.records(whole)[0]  # while the devices were the same


def test_devices_that_do_not_fit_are_refused_and_nothing_is_lost(whole, lab, tmp_path):
  workdir = tmp_path / "run"
  lab.run(workdir, faults=[["step 8", 1, "term"]]).fails(143)
  lab.run(workdir, devices=3).fails(2, "batch_size is 16, which 3 devices can't split")
  assert lab.run(workdir).resumed() == 8
  lab.same(workdir, whole)


@pytest.fixture(scope="module")
def diverse(tmp_path_factory, lab):
  """A bias for each class, left alone on one device along 'class'."""
  workdir = tmp_path_factory.mktemp("diverse") / "run"
  argv = [*lab.SMALL, "--config.loss=bce-nd", "--workdir", str(workdir)]
  assert lab.cli.main(argv) == 0
  return workdir


def test_with_another_split_of_the_classes(diverse, lab, here, tmp_path):
  """Ten classes on four devices are padded; what is saved is not."""
  workdir = tmp_path / "run"
  argv = (*lab.SMALL, "--config.loss=bce-nd")
  for class_devices, step in ((1, 8), (4, 16), (1, 24)):
    stop = [[f"step {step}", 1, "term"]]
    ended = here(workdir, *argv, f"--config.class_devices={class_devices}", faults=stop)
    assert ended.code == (143 if step < 24 else 0), ended
    assert ended.resumed() == step - 8
    rows = [(k, v.shape) for k, v in lab.arrays(workdir, step).items() if "'head'" in k]
    assert len(rows) == 4  # and what the optimizer keeps of both
    assert {shape for name, shape in rows if name.endswith("['bias']")} == {(10,)}
    assert {shape for name, shape in rows if name.endswith("['weights']")} == {(10, 64)}
  close(lab, workdir, diverse, 2e-2)


def test_a_fingerprint_is_the_same_on_any_devices(stopped_here, lab, tmp_path):
  """Else another number of devices would refuse every checkpoint: here one sees eight as one."""
  loop = json.loads((stopped_here / "checkpoints" / "16" / "loop" / "metadata").read_text())
  arrays = lab.arrays(stopped_here, 16)
  assert sorted(checkpoint.fingerprint(arrays)) == sorted(loop["fingerprint"])
