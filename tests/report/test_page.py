"""The page is whole, speaks for itself without pictures, and says what the runs' files say."""

import html.parser
import itertools
import math
import re
import statistics

import numpy as np
import pytest

from bce_jax.report import mistakes, page
from bce_jax.report.plot import percent
from bce_jax.report.settings import with_settings

VOID = {"meta", "link", "img", "br", "path", "use"}  # of SVG those that matplotlib closes itself


class Checked(html.parser.HTMLParser):
  """Refuses tags that are not closed in order; collects what the tests ask for."""

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.links, self.found, self.words = [], [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.handle_startendtag(tag, attributes)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    values = dict(attributes)
    self.found.append((tag, values, tuple(self.open)))
    if "id" in values:
      self.ids.append(values["id"])
    for name, value in values.items():
      if name in ("href", "xlink:href", "src"):
        self.links.append(value)
      if name in ("aria-labelledby", "aria-describedby"):
        self.links += [f"#{word}" for word in value.split()]
      self.links += [f"#{word}" for word in re.findall(r"url\(#([^)]+)\)", value or "")]

  def handle_endtag(self, tag):
    if tag not in VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)

  def all(self, tag):
    return [values for name, values, _ in self.found if name == tag]


@pytest.fixture(scope="module")
def one(make_run):
  run = make_run(name="a <run> & more", pairs=True, diverse=True)
  return run, page.build(with_settings([run]), title=run.name, map_method="pca")


@pytest.fixture(scope="module")
def four(two_settings):
  return page.build(with_settings(two_settings), title="four", map_method="pca")


@pytest.mark.parametrize("which", ["one", "four"])
def test_nothing_is_fetched_and_every_reference_is_met(one, four, which):
  text = one[1] if which == "one" else four
  checked = Checked(text)
  assert len(checked.ids) == len(set(checked.ids))
  for link in checked.links:
    assert link.startswith(("#", "data:")), link
    assert not link.startswith("#") or link[1:] in checked.ids, link
  assert not checked.all("script")
  style = text[text.index("<style>") : text.index("</style>")]
  assert "url(" not in style
  assert "@import" not in style


@pytest.mark.parametrize("which", ["one", "four"])
def test_it_speaks_for_itself_without_pictures(one, four, which):
  checked = Checked(one[1] if which == "one" else four)
  (root,) = checked.all("html")
  assert root["lang"] == "en"
  plots = [x for x in checked.all("svg") if x.get("class") == "plot"]
  assert len(plots) > 8
  for plot in plots:
    assert plot["role"] == "img"
    assert len(plot["aria-labelledby"].split()) == 2
  assert all(image["alt"] for image in checked.all("img"))
  headings = [tag for tag, _, _ in checked.found if re.fullmatch("h[1-6]", tag)]
  assert headings[0] == "h1"
  assert headings.count("h1") == 1
  levels = [int(tag[1]) for tag in headings]
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
  figures = re.findall(r"<figure>.*?</figure>", one[1] if which == "one" else four, re.DOTALL)
  assert all("<table>" in figure for figure in figures)  # behind each plot
  scrolled = [x for x in checked.all("div") if x.get("class") == "scroll"]
  assert scrolled
  assert all(x["tabindex"] == "0" and x["aria-label"] for x in scrolled)


def test_names_are_shown_as_they_are(one):
  run, text = one
  words = "".join(Checked(text).words)
  for name in (run.name, *run.outputs.class_names):
    assert name in words
  assert "<b>bold</b>" not in text
  assert "a <run>" not in text


def test_tiles_hold_the_final_figures(one):
  run, text = one
  words = " ".join(Checked(text).words)
  for name in ("sample_wise_accuracy", "uniform_accuracy", "uniform_accuracy_at_bias"):
    assert percent(run.results[name]) in words
    assert f"{run.results[name]:.6g}" in words
  assert f"{run.results['threshold']:.4g}" in words


