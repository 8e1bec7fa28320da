"""Figures of a fit itself, functions of rows and laws: its valleys, what it leaves unexplained, what rivals say."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.figures.style import INK, MARK, MUTED, drawing, ladder, octaves, panels, some
from hptransfer.laws.evidence import coordinate, gather, point
from hptransfer.laws.fitting import quantile
from hptransfer.laws.laws import FittedCell, Laws, LeftOut
from hptransfer.laws.predict import Prediction, posterior
from hptransfer.laws.valley import Floats, evaluate
from hptransfer.rows import Row
from hptransfer.tables import amount

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


def optima(laws: Laws) -> Figure | None:
    """Each cell's own optimum with its interval against params and tokens, over what the law says there (95 %); None
    where the batch was not swept, or there is one cell."""
    if "batch_tokens" not in laws.coordinates or len(laws.cells) < 2:
        return None
    believed = [np.quantile(posterior(laws, point(one.cell)).optimum, [0.025, 0.5, 0.975], 0) for one in laws.cells]
    with drawing():
        figure, axes = panels(2 * len(laws.coordinates), columns=2, height=3.0)
        for i, axis in enumerate(axes):
            j, by = i // 2, ("params", "tokens")[i % 2]
            name = laws.coordinates[j]
            _against_size(axis, laws, name, by, [ends[:, j] / math.log(2) for ends in believed])
            octaves(axis.yaxis, [one.optimum[name] / math.log(2) for one in laws.cells])
            axis.set_ylabel(f"best {name}")
    return figure


def left_out(laws: Laws) -> Figure | None:
    """Coverage: the left-out cells' optima as predicted from the rest, over their own, with the 95 % interval."""
    if not laws.validation:
        return None
    with drawing():
        count = len(laws.coordinates)
        figure, axes = panels(count, columns=count, height=1.2 + 0.25 * len(laws.validation), sharey=True)
        for axis, name in zip(axes, laws.coordinates, strict=True):
            for place, one in enumerate(laws.validation):
                kept = sum(getattr(cell.cell, one.by) < laws.largest(one.by) * (1 - 1e-6) for cell in laws.cells)
                miss, half = (value / math.log(2) for value in (one.miss[name], quantile(kept) * one.sd[name]))
                axis.errorbar(miss, place, xerr=half, fmt="o", color=INK if one.inside else MARK, ms=4, capsize=2)
            axis.axvline(0, color=MUTED, lw=1)
            axis.set_xlabel(f"{name}, octaves off")
        axes[0].set_yticks(range(len(laws.validation)), [_reach(one) for one in laws.validation])
        axes[0].invert_yaxis()
    return figure


def against_rivals(prediction: Prediction) -> Figure | None:
    """The lr and batch at a target: the laws' with its 95 % interval, and what published laws say; None where none
    does."""
    speak = [name for name, values in prediction.rivals.items() if {"lr", "batch_tokens"} & set(values)]
    if not speak:
        return None
    names = ["this law", *speak]
    with drawing():
        figure, axes = panels(2, columns=2, height=1.2 + 0.3 * len(names), sharey=True)
        for axis, quantity, own in zip(
            axes, ("lr", "batch_tokens"), (prediction.lr, prediction.batch_tokens), strict=True
        ):
            if own.low and own.high:
                axis.plot([math.log2(own.low), math.log2(own.high)], [0, 0], color=INK, lw=2)
            theirs = {place: prediction.rivals[name].get(quantity) for place, name in enumerate(speak, start=1)}
            known = {0: own.value, **{place: value for place, value in theirs.items() if value}}
            for place, value in known.items():
                axis.plot([math.log2(value)], [place], "o", color=MUTED if place else INK)
            ends = sorted(value for value in (*known.values(), own.low, own.high) if value)
            ticks = dict.fromkeys((ends[0], own.value, ends[-1]))
            axis.set_xticks([math.log2(value) for value in ticks], [f"{value:.3g}" for value in ticks])
            axis.set_xlabel(quantity)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
    return figure


def _against_size(axis: Axes, laws: Laws, name: str, by: str, ends: Sequence[Floats]) -> None:
    """One panel of `optima`, in log2 both ways; a band joins the cells that differ in `by` alone."""
    other = "tokens" if by == "params" else "params"
    sizes = [math.log2(float(getattr(one.cell, by))) for one in laws.cells]
    series = sorted({float(f"{getattr(one.cell, other):.2g}") for one in laws.cells})
    for value, colour in zip(series, ladder(len(series)), strict=True):
        members = [i for i, one in enumerate(laws.cells) if float(f"{getattr(one.cell, other):.2g}") == value]
        members.sort(key=lambda i: sizes[i])
        x, band = [sizes[i] for i in members], np.array([ends[i] for i in members])
        axis.fill_between(x, band[:, 0], band[:, 2], color=colour, alpha=0.15, lw=0)
        axis.vlines(x, band[:, 0], band[:, 2], color=colour, alpha=0.2, lw=5)
        axis.plot(x, band[:, 1], color=colour, lw=1)
        own = [laws.cells[i].optimum[name] / math.log(2) for i in members]
        half = [1.96 * laws.cells[i].optimum_sd[name] / math.log(2) for i in members]
        axis.errorbar(x, own, yerr=half, fmt="o", color=colour, ms=4, capsize=2)
    shown = some(sorted(set(sizes)), 5)
    axis.set_xticks(shown, [amount(2**size) for size in shown])
    axis.set_xlabel({"params": "non-embedding parameters", "tokens": "tokens"}[by])


def _reach(one: LeftOut) -> str:
    """`largest params, 0.2 decades on`."""
    return f"largest {one.by}, {one.decades[one.by]:.2g} decades on"


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
