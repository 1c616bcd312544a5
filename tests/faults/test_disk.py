"""A full disk: one line, exit code 1, the checkpoints there are stay whole; then on."""

import shlex
import shutil
import subprocess
import sys

import pytest

from bce_jax.runs import records

pytestmark = pytest.mark.slow


def test_too_full_for_a_checkpoint(whole, lab, tmp_path):
  """The kernel refuses files above a size: the arrays are larger, the records are not."""
  workdir = tmp_path / "run"
  lab.run(workdir, faults=[["step 12", 1, "term"]]).fails(143)
  line = lab.run(workdir, largest_file=30_000).fails(1, "a checkpoint could not be written")
  assert "checkpoint 12 is kept" in line
  assert lab.steps(workdir) == [10, 12]
  assert not (workdir / "results.json").exists()
  ended = lab.run(workdir)
  assert ended.code == 0, ended
  assert ended.resumed() == 12
  lab.same(workdir, whole)


def test_too_full_for_the_first_checkpoint(lab, tmp_path):
  ended = lab.run(tmp_path / "run", largest_file=30_000)
  assert "there is none before it" in ended.fails(1, "a checkpoint could not be written")


@pytest.mark.parametrize(
  "points",
  [
    ("open config.json.tmp w", "rename dataset.json.*", "open metrics.jsonl.tmp w"),
    ("open test_outputs.npz.tmp w", "open results.json.tmp w", "rename results.json.*"),
  ],
)
def test_too_full_for_a_record(whole, lab, tmp_path, points):
  workdir = tmp_path / "run"
  for point in points:
    ended = lab.run(workdir, faults=[[point, 1, "full"]])
    ended.fails(1, "No space left on device", "run the same command again")
    name = point.split(" ")[1].split(".")[0]
    assert name in ended.told[0], ended.told
    assert not list(workdir.glob("*.tmp")) or "open" not in point
  assert lab.run(workdir).code == 0
  lab.same(workdir, whole)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents"])
def test_too_full_for_the_next_record(whole_here, lab, here, tmp_path, monkeypatch, name):
  """/dev/full is a disk that is always full."""
  workdir = tmp_path / "run"
  original = records._Appended.__init__

  def opened(self, path):
    original(self, path)
    if path.name.startswith(name):
      self._file.close()
      self._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - closed by close()

  with monkeypatch.context() as patch:
    patch.setattr(records._Appended, "__init__", opened)
    here(workdir).fails(1, "No space left on device", name, "run the same command again")
  assert here(workdir).code == 0
  lab.same(workdir, whole_here)


SCRIPT = """
set -e
mount -t tmpfs -o size=440k none {disk}
echo mounted
# Leaves room for little more than two checkpoints.
set +e
{run}; echo "code $?" >&2
cp -r {disk}/run {first}
mount -o remount,size=64m {disk}
{run}; echo "code $?" >&2
cp -r {disk}/run {last}
"""


def test_a_file_system_without_room(whole, lab, tmp_path):
  unshare = shutil.which("unshare")
  if unshare is None:
    pytest.skip("there is no unshare to mount a small file system with")
  disk, first, last = (tmp_path / name for name in ("disk", "first", "last"))
  disk.mkdir()
  argv = [sys.executable, "-m", "bce_jax.cli.train", *lab.SMALL, "--workdir", str(disk / "run")]
  script = SCRIPT.format(disk=disk, first=first, last=last, run=shlex.join(argv))
  done = subprocess.run(
    [unshare, "-rm", "bash", "-c", script],
    cwd=lab.ROOT,
    env=lab.environment(1),
    capture_output=True,
    text=True,
    timeout=2 * lab.LIMIT,
    check=False,
  )
  if "mounted" not in done.stdout:
    pytest.skip(f"a file system can't be mounted here: {done.stderr.strip()}")
  before, after = done.stderr.split("code 1\n")
  lab.Ended(1, "", before).fails(1, "No space left on device")
  kept = lab.steps(first)
  assert kept
  assert f"resumed from the checkpoint of step {kept[-1]}\n" in after
  assert after.endswith("code 0\n")
  lab.same(last, whole)