def test_runs_that_differ_by_their_seed_are_one_setting(two_settings, four):
  words = " ".join(Checked(four).words)
  assert "4 runs, 2 settings" in words
  for loss in ("bce-u", "soft-u"):
    values = [100 * r.results["uniform_accuracy"] for r in two_settings if r.config["loss"] == loss]
    assert f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" in words
  rows = re.findall(r"<tr>(.*?)</tr>", four[four.index("Config differences</h2>") :])
  cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
  assert ["seed", "0", "1", "0", "1"] in cells
  assert ["loss", "bce-u", "bce-u", "soft-u", "soft-u"] in cells
  assert not any(row[:1] == ["model"] for row in cells)  # it is the same in all


@pytest.mark.slow
def test_a_scale_that_was_varied_is_drawn_on_a_logarithmic_axis(make_run):
  runs = [
    make_run(
      seed=seed, name=f"{loss}-{scale}-{seed}", config={"loss": loss, "scale": scale}, points=20
    )._replace(outputs=None)
    for loss in ("bce-nu", "soft-nu")
    for scale in (1.0, 16.0, 256.0)
    for seed in (0, 1)
  ]
  text = page.build(with_settings(runs), title="γ", map_method="pca")
  assert "Accuracy over the scale γ" in text
  assert "Best threshold against learned bias" in text


def data_of(run, folder, counts=(9, 9), **config):
  """The run as one of images in a folder, with what dataset.json says of them."""
  config = {**run.config, "data.folder": folder, **config}
  return run._replace(config=config, dataset={"class_names": ["a", "b"], "train_counts": counts})


def settings(*runs):
  return [dict(run.settings) for run in with_settings(runs)]


def test_other_data_in_another_folder_are_another_setting(make_run):
  one, two = make_run(seed=0), make_run(seed=1)
  places = ("/x/cifar/images", "/y/faces/images")
  told = settings(data_of(one, places[0]), data_of(two, places[1], (9, 8)))
  assert [x["data.folder"] for x in told] == ["cifar/images", "faces/images"]
  # The same data in two places; a folder whose data aren't known; splits made in other ways.
  for other in (
    data_of(two, places[1]),
    data_of(two, places[1])._replace(dataset={}),
    data_of(two, places[1], (5, 1), **{"data.imbalance": 5.0}),
  ):
    assert all("data.folder" not in x for x in settings(data_of(one, places[0]), other))
  # One folder that has come to hold other data.
  told = settings(*(data_of(one, "/x/a", counts) for counts in ((9, 9), (7, 9))))
  assert [x["data.folder"] for x in told] == ["a", "a (2)"]
  # Other classes are other data, however they were split.
  other = data_of(two, "/x/b", (5, 1), **{"data.imbalance": 5.0})
  other = other._replace(dataset={**other.dataset, "class_names": ["a", "c"]})
  assert [x["data.folder"] for x in settings(data_of(one, "/x/a"), other)] == ["a", "b"]


def test_what_makes_no_other_result_makes_no_other_setting(make_run):
  config = {"data.workers": 4, "report": False, "eval_batch_size": 7, "class_devices": 2}
  assert settings(make_run(), make_run(config=config)) == [{}, {}]


def test_where_too_much_differs_names_tell(make_run):
  def run(name, seed=0, **config):
    return make_run(seed=seed, name=name, config=config)._replace(outputs=None, records=[])

  other = {"objective.name": "tripartite", "objective.temperature": 0.5, "epochs": 60.0}
  first = [run(f"x/bce3s_seed={k}", k, **other, scale=32.0) for k in (1, 0)]
  second = run("x/ce", loss="soft-d", scale=16.0)
  assert settings(*first, second) == [
    {"run": "x/bce3s", "seed": 1},
    {"run": "x/bce3s", "seed": 0},
    {"run": "x/ce", "seed": 0},
  ]
  # Names with nothing in common: the first stands for its seeds.
  renamed = [first[0]._replace(name="a"), first[1]._replace(name="b"), second]
  assert [x["run"] for x in settings(*renamed)] == ["a", "a", "x/ce"]
  text = page.build(with_settings([*first, second]), title="x", map_method="pca")
  assert "2 settings" in text
  assert "temperature" in text[text.index("Config differences</h2>") :]


