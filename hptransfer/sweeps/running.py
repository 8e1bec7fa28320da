"""sweep: every run of a sweep file that has no result, on as many workers as there are cores."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from hptransfer import tracking
from hptransfer.data import Progress
from hptransfer.errors import UserError, did_you_mean
from hptransfer.records import write_json
from hptransfer.sweeps.alone import alone
from hptransfer.sweeps.bar import REFRESH, Bar
from hptransfer.sweeps.bayes import import_optuna
from hptransfer.sweeps.cluster import ray_executor, slurm_executor
from hptransfer.sweeps.config import Sweep, load_sweep
from hptransfer.sweeps.deepening import deepened, prepare
from hptransfer.sweeps.devices import accelerators, check_memory
from hptransfer.sweeps.early import EarlyStop, rungs_of
from hptransfer.sweeps.jobs import Executor, Job, Outcome, attempts
from hptransfer.sweeps.local import LocalExecutor, warm_up
from hptransfer.sweeps.result import SweepResult
from hptransfer.sweeps.samplers import sampler_of
from hptransfer.sweeps.search import Search
from hptransfer.sweeps.trials import Run

EXECUTORS = ("local", "slurm", "ray")

ASK_AGAIN = 1.0
"""Seconds until a run that another process is training is asked for again."""


def sweep(
    path: Path | str,
    runs: Path | str = "runs",
    workers: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    retry_failed: bool = False,
    design: str = "random",
    timeout: float | None = None,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    trials_per_device: int = 1,
    share: bool = False,
    deepen: int | None = None,
    best: int | None = None,
    on_data: Progress | None = None,
    show_progress: bool = True,
) -> SweepResult:
    """Runs a sweep, or what is left of it; `dry_run` only looks. Default: as many workers as cores, or, where trials
    train on accelerators, `trials_per_device` on each.

    What has a result is not run again, what has failed only with `retry_failed`. `timeout` is in seconds per local
    trial; `executor_options` go to submitit or Ray. UserError before anything starts where the file, or one of its
    trials, is not valid. KeyboardInterrupt (Ctrl-C) comes through once every running trial has left a checkpoint: the
    same call continues. UserError where another process runs this sweep, unless they `share` it (each run has a lock
    of its own, which has to work across the machines). `deepen` takes, in place of its runs, runs that many times as
    long that go on from the stable phases of the finished ones, or of the `best` of each size. `on_data` is told of
    the building of a corpus.
    """
    if executor == "local" and not dry_run:
        warm_up()
    search = open_search(path, runs, seed, design, on_data)
    if deepen:
        search = deepened(search, deepen, best)
    devices = accelerators(search.runs) if executor == "local" else 0
    workers = workers or devices * trials_per_device or available_cores()
    result = SweepResult(search, workers, dry_run)
    if dry_run:
        return result
    replay(search.runs)
    todo = [run for run in search.runs if wants_running(run, retry_failed)]
    if count := len(todo) + search.left:
        if devices:
            check_memory(todo, -(-workers // devices))
        workers = min(workers, count)
        with (
            nullcontext(nothing) if share else alone(search.file.name, search.folder) as check,
            closing(open_executor(executor, workers, search.folder, timeout, devices, executor_options)) as pool,
            closing(Bar(search, show_progress)) as bar,
        ):
            prepare(todo)
            Loop(search, pool, bar, result.failures, check).run(todo)
    return result


def nothing() -> None:
    """There is nothing to check."""


def status(
    path: Path | str,
    runs: Path | str = "runs",
    workers: int | None = None,
    seed: int = 0,
    design: str = "random",
    deepen: int | None = None,
    best: int | None = None,
) -> SweepResult:
    """Where a sweep stands, whoever runs it: its table, with what failed and why, and the time that is left."""
    search = open_search(path, runs, seed, design)
    return SweepResult(deepened(search, deepen, best) if deepen else search, workers or available_cores())


def open_search(path: Path | str, runs: Path | str, seed: int, design: str, on_data: Progress | None = None) -> Search:
    """The runs of a sweep file."""
    file = load_sweep(path)
    if file.config.early_terminate is not None:
        import_optuna("early_terminate")
    return Search(file, Path(runs), sampler_of(file.config, seed, design), on_data)


def open_executor(
    name: str,
    workers: int,
    runs: Path,
    timeout: float | None = None,
    devices: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Executor:
    """The executor of this name; UserError where it is unknown or cannot be had."""
    if name == "local":
        return LocalExecutor(workers, timeout, devices)
    if name == "ray":
        return ray_executor(workers, runs, options or {})
    if name == "slurm":
        return slurm_executor(workers, runs, options or {})
    raise UserError(f"executor: {name!r}; allowed: {', '.join(EXECUTORS)}{did_you_mean(name, list(EXECUTORS))}")


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


def early_stop(file: Sweep, run: Run) -> EarlyStop | None:
    """The rule for one run: compared with the sweep's runs of its size and budget."""
    rule = file.config.early_terminate
    if rule is None:
        return None
    group = f"{file.name}, {run.params} params, {run.tokens} tokens"
    return EarlyStop(rungs_of(rule, run.trial.config.schedule.warmup), rule.eta, group)


class Loop:
    """Hands runs out and takes outcomes in, until all are settled."""

    def __init__(
        self,
        search: Search,
        executor: Executor,
        bar: Bar,
        failures: dict[Path, str],
        check: Callable[[], None] = nothing,
    ) -> None:
        """`check` raises once the sweep is another process's."""
        self.search, self.executor, self.bar, self.failures, self.check = search, executor, bar, failures, check
        self.running: dict[Future[Outcome], Run] = {}
        self.busy_elsewhere: list[tuple[float, Run]] = []

    def run(self, todo: Sequence[Run]) -> None:
        """Runs them, the longest first: a long run started last would end alone."""
        try:
            for run in sorted(todo, key=lambda run: -run.flops):
                self.submit(run)
            self.settle_all()
        except BaseException:
            self.leave_off()
            raise

    def submit(self, run: Run) -> None:
        """Hands a run to the executor."""
        early = early_stop(self.search.file, run)
        job = Job(run.trial.config, run.record.path, attempts(run.record), early)
        self.running[self.executor.submit(job)] = run

    def settle_all(self) -> None:
        """Waits for every run."""
        self.propose()
        while self.running or self.busy_elsewhere:
            for future in wait(self.running, REFRESH, FIRST_COMPLETED).done:
                self.settle(self.running.pop(future), future.result())
            self.check()
            self.ask_again()
            self.propose()
            self.bar.refresh()

    def propose(self) -> None:
        """Keeps every worker busy with what the search proposes."""
        for run in self.search.more(self.executor.slots - len(self.running)):
            self.submit(run)

    def settle(self, run: Run, outcome: Outcome) -> None:
        """Takes in how an attempt ended."""
        if outcome.kind == "busy":
            self.busy_elsewhere.append((time.monotonic() + ASK_AGAIN, run))
        elif outcome.kind == "interrupted":
            self.submit(run)  # somebody else's signal: the sweep itself goes on
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
        """Whatever the reason, lets running trials write a checkpoint; a second Ctrl-C does not."""
        self.bar.say("stopping: running trials leave a checkpoint (Ctrl-C again: at once)")
        self.executor.stop()
        begun = [future for future in self.running if not future.cancelled()]
        try:
            wait(begun)
        except KeyboardInterrupt:
            self.executor.stop()
            wait(begun)
