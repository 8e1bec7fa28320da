"""Trials on this machine: a pool of warm worker processes, torch loaded once, one trial each at a time."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from hptransfer.errors import UserError
from hptransfer.sweeps.devices import environment_of
from hptransfer.sweeps.jobs import ATTEMPTS, Job, Outcome, run_job

Work = Callable[[Job, Callable[[], bool]], Outcome]

GRACE = 5.0
"""Seconds that a worker whose parent has died gets for its last checkpoint."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Read by the libraries when they are loaded: pools of a worker's own threads would fight over the cores."""

PRELOAD = ["hptransfer.sweeps.preload"]
"""What the fork server loads before it forks."""


class Worker:
    """A worker process and the pipe to it."""

    def __init__(self, context: Any, work: Work, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, work, environment), daemon=True)
        try:
            self.process.start()
        except (EOFError, OSError) as problem:
            raise UserError(f"cannot start a worker process ({problem}); out of memory or of processes?") from problem
        theirs.close()

    def run(self, job: Job, timeout: float | None) -> Outcome:
        """The job's outcome; EOFError or OSError where the process died under it, TimeoutError where it hangs."""
        self.pipe.send(job)
        if not self.pipe.poll(timeout):
            raise TimeoutError
        outcome = self.pipe.recv()
        assert isinstance(outcome, Outcome)
        return outcome

    def stop(self) -> None:
        """Ends the process: at once if it is idle, else after a checkpoint."""
        try:
            self.pipe.send(None)
        except OSError:
            return

    def kill(self) -> int:
        """Ends the process whatever it does; its exit code."""
        self.process.kill()
        self.process.join()
        return int(self.process.exitcode or 0)


def warm_up() -> Any:
    """Starts the server that workers are forked from, which loads torch meanwhile; the context to start workers with.

    Where there is no fork server (Windows), every worker loads torch for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _environment(ONE_THREAD):
        forkserver.ensure_running()
    return context


class LocalExecutor:
    """`workers` processes; a worker that dies is replaced and its trial tried once more."""

    def __init__(self, workers: int, timeout: float | None = None, devices: int = 0, work: Work = run_job) -> None:
        self.slots = workers
        self._timeout, self._work = timeout, work
        self._context = warm_up()
        self._starting = threading.Lock()
        self._stopping = False
        self._workers: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for number in range(workers):
            self._idle.put(self._start(environment_of(number, devices)))
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, job: Job) -> "Future[Outcome]":
        """Queues a job for the next worker that is free."""
        return self._threads.submit(self._attempt, job)

    def stop(self) -> None:
        """Hands out nothing more; running trials leave a checkpoint, or, the second time, are ended at once."""
        again, self._stopping = self._stopping, True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._workers):
            if again:
                worker.process.kill()
            else:
                worker.stop()

    def close(self) -> None:
        """Ends all workers."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()
            worker.process.join(GRACE)
            worker.kill()
            worker.pipe.close()

    def _start(self, environment: Mapping[str, str]) -> Worker:
        with self._starting, _environment(ONE_THREAD):
            worker = Worker(self._context, self._work, environment)
            self._workers.append(worker)
            return worker

    def _attempt(self, job: Job) -> Outcome:
        """Runs in a thread of the parent, one per worker."""
        outcome = Outcome("interrupted")
        for _ in range(ATTEMPTS):
            worker = self._idle.get()
            try:
                outcome = worker.run(job, self._timeout)
                self._idle.put(worker)
                return outcome
            except TimeoutError:
                outcome = Outcome("lost", f"took longer than {self._timeout:g} s and was ended")
                self._replace(worker)
                return outcome
            except (EOFError, OSError):
                outcome = Outcome("lost", _death(self._replace(worker)))
            if self._stopping:
                return Outcome("interrupted")
        return outcome

    def _replace(self, worker: Worker) -> int:
        """Puts a new process in the place of one that died or hangs; the old one's exit code."""
        code = worker.kill()
        worker.pipe.close()
        self._workers.remove(worker)
        self._idle.put(self._start(worker.environment))
        return code


def _death(code: int) -> str:
    """Why a process ended, for people."""
    cause = f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.Signals(-code).name}"
    hint = "; out of memory?" if code == -signal.SIGKILL else ""
    return f"its worker process died {ATTEMPTS} times ({cause}{hint})"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a process that is started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(pipe: Connection, work: Work, environment: Mapping[str, str]) -> None:
    """The worker process: a job, its outcome, the next job, until the parent says None or dies.

    Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every process of the job. Only the parent acts
    on them and tells the workers, who stop between two steps.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while (job := pipe.recv()) is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pipe.send(work(job, pipe.poll))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """No orphan trains on: the pipe's end interrupts the trial, and if that takes long the process just ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    time.sleep(GRACE)
    os._exit(1)
