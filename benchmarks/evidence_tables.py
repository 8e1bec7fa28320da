"""Drift of the optimum and zero-shot regret, from the runs that benchmarks/evidence.py has written.

    python benchmarks/evidence_tables.py

For each study with a benchmarks/results/evidence_STUDY_runs.csv: writes evidence_STUDY.csv beside it and
docs/evidence_STUDY.svg. Prints what README and docs/evidence.md show of them.

A cell (one parametrization at one size) has its optimum at the minimum of a parabola in log2 lr, least squares through
all its finished runs within an octave of the best lr, with a constant for each seed (the constants sum to 0): runs of
one seed see the same data in the same order, from weights drawn alike. Zero-shot regret: the cell's loss at the optimum
of the study's smallest size, over its loss at its own optimum, minus 1; read off the same parabola, or off a straight
line between the mean losses on either side where the lr lies outside of it. Intervals hold 95 % of 2,000 resamples of
the residuals.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from hptransfer.figures.style import MARK, MUTED, drawing, ladder, octaves, panels, to_svg

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
WINDOW, DEGREE, RESAMPLES = 1.0, 2, 2000


@dataclass(frozen=True)
class Run:
    """One line of a table of runs."""

    exponent: float
    seed: int
    loss: float
    """Infinite where the run diverged."""


@dataclass(frozen=True)
class Curve:
    """A cell's parabola: coefficients as fitted (row 0) and resampled, over `low` to `high` in log2 lr."""

    coefficients: Floats
    low: float
    high: float
    centre: float

    def at(self, exponents: Floats) -> Floats:
        """Loss at one exponent for each row of coefficients."""
        powers = (exponents - self.centre)[:, None] ** np.arange(DEGREE + 1)
        return np.sum(self.coefficients * powers, axis=1)

    def optima(self) -> Floats:
        """The exponent of each row's minimum, on a grid of 1/200 octave."""
        grid = np.linspace(self.low, self.high, round(200 * (self.high - self.low)) + 1)
        powers = (grid - self.centre)[:, None] ** np.arange(DEGREE + 1)
        return grid[np.argmin(powers @ self.coefficients.T, axis=0)]


