"""Predicted against measured."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.figures.cells import cells_of
from hptransfer.figures.judged import Judged, judge
from hptransfer.figures.style import INK, MUTED, drawing, legend_handle, octaves, panels
from hptransfer.figures.valleys import cell_colours, size_of
from hptransfer.rows import Row

if TYPE_CHECKING:
    from hptransfer.laws import Laws

Interval = tuple[float, float, float]
"""(low, value, high)."""


def predicted_against_measured(rows: Sequence[Row], laws: "Laws") -> Figure | None:
    """Optimal lr, and predicted against measured loss; filled: held out of the fit."""
    judged = [one for one in judge(cells_of(rows), laws) if one.cell.optimum]
    if not judged:
        return None
    colours = cell_colours([one.cell for one in judged])
    with drawing():
        figure, (lr, loss) = panels(2, columns=2, height=4.2)
        for one in judged:
            colour = colours[size_of(one.cell)]
            _cross(lr, *_lr(one), colour, one.held_out)
            if one.prediction.loss:
                _cross(loss, *_loss(one), colour, one.held_out)
        for axis, name in ((lr, "optimal peak lr"), (loss, "validation loss")):
            low, high = (chosen(axis.get_xlim() + axis.get_ylim()) for chosen in (min, max))
            axis.axline((low, low), slope=1, color=MUTED, lw=1, ls="--", zorder=1)
            axis.set(xlim=(low, high), ylim=(low, high))
            axis.set_xlabel(f"{name}, predicted (95 %)")
            axis.set_ylabel(f"{name}, measured")
        octaves(lr.xaxis, lr.get_xlim())
        octaves(lr.yaxis, lr.get_ylim())
        handles = [
            legend_handle("o", "held out of the fit", INK),
            legend_handle("o", "in the fit", INK, markerfacecolor="none"),
            legend_handle("", "predicted = measured", MUTED, "--"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _lr(one: Judged) -> tuple[Interval, Interval]:
    """Predicted and measured (low, value, high) in log2; an end that is not known is the value."""
    lr, best = one.prediction.lr, one.cell.optimum
    assert best is not None
    low, high = best.low or best.lr, best.high if math.isfinite(best.high) else best.lr
    optimum = lr.optimum or lr.value
    return _log2((lr.low or optimum, optimum, lr.high or optimum)), _log2((low, best.lr, high))


def _loss(one: Judged) -> tuple[Interval, Interval]:
    loss, best = one.prediction.loss, one.cell.optimum
    assert loss is not None and best is not None
    measured = best.best.loss
    return (loss.low or loss.value, loss.value, loss.high or loss.value), (measured, measured, measured)


def _log2(interval: Interval) -> Interval:
    low, value, high = map(math.log2, interval)
    return low, value, high


def _cross(axis: Axes, x: Interval, y: Interval, colour: Any, filled: bool) -> None:
    """A point with its interval in both directions."""
    axis.plot([x[0], x[2]], [y[1], y[1]], color=colour, lw=1.2, alpha=0.7)
    axis.plot([x[1], x[1]], [y[0], y[2]], color=colour, lw=1.2, alpha=0.7)
    axis.plot(x[1], y[1], "o", color=colour, markerfacecolor=colour if filled else "none", markersize=6, zorder=3)
