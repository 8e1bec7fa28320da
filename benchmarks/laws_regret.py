"""Regret of the laws against published and refitted rivals on the dense Step Law sweep, paired on the same draws.

    python benchmarks/laws_regret.py DATA/steplaw_dense_small.csv [--repeats 30] [--output FILE.md]

Regret: loss at the recommended (lr, batch), linearly interpolated on the test cell's own grid in (ln lr, ln batch),
over the best loss of that grid, minus 1. Rows above a relative loss of 20 % count as 20 %; a recommendation outside
the swept box is moved to its edge. Every method sees the same K random runs of each training cell.
"""

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.tri import LinearTriInterpolator, Triangulation

from hptransfer.laws import fit
from hptransfer.rows import Row

Floats = npt.NDArray[np.float64]
Method = Callable[[Sequence[Row]], Callable[[float, float], tuple[float, float]]]
"""Training rows -> (params, tokens) -> (ln lr, ln batch)."""
CLIP = 0.2


def read(path: Path) -> list[Row]:
    """The runs of the published table."""
    with path.open(newline="") as file:
        return [
            Row(
                float(line["n_nonembed"]),
                float(line["tokens"]),
                float(line["lr"]),
                float(line["batch_tokens"]),
                float(line["loss"]),
                weight_decay=float(line["weight_decay"]),
                source=line["run"],
            )
            for line in csv.DictReader(file)
        ]


def by_cell(rows: Sequence[Row]) -> dict[tuple[float, float], list[Row]]:
    """Rows by (params, tokens)."""
    cells: dict[tuple[float, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.params, row.tokens), []).append(row)
    return dict(sorted(cells.items()))


class Surface:
    """A cell's measured relative loss over (ln lr, ln batch)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        points, first = np.unique(np.log([[row.lr, row.batch_tokens] for row in rows]), axis=0, return_index=True)
        loss = np.array([row.loss for row in rows])
        self.low, self.high = points.min(0), points.max(0)
        unit = (points - self.low) / (self.high - self.low)
        relative = np.minimum(loss / loss.min() - 1, CLIP)[first]
        self.interpolate = LinearTriInterpolator(Triangulation(unit[:, 0], unit[:, 1]), relative)

    def regret(self, lr: float, batch: float) -> float:
        """At ln lr, ln batch."""
        unit = np.clip((np.array([lr, batch]) - self.low) / (self.high - self.low), 1e-9, 1 - 1e-9)
        for inward in np.linspace(0, 1, 51):  # a corner may be missing from the grid
            value = self.interpolate(*(unit + inward * (0.5 - unit)))
            if not np.ma.is_masked(value):
                return float(value)
        raise AssertionError("no measured point on the way to the middle")


def laws(rows: Sequence[Row]) -> Callable[[float, float], tuple[float, float]]:
    """Ours."""
    fitted = fit(rows, resamples=0, validate=False)

    def at(params: float, tokens: float) -> tuple[float, float]:
        prediction = fitted.predict(params=params, tokens=tokens)
        return math.log(prediction.lr.value), math.log(prediction.batch_tokens.value)

    return at


def published_step_law(rows: Sequence[Row]) -> Callable[[float, float], tuple[float, float]]:
    """arXiv:2503.04715: its authors saw the test cells."""
    return lambda n, d: (
        math.log(1.79) - 0.713 * math.log(n) + 0.307 * math.log(d),
        math.log(0.58) + 0.571 * math.log(d),
    )


def _regression(rows: Sequence[Row]) -> Callable[[float, float], tuple[float, float]]:
    """ln lr on (ln N, ln D), ln batch on ln D."""
    x = np.array([[1.0, math.log(row.params), math.log(row.tokens)] for row in rows])
    lr = np.linalg.lstsq(x, np.log([row.lr for row in rows]), rcond=None)[0]
    batch = np.linalg.lstsq(x[:, [0, 2]], np.log([row.batch_tokens for row in rows]), rcond=None)[0]
    return lambda n, d: (
        float(lr @ [1.0, math.log(n), math.log(d)]),
        float(batch @ [1.0, math.log(d)]),
    )


def step_law_tool(rows: Sequence[Row]) -> Callable[[float, float], tuple[float, float]]:
    """What step-law's fit_tool.py does: regression over the runs within 0.25 % of their cell's best."""
    best = {cell: min(row.loss for row in group) for cell, group in by_cell(rows).items()}
    return _regression([row for row in rows if row.loss <= 1.0025 * best[row.params, row.tokens]])


def grid_minima(rows: Sequence[Row]) -> Callable[[float, float], tuple[float, float]]:
    """Regression over each cell's best run."""
    return _regression([min(group, key=lambda row: row.loss) for group in by_cell(rows).values()])