def read(path: Path) -> dict[str, dict[tuple[int, int], list[Run]]]:
    """Parametrization -> (width, depth), smallest first -> runs."""
    cells: dict[str, dict[tuple[int, int], list[Run]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            loss = float(line["loss"]) if line["status"] == "finished" else math.inf
            size = (int(line["width"]), int(line["depth"]))
            cells[line["parametrization"]][size].append(Run(float(line["exponent"]), int(line["seed"]), loss))
    return {label: dict(sorted(sizes.items())) for label, sizes in cells.items()}


def means(runs: Sequence[Run]) -> dict[float, float]:
    """Mean loss over seeds by exponent."""
    by_exponent: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        by_exponent[run.exponent].append(run.loss)
    return {exponent: math.fsum(losses) / len(losses) for exponent, losses in sorted(by_exponent.items())}


def curve(runs: Sequence[Run], rng: np.random.Generator) -> Curve:
    """The parabola through the runs near the best lr, and through resamples of its residuals."""
    average = means(runs)
    centre = min(average, key=lambda exponent: average[exponent])
    near = [run for run in runs if abs(run.exponent - centre) <= WINDOW and math.isfinite(run.loss)]
    x, loss = np.array([run.exponent for run in near]), np.array([run.loss for run in near])
    design = np.column_stack([(x - centre)[:, None] ** np.arange(DEGREE + 1), contrasts([run.seed for run in near])])
    solve = np.linalg.pinv(design)
    fitted = design @ (solve @ loss)
    residuals = (loss - fitted) * math.sqrt(len(x) / max(len(x) - design.shape[1], 1))
    noisy = fitted[:, None] + rng.choice(residuals, (len(x), RESAMPLES))
    coefficients = solve[: DEGREE + 1] @ np.column_stack([loss, noisy])
    return Curve(coefficients.T, x.min(), x.max(), centre)


def contrasts(seeds: Sequence[int]) -> Floats:
    """(runs, seeds - 1): columns of constants for each seed that sum to 0 over the seeds."""
    first, *others = sorted(set(seeds))
    columns = [[(seed == other) - (seed == first) for seed in seeds] for other in others]
    return np.array(columns, dtype=np.float64).reshape(len(others), len(seeds)).T


def loss_at(runs: Sequence[Run], cell: Curve, exponents: Floats) -> Floats:
    """Loss for each row of coefficients at its own exponent: on the parabola, or between mean losses beside it."""
    average = means(runs)
    outside = np.interp(exponents, list(average), list(average.values()))
    return np.where((exponents < cell.low) | (exponents > cell.high), outside, cell.at(exponents))


def summary(study: Mapping[str, Mapping[tuple[int, int], list[Run]]]) -> list[dict[str, Any]]:
    """One line for each cell."""
    lines = []
    for label, sizes in study.items():
        rng = np.random.default_rng(0)
        base: Floats | None = None
        for (width, depth), runs in sizes.items():
            cell = curve(runs, rng)
            optima = cell.optima()
            base = optima if base is None else base
            best = cell.at(optima)
            lines.append(
                {
                    "parametrization": label,
                    "width": width,
                    "depth": depth,
                    "runs": len(runs),
                    "diverged": sum(math.isinf(run.loss) for run in runs),
                    "seed sd %": f"{100 * spread(runs):.2f}",
                    **figures("log2 lr", optima, 2),
                    **figures("drift", optima - base, 2),
                    **figures("loss", best, 4),
                    **figures("regret %", 100 * (loss_at(runs, cell, base) / best - 1), 2),
                }
            )
    return lines


def figures(name: str, values: Floats, digits: int) -> dict[str, str]:
    """The value (row 0) and its interval."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {name: f"{values[0]:.{digits}f}", f"{name} low": f"{low:.{digits}f}", f"{name} high": f"{high:.{digits}f}"}


def spread(runs: Sequence[Run]) -> float:
    """Standard deviation between seeds over the loss, pooled over the lrs that have several."""
    by_exponent: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        by_exponent[run.exponent].append(run.loss)
    several = [np.array(losses) for losses in by_exponent.values() if len(losses) > 1 and math.isfinite(sum(losses))]
    freedom = sum(len(losses) - 1 for losses in several)
    squares = sum(float(((losses / losses.mean() - 1) ** 2).sum()) for losses in several)
    return math.sqrt(squares / freedom) if freedom else math.nan


def draw(name: str, study: Mapping[str, Mapping[tuple[int, int], list[Run]]]) -> str:
    """A panel for each parametrization: every lr's mean loss, the parabola, and the line that joins the optima."""
    best = min(min(means(runs).values()) for sizes in study.values() for runs in sizes.values())
    worst = max(min(means(runs).values()) for sizes in study.values() for runs in sizes.values())
    margin = 0.3 * (worst - best) + 0.02 * best
    with drawing():
        figure, axes = panels(len(study), columns=len(study), height=3.7, sharex=True, sharey=True)
        for axis, (label, sizes) in zip(axes, study.items(), strict=True):
            panel(axis, sizes)
            axis.set_title(label)
            axis.set_xlabel("peak lr at the base shape")
            octaves(axis.xaxis, [run.exponent for cells in study.values() for runs in cells.values() for run in runs])
        axes[0].set_ylim(best - margin / 4, worst + margin)
        axes[0].set_ylabel("validation loss, nats")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return to_svg(figure, f"evidence_{name}").replace("data-width", "width").replace("data-height", "height")


def panel(axis: Axes, sizes: Mapping[tuple[int, int], list[Run]]) -> None:
    """The valleys of one parametrization."""
    optima = []
    for colour, ((width, depth), runs) in zip(ladder(len(sizes)), sizes.items(), strict=True):
        average = means(runs)
        axis.plot(list(average), list(average.values()), "o", color=colour, markersize=3.2, alpha=0.75)
        cell = curve(runs, np.random.default_rng(0))
        fitted = Curve(cell.coefficients[:1], cell.low, cell.high, cell.centre)
        grid = np.linspace(cell.low, cell.high, 60)
        losses = np.concatenate([fitted.at(np.array([x])) for x in grid])
        axis.plot(grid, losses, color=colour, label=f"width {width}, depth {depth}")
        place = fitted.optima()
        optima.append((float(place[0]), float(fitted.at(place)[0])))
    for start, end in pairwise(optima):
        axis.plot(*zip(start, end, strict=True), color=MARK, linewidth=1, linestyle=":")
    axis.plot(*zip(*optima, strict=True), "*", color=MARK, markersize=9, linestyle="none")
    axis.axvline(optima[0][0], color=MUTED, linewidth=0.8, linestyle="--")


def headline(lines: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the study's widest and deepest cells."""
    base = lines[0]
    widest, deepest = (max(line[axis] for line in lines) for axis in ("width", "depth"))
    columns = (
        "parametrization",
        "size",
        "drift of the best lr, octaves",
        "zero-shot regret",
        "loss at its own best lr",
    )
    rows = [
        (
            line["parametrization"],
            f"{line['width']} x {line['depth']}",
            interval(line, "drift"),
            interval(line, "regret %", " %"),
            interval(line, "loss"),
        )
        for line in lines
        if (widest > base["width"] and line["width"] == widest)
        or (deepest > base["depth"] and line["depth"] == deepest)
    ]
    header = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*header, *(f"| {' | '.join(row)} |" for row in rows)])


def interval(line: Mapping[str, Any], name: str, unit: str = "") -> str:
    """The value with its interval."""
    return f"{line[name]}{unit} ({line[f'{name} low']} to {line[f'{name} high']})"


def main() -> None:
    for path in sorted(RESULTS.glob("evidence_*_runs.csv")):
        name = path.stem.removeprefix("evidence_").removesuffix("_runs")
        study = read(path)
        lines = summary(study)
        with (RESULTS / f"evidence_{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        (ROOT / f"docs/evidence_{name}.svg").write_text(draw(name, study))
        print(f"{name}\n{headline(lines)}\n")


if __name__ == "__main__":
    main()
