"""matplotlib figures as SVG inside a page: in the page's own colours and font, light or dark."""

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
INK, GRID = "#000000", "#b0b0b0"

# What is drawn in these colours takes the page's, which change with light and dark.
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
  "lines.linewidth": 1.6,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
  """What is drawn within has the report's style."""
  import matplotlib

  with matplotlib.rc_context(_SETTINGS):
    yield


def new_figure(width: float = 4.6, height: float = 3.2) -> Any:
  """Returns an empty figure that lays itself out; 4.6 inches are about a phone's width."""
  from matplotlib.figure import Figure  # not pyplot: no display, no global state

  return Figure(figsize=(width, height), layout="constrained")


def add_legend(figure: Any, axis: Any) -> None:
  """Names what is drawn: inside the axes where there is room, below them where there is much."""
  handles, labels = axis.get_legend_handles_labels()
  if len(labels) > 4 or sum(map(len, labels)) > 70:
    columns = 1 if max(map(len, labels)) > 28 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
  elif labels:
    axis.legend()


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
  for colour, variable in _VARIABLES.items():
    text = re.sub(rf"{colour}\b", f"var({variable})", text, flags=re.IGNORECASE)
  # Text without a colour of its own is black in SVG.
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
