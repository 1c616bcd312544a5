import numpy as np
import pytest

from bce_jax import metrics
from bce_jax.data import pairs

LFW = """2\t2
Ada\t1\t3
Bob Lee\t1\t12
Ada\t1\tBob Lee\t1
Cyd\t1\tAda\t3
Cyd\t1\t2
Dan\t1\t2
Dan\t1\tCyd\t2
Ada\t1\tDan\t2
"""


@pytest.fixture
def write(tmp_path):
  def write(text, name="pairs.txt"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file

  return write


@pytest.mark.parametrize("change", [str, lambda s: s.replace("\n", "\r\n"), str.strip])
def test_lfw(write, change):
  result = pairs.read(write(change(LFW)))
  ada1, ada3, bob1, bob12 = (
    *("Ada/Ada_0001.jpg", "Ada/Ada_0003.jpg"),
    *("Bob Lee/Bob Lee_0001.jpg", "Bob Lee/Bob Lee_0012.jpg"),
  )
  named = [(result.paths[a], result.paths[b]) for a, b in result.pairs]
  assert named[:3] == [(ada1, ada3), (bob1, bob12), (ada1, bob1)]
  assert named[7] == (ada1, "Dan/Dan_0002.jpg")
  assert len(set(result.paths)) == len(result.paths) == 8
  assert result.same.tolist() == [True, True, False, False] * 2
  assert result.folds.tolist() == [0] * 4 + [1] * 4
  assert (result.pairs.dtype, result.same.dtype, result.folds.dtype) == (np.int64, bool, np.int64)


def test_lfw_development_set_is_one_fold(write):
  result = pairs.read(write("1\nAda 1 2\nAda 1 Bob 1\n"))
  assert result.folds.tolist() == [0, 0]
  assert result.same.tolist() == [True, False]


def test_lfw_takes_the_ending_that_is_there(write, tmp_path):
  for path in ("Ada/Ada_0001.png", "Ada/Ada_0002.webp", "Bob/Bob_0001.jpg", "Bob/Bob_0001.png"):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
  file = write("1\t1\nAda\t1\t2\nAda\t1\tBob\t1\n")
  assert pairs.read(file, folder=tmp_path).paths == (
    *("Ada/Ada_0001.png", "Ada/Ada_0002.webp", "Bob/Bob_0001.jpg"),
  )
  file = write("1\t1\nAda\t1\t2\nAda\t1\tBob\t2\n")
  with pytest.raises(ValueError, match=r"line 3: no image Bob/Bob_0002 in .*\.jpg, \.png"):
    pairs.read(file, folder=tmp_path)


def test_csv(write, tmp_path):
  text = 'path1,path2,same,fold\na.png,"b,c.png",1,3\nd/e.png,a.png,False,0\n'
  result = pairs.read(write(text, "pairs.csv"))
  assert result.paths == ("a.png", "b,c.png", "d/e.png")
  assert result.pairs.tolist() == [[0, 1], [2, 0]]
  assert result.same.tolist() == [True, False]
  assert result.folds.tolist() == [3, 0]
  plain = pairs.read(write("\ufeffpath1,path2,same\r\na.png,b.png,TRUE\r\n"))
  assert plain.folds.tolist() == [0]
  assert plain.paths == ("a.png", "b.png")
  (tmp_path / "a.png").touch()
  with pytest.raises(ValueError, match=r"line 2: no image 'b,c.png' in"):
    pairs.read(write(text), folder=tmp_path)


def table(header, separator=",", change=str, word=str):
  rows = [("a/1.png", "a/2.png", 1), ("a/1.png", "b/1.png", 0), ("b/2.png", "b/1.png", 1)]
  lines = [separator.join([change(a), change(b), word(same)]) for a, b, same in rows]
  return "\n".join([*([header] if header else []), *lines, ""])


@pytest.mark.parametrize(
  "text",
  [
    *[
      table(f"{names},{same}")
      for names in ("img1,img2", "Image_A,Image_B", "id1,id2")
      for same in ("same", "issame", "label")
    ],
    *[table("path1 path2 same".replace(" ", s), s) for s in (",", "\t", ";", " ")],
    *[table("", separator) for separator in (",", "\t", ";", "  ")],
    table('"path1","path2","same"', change='"{}"'.format),
    table("path1,path2,same", word=lambda same: str(bool(same))),
    table("path1,path2,same", word=lambda same: str(2 * same - 1)),
    table("path1,path2,same", word="{:.1f}".format),
    table("path1,path2,match", word=lambda same: ("different", "same")[same]),
    "1 a/1.png a/2.png\n0 a/1.png b/1.png\n1 b/2.png b/1.png\n",
    ",label,path2,score,path1\n0,1,a/2.png,.5,a/1.png\n\n1,0,b/1.png,.5,a/1.png\n2,1,b/1.png,,b/2.png",
    table("path1,path2,same").encode("utf-16"),
  ],
)
def test_tables_as_people_write_them(write, text):
  result = pairs.read(write(text))
  named = [(result.paths[a], result.paths[b]) for a, b in result.pairs]
  assert named == [("a/1.png", "a/2.png"), ("a/1.png", "b/1.png"), ("b/2.png", "b/1.png")]
  assert result.same.tolist() == [True, False, True]
  assert (result.folds.tolist(), result.rows) == ([0, 0, 0], False)


def test_numbers_of_rows_and_numbers_for_names(write):
  result = pairs.read(write("idx1,idx2,same\n7,12,1\n12,0,0\n"))
  assert (result.paths, result.rows, result.pairs.tolist()) == (
    ("7", "12", "0"),
    True,
    [[0, 1], [1, 2]],
  )
  assert pairs.read(write("7 12 1\n12 0 0\n")).rows is False
  assert pairs.read(write("a b 1 0\nb c 0 1\n")).folds.tolist() == [0, 1]


def test_paths_of_another_machine_are_found_in_a_folder(write, tmp_path):
  for name in ("a/1.png", "a/2.jpg", "b/1.png"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  text = "path1,path2,same\nC:\\faces\\a\\1.png,/mnt/faces/a/2.png,1\n./a/1.png,b\\1.jpg,0\n"
  result = pairs.read(write(text), folder=tmp_path)
  assert result.paths == ("a/1.png", "a/2.jpg", "b/1.png")


def test_the_list_goes_through_the_metrics(write):
  """From the file to the accuracy over folds: a perfect embedding gets every pair right."""
  result = pairs.read(write(LFW))
  identities = sorted({path.split("/")[0] for path in result.paths})
  embeddings = np.eye(4)[[identities.index(path.split("/")[0]) for path in result.paths]]
  scores = metrics.pair_scores(embeddings, result.pairs)
  folds = metrics.ten_fold_accuracy(scores, result.same, result.folds)
  assert (folds.mean, folds.std, folds.thresholds.tolist()) == (1.0, 0.0, [0.5, 0.5])
  found = metrics.verification(metrics.pair_counts_from_scores(scores, result.same))
  assert (found.auc, found.equal_error_rate) == (1.0, 0.0)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"line 1: expected the number of folds and of pairs, such as '10 300', or the header"),
    ("10\t300\t5\n", r"line 1: expected the number of folds .*got '10\\t300\\t5'"),
    ("0\t3\n", "line 1: expected the number of folds"),
    ("1\t2\nAda\t1\t2\n", r"has 1 lines after the first, expected 2 · 1 · 2 = 4 pairs"),
    ("1\t1\nAda\t1\t2\nAda\t1\n", r"line 3: expected 'name i j' or 'name1 i name2 j', got"),
    ("1\t1\nAda\t1\tx\nAda\t1\tBob\t1\n", r"line 2: expected the number of an image .*'x'"),
    (
      "1\t1\nAda\t1\t2\nBob\t1\t2\n",
      "lines 2 to 3: fold 1 has 2 pairs of one identity, expected 1",
    ),
    ("path1,path2\na,b\n", "line 1: expected path1,path2,same or path1,path2,same,fold, got"),
    ("path1,path2,same\n", "holds no pair"),
    ("path1,path2,different\na,b,1\n", "line 1: expected path1,path2,same .*'different' says no"),
    ("path1,path2,same\na,b,1\na,c,0\na,d,-1\n", "line 4: same is 0 in one line and -1 in anoth"),
    ("path1,path2,same\na,,1\n", "line 2: expected two names, got an empty one: 'a,,1'"),
    ("row1,row2,same\n1,x,1\n", "line 2: expected the number of a row, from 0, got 'x'"),
    ("1 0 1\n0 1 0\n", "line 1: the first or the last field may say same: expected a header"),
    ("foo,bar,baz\na,b,1\n", "line 1: expected the number of folds .* or the header path1,path2"),
    ("path1,path2,same\na,b\n", "line 2: expected 3 fields, got 2: 'a,b'"),
    ("path1,path2,same\na,b,1\na,b,maybe\n", "line 3: same is 'maybe'; expected 1 or 0, true or"),
    (
      "path1,path2,same,fold\na,b,1,-1\n",
      "line 2: fold is '-1'; expected an integer of at least 0",
    ),
    (b"1\t1\n\xff\n", "cannot be read as a list of pairs: it is not UTF-8 text"),
  ],
)
def test_errors_name_file_and_line(write, text, message):
  file = write(text)
  with pytest.raises(ValueError, match=message) as error:
    pairs.read(file)
  assert str(file) in str(error.value)
  assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
  with pytest.raises(
    ValueError, match=r"none\.txt cannot be read as a list of pairs: No such file"
  ):
    pairs.read(tmp_path / "none.txt")
