"""The framework's own cost per training step: everything but forward, backward, clipping and the optimizer.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py --output benchmarks/results/overhead.csv

The training loop's step (data, schedule, divergence watch, metrics line, tracker off) takes turns with the bare step
(the same model, batch and optimizer, nothing else) in one process, in blocks, in an order drawn anew each round. Times
are CPU time on one thread, which other load on the machine disturbs less than the clock's.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hptransfer import tracking
from hptransfer.config import RunConfig
from hptransfer.data import open_data
from hptransfer.records import Metrics, Record
from hptransfer.scaling import resolve
from hptransfer.training import Trainer

CONFIG = {
    "model": {"name": "gpt", "width": 64, "depth": 2, "head_dim": 16},
    "parametrization": {"name": "completep", "base_width": 64, "base_depth": 2},
    "data": {"source": "python_source", "seq_len": 128, "size_mb": 8},
    "train": {"tokens": 10_000_000, "batch_tokens": 1024},
}
BLOCK = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path, help="also write the result as CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as runs:
        steps = contestants(Path(runs))
        seconds = measure(steps, args.rounds)
    result = summary(seconds)
    writer = csv.DictWriter(sys.stdout, list(result))
    writer.writeheader()
    writer.writerow(result)
    if args.output:
        with args.output.open("w", newline="") as file:
            written = csv.DictWriter(file, list(result))
            written.writeheader()
            written.writerow(result)


def contestants(runs: Path) -> dict[str, Callable[[], None]]:
    """One step of the loop, and one of the bare kind on a fixed batch; both on their own model of equal shape."""
    plan = resolve(RunConfig.model_validate(CONFIG))
    data = open_data(plan.config.data, runs)
    ours, bare = (Trainer(plan, data, Record(runs / name)) for name in ("ours", "bare"))
    ours.record.path.mkdir()
    ours.metrics = Metrics(ours.record.path / "metrics.jsonl", 0)
    ours.tracker = tracking.open_tracker(plan.config, run_id="ours", folder=ours.record.path, facts={})
    inputs, targets = (torch.from_numpy(array) for array in data.batch(0, 0, plan.sequences))

    def bare_step() -> None:
        bare.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(bare.model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(bare.model.parameters(), 1.0)
        bare.optimizer.step()

    return {"ours": lambda: ours._train_step() and None, "bare": bare_step}


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time per step, one value a round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for _ in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(BLOCK):
                steps[name]()
            seconds[name].append((time.process_time() - start) / BLOCK)
    return {name: values[1:] for name, values in seconds.items()}


def summary(seconds: dict[str, list[float]]) -> dict[str, str]:
    """Medians, and the overhead with a 95 % bootstrap interval over rounds."""
    ours, bare = np.array(seconds["ours"]), np.array(seconds["bare"])
    draws = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    ratios = np.median(ours[draws], axis=1) / np.median(bare[draws], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "width": "64",
        "depth": "2",
        "step_tokens": "1024",
        "ours_ms": f"{1e3 * np.median(ours):.2f}",
        "bare_ms": f"{1e3 * np.median(bare):.2f}",
        "overhead_percent": f"{100 * (np.median(ours) / np.median(bare) - 1):.2f}",
        "overhead_low": f"{100 * (low - 1):.2f}",
        "overhead_high": f"{100 * (high - 1):.2f}",
        "rounds": str(len(ours)),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
