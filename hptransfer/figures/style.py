"""How every figure looks, and how it becomes SVG that follows the page's light or dark colours."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

INK, MUTED, GRID, MARK = "#1f2a37", "#6a7684", "#e2e6ea", "#d1495b"
PAGE_COLOURS = {INK: "--ink", MUTED: "--muted", GRID: "--line", MARK: "--mark"}
"""Colours that a page may override; everything else is drawn in colours that read on light and on dark."""
MARKERS = "osD^vP*X"
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # names come from users: a $ in one is a dollar
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
}
WIDTH = 10.0
"""Inches; the page scales a figure to its own width."""


@contextmanager
def drawing() -> Iterator[None]:
    """The house style; characters that the layout font lacks are drawn by the reader's own font."""
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def ladder(count: int) -> list[Any]:
    """Colour-blind safe colours from small to large (viridis without its darkest and palest end)."""
    colours = mpl.colormaps["viridis"]
    return [colours(0.2 + 0.65 * i / max(count - 1, 1)) for i in range(count)]


def panels(count: int, columns: int = 3, height: float = 3.3, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, row by row."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def some(values: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def legend_handle(marker: str, label: str, colour: Any = INK, line: Any = "none", **options: Any) -> Line2D:
    """One entry of a legend."""
    return Line2D([], [], marker=marker, linestyle=line, color=colour, label=label, markersize=4.5, **options)


def octaves(axis: Any, values: Sequence[float]) -> None:
    """Labels an axis that holds log2 of a quantity; `values` are what is shown on it."""
    span = max(values) - min(values)
    axis.set_major_locator(MultipleLocator(max(1, math.ceil(span / 7))))
    axis.set_major_formatter(FuncFormatter(lambda exponent, _: power_of_two(exponent)))


def power_of_two(exponent: float) -> str:
    """2⁻⁷, in characters that need no mathematics."""
    return "2" + f"{exponent:g}".translate(str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹"))


def to_svg(figure: Figure, name: str) -> str:
    """Inline SVG: the same figure gives the same bytes; ids carry `name`, so that many fit into one page."""
    buffer = io.StringIO()
    with drawing(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-zA-Z0-9.]+_\d+"', "<g", svg)
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    svg = svg.replace('<a xlink:href="', '<a href="')
    return svg.replace(' width="', ' data-width="', 1).replace(' height="', ' data-height="', 1)
