"""Do 95 % intervals hold the truth 95 % of the time? On made-up worlds with known optima, and on the Step Law cells.

    python benchmarks/laws_coverage.py [--worlds 100] [--data DATA/steplaw_dense_small.csv] [--output FILE.md]

Each world draws its own exponents, curvatures, asymmetry, noise, scatter of the cells, bend and cliff (hptransfer/laws/
synthetic.py) and is asked for a cell four times as large, with four times the tokens, as its largest. `width` is the
median ratio of the ends of the lr interval; `regret` the mean true relative loss of the recommendation in percent, and
`optimum` that of the fitted optimum, which the recommendation trades for safety.
"""

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hptransfer.laws import Estimate, fit
from hptransfer.laws.evidence import gather
from hptransfer.laws.pooled import fit_pooled
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World
from hptransfer.rows import Row

DESIGNS = [
    # cells, runs per cell, lr and batch (else lr alone on a grid), parametrization
    (1, 6, False, "completep"),
    (2, 6, False, "completep"),
    (3, 6, False, "completep"),
    (6, 6, False, "completep"),
    (3, 6, False, "sp"),
    (6, 6, False, "sp"),
    (3, 16, True, "sp"),
    (6, 4, True, "sp"),
    (6, 8, True, "sp"),
    (6, 32, True, "sp"),
    (12, 8, True, "sp"),
    (12, 32, True, "sp"),
]


def cells(count: int) -> list[tuple[float, float]]:
    """Sizes that grow by factors of 4, each with one budget, or with two where there are more than 3 cells."""
    over = (1.0, 3.0) if count > 3 else (1.0,)
    sizes = math.ceil(count / len(over))
    step = 4.0 if sizes <= 4 else 4.0 ** (3 / (sizes - 1))
    return [(BASE_PARAMS * step**i, BASE_TOKENS * step**i * o) for i in range(sizes) for o in over][:count]


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval holds ln `truth`."""
    assert estimate.low is not None
    assert estimate.high is not None
    return math.log(estimate.low) <= truth <= math.log(estimate.high)


def worlds(count: int, cell_count: int, runs: int, batch: bool, parametrization: str) -> list[str]:
    """One line of the table."""
    lr_inside, batch_inside, widths, regrets, plain = [], [], [], [], []
    for number in range(count):
        rng = np.random.default_rng((number, cell_count, runs))
        world = World.draw(rng, parametrization)
        sizes = cells(cell_count)
        sweep = world.scattered if batch else world.line
        rows = [row for params, tokens in sizes for row in sweep(rng, params, tokens, runs)]
        if not any(row.status == "finished" for row in rows):
            continue
        params, tokens = sizes[-1][0] * 4, sizes[-1][0] / BASE_PARAMS * BASE_TOKENS * 4
        truth = world.optimum(rng, params, tokens)
        width = 64 * (params / BASE_PARAMS) ** (1 / 3)
        laws = fit(rows, resamples=200, validate=False)
        at = laws.predict(params=params, tokens=tokens, width=width, depth=width / 16)
        lr_inside.append(holds(at.lr, truth[0]))
        widths.append(at.lr.high / at.lr.low)
        if batch:
            batch_inside.append(holds(at.batch_tokens, truth[1]))
        for estimate, found in (("value", regrets), ("optimum", plain)):
            x = [
                math.log(getattr(at.lr, estimate)),
                math.log(getattr(at.batch_tokens, estimate)) if batch else truth[1],
            ]
            found.append(min(float(world.excess(np.array(x) - truth)), 1.0))
    shown = f"{np.mean(batch_inside) * 100:.0f}" if batch else ""
    design = "lr x batch, random" if batch else "lr grid of octaves"
    return [
        f"{cell_count}",
        f"{runs}",
        design,
        parametrization,
        f"{np.mean(lr_inside) * 100:.0f}",
        shown,
        f"{np.median(widths):.2f}",
        f"{np.mean(regrets) * 100:.2f}",
        f"{np.mean(plain) * 100:.2f}",
    ]


def step_law_cells(path: Path, runs: Sequence[int], repeats: int) -> list[str]:
    """Each cell predicted from `runs` random runs of every other one; truth: the optimum fitted to all runs."""
    with path.open(newline="") as file:
        rows = [
            Row(
                float(line["n_nonembed"]),
                float(line["tokens"]),
                float(line["lr"]),
                float(line["batch_tokens"]),
                float(line["loss"]),
            )
            for line in csv.DictReader(file)
        ]
    everything = gather(rows)
    assert everything.problem is not None
    truth = fit_pooled(everything.problem).optima
    lines = ["| runs per cell | lr inside % | batch inside % | median width of lr |", "|---|---|---|---|"]
    for count in runs:
        inside: list[tuple[bool, bool]] = []
        widths = []
        for repeat in range(repeats):
            rng = np.random.default_rng((repeat, count))
            for c, cell in enumerate(everything.cells):
                train = []
                for other in everything.cells:
                    if other is not cell:
                        group = [row for row in rows if (row.params, row.tokens) == (other.params, other.tokens)]
                        train += [group[i] for i in rng.choice(len(group), count, replace=False)]
                at = fit(train, resamples=200, validate=False).predict(params=cell.params, tokens=cell.tokens)
                inside.append((holds(at.lr, truth[c, 0]), holds(at.batch_tokens, truth[c, 1])))
                widths.append(at.lr.high / at.lr.low)
        lr, batch = np.mean(inside, axis=0) * 100
        lines.append(f"| {count} | {lr:.0f} | {batch:.0f} | {np.median(widths):.2f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    head = [
        "cells",
        "runs per cell",
        "sweep",
        "scheme",
        "lr inside %",
        "batch inside %",
        "width",
        "regret %",
        "optimum %",
    ]
    lines = [
        f"Coverage of 95 % intervals: `python benchmarks/laws_coverage.py --worlds {args.worlds}`",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for design in DESIGNS:
        lines.append("| " + " | ".join(worlds(args.worlds, *design)) + " |")
        print(lines[-1], flush=True)
    if args.data:
        lines += ["", "The dense Step Law cells, each predicted from the others:", ""]
        lines += step_law_cells(args.data, [4, 8, 32], 3)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
