"""What an executor runs: one trial, and how it ended. The same function on every machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from hptransfer.config import RunConfig
from hptransfer.errors import UserError
from hptransfer.records import Record
from hptransfer.sweeps.early import EarlyStop, Watch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hptransfer.training import Step

LOOK_EVERY = 0.05
"""Seconds between two looks at whether to stop: far below a person's patience, far above the cost of looking."""


ATTEMPTS = 2
"""Times that a trial is tried whose process, or machine, dies under it."""


@dataclass(frozen=True)
class Job:
    """One trial as it travels to whoever runs it."""

    config: RunConfig
    folder: Path
    """Of the run record."""
    attempts: int
    """Failures known when the job was made: one more means that another process has tried and failed since."""
    early: EarlyStop | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a trial ended; what it found stands in the run record.

    ended: there is a result. busy: another process is training this run. failed: it raised. lost: its process died.
    interrupted: it was told to stop and left a checkpoint.
    """

    kind: Literal["ended", "busy", "failed", "lost", "interrupted"]
    message: str = ""


class Executor(Protocol):
    """Runs jobs somewhere."""

    slots: int
    """Jobs that run at a time."""

    def submit(self, job: Job) -> "Future[Outcome]":
        """Queues a job. The future is cancelled if `stop` comes before the job has begun."""

    def stop(self) -> None:
        """Tells running jobs to leave a checkpoint and end; a second call ends them at once."""

    def close(self) -> None:
        """Gives everything back. No job may be running."""


def attempts(record: Record) -> int:
    """How often a run has failed."""
    return int((record.failure or {}).get("attempts", 0))


def never() -> bool:
    """Nobody interrupts."""
    return False


def run_job(job: Job, interrupted: Callable[[], bool] = never) -> Outcome:
    """Trains the trial in this process; `interrupted()` is asked now and then whether to leave off."""
    from hptransfer.training import Busy, train

    failure = Record(job.folder).failure
    if failure is not None and attempts(Record(job.folder)) > job.attempts:
        return Outcome("failed", failure["message"])
    looked = 0.0
    watch = Watch(job.early, job.folder) if job.early else None

    def on_step(step: "Step") -> bool:
        nonlocal looked
        if time.monotonic() - looked >= LOOK_EVERY:
            looked = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
        return watch is None or watch.goes_on(step)

    try:
        train(job.config, job.folder.parent, on_step)
    except Busy:
        return Outcome("busy")
    except KeyboardInterrupt:
        return Outcome("interrupted")
    except UserError as problem:
        return Outcome("failed", str(problem))
    except Exception as problem:
        return Outcome("failed", f"{type(problem).__name__}: {problem}")
    return Outcome("ended")
