"""sweep: every run of a sweep file that has no result, on as many workers as there are cores."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from pathlib import Path

from hptransfer import tracking
from hptransfer.records import write_json
from hptransfer.sweeps.bar import Bar
from hptransfer.sweeps.config import load_sweep
from hptransfer.sweeps.jobs import Executor, Job, Outcome, attempts
from hptransfer.sweeps.local import LocalExecutor
from hptransfer.sweeps.result import SweepResult
from hptransfer.sweeps.trials import Run, expand, resolve_runs

REFRESH = 0.5
"""Seconds between two looks at the records for the progress bar."""

ASK_AGAIN = 1.0
"""Seconds until a run that another process is training is asked for again."""


def sweep(
    path: Path | str,
    runs: Path | str = "runs",
    workers: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    retry_failed: bool = False,
    timeout: float | None = None,
    show_progress: bool = True,
) -> SweepResult:
    """Runs a sweep, or what is left of it; `dry_run` only looks. Default: as many workers as cores.

    What has a result is not run again, what has failed only with `retry_failed`; `timeout` is in seconds per trial.
    UserError before anything starts where the file, or one of its trials, is not valid. KeyboardInterrupt (Ctrl-C)
    comes through once every running trial has left a checkpoint: the same call continues.
    """
    file, folder = load_sweep(path), Path(runs)
    workers = workers or available_cores()
    planned = resolve_runs(file, expand(file, seed), folder)
    result = SweepResult(file.name, planned, folder, workers, dry_run)
    if dry_run:
        return result
    replay(planned)
    if todo := [run for run in planned if wants_running(run, retry_failed)]:
        with (
            closing(LocalExecutor(min(workers, len(todo)), timeout)) as executor,
            closing(Bar(file.name, planned, show_progress)) as bar,
        ):
            Loop(executor, bar, result.failures).run(todo)
    return result


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wants_running(run: Run, retry_failed: bool) -> bool:
    """Whether a run has neither ended nor, unless failed runs are tried again, failed."""
    return run.record.result is None and (retry_failed or run.record.failure is None)


def replay(runs: Sequence[Run]) -> None:
    """Tells the tracker of the runs that have ended before."""
    for run in runs:
        if run.record.result is not None:
            tracking.replay(run.record, run.trial.config.tracking)


class Loop:
    """Hands runs out and takes outcomes in, until all are settled."""

    def __init__(self, executor: Executor, bar: Bar, failures: dict[Path, str]) -> None:
        self.executor, self.bar, self.failures = executor, bar, failures
        self.running: dict[Future[Outcome], Run] = {}
        self.busy_elsewhere: list[tuple[float, Run]] = []

    def run(self, todo: Sequence[Run]) -> None:
        """Runs them, the longest first: a long run started last would end alone."""
        try:
            for run in sorted(todo, key=lambda run: -run.flops):
                self.submit(run)
            self.settle_all()
        except KeyboardInterrupt:
            self.leave_off()
            raise

    def submit(self, run: Run) -> None:
        """Hands a run to the executor."""
        job = Job(run.trial.config, run.record.path, attempts(run.record))
        self.running[self.executor.submit(job)] = run

    def settle_all(self) -> None:
        """Waits for every run."""
        while self.running or self.busy_elsewhere:
            for future in wait(self.running, REFRESH, FIRST_COMPLETED).done:
                self.settle(self.running.pop(future), future.result())
            self.ask_again()
            self.bar.refresh()

    def settle(self, run: Run, outcome: Outcome) -> None:
        """Takes in how an attempt ended."""
        if outcome.kind == "busy":
            self.busy_elsewhere.append((time.monotonic() + ASK_AGAIN, run))
        elif outcome.kind == "lost":
            failure = {"message": outcome.message, "attempts": attempts(run.record) + 1}
            write_json(run.record.path / "failure.json", failure)
        if outcome.kind in ("failed", "lost"):
            self.failures[run.record.path] = outcome.message

    def ask_again(self) -> None:
        """Runs that another process was training: it has ended them, or has died, or is still at it."""
        due = [run for at, run in self.busy_elsewhere if at <= time.monotonic()]
        self.busy_elsewhere = [(at, run) for at, run in self.busy_elsewhere if run not in due]
        for run in due:
            self.submit(run)

    def leave_off(self) -> None:
        """Lets running trials write a checkpoint; a second Ctrl-C does not."""
        self.bar.say("stopping: running trials leave a checkpoint (Ctrl-C again: at once)")
        self.executor.stop()
        begun = [future for future in self.running if not future.cancelled()]
        try:
            wait(begun)
        except KeyboardInterrupt:
            self.executor.stop()
            wait(begun)
