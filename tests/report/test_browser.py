"""The page as a browser shows it: from disk, without a complaint, on a phone, in the dark."""

import html
import json
import re
import shutil
import subprocess

import pytest

from bce_jax.report import page

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = 375  # CSS pixels
SMALLEST = 6.5  # CSS pixels, of letters in plots on a phone
CONTRAST = 4.5  # as WCAG 2.2 asks of text

# Run by a page around a page: it looks at the inner one once that is loaded.
MEASURE = """
onload = () => {
  const frame = document.querySelector("iframe").contentWindow, doc = frame.document;
  const color = (e, name) => frame.getComputedStyle(e)[name];
  const told = e => `${e.tagName} ${e.textContent.slice(0, 30)}`;
  const wide = [...doc.body.querySelectorAll("*")].filter(
    e => !e.closest(".scroll, .skip, .unseen")
      && e.getBoundingClientRect().right > frame.innerWidth + 1);
  const texts = [...doc.querySelectorAll("svg.plot text")].map(e => {
    const svg = e.closest("svg"), box = svg.getBoundingClientRect();
    const own = e.getBoundingClientRect();
    const size = parseFloat(color(e, "fontSize")) * box.width / svg.viewBox.baseVal.width;
    const inside = own.left > box.left - 2 && own.right < box.right + 2
      && own.top > box.top - 2 && own.bottom < box.bottom + 2;
    return {size, inside, told: told(e), fill: color(e, "fill")};
  });
  const figure = doc.querySelector("figure");
  document.title = JSON.stringify({
    width: frame.innerWidth, scrollWidth: doc.documentElement.scrollWidth, wide: wide.map(told),
    texts: texts.length, sizes: [...new Set(texts.map(x => x.size))].sort((a, b) => a - b),
    cut: texts.filter(x => !x.inside).map(x => x.told),
    pairs: [
      [color(doc.body, "color"), color(doc.body, "backgroundColor")],
      [color(doc.querySelector(".soft"), "color"), color(doc.body, "backgroundColor")],
      [color(doc.querySelector("nav a"), "color"), color(doc.body, "backgroundColor")],
      [color(doc.querySelector("figcaption"), "color"), color(figure, "backgroundColor")],
      ...[...new Set(texts.map(x => x.fill))].map(fill => [fill, color(figure, "backgroundColor")]),
    ],
  });
};
"""


@pytest.fixture(scope="module")
def browser():
  """The path of a Chromium."""
  found = next(filter(None, map(shutil.which, NAMES)), None)
  if found is None:
    pytest.skip(f"there is no browser: none of {', '.join(NAMES)} is installed")
  return found


@pytest.fixture(scope="module")
def whole(make_run):
  """A page with every section, as text."""
  run = make_run(name="a <run> & more", pairs=True, diverse=True)
  return page.build([run], title=run.name, map_method="pca")


@pytest.fixture
def show(browser, tmp_path):
  """Shows a page from disk; returns what came of it."""

  def shown(text, *options):
    path, log = tmp_path / "page.html", tmp_path / "net.json"
    path.write_text(text, encoding="utf-8")
    command = [
      browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
      "--disable-component-update", "--no-first-run", "--hide-scrollbars",
      "--host-resolver-rules=MAP * ~NOTFOUND",
      f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr",
      "--v=0", "--window-size=1280,900", *options, "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "</html>" in done.stdout, done.stderr
    return Shown(done.stdout, done.stderr, log)

  return shown


class Shown:
  """What came of showing a page.

  Attributes:
    dom: the page after its scripts, as HTML.
    console: messages, of any severity.
    requests: addresses asked for by the page, not by the browser for itself.
    events: the number of entries in the browser's log of its network.
  """

  def __init__(self, dom, errors, log):
    self.dom = dom
    self.console = re.findall(r":CONSOLE[^\]]*\] (.*)", errors)
    logged = json.loads(log.read_text())
    kind = logged["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    # What the browser asks for itself (the time, its updates) has no origin.
    starts = [e["params"] for e in logged["events"] if e["type"] == kind and "url" in e["params"]]
    self.requests = [x["url"] for x in starts if x["initiator"] != "not an origin"]
    self.events = len(logged["events"])


def test_it_asks_for_nothing_and_the_browser_has_no_complaint(show, whole):
  shown = show(whole)
  assert "<h1>a &lt;run&gt; &amp; more</h1>" in shown.dom
  assert shown.requests == []
  assert shown.console == []
  assert shown.events


def test_a_page_that_does_is_caught(show, whole):
  """Else the test above would say nothing."""
  broken = '<img src="http://127.0.0.1:9/x.png"><script>throw new Error("broken")</script>'
  shown = show(whole.replace("</body>", f"{broken}</body>"))
  assert shown.requests == ["http://127.0.0.1:9/x.png"]
  assert any("broken" in message for message in shown.console), shown.console


def measured(show, text, *options):
  around = (
    f"<!DOCTYPE html><html><head><meta charset='utf-8'><script>{MEASURE}</script></head>"
    f"<body style='margin:0'><iframe style='border:0; width:{PHONE}px; height:800px'"
    f' srcdoc="{html.escape(text)}"></iframe></body></html>'
  )
  dom = show(around, *options).dom
  (title,) = re.findall(r"<title>(.*?)</title>", dom.split("<body")[0])
  return json.loads(html.unescape(title))


def luminance(color):
  parts = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
  linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(pair):
  low, high = sorted(map(luminance, pair))
  return (high + 0.05) / (low + 0.05)


def test_on_a_phone_in_light_and_dark(show, whole):
  light = measured(show, whole)
  assert light["width"] == PHONE
  assert light["scrollWidth"] == PHONE
  assert light["wide"] == []
  assert light["texts"] > 100
  assert light["sizes"][0] >= SMALLEST
  assert light["cut"] == []
  dark = measured(show, whole, "--force-dark-mode")
  for k, darker in ((1, True), (0, False)):  # the ground, and what is written on it
    for a, b in zip(light["pairs"], dark["pairs"], strict=True):
      assert (luminance(b[k]) < luminance(a[k])) is darker
  for pair in (*light["pairs"], *dark["pairs"]):
    assert contrast(pair) >= CONTRAST, pair


def test_a_page_too_wide_for_a_phone_is_caught(show, whole):
  wide = '<p style="width: 500px">too wide</p><svg class="plot" viewBox="0 0 9 9"></svg>'
  found = measured(show, whole.replace("</main>", f"{wide}</main>"))
  assert found["scrollWidth"] > PHONE
  assert found["wide"] == ["P too wide"]
