"""What was watched while training, against width and against depth.

Under a parametrization of the muP kind activations and logits are flat. So is an update over the weights, entry by
entry, but for the hidden matrices' over width: Adam's updates there shrink as 1/width, initial weights as its root
(Yang et al., arXiv:2203.03466, table 3), because updates add up where initial weights cancel: the ratio falls as
width^-1/2.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from hptransfer.figures.cells import Cell, cells_of
from hptransfer.figures.curves import Curve
from hptransfer.figures.style import INK, MARKERS, drawing, ladder, legend_handle, octaves, panels
from hptransfer.rows import Row

KINDS = {"update": "size of an update over the weights'", "activation": "activations and logits"}
"""What the names in metrics.jsonl begin with."""

OTHER = {"width": "depth", "depth": "width"}

STYLES = ("-", "--", ":", "-.")

MIDDLE = (0.25, 0.75)
"""The part of a run that is averaged: update sizes follow the lr, whose mean over a schedule's middle half hardly
depends on which of its steps were watched."""


class Line(NamedTuple):
    """Cells of one recipe that differ in one dimension: its values, rising, and the quantities there."""

    recipe: str
    sizes: Sequence[float]
    values: Sequence[Mapping[str, float]]


class Panel(NamedTuple):
    """One dimension and one kind of quantity."""

    dimension: str
    kind: str
    lines: Sequence[Line]
    names: Sequence[str]


def stability_against_size(rows: Sequence[Row], curves: Mapping[str, Curve]) -> Figure | None:
    """Each quantity at each cell's best run, over its value at the smallest size of the line. `curves` by source."""
    cells = cells_of(rows)
    shown = [panel for dimension in OTHER for panel in _panels(dimension, lines_of(dimension, cells, curves))]
    if not shown:
        return None
    recipes = list(dict.fromkeys(line.recipe for panel in shown for line in panel.lines))
    with drawing():
        figure, axes = panels(len(shown), columns=2, height=3.3)
        for axis, panel in zip(axes, shown, strict=True):
            _draw(axis, panel, recipes)
        if len(recipes) > 1:
            handles = [legend_handle("", recipe, line=STYLES[i % 4]) for i, recipe in enumerate(recipes)]
            figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def lines_of(dimension: str, cells: Sequence[Cell], curves: Mapping[str, Curve]) -> list[Line]:
    """Of cells with an optimum and something watched; of several budgets at one size the largest."""
    groups: dict[tuple[str, float | None], dict[float, Mapping[str, float]]] = {}
    for cell in sorted(cells, key=lambda cell: cell.tokens):
        size = getattr(cell, dimension)
        values = middle(curves[cell.optimum.best.source]) if cell.optimum else {}
        if size and values:
            groups.setdefault((cell.recipe, getattr(cell, OTHER[dimension])), {})[size] = values
    return [
        Line(recipe, sorted(group), [group[size] for size in sorted(group)])
        for (recipe, _), group in groups.items()
        if len(group) > 1
    ]


def middle(curve: Curve) -> dict[str, float]:
    """The mean of each watched quantity over the MIDDLE of the run; of the whole where that holds no look."""
    found = {}
    for name, values in curve.values.items():
        seen = [(at / curve.tokens[-1], y) for at, y in zip(curve.tokens, values, strict=True) if math.isfinite(y)]
        inside = [y for at, y in seen if MIDDLE[0] <= at <= MIDDLE[1]] or [y for _, y in seen]
        if name.partition("/")[0] in KINDS and inside and fmean(inside) > 0:
            found[name] = fmean(inside)
    return found


def _panels(dimension: str, lines: Sequence[Line]) -> list[Panel]:
    names = dict.fromkeys(name for line in lines for values in line.values for name in values)
    of = {kind: [name for name in names if name.startswith(f"{kind}/")] for kind in KINDS}
    return [Panel(dimension, kind, lines, some) for kind, some in of.items() if some]


def _draw(axis: Axes, panel: Panel, recipes: Sequence[str]) -> None:
    colours = ladder(len(panel.names))
    axis.axhline(1.0, color=INK, lw=0.8, ls=(0, (2, 3)))
    for name, colour, marker in zip(panel.names, colours, MARKERS * len(panel.names), strict=False):
        for line in panel.lines:
            style: Any = STYLES[recipes.index(line.recipe) % 4]
            known = [(size, of[name]) for size, of in zip(line.sizes, line.values, strict=True) if name in of]
            if len(known) > 1:
                ratios = [value / known[0][1] for _, value in known]
                axis.plot([math.log2(size) for size, _ in known], ratios, style, color=colour, marker=marker, ms=4)
    handles = [
        legend_handle(marker, name.partition("/")[2].replace("_", " "), colour)
        for name, colour, marker in zip(panel.names, colours, MARKERS * len(panel.names), strict=False)
    ]
    axis.legend(handles=handles, loc="best", fontsize=7.5)
    axis.set_title(f"{KINDS[panel.kind]}, over {panel.dimension}")
    axis.set_xlabel(panel.dimension)
    octaves(axis.xaxis, [math.log2(size) for line in panel.lines for size in line.sizes])
    _ratios(axis)


def _ratios(axis: Axes) -> None:
    """A logarithmic axis that shows at least a factor of 2 both ways: what is flat has to look flat."""
    axis.set_yscale("log", base=2)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.45), max(high, 2.2))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"×{ratio:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
