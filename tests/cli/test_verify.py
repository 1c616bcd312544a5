"""bce-eval of embeddings: verification of anybody's."""

import json
import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bce_jax.cli import evaluate

RNG = np.random.default_rng(0)
LABELS = np.arange(40) // 5
FEATURES = (RNG.normal(size=(8, 6))[LABELS] + 0.8 * RNG.normal(size=(40, 6))).astype(np.float32)
PATHS = np.array([f"p{k}/p{k}_{j:04d}.jpg" for k in range(8) for j in range(1, 6)])


@pytest.fixture
def file(tmp_path):
  def write(**arrays):
    path = tmp_path / "embeddings.npz"
    np.savez(path, **arrays)
    return str(path)

  return write


def results(capsys, *argv):
  assert evaluate.main([*argv, "--json"]) == 0
  return json.loads(capsys.readouterr().out)


def all_pairs(features=FEATURES):
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  rows, columns = np.triu_indices(40, 1)
  return (unit @ unit.T)[rows, columns], LABELS[rows] == LABELS[columns]


@pytest.mark.parametrize(
  "labels", [LABELS, PATHS.astype("U2"), LABELS + 0.0, LABELS[:, None], PATHS.astype("S2")]
)
def test_all_pairs_by_labels_of_any_kind(file, capsys, labels):
  found = results(capsys, file(features=FEATURES, labels=labels), "--threshold=0.3")
  scores, same = all_pairs()
  assert found["verification_genuine_pairs"] == same.sum()
  assert found["verification_auc"] == pytest.approx(roc_auc_score(same, scores), abs=1e-6)
  accepted = scores > 0.3
  assert found["verification_true_accept_at_threshold"] == pytest.approx(accepted[same].mean())
  assert found["verification_false_accept_at_threshold"] == pytest.approx(accepted[~same].mean())
  first = np.arange(0, 40, 5)
  probes = np.setdiff1d(np.arange(40), first)
  unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
  right = np.argmax(unit[probes] @ unit[first].T, axis=1) == LABELS[probes]
  assert found["verification_rank_one"] == pytest.approx(right.mean())


def test_bias_and_scale_of_the_file_are_a_threshold(file, capsys):
  path = file(features=FEATURES, labels=LABELS, bias=np.float32(4.8), scale=np.array([16]))
  assert results(capsys, path)["verification_threshold"] == pytest.approx(0.3)
  assert results(capsys, path, "--threshold=-0.1")["verification_threshold"] == -0.1


def test_what_is_no_threshold_and_what_has_no_direction_is_reported(file, capsys):
  features = FEATURES.copy()
  features[3] *= 0
  assert evaluate.main([file(features=features, labels=LABELS, bias=np.float32(4.8))]) == 0
  out, err = capsys.readouterr()
  assert "one threshold" not in out
  assert "1 of 40 rows are shorter than 1e-05" in err
  assert "'bias' is not used: there is no 'scale'" in err


def test_a_list_of_pairs_finds_its_images_by_path(file, capsys, tmp_path):
  order = RNG.permutation(40)
  path = file(features=FEATURES[order], paths=PATHS[order])
  lines = ["path1,path2,same,fold"]
  pairs = [RNG.choice(40, 2, replace=False) for _ in range(60)]
  pairs += [(5 * k, 5 * k + 1) for k in range(8)]
  for n, (i, j) in enumerate(pairs):
    a, b = PATHS[i].replace(".jpg", ".png"), PATHS[j]
    lines.append(f"{a},{b},{int(LABELS[i] == LABELS[j])},{n % 4}")
  (tmp_path / "pairs.csv").write_text("\n".join(lines))
  found = results(capsys, path, f"--pairs={tmp_path / 'pairs.csv'}")
  unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
  scores = np.array([unit[i] @ unit[j] for i, j in pairs])
  same = np.array([LABELS[i] == LABELS[j] for i, j in pairs])
  assert found["verification_auc"] == pytest.approx(roc_auc_score(same, scores), abs=1e-6)
  assert 0.5 < found["verification_fold_accuracy"] <= 1


def listed(tmp_path, *pairs):
  lines = [f"{a},{b},{same}" for a, b, same in pairs]
  (tmp_path / "pairs.csv").write_text("\n".join(["path1,path2,same", *lines]))
  return f"--pairs={tmp_path / 'pairs.csv'}"


def test_names_with_dots_are_no_endings(file, capsys, tmp_path):
  features = np.eye(4)[[0, 1, 0, 1]]  # by the dots' first halves, happy would be like sad
  paths = np.array(["one.happy", "one.sad", "two.happy", "two.sad"])
  option = listed(
    tmp_path, ("one.happy", "two.happy.png", 1), ("one.sad", "two.sad", 1), (*paths[:2], 0)
  )
  assert results(capsys, file(features=features, paths=paths), option)["verification_auc"] == 1


