"""Every part of the valley and its noise, taken away: what that costs in likelihood and when a cell is left out.

    python benchmarks/laws_choices.py DATA/steplaw_dense_small.csv [--output FILE.md]

`likelihood`: ln likelihood of all runs, over that of the model as it is (higher is better; 2 per parameter is noise).
`regret`: each cell's recommendation from all other cells, on its measured grid, in percent: mean over cells, with all
runs and with 8 random runs per cell.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from laws_regret import by_cell, laws, read, regrets

from hptransfer.laws import pooled, priors
from hptransfer.laws.evidence import gather
from hptransfer.laws.pooled import fit_pooled
from hptransfer.rows import Row

PINNED = 1e-4
NO_BEND = {"batch_tokens bend": (0.0, PINNED), "batch_tokens taper": (0.0, PINNED)}
SHAPES: dict[str, Mapping[str, tuple[float, float]]] = {
    "as it is": {},
    "no wall": {"lr wall": (-30.0, PINNED)},
    "no asymmetry of the lr": {"lr asymmetry": (0.0, PINNED), "lr wall": (-30.0, PINNED)},
    "no asymmetry of the batch": {"batch_tokens asymmetry": (0.0, PINNED)},
    "a straight ridge of constant curvature": NO_BEND,
    "a parabola": {
        **NO_BEND,
        "lr asymmetry": (0.0, PINNED),
        "lr wall": (-30.0, PINNED),
        "batch_tokens asymmetry": (0.0, PINNED),
    },
}
NOISES: dict[str, dict[str, Any]] = {
    "Student-t with 2 degrees": {"STUDENT": 2.0},
    "Student-t with 4 degrees": {"STUDENT": 4.0},
    "Student-t with 20 degrees": {"STUDENT": 20.0},
    "no cliff": {"CLIFF": (1e-9, 1e9)},
    "noise alike on both sides": {"NOISE_SIDE": (0.0, PINNED)},
    "no offsets of cells": {"SPREAD": {**priors.SPREAD, "lr": 1e-3, "batch_tokens": 1e-3}, "SPREAD_CELLS": 1e9},
}


@contextmanager
def changed(changes: Mapping[str, Any]) -> Iterator[None]:
    """The constants of pooled.py and priors.py set for a while."""
    before = [
        (module, name, getattr(module, name))
        for name in changes
        for module in (pooled, priors)
        if hasattr(module, name)
    ]
    try:
        for module, name, _ in before:
            setattr(module, name, changes[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def judge(groups: list[list[Row]]) -> tuple[float, float, float]:
    """ln likelihood, mean regret with all runs, mean regret with 8."""
    problem = gather([row for group in groups for row in group]).problem
    assert problem is not None
    everything = range(len(groups))

    def left_out(runs: int) -> float:
        values = [
            regrets(laws, groups, [other for other in everything if other != c], [c], runs, 2) for c in everything
        ]
        return float(np.concatenate(values).mean())

    return fit_pooled(problem).log_likelihood, left_out(0), left_out(8)


def alternatives() -> dict[str, dict[str, Any]]:
    """Constants to change, by name of the alternative."""
    shapes = {name: {"SHAPE": {**priors.SHAPE, **pins}} for name, pins in SHAPES.items()}
    return {**shapes, **NOISES}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    groups = list(by_cell([dataclasses.replace(row, source="") for row in read(args.data)]).values())
    lines = ["| | likelihood | regret, all runs | regret, K=8 |", "|---|---|---|---|"]
    reference = math.nan
    for name, changes in alternatives().items():
        with changed(changes):
            likelihood, everything, eight = judge(groups)
        reference = likelihood if math.isnan(reference) else reference
        lines.append(f"| {name} | {likelihood - reference:+.0f} | {everything:.3f} | {eight:.3f} |")
        print(lines[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
