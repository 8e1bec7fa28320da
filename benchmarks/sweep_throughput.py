"""The wall time of an lr sweep in our pool over that of the customary shell loop.

    python benchmarks/sweep_throughput.py --output benchmarks/results/sweep_throughput.csv

The loop starts a fresh `python -m hptransfer train` for each lr, with torch's default number of threads (all cores).
Both train the same runs on the same corpus, which is built beforehand; start-up of either is part of its time. The
longer a trial, the less start-up matters and the nearer the ratio comes to that of one thread per trial alone.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]

CONFIG = {
    "model": {"name": "gpt", "width": 64, "depth": 2, "head_dim": 16},
    "parametrization": {"name": "completep", "base_width": 64, "base_depth": 2},
    "data": {"source": "python_source", "size_mb": 2, "seq_len": 64},
    "train": {"batch_tokens": 1024, "eval_tokens": 8192, "log_every": 10, "save_weights": False},
}


def hptransfer(*arguments: str) -> float:
    """Seconds that a command takes."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment["PYTHONPATH"] = str(ROOT)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "hptransfer", *arguments], env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def measure(tokens: int, trials: int, workers: int) -> dict[str, float]:
    """Both contestants once, one after the other, from the same state."""
    lrs = [round(1e-3 * 1.15**number, 6) for number in range(trials)]
    sweep = {
        "method": "grid",
        "command": ["hptransfer", "train", "run.yaml", f"--train.tokens={tokens}", "${args}"],
        "parameters": {"optimizer.lr": {"values": lrs}},
    }
    Path("run.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    for runs in ("pool", "loop"):
        hptransfer("train", "run.yaml", "--runs", runs, "--train.tokens=1024", "--optimizer.lr=0.5")
    loop = sum(
        hptransfer(
            "train",
            "run.yaml",
            "--runs",
            "loop",
            f"--train.tokens={tokens}",
            f"--optimizer.lr={lr}",
            f"--train.threads={workers}",
        )
        for lr in lrs
    )
    pool = hptransfer("sweep", "sweep.yaml", "--runs", "pool", "--workers", str(workers))
    return {
        "tokens": tokens,
        "trials": trials,
        "workers": workers,
        "loop_s": loop,
        "pool_s": pool,
        "ratio": loop / pool,
    }


def main() -> None:
    """Prints a line per length of trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32768, 131072], help="budgets of a trial")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="CSV to write")
    options = parser.parse_args()
    rows = []
    for tokens in options.tokens:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            row = measure(tokens, options.trials, options.workers)
            os.chdir(ROOT)
        rows.append({**row, "machine": platform.machine(), "python": platform.python_version()})
        print(
            f"{tokens} tokens a trial, {options.trials} trials, {options.workers} workers: shell loop "
            f"{row['loop_s']:.1f} s, pool {row['pool_s']:.1f} s: {row['ratio']:.2f}x less time"
        )
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
