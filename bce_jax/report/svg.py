"""matplotlib figures as SVG inside a page: in the page's own colors and font, light or dark."""

import contextlib
import functools
import html
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
INK, GRID = "#000000", "#b0b0b0"

# What is drawn in these colors takes the page's, which change with light and dark.
_VARIABLES = {
  "#0072b2": "--blue",
  "#e69f00": "--orange",
  "#009e73": "--green",
  "#cc79a7": "--pink",
  "#56b4e9": "--sky",
  "#d55e00": "--red",
  "#7f7f7f": "--gray",
  "#000000": "--ink",
  "#b0b0b0": "--grid",
  "#ffffff": "--paper",
}

_SETTINGS: dict[Any, Any] = {
  "svg.fonttype": "none",  # text stays text: it can be searched and read aloud, in the page's font
  "svg.hashsalt": "bce_jax",  # the same figure gives the same bytes
  "text.parse_math": False,  # a $ in the name of a class is a $
  "font.size": 9.5,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": GRID,
  "grid.alpha": 0.4,
  "grid.linewidth": 0.6,
  "axes.axisbelow": True,
  "legend.frameon": False,
  "legend.fontsize": 8.5,
  "legend.handlelength": 2.6,  # room for a dash-dotted line
  "lines.linewidth": 1.6,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
  """Context manager: matplotlib draws in the report's style."""
  import matplotlib

  with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
    # Of names in scripts that matplotlib's font lacks; a page shows them in the reader's font.
    warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
    yield


def plain(text: Any) -> str:
  """Returns a name that someone else chose as matplotlib can show it, within `style`.

  Bytes of a file's name that are no UTF-8 can't be written, and a label that begins with _ is left
  out of legends.
  """
  text = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", str(text))
  return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def short(name: str, most: int = 14) -> str:
  """Returns a name of at most so many letters, `plain`."""
  return plain(name if len(name) <= most else f"{name[: most - 1]}…")


def new_figure(width: float = 4.6, height: float = 3.2) -> Any:
  """Returns an empty figure that lays itself out; 4.6 inches are about a phone's width."""
  return _figure_class()(figsize=(width, height), layout="constrained")


@functools.cache
def _figure_class() -> Any:
  from matplotlib.figure import Figure  # not pyplot: no display, no global state

  class Styled(Figure):
    """Is saved in the report's style, wherever that is done."""

    def savefig(self, *args: Any, **options: Any) -> None:
      with style():
        super().savefig(*args, **options)

  return Styled


def add_legend(figure: Any, axis: Any, **options: Any) -> None:
  """Adds a legend below the axes, where it hides nothing, in place of their own.

  Args:
    figure: of matplotlib.
    axis: one of its axes.
    **options: of matplotlib's legend.
  """
  if axis.get_legend() is not None:
    axis.get_legend().remove()
  handles, labels = axis.get_legend_handles_labels()
  if not labels:
    return
  points = 72 * figure.get_figwidth() - 12  # of them 5 a letter, 29 a line's sample, 17 between
  labels = [textwrap.fill(label, int((points - 42) / 5)) for label in labels]
  longest = max(len(line) for label in labels for line in label.split("\n"))
  columns = max(1, min(len(labels), int((points + 17) / (5 * longest + 46))))
  # Beyond two lines the figure grows, not the axes shrink.
  lines = math.ceil(sum(1 + label.count("\n") for label in labels) / columns)
  figure.set_figheight(figure.get_figheight() + 0.18 * max(0, lines - 2))
  figure.legend(handles, labels, loc="outside lower center", ncols=columns, **options)


def plain_log(axis: Any) -> None:
  """Numbers along a logarithmic matplotlib axis as 0.01, not as powers in small type."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  low, high = sorted(axis.get_view_interval())
  axis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
  axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
  axis.set_minor_formatter(NullFormatter())


def inline(figure: Any, name: str, title: str, description: str) -> str:
  """Returns a figure as an <svg> element.

  Args:
    figure: drawn within `style`.
    name: distinct in the page; begins every id in the figure.
    title: what it is, in a few words.
    description: what is to be seen in it, for who can't.
  """
  from matplotlib.backends.backend_svg import FigureCanvasSVG

  out = io.StringIO()
  for drawn in (figure, *figure.axes):
    drawn.patch.set_visible(False)  # the page's own ground is seen
  with style():
    # Lays out and draws once, where savefig() does both and then draws again.
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
  text = out.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
  text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
  text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
  text = re.sub(r"font: ([^;\"]*?)(\d[\d.]*px)[^;\"]*", r"font: \1\2 var(--font)", text)
  for color, variable in _VARIABLES.items():
    text = re.sub(rf"{color}\b", f"var({variable})", text, flags=re.IGNORECASE)
  # Text without a color of its own is black in SVG.
  head, _, rest = text.partition(">")
  view = re.search(r'viewBox="([^"]+)"', head)
  assert view is not None
  width = float(view.group(1).split()[2])
  label = f'role="img" aria-labelledby="{name}-title {name}-text"'
  words = (
    f'<title id="{name}-title">{html.escape(title)}</title>'
    f'<desc id="{name}-text">{html.escape(description)}</desc>'
  )
  attributes = f'viewBox="{view.group(1)}" style="max-width:{1.4 * width:.0f}px" {label}'
  namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
  return f'<svg class="plot" {namespaces} {attributes}>{words}{rest.strip()}'
