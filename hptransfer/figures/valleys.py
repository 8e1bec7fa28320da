"""Loss against lr, and where the optimum goes as models grow."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from hptransfer.figures.cells import Cell, anchor, cells_of, loss_of
from hptransfer.figures.judged import judge
from hptransfer.figures.style import MARK, MARKERS, MUTED, drawing, ladder, legend_handle, octaves, panels, some
from hptransfer.rows import Row
from hptransfer.tables import amount

if TYPE_CHECKING:
    from hptransfer.laws import Estimate, Laws

VALLEY = 2.0
"""Octaves either side of an optimum that have to fit into the panel; what lies higher is drawn at its upper edge."""
LEGEND = 10
SIZES = 5
"""Entries of a legend, labels of an axis."""
DODGE = 0.1
"""Octaves between recipes that would otherwise hide each other."""
AXES = {
    "params": "non-embedding parameters",
    "width": "width",
    "depth": "depth",
    "tokens": "tokens",
}


def u_curves(rows: Sequence[Row]) -> Figure:
    """Loss against lr: a panel for each recipe, a line for each cell with its optimum, every run a link."""
    cells = cells_of(rows)
    recipes = list(dict.fromkeys(cell.recipe for cell in cells))
    colours = cell_colours(cells)
    with drawing():
        figure, axes = panels(len(recipes), columns=min(len(recipes), 2), height=4.2, sharey=True, sharex=True)
        top = _top(cells)
        for axis, recipe in zip(axes, recipes, strict=True):
            for cell in cells:
                if cell.recipe == recipe:
                    _valley(axis, cell, colours[size_of(cell)], top)
            axis.set_title(recipe)
            axis.set_xlabel("peak lr, base units")
            octaves(axis.xaxis, [math.log2(row.lr) for row in rows])
        _limit(axes[0], cells, top)
        axes[0].set_ylabel("validation loss, nats per token")
        _legend(figure, cells, colours)
    return figure


def optimum_against_size(rows: Sequence[Row], laws: "Laws | None" = None) -> Figure | None:
    """The optimal lr against whatever varies of params, width, depth and tokens, with what the laws say there."""
    cells = [cell for cell in cells_of(rows) if cell.optimum and cell.optimum.edge != "only"]
    names = [name for name in AXES if len({getattr(cell, name) for cell in cells} - {None}) > 1]
    if not names:
        return None
    recipes = list(dict.fromkeys(cell.recipe for cell in cells))
    predicted = {one.cell: one.prediction.lr for one in judge(cells, laws)} if laws else {}
    colours = cell_colours(cells)
    with drawing():
        figure, axes = panels(len(names), columns=min(len(names), 4), height=3.4, sharey=True)
        for axis, name in zip(axes, names, strict=True):
            shown = sorted((cell for cell in cells if getattr(cell, name)), key=lambda cell: float(getattr(cell, name)))
            for series in _series(name, [cell for cell in shown if cell in predicted]):
                _band(axis, [math.log2(getattr(cell, name)) for cell in series], [predicted[cell] for cell in series])
            for cell in shown:
                at = recipes.index(cell.recipe)
                x = math.log2(getattr(cell, name)) + DODGE * (at - (len(recipes) - 1) / 2)
                _optimum(axis, x, cell, MARKERS[at % len(MARKERS)], colours[size_of(cell)])
            axis.set_xlabel(AXES[name])
            sizes = some(sorted({getattr(cell, name) for cell in shown}), SIZES)
            show = amount if name in ("params", "tokens") else "{:g}".format
            axis.set_xticks([math.log2(size) for size in sizes], [show(size) for size in sizes])
        ends = [lr for cell in cells if cell.optimum for lr in (cell.optimum.lr, cell.optimum.low, cell.optimum.high)]
        octaves(axes[0].yaxis, [math.log2(lr) for lr in ends if 0 < lr < math.inf])
        axes[0].set_ylabel("optimal peak lr, base units")
        if len(recipes) > 1:
            handles = [legend_handle(MARKERS[i % len(MARKERS)], recipe) for i, recipe in enumerate(recipes)]
            figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def size_of(cell: Cell) -> tuple[float, float, float, float]:
    """What a colour stands for: the same shape and budget have the same colour under every recipe."""
    return (cell.params, cell.width or 0.0, cell.depth or 0.0, float(f"{cell.tokens:.2g}"))


def cell_colours(cells: Sequence[Cell]) -> Mapping[tuple[float, float, float, float], Any]:
    """From small to large."""
    sizes = sorted({size_of(cell) for cell in cells})
    return dict(zip(sizes, ladder(len(sizes)), strict=True))


def _valley(axis: Axes, cell: Cell, colour: Any, top: float) -> None:
    finite = [setting for setting in cell.curve if math.isfinite(setting.loss)]
    axis.plot([math.log2(s.lr) for s in finite], [s.loss for s in finite], color=colour, zorder=2)
    repeated = [setting for setting in finite if setting.sem]
    axis.errorbar(
        [math.log2(s.lr) for s in repeated],
        [s.loss for s in repeated],
        [s.sem for s in repeated],
        fmt="none",
        ecolor=colour,
        capsize=2,
    )
    edge = blended_transform_factory(axis.transData, axis.transAxes)
    best = {setting.best.source for setting in cell.curve}
    for pale in (True, False):
        rows = [row for row in cell.rows if (row.source not in best) == pale]
        alpha = 0.35 if pale else 1.0
        within = [row for row in rows if loss_of(row) <= top]
        _points(axis, within, [row.loss for row in within], "o", color=colour, s=10 if pale else 18, alpha=alpha)
        high = [row for row in rows if loss_of(row) > top]
        _points(axis, high, [0.955] * len(high), "^", fc="none", ec=[colour], s=22, transform=edge, alpha=alpha)
    lost = [row for row in cell.rows if math.isnan(loss_of(row))]
    _points(axis, lost, [0.99] * len(lost), "x", color=colour, s=26, transform=edge, clip_on=False)
    if (optimum := cell.optimum) and optimum.edge != "only":
        ends = (optimum.low or optimum.lr, optimum.high if math.isfinite(optimum.high) else optimum.lr)
        axis.plot([math.log2(end) for end in ends], [optimum.floor] * 2, color=colour, lw=5, alpha=0.28, zorder=1)
        marker = {"": "D", "lowest": "<", "highest": ">"}[optimum.edge]
        axis.plot(math.log2(optimum.lr), optimum.floor, marker, color=MARK, markersize=5, zorder=4)


def _points(axis: Axes, rows: Sequence[Row], y: Sequence[float], marker: str, **options: Any) -> None:
    """Runs as points that lead to their records."""
    if rows:
        points = axis.scatter([math.log2(row.lr) for row in rows], y, marker=marker, zorder=3, **options)
        points.set_urls([f"#{anchor(row)}" for row in rows])


def _top(cells: Sequence[Cell]) -> float:
    """The highest loss in any valley."""
    return max(
        (
            setting.loss
            for cell in cells
            for setting in cell.curve
            if cell.optimum
            and math.isfinite(setting.loss)
            and abs(math.log2(setting.lr / cell.optimum.lr)) <= VALLEY + 1e-9
        ),
        default=math.inf,
    )


def _limit(axis: Axes, cells: Sequence[Cell], top: float) -> None:
    """Room above the losses for the runs that are off the scale."""
    floors = [cell.optimum.floor for cell in cells if cell.optimum]
    if floors:
        room = max(top - min(floors), 0.01 * abs(top))
        axis.set_ylim(min(floors) - 0.08 * room, top + 0.14 * room)
    else:
        axis.set_ylim(0, 1)
        axis.set_yticks([])


def _legend(figure: Figure, cells: Sequence[Cell], colours: Mapping[Any, Any]) -> None:
    """Sizes from small to large, some of them where there are many; and what the marks mean."""
    labels = {size_of(cell): cell.label for cell in cells}
    handles = [legend_handle("o", labels[size], colours[size], "-") for size in some(sorted(labels), LEGEND)]
    handles.append(legend_handle("D", "optimum, between its neighbours", MARK))
    if any(cell.optimum and cell.optimum.edge in ("lowest", "highest") for cell in cells):
        handles.append(legend_handle(">", "best at the edge of the sweep", MARK))
    if any(math.isnan(loss_of(row)) for cell in cells for row in cell.rows):
        handles.append(legend_handle("x", "diverged, stopped or cut short", MUTED))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _optimum(axis: Axes, x: float, cell: Cell, marker: str, colour: Any) -> None:
    """The optimum with its interval; an end that the sweep leaves open is an arrow."""
    assert cell.optimum is not None
    best, y = cell.optimum, math.log2(cell.optimum.lr)
    axis.plot(x, y, marker, color=colour, markersize=5.5, zorder=3)
    for end, arrow in ((best.low, "v"), (best.high, "^")):
        closed = 0 < end < math.inf
        reach = math.log2(end) if closed else y + (0.5 if arrow == "^" else -0.5)
        axis.plot([x, x], [y, reach], color=colour, lw=1.2, alpha=0.7)
        if not closed:
            axis.plot(x, reach, arrow, color=MARK, markersize=5)


def _series(name: str, cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that differ in size alone, or in tokens alone."""
    series: dict[tuple[float, ...], list[Cell]] = {}
    for cell in cells:
        *shape, tokens = size_of(cell)
        series.setdefault(tuple(shape) if name == "tokens" else (tokens,), []).append(cell)
    return list(series.values())


def _band(axis: Axes, xs: Sequence[float], predicted: Sequence["Estimate"]) -> None:
    """The laws' optimum and interval at the cells; joined to a band where each x has one."""
    optimum = [math.log2(lr.optimum or lr.value) for lr in predicted]
    low = [math.log2(lr.low or lr.value) for lr in predicted]
    high = [math.log2(lr.high or lr.value) for lr in predicted]
    if len(set(xs)) == len(xs) > 1:
        axis.fill_between(xs, low, high, color=MUTED, alpha=0.18, lw=0, zorder=1)
        axis.plot(xs, optimum, color=MUTED, lw=1.2, zorder=2)
    else:
        axis.vlines(xs, low, high, color=MUTED, alpha=0.22, lw=8, zorder=1)
        axis.scatter(xs, optimum, marker="_", color=MUTED, s=60, zorder=2)
