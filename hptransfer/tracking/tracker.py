"""Following a run in W&B from beside it: whatever happens there, training never waits for it and never hears of it."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, main_thread
from typing import Any, NamedTuple
from weakref import finalize

from hptransfer.config import RunConfig
from hptransfer.records import Record
from hptransfer.sections import Tracking
from hptransfer.tracking.session import PATIENCE, Mode, ending, facts_of, log_row, mode_of, open_run, summarize

logger = logging.getLogger(__name__)

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
    """A queue, and a thread that empties it into W&B."""

    def __init__(self, reporter: "Reporter") -> None:
        self._folder = reporter.folder
        self._queue: Queue = SimpleQueue()
        before = _following.get(reporter.folder)
        self._thread = Thread(target=reporter.work, args=(self._queue, before), name="wandb", daemon=True)
        _following[reporter.folder] = Following(self._queue, self._thread)
        self._thread.start()
        finalize(self, self._queue.put, End(None)).atexit = False  # at exit wandb itself ends its runs

    def log(self, metrics: Mapping[str, float]) -> None:
        """Hands the row over."""
        if self._thread.is_alive():
            self._queue.put(metrics)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Hands the result over and waits, as long as a server may take to begin and to end."""
        self._queue.put(End(result))
        self._thread.join(3 * PATIENCE)
        if self._thread.is_alive():
            warn(self._folder, "no answer")


@dataclass
class Reporter:
    """What the thread does; it knows nothing of the tracker, so that a tracker that training drops ends the thread."""

    config: RunConfig
    run_id: str
    folder: Path
    facts: Mapping[str, Any]
    mode: Mode
    earlier: Iterable[Mapping[str, float]]
    """Rows that the run record holds already."""

    def work(self, queue: Queue, before: Following | None) -> None:
        """Brings the run in W&B up to the record and follows it to its end."""
        try:
            if before:
                before.leave_off()
            self._report(queue)
        except Abandoned:
            return
        except Exception as problem:
            warn(self.folder, problem)

    def _report(self, queue: Queue) -> None:
        run = open_run(self.config, self.run_id, self.folder, self.facts, self.mode)
        logger.info("W&B: %s", run.url or run.settings.sync_dir)
        with ending(run):
            for row in self.earlier:
                log_row(run, row)
            while not isinstance(entry := queue.get(), End):
                log_row(run, entry)
            if entry.result is None:
                raise Abandoned
            summarize(run, entry.result)


def open_tracker(config: RunConfig, *, run_id: str, folder: Path, facts: Mapping[str, Any]) -> Tracker:
    """A tracker as `config.tracking`, W&B's agent and WANDB_MODE ask for.

    `folder` is the run record: what its metrics.jsonl holds at this moment W&B is to have too, then what is logged.
    `facts` are numbers of the plan that the config in W&B shows beside the user's keys. Nothing is raised, ever.
    """
    mode = mode_of(config.tracking)
    if mode == "disabled" or time.monotonic() < _silent_until:
        return Tracker()
    try:
        earlier = list(Record(folder).metrics())
    except Exception as problem:
        warn(folder, problem)
        return Tracker()
    return WandbTracker(Reporter(config, run_id, folder, facts, mode, earlier))


def replay(record: Record, tracking: Tracking) -> None:
    """A run that has ended appears in W&B as if it had just been made."""
    if mode_of(tracking) == "disabled":
        return
    try:
        result = record.result or {}
        config = record.config.model_copy(update={"tracking": tracking})
        open_tracker(config, run_id=record.path.name, folder=record.path, facts=facts_of(result)).finish(result)
    except Exception as problem:
        warn(record.path, problem)
