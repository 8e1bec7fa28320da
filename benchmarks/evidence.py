"""Does the optimum stay put? Sweeps of lr at several sizes and seeds, under every parametrization of a study.

    python benchmarks/evidence.py width depth --runs runs/evidence --workers 2

Runs what is missing of the studies named (a run that has been killed continues where it was), and writes
benchmarks/results/evidence_STUDY_runs.csv after every round, so that a part of a study is a table too.
`python benchmarks/evidence_tables.py` turns these tables into drifts, regrets and figures.

A cell is one parametrization at one size. Its lrs stand on a grid of half octaves and are chosen as an engineer would:
three lrs an octave apart, then further where the best is at the edge, then the half octaves about the best, then
more seeds at the best three lrs, and at the best lr of the study's smallest size (what a transfer would use). The
smallest size costs least and decides most: it has twice as many seeds.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hptransfer.config import load_config
from hptransfer.training import train

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
COLUMNS = ("parametrization", "width", "depth", "params", "tokens", "steps", "exponent", "lr", "seed", "status", "loss")


@dataclass(frozen=True)
class Study:
    """Which sizes, under which parametrizations, from which config."""

    config: str
    sizes: Sequence[Mapping[str, float]]
    """Keys of `model`, the smallest (the base) first."""
    schemes: Mapping[str, Sequence[str]]
    """Label -> overrides."""
    start: Mapping[str, float] = field(default_factory=dict)
    """Label -> log2 of the lr that the search begins at; -6 where not given."""
    overrides: Sequence[str] = ()
    lrs: Mapping[str, float] = field(default_factory=lambda: {"optimizer.lr": 1.0})
    """Keys that the swept lr goes to -> factors on it."""
    seeds: int = 3
    """At the best lrs; twice as many at the smallest size."""

    def seeds_of(self, size: int) -> range:
        """At the best lrs of the size of this index."""
        return range(self.seeds if size else 2 * self.seeds)


WIDTHS = [{"width": width, "depth": 2} for width in (32, 64, 128, 256)]
DEPTHS = [{"width": 32, "depth": depth} for depth in (2, 4, 8, 16)]
SP, COMPLETEP = ["parametrization.name=sp"], ["parametrization.name=completep"]
STUDIES = {
    # At the base depth mup and completep are one parametrization, at the base width sp and mup are (tests hold both).
    "width": Study("configs/evidence.yaml", WIDTHS, {"sp": SP, "mup = completep": COMPLETEP}, {"sp": -7}),
    "depth": Study(
        "configs/evidence.yaml",
        DEPTHS,
        {"sp = mup": SP, "depth_mup": ["parametrization.name=depth_mup"], "completep": COMPLETEP},
    ),
    # SP as most code has it, its initial scales equal to the base's at width 32: 0.1 = 0.566 / sqrt(32).
    "fan_in": Study(
        "configs/evidence.yaml",
        [WIDTHS[0], WIDTHS[-1]],
        {
            "sp_fan_in": [
                "parametrization.name=sp_fan_in",
                "parametrization.init_std=0.566",
                "parametrization.init_multipliers={embedding: 0.177}",
            ]
        },
        {"sp_fan_in": -7},
        seeds=1,
    ),
    "both": Study(
        "configs/evidence.yaml",
        [{"width": 32, "depth": 2}, {"width": 64, "depth": 4}, {"width": 96, "depth": 6}],
        {"sp": SP, "completep": COMPLETEP},
        {"sp": -7},
        overrides=["train.tokens_per_param=5"],
        seeds=1,
    ),
    "muon": Study(
        "configs/evidence.yaml",
        WIDTHS[:3],
        {"spectral": ["parametrization.name=spectral"]},
        {"spectral": -5},
        overrides=["optimizer.name=muon"],
        lrs={"optimizer.lr": 1.0, "optimizer.adamw_lr": 0.25},
        seeds=1,
    ),
    "moe": Study(
        "configs/moe.yaml",
        WIDTHS[:3],
        {"mup = completep": COMPLETEP},
        overrides=["data.seq_len=64", "train.tokens=819200", "train.eval_tokens=65536", "train.save_weights=false"],
        seeds=1,
    ),
    "vit": Study(
        "configs/vit.yaml",
        [{"width": width, "depth": depth} for width, depth in ((32, 2), (128, 2), (32, 8))],
        {"sp": SP, "completep": COMPLETEP},
        {"sp": -7, "completep": -7},
        overrides=["train.batch_tokens=32", "train.tokens=25600", "train.save_weights=false"],
        seeds=2,
    ),
    "resnet": Study(
        "configs/resnet.yaml",
        [{"width": width, "depth": depth} for width, depth in ((8, 2), (32, 2), (8, 8))],
        {"sp": SP, "completep": COMPLETEP},
        overrides=[
            "parametrization.base_width=8",
            "parametrization.init_std=0.14",  # sqrt(2) * 0.1, which the config has at twice the width
            "train.batch_tokens=32",
            "train.tokens=25600",
            "train.save_weights=false",
        ],
        seeds=1,
    ),
}


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    study: str
    label: str
    size: int
    """Index into the study's sizes."""
    exponent: float
    """log2 of the lr."""
    seed: int

    def overrides(self) -> list[str]:
        """What the study's config is overridden with."""
        study = STUDIES[self.study]
        sizes = [f"model.{key}={value}" for key, value in study.sizes[self.size].items()]
        lrs = [f"{key}={factor * 2**self.exponent}" for key, factor in study.lrs.items()]
        return [*study.overrides, *study.schemes[self.label], *sizes, *lrs, f"train.seed={self.seed}"]


