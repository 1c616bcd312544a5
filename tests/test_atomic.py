"""Files appear whole or not at all."""

import errno

import pytest

from bce_jax import atomic


def test_the_new_takes_the_place_of_the_old_at_the_end(tmp_path):
  path = tmp_path / "a"
  path.write_text("old")
  with atomic.opened(path) as file:
    file.write("ünïcödé")
    assert path.read_text() == "old"
  assert path.read_bytes() == "ünïcödé".encode()
  with atomic.opened(path, "wb") as file:
    file.write(b"\0")
  assert path.read_bytes() == b"\0"
  assert list(tmp_path.iterdir()) == [path]


def half(path, ending):
  with atomic.opened(path) as file:
    file.write("half")
    raise ending


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_ends_the_writing_leaves_the_old(tmp_path, ending):
  path = tmp_path / "a"
  path.write_text("old")
  with pytest.raises(ending):
    half(path, ending)
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_and_a_missing_folder_are_reported_of_the_file_itself(tmp_path):
  path = tmp_path / "a"
  (tmp_path / "a.tmp").symlink_to("/dev/full")
  with pytest.raises(OSError, match="No space left") as full, atomic.opened(path) as file:
    file.write("x")
  assert full.value.filename == str(path)
  assert not list(tmp_path.iterdir())
  with pytest.raises(FileNotFoundError) as missing, atomic.opened(path / "b"):
    pass
  assert missing.value.filename == str(path / "b")
  path.mkdir()
  with pytest.raises(IsADirectoryError) as folder, atomic.opened(path):
    pass
  assert folder.value.filename == str(path)


def test_an_error_of_another_file_keeps_its_name(tmp_path):
  with pytest.raises(OSError, match="other") as error:
    half(tmp_path / "a", OSError(errno.EACCES, "Permission denied", "other"))
  assert error.value.filename == "other"
  assert not list(tmp_path.iterdir())


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path):
  (tmp_path / "folder").mkdir()
  path, target = tmp_path / "link", tmp_path / "folder" / "a"
  target.write_text("old")
  path.symlink_to(target)
  with atomic.opened(path) as file:
    file.write("new")
  assert path.is_symlink()
  assert target.read_text() == "new"
  assert [x.name for x in target.parent.iterdir()] == ["a"]