def test_two_runs_of_one_config_and_one_seed_are_one(make_run, two_settings):
  def built(*runs):
    text = page.build(with_settings(runs), title="x", map_method="pca")
    return text, " ".join(Checked(text).words)

  said = "same config and the same seed"
  bare = [run._replace(outputs=None, records=[]) for run in (make_run(), *two_settings)]
  text, words = built(bare[0]._replace(name="first"), bare[0]._replace(name="again"))
  assert f"again has the {said}, 0, as first" in words
  row = re.findall(r"<td[^>]*>(.*?)</td>", text[text.index("<tbody>") :].partition("</tr>")[0])
  accuracy = bare[0].results["sample_wise_accuracy"]
  assert row[:2] == ["1", f"{100 * accuracy:.1f}"]  # one run, and no ±
  assert said not in built(*bare[1:])[1]


def test_runs_that_are_missing_are_listed(make_run):
  run = make_run()._replace(outputs=None, records=[])
  told = page.build([run], title="x", map_method="pca", missing={"<b>": "it failed"})
  assert "<li>&lt;b&gt;: it failed</li>" in told


def test_the_accuracy_at_the_validation_threshold_stands_beside_that_at_the_bias(make_run):
  run = make_run(points=60)._replace(records=[])
  other = run._replace(config={**run.config, "loss": "soft-u"}, outputs=None)
  run.results["uniform_accuracy_at_validation_threshold"] = 0.87654
  words = " ".join(Checked(page.build([run], title="x", map_method="pca")).words)
  assert "A_Uni at the validation split's best threshold" in words
  assert f"{percent(0.87654)} at the validation split's best, and by arg max" in words
  text = page.build(with_settings([run._replace(outputs=None), other]), title="x", map_method="pca")
  assert "A_Uni at val. threshold, %" in text


@pytest.mark.slow
def test_runs_of_other_classes_are_said_to_be_left_out(make_run):
  runs = [
    make_run(num_classes=5, points=60)._replace(name="five"),
    make_run(num_classes=4, points=60, config={"loss": "soft-d"})._replace(name="four"),
  ]
  text = page.build(with_settings(runs), title="x", map_method="pca")
  words = " ".join(Checked(text).words)
  assert "5 classes; of bce-d" in words
  assert "1 setting has other classes and is not drawn" in words


@pytest.mark.slow
def test_runs_verified_in_other_ways_share_a_table(make_run):
  first, second = (
    make_run(pairs=True, points=60, config={"loss": loss}) for loss in ("bce-u", "soft-u")
  )
  rates = {"verification_rank_one": 0.625, "verification_tar_at_far_0.01": 0.375}
  lacking = ("equal_error_threshold", "threshold", "true_accept_at_threshold")
  lacking += ("false_accept_at_threshold", "balanced_accuracy_at_threshold")
  left = {
    k: v for k, v in second.results.items() if k not in {f"verification_{x}" for x in lacking}
  }
  runs = [
    first._replace(results={**first.results, **rates, "verification_equal_error_threshold": None}),
    second._replace(results={**left, "verification_equal_error_threshold": math.inf}),
  ]
  text = page.build(with_settings(runs), title="x", map_method="pca")
  table = re.findall(r"<table>(?:(?!</table>).)*rank-1, %.*?</table>", text, re.DOTALL)[0]
  rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
  cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
  assert len({len(row) for row in cells}) == 1
  by_name = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
  assert [row["rank-1, %"] for row in by_name] == ["62.5", "–"]
  assert [row["TAR at b/γ, %"] for row in by_name] == ["90", "–"]
  words = Checked(text).words  # each in its picture, and below it
  assert sum("a threshold with equal errors: there is none" in word for word in words) == 4