Losses = dict[Trial, dict[str, Any]]
"""The results so far."""


def run_trial(trial: Trial, runs: Path) -> dict[str, Any]:
    """Its result.json; trained or read, whichever it needs."""
    result = train(load_config(ROOT / STUDIES[trial.study].config, trial.overrides()), runs).result
    assert result is not None
    return result


def wanted(name: str, done: Losses) -> list[Trial]:
    """What to run next: the next round of every cell."""
    study = STUDIES[name]
    bases = {label: settled_best(name, label, 0, done) for label in study.schemes}
    return list(
        dict.fromkeys(
            trial
            for size in reversed(range(len(study.sizes)))  # the largest first: they take longest
            for label in study.schemes
            for trial in next_of_cell(name, label, size, done, bases[label])
        )
    )


def next_of_cell(name: str, label: str, size: int, done: Losses, base: float | None) -> Iterator[Trial]:
    """The next round of one cell: seed 0 first, then the other seeds, then the lr that a transfer would use."""
    study, best = STUDIES[name], best_of_cell(name, label, size, done)
    if best is None:
        start = study.start.get(label, -6)
        first, others = [start - 1, start, start + 1], []
    else:
        first = [best + step for step in (-1, -0.5, 0, 0.5, 1)]
        others = [best - 0.5, best, best + 0.5]
    rounds = [
        [Trial(name, label, size, exponent, 0) for exponent in first],
        [Trial(name, label, size, exponent, seed) for exponent in others for seed in study.seeds_of(size)],
        [Trial(name, label, size, base, seed) for seed in study.seeds_of(size) if base is not None],
    ]
    missing = ([trial for trial in trials if trial not in done] for trials in rounds)
    yield from next(filter(None, missing), [])


def best_of_cell(name: str, label: str, size: int, done: Losses) -> float | None:
    """The exponent with the least mean loss over seeds; None before the first run."""
    losses: dict[float, list[float]] = {}
    for trial, result in done.items():
        if (trial.study, trial.label, trial.size) == (name, label, size):
            losses.setdefault(trial.exponent, []).append(loss_of(result))
    return min(losses, key=lambda exponent: math.fsum(losses[exponent]) / len(losses[exponent]), default=None)


def settled_best(name: str, label: str, size: int, done: Losses) -> float | None:
    """The best exponent of a cell that has nothing left to run."""
    if any(next_of_cell(name, label, size, done, None)):
        return None
    return best_of_cell(name, label, size, done)


def loss_of(result: Mapping[str, Any]) -> float:
    """The loss; infinite for a run that diverged."""
    return float(result["loss"]) if result["status"] == "finished" else math.inf


def run_study(name: str, runs: Path, pool: ProcessPoolExecutor) -> None:
    """Rounds until no cell wants another run."""
    done: Losses = {}
    while trials := wanted(name, done):
        futures = {pool.submit(run_trial, trial, runs): trial for trial in trials}
        for future in tqdm(as_completed(futures), total=len(futures), desc=name):
            done[futures[future]] = future.result()
            write(name, done)


def write(name: str, done: Losses) -> None:
    """All runs so far."""
    with (RESULTS / f"evidence_{name}_runs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for trial, result in sorted(done.items(), key=lambda item: order(item[0])):
            sizes = [result[key] for key in ("width", "depth", "params", "tokens", "steps")]
            loss = f"{result['loss']:.5f}" if result["loss"] is not None else ""
            writer.writerow([trial.label, *sizes, trial.exponent, result["lr"], trial.seed, result["status"], loss])


def order(trial: Trial) -> tuple[int, int, float, int]:
    """The order of the table: parametrization, size, lr, seed."""
    return list(STUDIES[trial.study].schemes).index(trial.label), trial.size, trial.exponent, trial.seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        try:
            for name in args.studies:
                run_study(name, args.runs, pool)
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
