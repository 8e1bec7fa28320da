"""Where every run of a sweep stands, told from the run records alone."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hptransfer.records import Record, find_records
from hptransfer.rows import STATUSES
from hptransfer.sweeps.search import Search
from hptransfer.sweeps.trials import Run

TAIL = 4096
"""Bytes at the end of metrics.jsonl in which its last whole line lies."""


def state(record: Record) -> str:
    """finished, diverged, stopped | failed | running (in whatever process) | interrupted | waiting."""
    if (result := record.result) is not None:
        return str(result["status"])
    if is_training(record):
        return "running"
    if record.failure is not None:
        return "failed"
    return "interrupted" if (record.path / "config.yaml").exists() else "waiting"


def is_training(record: Record) -> bool:
    """Whether a process holds the run's lock."""
    path = record.path / ".lock"
    if not path.exists():
        return False
    try:
        FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    except OSError:
        return False
    return False


def tokens_seen(record: Record) -> float:
    """Tokens that a run has been trained on so far."""
    if (result := record.result) is not None:
        return float(result["tokens_seen"])
    try:
        with (record.path / "metrics.jsonl").open("rb") as file:
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().split(b"\n")[:-1]
        return float(json.loads(lines[-1])["tokens"])
    except (OSError, LookupError, ValueError):
        return 0.0


@dataclass(frozen=True)
class Progress:
    """A sweep at one moment."""

    states: dict[str, int]
    """Number of runs by state."""
    flops: float
    """Of all runs."""
    flops_done: float

    @property
    def ended(self) -> int:
        """Runs with a result."""
        return sum(self.states.get(status, 0) for status in STATUSES)

    def __str__(self) -> str:
        counts = {"done": self.ended} | {
            name: self.states.get(name, 0) for name in ("running", "failed", "interrupted", "waiting")
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "done")


def progress(runs: Iterable[Run]) -> Progress:
    """Looks at every record."""
    states: dict[str, int] = {}
    flops = done = 0.0
    for run in runs:
        now = state(run.record)
        states[now] = states.get(now, 0) + 1
        flops += run.flops
        over = now in STATUSES or now == "failed"
        done += run.flops * (1.0 if over else min(1.0, tokens_seen(run.record) / run.tokens))
    return Progress(states, flops, done)


def seconds_per_flop(folder: Path) -> float | None:
    """From all ended runs of a folder; None where there is none."""
    if not folder.is_dir():
        return None
    results = [result for record in find_records(folder) if (result := record.result) is not None]
    flops = math.fsum(result.get("flops") or 0.0 for result in results)
    return math.fsum(result.get("seconds") or 0.0 for result in results) / flops if flops else None


def expected_flops(search: Search, now: Progress) -> float:
    """Of the runs that are known and those still to be proposed, which are taken to be like the known ones."""
    return now.flops * (1 + search.left / max(1, len(search.runs)))


def seconds_left(search: Search, workers: int) -> float | None:
    """Estimated time for what is not done, from the speed of the runs that are; None where none is."""
    rate, now = seconds_per_flop(search.folder), progress(search.runs)
    return None if rate is None else rate * (expected_flops(search, now) - now.flops_done) / workers