def test_names_that_matplotlib_would_read_otherwise(make_run):
  run = make_run(num_classes=6, points=60)
  names = ("$x^2", "_hidden", "caf\udce9", "猫", "$a$", "a\\b")
  run = run._replace(outputs=run.outputs._replace(class_names=names), name="$\\frac$")
  runs = [run, run._replace(config={**run.config, "loss": "_$x"}, name="_x")]
  text = page.build(with_settings(runs), title=runs[0].name, map_method="pca")
  drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
  for name in ("$x^2", "_hidden", "caf\N{REPLACEMENT CHARACTER}", "猫", "$a$", "a\\b", "_$x"):
    assert name in drawn, name


def test_scores_without_end_are_no_error(make_run):
  run = make_run(points=60)
  scaled = run.outputs.scaled_positive.copy()
  scaled[::2] = -np.inf
  other = run.outputs.scaled_hardest_negative.copy()
  other[::3] = np.inf
  outputs = run.outputs._replace(scaled_positive=scaled, scaled_hardest_negative=other)
  text = page.build([run._replace(outputs=outputs)], title="x", map_method="pca")
  assert "nan" not in re.sub("<[^>]*>", "", text).lower()


def test_the_page_of_the_same_runs_is_the_same(one):
  run, text = one
  assert page.build(with_settings([run]), title=run.name, map_method="pca") == text


@pytest.mark.parametrize("lacking", ["outputs", "most"])
def test_what_a_run_lacks_is_left_out(make_run, lacking):
  run = make_run(seed=1)
  if lacking == "outputs":
    run = run._replace(outputs=None)
  else:  # of very many classes: neither all scores nor features were looked at
    run = run._replace(
      outputs=run.outputs._replace(
        predicted=None, scores=None, compactness=None, separability=None,
        classifier_separability=None, map_features=np.zeros((0, 1), np.float32),
        map_labels=np.zeros(0, np.int32), example_images=np.zeros((0, 2, 2, 1), np.uint8),
        example_rows=np.zeros(0, int),
      ),
      results={**run.results, "threshold": None, "threshold_low": None, "threshold_high": None},
    )  # fmt: skip
  Checked(page.build([run], title="x", map_method="pca"))


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 60, 300])
def test_few_and_many_classes(make_run, num_classes):
  run = make_run(num_classes=num_classes, points=900)._replace(records=[])
  checked = Checked(page.build([run], title="x", map_method="pca"))
  assert percent(run.results["sample_wise_accuracy"]) in " ".join(checked.words)
  assert not math.isnan(run.results["threshold"])


def test_a_run_without_mistakes_shows_none(make_outputs):
  found, _ = make_outputs()
  assert mistakes.plot(found, "") is not None
  assert "predicted as" in mistakes.examples(found)
  right = found._replace(hardest_negative=found.positive - 1, example_rows=np.zeros(0, int))
  assert mistakes.plot(right, "") is None
  assert mistakes.examples(right) == ""


def test_the_worst_class_and_what_it_is_taken_for(make_outputs):
  """Against a confusion matrix by brute force."""
  found, _ = make_outputs(num_classes=15, points=900)
  confusion = np.zeros((15, 15), int)
  for label, predicted in zip(found.labels, found.predicted, strict=True):
    confusion[label, predicted] += 1
  shares = 1 - confusion.diagonal() / confusion.sum(axis=1)
  worst = mistakes.worst_classes(found)
  np.testing.assert_array_equal(worst, np.argsort(-shares, kind="stable")[:8])
  plot = mistakes.plot(found, "")
  (axis,) = plot.figure.axes
  named = [text.get_text() for text in axis.get_xticklabels()]
  off = np.where(np.eye(15, dtype=bool), -1, confusion)[worst[0]]
  other = found.class_names[int(off.argmax())]
  assert f"taken for {other} most often" in plot.description
  assert other in named
  rows = plot.table.rows
  name = found.class_names[worst[0]]
  own = [row for row in rows if row[0] == name]
  assert [row[2] for row in own] == sorted(confusion[worst[0]].tolist(), reverse=True)[: len(own)]
  assert sum(row[3] for row in own) <= 100 + 1e-9
