"""What a sweep shows: the plan before it, the table after it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.rows import Row
from hptransfer.seeds import SeedNoise, seed_noise
from hptransfer.sweeps.progress import expected_flops, progress, seconds_left, state
from hptransfer.sweeps.search import Search
from hptransfer.sweeps.trials import Run
from hptransfer.tables import duration, table


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep and how it went. States and losses are read from the records when they are asked for."""

    search: Search
    workers: int
    dry_run: bool = False
    failures: dict[Path, str] = field(default_factory=dict)
    """Messages, by run folder, of the runs that failed this time."""

    @property
    def runs(self) -> list[Run]:
        """Every run of the sweep."""
        return self.search.runs

    @property
    def failed(self) -> list[Run]:
        """Runs that have no result because they failed."""
        return [run for run in self.runs if self._row(run).status == "failed"]

    @property
    def rows(self) -> list[Row]:
        """Of the runs that have a result."""
        return [row for run in self.runs if (row := run.record.row()) is not None]

    @property
    def seed_noise(self) -> SeedNoise | None:
        """How far losses move between seeds; None where no point has two."""
        return seed_noise(self.rows)

    def to_text(self) -> str:
        """For people: what would be run (dry run), or what came of it."""
        return self.plan() if self.dry_run else self.table()

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        now = progress(self.runs)
        return {
            "name": self.search.file.name,
            "states": now.states,
            "to_be_proposed": self.search.left,
            "flops": expected_flops(self.search, now),
            "flops_done": now.flops_done,
            "seconds_left": seconds_left(self.search, self.workers),
            "seed_noise": noise.to_dict() if (noise := self.seed_noise) else None,
            "runs": [self._row(run).to_dict() for run in self.runs],
        }

    def table(self) -> str:
        """Every run, best first, then those that failed with their messages."""
        rows = sorted((self._row(run) for run in self.runs), key=lambda row: row.loss)
        keys = varied(self.runs)
        lines = _columns(
            [*keys, "status", "loss", "seconds", "folder"],
            [[*(show(row.run.trial.overrides[key]) for key in keys), *row.cells()] for row in rows],
        )
        failed = [f"{row.run.record.path}: {row.message}" for row in rows if row.status == "failed"]
        hint = ["the runs that failed are tried again with --retry-failed"] if failed else []
        noise = [str(noise)] if (noise := self.seed_noise) else []
        return "\n".join([*lines, *failed, *noise, self.summary(), *hint])

    def plan(self) -> str:
        """Every run with its size and its cost, and the cost of all that is still to do."""
        keys = varied(self.runs)
        lines = _columns(
            [*keys, "params", "tokens", "FLOPs", "status", "folder"],
            [
                [
                    *(show(run.trial.overrides[key]) for key in keys),
                    f"{run.params:,}",
                    f"{run.tokens:,}",
                    f"{run.flops:.2g}",
                    state(run.record),
                    str(run.record.path),
                ]
                for run in self.runs
            ],
        )
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Counts by state; where something is left to do, its FLOPs, and its time if past runs tell."""
        now, unknown = progress(self.runs), self.search.left
        total = expected_flops(self.search, now)
        counts = f"{self.search.file.name}: {now}" + (f", {unknown} to be proposed" if unknown else "")
        if total <= now.flops_done and not unknown:
            return counts
        seconds = seconds_left(self.search, self.workers)
        time = "time unknown before the first run" if seconds is None else f"about {duration(seconds)}"
        workers = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return f"{counts}; {total - now.flops_done:.2g} of {total:.2g} FLOPs to do, {time} with {workers}"

    def _row(self, run: Run) -> "_Row":
        result, failure = run.record.result, run.record.failure
        if result is not None:
            loss = result["loss"]
            return _Row(run, str(result["status"]), math.inf if loss is None else loss, result["seconds"])
        message = self.failures.get(run.record.path) or str((failure or {}).get("message", ""))
        return _Row(run, "failed" if message else state(run.record), message=message)


@dataclass(frozen=True)
class _Row:
    run: Run
    status: str
    loss: float = math.inf
    seconds: float | None = None
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "folder": str(self.run.record.path),
            "overrides": dict(self.run.trial.overrides),
            "params": self.run.params,
            "tokens": self.run.tokens,
            "flops": self.run.flops,
            "status": self.status,
            "loss": self.loss,
            "seconds": self.seconds,
            "message": self.message,
        }

    def cells(self) -> list[str]:
        loss = f"{self.loss:.4f}" if math.isfinite(self.loss) else "-"
        seconds = "-" if self.seconds is None else f"{self.seconds:.1f}"
        return [self.status, loss, seconds, str(self.run.record.path)]


def varied(runs: Sequence[Run]) -> list[str]:
    """The parameters that differ between runs."""
    keys = runs[0].trial.overrides if runs else {}
    values = {key: {show(run.trial.overrides[key]) for run in runs} for key in keys}
    return [key for key, found in values.items() if len(found) > 1]


def show(value: Any) -> str:
    """A parameter's value, short."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {show(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return table([dict(zip(header, row, strict=True)) for row in rows]).splitlines()
