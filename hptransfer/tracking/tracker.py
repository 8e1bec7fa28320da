"""Following a run in W&B from beside it: whatever happens there, training never waits for it and never hears of it."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, main_thread
from typing import Any, NamedTuple
from weakref import finalize

from hptransfer.config import RunConfig
from hptransfer.records import Record
from hptransfer.sections import Tracking
from hptransfer.tracking.session import (
    START,
    LocalRun,
    Mode,
    ended_run,
    ending,
    forget_broken,
    log_row,
    mode_of,
    summarize,
)

logger = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds at the end of a run for what W&B has not taken yet."""

PAUSE = 300.0
"""Seconds that W&B is left alone after it has failed: a dead network costs a sweep's worker one wait, not many."""

_silent_until = 0.0
"""When this process talks to W&B again (time.monotonic)."""


def warn(folder: Path, problem: object) -> None:
    """The one line that a failure costs, and a pause. A process that is about to end says nothing more."""
    global _silent_until
    _silent_until = time.monotonic() + PAUSE
    if not main_thread().is_alive():
        return
    reason = str(problem).partition("\n")[0] or type(problem).__name__
    logger.warning("W&B: %s; training goes on, `hptransfer wandb sync %s` reports it later", reason, folder.parent)


class Tracker:
    """Follows a run; this one follows nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """One logged step: `step`, `tokens`, `flops`, and what was measured."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run has ended: `result` is its summary."""


class Abandoned(Exception):
    """Training has left the run unfinished."""


@dataclass(frozen=True)
class End:
    """Behind the last row: the result, or None for a run that was left unfinished."""

    result: Mapping[str, Any] | None


Queue = SimpleQueue[Mapping[str, float] | End]


class Following(NamedTuple):
    """A thread at work, and what it works on."""

    queue: Queue
    thread: Thread

    def leave_off(self) -> None:
        """Waits until W&B has let go of the run: an interrupted tracker may live on in a traceback."""
        self.queue.put(End(None))
        self.thread.join()


_following: dict[Path, Following] = {}
"""The last thread for each run folder: a run that is taken up again waits for it."""


class WandbTracker(Tracker):
    """A queue, and a thread that empties it into W&B.

    `earlier`: rows that the run record holds already. The thread does not know the tracker: one that training drops
    ends its thread.
    """

    def __init__(self, run: LocalRun, mode: Mode, earlier: Sequence[Mapping[str, float]]) -> None:
        self._folder = run.folder
        self._queue: Queue = SimpleQueue()
        before = _following.get(run.folder)
        self._thread = Thread(target=_work, args=(run, mode, earlier, self._queue, before), name="wandb", daemon=True)
        _following[run.folder] = Following(self._queue, self._thread)
        self._thread.start()
        finalize(self, self._queue.put, End(None)).atexit = False  # at exit wandb itself ends its runs

    def log(self, metrics: Mapping[str, float]) -> None:
        """Hands the row over."""
        if self._thread.is_alive():
            self._queue.put(metrics)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Hands the result over and waits, as long as a server may take to begin and to end."""
        self._queue.put(End(result))
        self._thread.join(2 * (START + PATIENCE))
        if self._thread.is_alive():
            warn(self._folder, "no answer")


def _work(
    local: LocalRun, mode: Mode, earlier: Sequence[Mapping[str, float]], queue: Queue, before: Following | None
) -> None:
    """Brings the run in W&B up to the record and follows it to its end."""
    try:
        if before:
            before.leave_off()
        run = local.open(mode, PATIENCE)
        logger.info("W&B: %s", run.url or run.settings.sync_dir)
        with ending(run):
            for row in earlier:
                log_row(run, row)
            while not isinstance(entry := queue.get(), End):
                log_row(run, entry)
            if entry.result is None:
                raise Abandoned
            summarize(run, entry.result)
    except Abandoned:
        return
    except Exception as problem:
        warn(local.folder, problem)
        forget_broken(problem)


def open_tracker(config: RunConfig, *, run_id: str, folder: Path, facts: Mapping[str, Any]) -> Tracker:
    """A tracker as `config.tracking`, W&B's agent and WANDB_MODE ask for.

    `folder` is the run record: what its metrics.jsonl holds at this moment W&B is to have too, then what is logged.
    `facts` are numbers of the plan that the config in W&B shows beside the user's keys. Nothing is raised, ever.
    """
    return _follow(LocalRun(config, run_id, folder, facts))


def replay(record: Record, tracking: Tracking) -> None:
    """A run that has ended appears in W&B as if it had just been made."""
    if mode_of(tracking) != "disabled":
        try:
            _follow(ended_run(record, tracking)).finish(record.result or {})
        except Exception as problem:
            warn(record.path, problem)


def _follow(run: LocalRun) -> Tracker:
    mode = mode_of(run.config.tracking)
    if mode == "disabled" or time.monotonic() < _silent_until:
        return Tracker()
    try:
        return WandbTracker(run, mode, list(Record(run.folder).metrics()))
    except Exception as problem:
        warn(run.folder, problem)
        return Tracker()
