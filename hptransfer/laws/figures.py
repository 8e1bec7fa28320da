"""Figures of a fit itself, functions of rows and laws: its valleys, what it leaves unexplained, what rivals say."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.figures.style import INK, MUTED, drawing, ladder, octaves, panels, some
from hptransfer.laws.evidence import coordinate, gather
from hptransfer.laws.laws import FittedCell, Laws
from hptransfer.laws.valley import Floats, evaluate
from hptransfer.records import Row

LEVELS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Relative losses over the floor at which contours are drawn."""
MOST = 6
"""Panels of a figure."""


def valley_contours(rows: Sequence[Row], laws: Laws) -> Figure | None:
    """Loss over lr and batch in each cell: runs, fitted valley and floor; None where the batch was not swept."""
    if not {"lr", "batch_tokens"} <= set(laws.coordinates):
        return None
    members = _members(rows, laws)
    shown = some([one for one in laws.cells if members[id(one)]], MOST)
    with drawing():
        figure, axes = panels(len(shown))
        for axis, one in zip(axes, shown, strict=True):
            _contour(axis, laws, one, members[id(one)])
        axes[0].set_ylabel("batch, tokens")
    return figure


def residuals(rows: Sequence[Row], laws: Laws) -> Figure | None:
    """What the fit leaves of each run's loss, against its distance from the best lr; None where no lr was swept."""
    if "lr" not in laws.coordinates:
        return None
    members = _members(rows, laws)
    with drawing():
        figure, (axis,) = panels(1, columns=1, height=3.6)
        for one, colour in zip(laws.cells, ladder(len(laws.cells)), strict=True):
            runs = [row for row in members[id(one)] if math.isfinite(row.loss)]
            if runs:
                away = _away(laws, one, runs)
                excess = evaluate(laws.coordinates, _shape(laws), away).excess
                left = np.log([row.loss for row in runs]) - one.floor - excess
                axis.plot(away[:, 0] / math.log(2), left * 100, "o", ms=2.5, color=colour, alpha=0.7)
        axis.axhline(0, color=MUTED, lw=1)
        axis.set_yscale("symlog", linthresh=1.0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("lr over the cell's best lr, octaves")
        axis.set_ylabel("loss not explained, %")
    return figure


def against_rivals(laws: Laws, params: float, tokens: float) -> Figure:
    """The lr and batch at a target: the laws' with its 95 % interval, and what published laws say."""
    prediction = laws.predict(params=params, tokens=tokens)
    names = [
        "these laws",
        *(name for name, values in prediction.rivals.items() if {"lr", "batch_tokens"} & set(values)),
    ]
    with drawing():
        figure, axes = panels(2, columns=2, height=1.2 + 0.3 * len(names))
        for axis, quantity, own in zip(
            axes, ("lr", "batch_tokens"), (prediction.lr, prediction.batch_tokens), strict=True
        ):
            if own.low and own.high:
                axis.plot([own.low, own.high], [0, 0], color=INK, lw=2)
            axis.plot([own.value], [0], "o", color=INK)
            for place, name in enumerate(names[1:], start=1):
                if quantity in prediction.rivals[name]:
                    axis.plot([prediction.rivals[name][quantity]], [place], "o", color=MUTED)
            axis.set_xscale("log")
            axis.set_xlabel(quantity)
            axis.set_yticks(range(len(names)), names)
            axis.invert_yaxis()
    return figure


def _members(rows: Sequence[Row], laws: Laws) -> dict[int, list[Row]]:
    """The rows of each fitted cell."""
    found: dict[int, list[Row]] = {id(one): [] for one in laws.cells}
    evidence = gather(rows, pool=True)
    assert evidence.problem is not None
    for row, c in zip(evidence.rows, evidence.problem.cell, strict=True):
        cell = evidence.cells[int(c)]
        for one in laws.cells if row.status in ("finished", "diverged") else ():
            same = (one.cell.params, one.cell.width, one.cell.depth) == (cell.params, cell.width, cell.depth)
            if same and abs(math.log(one.cell.tokens / cell.tokens)) < 0.01:
                found[id(one)].append(row)
    return found


def _shape(laws: Laws) -> Floats:
    return laws.coefficients[len(laws.coordinates) * len(laws.features.columns) :]


def _away(laws: Laws, one: FittedCell, runs: Sequence[Row]) -> Floats:
    """Distances (runs, coordinates) in ln from the cell's own optimum."""
    x = [[math.log(coordinate(row, name)) for name in laws.coordinates] for row in runs]
    away: Floats = np.array(x) - np.array([one.optimum[name] for name in laws.coordinates])
    return away


def _contour(axis: Axes, laws: Laws, one: FittedCell, runs: Sequence[Row]) -> None:
    """One cell on log2 axes."""
    lr = np.linspace(*_span([row.lr for row in runs]), 60)
    batch = np.linspace(*_span([row.batch_tokens for row in runs]), 60)
    grid = np.zeros((60, 60, len(laws.coordinates)))
    b = laws.coordinates.index("batch_tokens")
    grid[..., 0] = lr[None, :] * math.log(2) - one.optimum["lr"]
    grid[..., b] = batch[:, None] * math.log(2) - one.optimum["batch_tokens"]
    excess = evaluate(laws.coordinates, _shape(laws), grid).excess
    lines = axis.contour(lr, batch, excess, levels=LEVELS, cmap="viridis_r", linewidths=1)
    axis.clabel(lines, fmt=lambda level: f"{level * 100:g} %", fontsize=6)
    finite = [row for row in runs if math.isfinite(row.loss)]
    over = [row.loss / math.exp(one.floor) - 1 for row in finite]
    across, up = [math.log2(row.lr) for row in finite], [math.log2(row.batch_tokens) for row in finite]
    axis.scatter(across, up, c=np.clip(over, LEVELS[0], LEVELS[-1]), s=9, cmap="viridis_r", norm="log")
    gone = [row for row in runs if not math.isfinite(row.loss)]
    axis.plot([math.log2(r.lr) for r in gone], [math.log2(r.batch_tokens) for r in gone], "x", color=MUTED, ms=4)
    half = [1.96 * one.optimum_sd[name] / math.log(2) for name in ("lr", "batch_tokens")]
    x, y = (one.optimum[name] / math.log(2) for name in ("lr", "batch_tokens"))
    axis.errorbar(x, y, xerr=half[0], yerr=half[1], fmt="*", color=INK, ms=9, capsize=2)
    octaves(axis.xaxis, list(lr))
    octaves(axis.yaxis, list(batch))
    axis.set_xlabel("peak lr")
    axis.set_title(f"{one.cell.params:.3g} parameters, {one.cell.tokens:.3g} tokens", fontsize=8)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """log2, with half an octave to spare."""
    return math.log2(min(values)) - 0.5, math.log2(max(values)) + 0.5