def pooled_quadratic(rows: Sequence[Row], within: float = 0.05) -> Callable[[float, float], tuple[float, float]]:
    """Least squares, in closed form, of relative loss on a quadratic of shared curvature, over the runs near the best.

    Expanding (x - optimum)' H (x - optimum) / 2 with an optimum linear in (1, ln N, ln D) gives terms that are linear
    in their coefficients: x x', x times (1, ln N, ln D), and a floor per cell.
    """
    cells = by_cell(rows)
    best = {cell: min(row.loss for row in group) for cell, group in cells.items()}
    near = [row for row in rows if row.loss <= (1 + within) * best[row.params, row.tokens]]
    middle = np.mean([[math.log(n), math.log(d)] for n, d in cells], axis=0)
    centre = np.mean([[math.log(row.lr), math.log(row.batch_tokens)] for row in near], axis=0)
    order = {cell: i for i, cell in enumerate(cells)}
    x = np.array([[math.log(row.lr), math.log(row.batch_tokens)] for row in near]) - centre
    f = np.array([[1.0, math.log(row.params) - middle[0], math.log(row.tokens) - middle[1]] for row in near])
    floors = np.eye(len(order))[[order[row.params, row.tokens] for row in near]]
    y = np.array([row.loss / best[row.params, row.tokens] - 1 for row in near])
    squares = np.stack([x[:, 0] ** 2 / 2, x[:, 0] * x[:, 1], x[:, 1] ** 2 / 2], 1)
    design = np.concatenate([squares, x[:, :1] * f, x[:, 1:] * f, floors], 1)
    c = np.linalg.lstsq(design, y, rcond=None)[0]
    hessian = np.array([[c[0], c[1]], [c[1], c[2]]])
    values, vectors = np.linalg.eigh(hessian)
    convex = vectors @ np.diag(np.maximum(values, 1e-3)) @ vectors.T
    slopes = -np.linalg.solve(convex, np.stack([c[3:6], c[6:9]]))

    def at(params: float, tokens: float) -> tuple[float, float]:
        place = slopes @ [1.0, math.log(params) - middle[0], math.log(tokens) - middle[1]] + centre
        return float(place[0]), float(place[1])

    return at