def test_a_path_that_is_there_exactly_goes_first(file, capsys, tmp_path):
  paths = np.array(["a.JPG", "a.png", "b.png", "c"])
  features = np.eye(4)[[1, 0, 0, 1]]
  option = listed(tmp_path, ("a.png", "b.jpg", 1), ("c.png", "a.png", 0))
  assert results(capsys, file(features=features, paths=paths), option)["verification_auc"] == 1


@pytest.mark.parametrize("twice", [["a.jpg", "a.png"], ["a.gif", "a.gif"], ["a.bmp", "a.bmp"]])
def test_a_listed_path_of_two_rows(file, capsys, tmp_path, twice):
  path = file(features=np.eye(4), paths=np.array([*twice, "b", "c"]))
  assert evaluate.main([path, listed(tmp_path, ("a.bmp", "b", 1), ("b", "c", 0))]) == 2
  err = capsys.readouterr().err
  assert f"names a.bmp, which may be row 0 ({twice[0]}) or row 1 ({twice[1]})" in err
  assert err.count("\n") == 1
  option = listed(tmp_path, ("c", "b", 1), ("b", "c", 0))  # two rows that nobody asks for
  assert evaluate.main([path, option]) == 0


@pytest.mark.parametrize(
  ("in_list", "in_file", "said"),
  [
    ("{}", "./{}", ""),
    (r"p0\{}", "p0/{}", ""),
    ("a/{}.PNG", "a/{}.jpg", ""),
    ("a/{}", "A/{}.webp", ""),
    ("/mnt/lfw/p/{}.jpg", "p/{}.jpg", "with more folders in the list"),
    ("p/{}.jpg", "/mnt/lfw/p/{}.png", "with more folders in the file"),
    ("{}", "/mnt/lfw/p/{}.png", "with more folders in the file"),
    ("lfw/p/{}.jpg", "images/p/{}.jpg", "with lfw of the list taken as images"),
    (r"D:\faces\lfw\p\{}.jpg", "/data/lfw/p/{}.jpg", "with D:/faces of the list taken as /data"),
  ],
)
def test_paths_that_are_written_otherwise(file, capsys, tmp_path, in_list, in_file, said):
  features = np.eye(4)[[0, 1, 0, 1]]
  for kind in ("U", "S"):
    paths = np.array([in_file.format(f"im{k}") for k in range(4)]).astype(kind)
    a, b, c, d = (in_list.format(f"im{k}") for k in range(4))
    option = listed(tmp_path, (a, c, 1), (b, d, 1), (a, b, 0), (c, d, 0))
    assert evaluate.main([file(features=features, paths=paths), option, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["verification_auc"], found["verification_equal_error_rate"]) == (1, 0)
    assert (said in err, bool(err)) == (True, bool(said))


@pytest.mark.parametrize(
  ("held", "first", "message"),
  [
    (["p0/1.jpg", "p1/1.jpg", "b", "c"], "1.jpg", "may be row 0 (p0/1.jpg) or row 1 (p1/1.jpg) of"),
    (["p0/1.jpg", "p1/2.jpg", "b", "c"], "p0/12.jpg", "1 of 3 are missing); it holds p0/1.jpg"),
    (["p0/1.jpg", "p1/2.jpg", "b", "c"], "x/p1/1.jpg", "among the 4 paths of"),
    # Two images of the list would be one of the file: their folders say more than it knows.
    (
      ["1.jpg", "2.jpg", "x/b.jpg", "x/c.jpg"],
      "/data/b/c.jpg",
      "names /data/b/c.jpg, which is not",
    ),
  ],
)
def test_paths_that_are_not_there(file, capsys, tmp_path, held, first, message):
  path = file(features=np.eye(4), paths=np.array(held))
  assert evaluate.main([path, listed(tmp_path, (first, "b", 1), ("b", "c", 0))]) == 2
  err = capsys.readouterr().err
  assert message in err
  assert err.count("\n") == 1


def test_two_images_are_never_taken_for_one(file, capsys, tmp_path):
  path = file(features=np.eye(4), paths=np.array(["1.jpg", "2.jpg", "3.jpg", "4.jpg"]))
  pairs = [("/d/p0/1.jpg", "/d/p1/1.jpg", 1), ("/d/p0/1.jpg", "/d/p0/2.jpg", 0)]
  assert evaluate.main([path, listed(tmp_path, *pairs)]) == 2
  assert "names /d/p0/1.jpg, which is not among the 4 paths of" in capsys.readouterr().err


def test_a_folder_of_another_identity_is_no_other_place(file, capsys, tmp_path):
  path = file(features=np.eye(4), paths=np.array([f"p0/{k}.jpg" for k in range(4)]))
  assert evaluate.main([path, listed(tmp_path, ("p1/1", "p1/2", 1), ("p1/1", "p1/3", 0))]) == 2
  assert "4 paths of" in capsys.readouterr().err


def test_pairs_go_before_scores(file, capsys, tmp_path):
  arrays = {"features": np.eye(4)[[0, 0, 1, 2]], "paths": np.array(list("abcd"))}
  option = listed(tmp_path, ("a", "b", 1), ("a", "c", 0))
  expected = results(capsys, file(**arrays), option)
  path = file(**arrays, logits=np.eye(4), weights=np.eye(4))
  assert evaluate.main([path, option, "--json"]) == 0
  out, err = capsys.readouterr()
  assert json.loads(out) == expected
  assert "'logits', 'weights' are not used here" in err


def test_a_list_of_rows(file, capsys, tmp_path):
  path = file(features=np.eye(4)[[0, 1, 0, 1]])
  (tmp_path / "rows.csv").write_text("row1,row2,same\n0,2,1\n0,1,0\n3,1,1\n")
  assert results(capsys, path, f"--pairs={tmp_path / 'rows.csv'}")["verification_auc"] == 1
  (tmp_path / "rows.csv").write_text("row1,row2,same\n0,4,1\n0,1,0\n")
  assert evaluate.main([path, f"--pairs={tmp_path / 'rows.csv'}"]) == 2
  assert "names row 4, but" in capsys.readouterr().err
  (tmp_path / "rows.csv").write_text("img1,img2,issame\n0,4,1\n0,1,0\n")
  assert evaluate.main([path, f"--pairs={tmp_path / 'rows.csv'}"]) == 2
  err = capsys.readouterr().err
  assert "names images, such as 0, but" in err
  assert "has no 'paths': it holds features (float64 [4, 4]) (the header row1,row2,same" in err


def test_what_is_printed_can_be_given_back(file, capsys):
  """A threshold copied from the table gives the shares beside it, however close the scores lie."""
  close = np.ones_like(FEATURES) + 1e-4 * FEATURES
  for features in (FEATURES, close, close.astype(np.float64)):
    path = file(features=features, labels=LABELS, bias=np.float32(0.7), scale=0.9)
    assert evaluate.main([path]) == 0
    printed = capsys.readouterr().out
    learned = re.search(r"t = (\S+): TAR", printed)[1]
    first = results(capsys, path)
    assert results(capsys, path, f"--threshold={learned}") == first
    equal = re.search(r"equal error rate +(0\S+)\n", printed)[1]
    at = results(capsys, path, f"--threshold={equal}")
    gap = (
      abs(at["verification_false_accept_at_threshold"] - 1)
      - (at["verification_true_accept_at_threshold"])
    )
    scores, same = all_pairs(features.astype(np.float64))
    gaps = [abs((scores > t)[~same].mean() - (scores <= t)[same].mean()) for t in scores - 1e-14]
    assert abs(gap) == pytest.approx(min(gaps), abs=1e-12)


def test_table_and_picture(file, capsys, tmp_path):
  path = file(features=FEATURES, labels=LABELS)
  assert evaluate.main([path, "--threshold=0.3", f"--plot={tmp_path / 'roc.png'}"]) == 0
  out = capsys.readouterr().out
  assert "EER    equal error rate" in out
  assert "one threshold, t = 0.3: TAR" in out
  assert (tmp_path / "roc.png").stat().st_size > 10_000


@pytest.mark.parametrize(
  ("arrays", "argv", "message"),
  [
    ({"features": FEATURES}, [], "has no 'labels': it holds features (float32 [40, 6])\n"),
    ({"features": FEATURES, "ids": LABELS}, [], "if 'ids' holds the labels, save it as 'labels'\n"),
    ({"features": FEATURES, "paths": PATHS}, [], "; --pairs FILE asks for pairs of its paths\n"),
    ({"features": FEATURES, "labels": LABELS[:9]}, [], "has shape (9,): expected (40,)"),
    ({"features": FEATURES[0], "labels": LABELS}, [], "has shape (6,): expected [samples, D]"),
    ({"features": FEATURES, "labels": LABELS + 0.5}, [], "expected whole numbers or text"),
    ({"features": FEATURES * np.nan, "labels": LABELS}, [], "40 of 40 rows hold nan"),
    ({"features": FEATURES, "labels": np.arange(40)}, [], "no pair of the 40 embeddings is of one"),
    ({"features": FEATURES, "labels": LABELS * 0}, [], "no pair of the 40 embeddings is of two"),
    ({"features": FEATURES, "labels": LABELS}, ["--threshold=5"], "expected one on cosines, -1"),
    ({"features": FEATURES, "labels": LABELS}, ["--bias=1"], "--bias is of scores, but of "),
    ({"features": FEATURES, "labels": LABELS}, ["--pairs=x"], "x cannot be read as a list"),
    ({"features": FEATURES, "paths": PATHS}, ["--pairs=nowhere"], "cannot be read as a list"),
    ({"logits": FEATURES, "labels": LABELS % 6}, ["--pairs=x"], "--pairs is of features"),
    (
      {"features": FEATURES, "labels": LABELS, "bias": LABELS, "scale": 2.0},
      [],
      "expected one number",
    ),
  ],
)
def test_bad_files_are_reported_in_one_line(file, capsys, arrays, argv, message):
  assert evaluate.main([file(**arrays), *argv]) == 2
  err = capsys.readouterr().err
  assert message in err
  assert err.count("\n") == 1
