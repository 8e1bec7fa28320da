"""How runs went: loss and stability quantities against tokens."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from hptransfer.figures.cells import Cell, anchor, cells_of
from hptransfer.figures.curves import Curve
from hptransfer.figures.style import drawing, legend_handle, panels, some
from hptransfer.figures.valleys import cell_colours, size_of
from hptransfer.rows import Row
from hptransfer.tables import amount

CELLS = 9
LINES = 9
QUANTITIES = 12
"""More than these in one figure help nobody; what is left out is spread evenly, and every run has its own curve."""


def training_curves(rows: Sequence[Row], curves: Mapping[str, Curve]) -> Figure | None:
    """Training loss against tokens: a panel for each cell, a line for each lr. `curves` by the row's source."""
    cells = [cell for cell in cells_of(rows) if any(curves[row.source].tokens for row in cell.rows)]
    if not cells:
        return None
    shown = some(cells, CELLS)
    lrs = sorted({row.lr for row in rows})
    with drawing():
        figure, axes = panels(len(shown), height=2.9, sharey=True)
        for axis, cell in zip(axes, shown, strict=True):
            _cell(axis, cell, curves, lrs)
        for axis in axes[:: min(3, len(axes))]:
            axis.set_ylabel("training loss")
        axes[0].set_ylim(*_range(shown, curves))
        handles = [legend_handle("", f"lr {lr:.3g}", _colour(lr, lrs), "-") for lr in some(lrs, 9)]
        figure.legend(handles=handles, loc="outside lower center", ncols=9)
    return figure


def stability(rows: Sequence[Row], curves: Mapping[str, Curve]) -> Figure | None:
    """Each watched quantity over the run, at the best run of each cell: the same at every size is the aim."""
    cells = [cell for cell in cells_of(rows) if cell.optimum and curves[cell.optimum.best.source].tokens]
    best = {cell.optimum.best.source: cell for cell in cells if cell.optimum}
    names = list(dict.fromkeys(name for source in best for name in curves[source].values if name != "loss"))
    if not names:
        return None
    colours = cell_colours(cells)
    recipes = list(dict.fromkeys(cell.recipe for cell in cells))
    styles: list[Any] = ["-", "--", ":", "-."]
    with drawing():
        figure, axes = panels(min(len(names), QUANTITIES), height=2.9)
        for axis, name in zip(axes, names, strict=False):
            for source, cell in best.items():
                curve = curves[source]
                style = styles[recipes.index(cell.recipe) % len(styles)]
                _line(axis, curve, name, color=colours[size_of(cell)], linestyle=style, fraction=True)
            axis.set_title(name)
            axis.set_xlabel("fraction of the run")
            _log_where_positive(axis, [curves[source].values.get(name, ()) for source in best])
        labels = {size_of(cell): cell.label for cell in cells}
        handles = [legend_handle("", labels[size], colours[size], "-") for size in some(sorted(labels), 9)]
        if len(recipes) > 1:
            handles += [legend_handle("", recipe, line=styles[i % 4]) for i, recipe in enumerate(recipes)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _cell(axis: Axes, cell: Cell, curves: Mapping[str, Curve], lrs: Sequence[float]) -> None:
    best = cell.optimum.best.source if cell.optimum else ""
    for row in some(sorted(cell.rows, key=lambda row: row.lr), LINES):
        if row.source != best:
            _line(axis, curves[row.source], "loss", color=_colour(row.lr, lrs), url=f"#{anchor(row)}", lw=0.8)
    if cell.optimum:
        row = cell.optimum.best
        _line(axis, curves[best], "loss", color=_colour(row.lr, lrs), url=f"#{anchor(row)}", lw=2)
    axis.set_title("\n".join(filter(None, (cell.recipe, cell.label))), fontsize=9)
    axis.set_xlabel("tokens")
    axis.xaxis.set_major_formatter(lambda tokens, _: amount(tokens))
    axis.locator_params(axis="x", nbins=4)


def _line(axis: Axes, curve: Curve, name: str, *, url: str = "", fraction: bool = False, **options: Any) -> None:
    if values := curve.values.get(name):
        end = curve.tokens[-1] if fraction else 1.0
        (line,) = axis.plot([tokens / end for tokens in curve.tokens], values, **options)
        line.set_url(url or None)


def _colour(lr: float, lrs: Sequence[float]) -> Any:
    """From cool to hot with the lr; another map than the sizes'."""
    span = math.log(lrs[-1] / lrs[0]) or 1.0
    return mpl.colormaps["plasma"](0.08 + 0.72 * math.log(lr / lrs[0]) / span)


def _range(cells: Sequence[Cell], curves: Mapping[str, Curve]) -> tuple[float, float]:
    """From the lowest training loss to where the runs began: what blew up leaves at the top."""
    losses = [curves[row.source].values.get("loss", ()) for cell in cells for row in cell.rows]
    lowest = min((v for line in losses for v in line if math.isfinite(v)), default=0.0)
    start = max((line[0] for line in losses if line and math.isfinite(line[0])), default=lowest + 1.0)
    return lowest - 0.04 * (start - lowest), start + 0.04 * (start - lowest)


def _log_where_positive(axis: Axes, lines: Sequence[Sequence[float]]) -> None:
    values = [value for line in lines for value in line if math.isfinite(value)]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