def asymmetric_valley(rows: Sequence[Row], steps: int = 40) -> Callable[[float, float], tuple[float, float]]:
    """Robust least squares of relative loss on one valley: floor of the cell + quadratic in (w, v) with a cross term.

    v: ln batch over its optimum; w = (exp(k u) - 1) / k with u: ln lr over its optimum, steeper on the high side for
    k > 0; optima linear in (ln N, ln D). Noise of 0.1 % + 15 % of the relative excess, weak Gaussian priors. The
    constants are set by hand. No offsets of cells, no prior from the literature but for the exponents' centres.
    """
    cells = by_cell(rows)
    order = {cell: i for i, cell in enumerate(cells)}
    index = np.array([order[row.params, row.tokens] for row in rows])
    middle = np.mean(np.log(list(cells)), axis=0)
    sizes = np.column_stack([np.ones(len(rows)), np.log([[row.params, row.tokens] for row in rows]) - middle])
    x = np.log([[row.lr, row.batch_tokens] for row in rows])
    y = np.array([row.loss for row in rows]) / np.array([min(r.loss for r in group) for group in cells.values()])[index]
    centre = x[y < 1.02].mean(axis=0)
    # ln curvatures, cross term, k; optimum of ln lr, then of ln batch, over (1, ln N, ln D); floors
    valley = [(math.log(0.03), 1), (math.log(0.02), 1), (0, 0.5), (0.5, 0.5)]
    optima = [(centre[0], 2), (-0.5, 0.5), (0.2, 0.5), (centre[1], 2), (0, 0.5), (0.5, 0.5)]
    mean, sd = np.array([*valley, *optima, *[(1, 0.01)] * len(cells)]).T

    def excess(c: Floats) -> Floats:
        u, v = x[:, 0] - sizes @ c[4:7], x[:, 1] - sizes @ c[7:10]
        w = np.expm1(np.clip(c[3] * u, -20, 5)) / c[3]
        a, b = np.exp(c[0] / 2) * w, np.exp(c[1] / 2) * v
        valley: Floats = (a * a + b * b) / 2 + np.tanh(c[2]) * a * b
        return valley

    def residuals(c: Floats, scale: Floats) -> Floats:
        return np.concatenate([(y - c[10:][index] - excess(c)) / scale, (c - mean) / sd])

    def cost(r: Floats) -> float:
        return float(np.log1p(r[: len(y)] ** 2).sum() + (r[len(y) :] ** 2).sum())

    c, damping = mean.copy(), 1e-2
    for _ in range(steps):
        scale = 0.001 + 0.15 * excess(c)
        r = residuals(c, scale)
        weights = np.concatenate([1 / (1 + r[: len(y)] ** 2), np.ones(len(c))])
        slopes = np.column_stack([(residuals(c + step, scale) - r) / 1e-5 for step in 1e-5 * np.eye(len(c))])
        normal, gradient = (slopes.T * weights) @ slopes, (slopes.T * weights) @ r
        while damping < 1e8:
            moved = c - np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            if cost(residuals(moved, scale)) <= cost(r):
                break
            damping *= 5
        else:
            break
        c, damping = moved, max(damping / 5, 1e-8)

    def at(params: float, tokens: float) -> tuple[float, float]:
        size = np.array([1.0, math.log(params) - middle[0], math.log(tokens) - middle[1]])
        return float(size @ c[4:7]), float(size @ c[7:10])

    return at


METHODS: dict[str, Method] = {
    "Step Law as published (saw the test cells)": published_step_law,
    "regression on grid minima": grid_minima,
    "Step Law's tool, refitted": step_law_tool,
    "pooled quadratic": pooled_quadratic,
    "asymmetric pooled valley": asymmetric_valley,
    "hptransfer": laws,
}


def splits(cells: Sequence[tuple[float, float]]) -> dict[str, tuple[list[int], list[int]]]:
    """Training and test cells by size, by compute, by tokens."""
    size = np.array([n for n, _ in cells])
    tokens = np.array([d for _, d in cells])
    compute = 6 * size * tokens
    rules = {
        "size: N <= 268M -> 429M": (size <= 2.7e8, size > 2.7e8),
        "compute: 6ND <= 4.1e19 -> above": (compute <= 4.1e19, compute > 4.1e19),
        "compute: 6ND <= 2.4e19 -> 1e20 and above": (compute <= 2.4e19, compute >= 9.9e19),
        "tokens: D <= 15B -> above": (tokens <= 1.5e10, tokens > 1.5e10),
    }
    return {name: (np.flatnonzero(a).tolist(), np.flatnonzero(b).tolist()) for name, (a, b) in rules.items()}


def draw(groups: Sequence[Sequence[Row]], runs: int, repeat: int) -> list[Row]:
    """`runs` random runs of each group; all of them where `runs` is 0."""
    rng = np.random.default_rng((repeat, runs))
    picked = [rng.choice(len(group), runs, replace=False) if runs else range(len(group)) for group in groups]
    return [group[i] for group, indices in zip(groups, picked, strict=True) for i in indices]


def regrets(
    method: Method, groups: list[list[Row]], train: list[int], test: list[int], runs: int, repeats: int
) -> Floats:
    """Mean regret over the test cells in percent, for each repeat."""
    cells = [(group[0].params, group[0].tokens) for group in groups]
    surfaces = {c: Surface(groups[c]) for c in test}
    result = []
    for repeat in range(repeats if runs else 1):
        at = method(draw([groups[c] for c in train], runs, repeat))
        result.append(np.mean([surfaces[c].regret(*at(*cells[c])) for c in test]) * 100)
    return np.array(result)


def floor(groups: list[list[Row]], test: list[int]) -> float:
    """Mean regret in percent of each test cell's own fitted optimum: the least that noise allows."""
    return float(
        np.mean([Surface(groups[c]).regret(*laws(groups[c])(groups[c][0].params, groups[c][0].tokens)) for c in test])
        * 100
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--runs", type=int, nargs="+", default=[4, 8, 16, 32, 0], help="per cell; 0: all")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    groups = list(by_cell(read(args.data)).values())
    cells = [(group[0].params, group[0].tokens) for group in groups]
    lines = [
        "Mean regret in percent, median / 90th percentile over repeats, by runs per training cell.",
        f"`python benchmarks/laws_regret.py {args.data.name} --repeats {args.repeats}`",
    ]
    for name, (train, test) in splits(cells).items():
        lines += [
            "",
            f"**{name}** ({len(train)} cells -> {len(test)} cells; own smoothed optimum {floor(groups, test):.3f})",
            "",
        ]
        lines.append("| | " + " | ".join(f"K={runs}" if runs else "all" for runs in args.runs) + " |")
        lines.append("|---|" + "---|" * len(args.runs))
        for label, method in METHODS.items():
            row = [regrets(method, groups, train, test, runs, args.repeats) for runs in args.runs]
            shown = [f"{np.median(v):.3f} / {np.quantile(v, 0.9):.3f}" if len(v) > 1 else f"{v[0]:.3f}" for v in row]
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
            print(lines[-1], flush=True)
    lines += ["", *leave_one_out(groups, args.runs, max(2, args.repeats // 10))]
    lines += ["", *random_halves(groups, (16, 0), args.repeats)]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text)


def leave_one_out(groups: list[list[Row]], runs: Sequence[int], repeats: int) -> list[str]:
    """Each cell predicted from all others."""
    lines = ["**leave one cell out** (mean / 90th percentile over cells and repeats)", ""]
    lines.append("| | " + " | ".join(f"K={k}" if k else "all" for k in runs) + " |")
    lines.append("|---|" + "---|" * len(runs))
    everything = range(len(groups))
    for label, method in METHODS.items():
        shown = []
        for k in runs:
            values = np.concatenate(
                [regrets(method, groups, [o for o in everything if o != c], [c], k, repeats) for c in everything]
            )
            shown.append(f"{values.mean():.3f} / {np.quantile(values, 0.9):.3f}")
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return lines


def random_halves(groups: list[list[Row]], runs: Sequence[int], repeats: int) -> list[str]:
    """Half of the cells, drawn at random, predicted from the other half; every method on the same halves and runs."""
    found: dict[tuple[str, int], list[float]] = {}
    for repeat in range(repeats):
        mixed = np.random.default_rng(repeat).permutation(len(groups)).tolist()
        train, test = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
        for k in runs:
            rows = draw([groups[c] for c in train], k, repeat)
            for label, method in METHODS.items():
                at = method(rows)
                values = [Surface(groups[c]).regret(*at(groups[c][0].params, groups[c][0].tokens)) for c in test]
                found.setdefault((label, k), []).append(100 * float(np.mean(values)))
    lines = [
        f"**random halves of the cells** (mean over {repeats}; less that of hptransfer, with its standard error)",
        "",
    ]
    lines.append("| | " + " | ".join(f"K={k}" if k else "all" for k in runs) + " |")
    lines.append("|---|" + "---|" * len(runs))
    for label in METHODS:
        shown = []
        for k in runs:
            values = np.array(found[label, k])
            more = values - np.array(found["hptransfer", k])
            error = more.std(ddof=1) / math.sqrt(repeats)
            shown.append(f"{values.mean():.3f}" + f" ({more.mean():+.3f} ± {error:.3f})" * (label != "hptransfer"))
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    main()
