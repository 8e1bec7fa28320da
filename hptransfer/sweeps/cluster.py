"""Trials on other machines: SLURM through submitit (extra `slurm`), Ray (extra `ray`). The schedulers are theirs.

All machines see one runs folder. A trial that is lost with its machine is sent out again and continues from the last
checkpoint; what it found stands in its record.
"""

import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from hptransfer.errors import UserError
from hptransfer.sweeps.jobs import ATTEMPTS, Job, Outcome, run_job

LOOK_EVERY = 1.0
"""Seconds between two questions to a scheduler or a shared file system."""


class Handle(Protocol):
    """A job that a scheduler has taken."""

    def done(self) -> bool:
        """Whether it is over."""

    def result(self) -> Outcome:
        """What it returned; raises where it is lost."""

    def cancel(self) -> None:
        """Ends it at once."""


class StopFile:
    """Tells jobs anywhere to leave off: a file in the runs folder that appears."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.absolute() / f".stop-{uuid.uuid4().hex[:8]}"
        self.looked = 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self.looked < LOOK_EVERY:
            return False
        self.looked = time.monotonic()
        return self.path.exists()


class ClusterExecutor:
    """At most `workers` jobs at a time, each sent by `send` to a scheduler that decides where it runs."""

    def __init__(self, workers: int, folder: Path, send: Callable[[Job, StopFile], Handle]) -> None:
        self.slots = workers
        self._send, self._stop = send, StopFile(folder)
        self._stopping, self._ending = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, job: Job) -> "Future[Outcome]":
        """Queues a job."""
        return self._threads.submit(self._attempt, job)

    def stop(self) -> None:
        """Sends nothing more; running jobs leave a checkpoint, or, the second time, are ended at once."""
        if self._stopping.is_set():
            self._ending.set()
        self._stopping.set()
        self._stop.path.touch()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Waits for the last jobs."""
        self._threads.shutdown(cancel_futures=True)
        self._stop.path.unlink(missing_ok=True)

    def _attempt(self, job: Job) -> Outcome:
        """Runs in a thread, one per job under way."""
        outcome = Outcome("interrupted")
        for _ in range(ATTEMPTS):
            try:
                handle = self._send(job, self._stop)
                while not handle.done():
                    if self._ending.is_set():
                        handle.cancel()
                        return Outcome("interrupted")
                    time.sleep(LOOK_EVERY / 4)
                return handle.result()
            except Exception as problem:
                outcome = Outcome("lost", f"lost {ATTEMPTS} times by the scheduler ({_reason(problem)})")
            if self._stopping.is_set():
                return Outcome("interrupted")
        return outcome


def _reason(problem: Exception) -> str:
    """One line of a scheduler's error: where it quotes a traceback, the traceback's last."""
    lines = [line for line in str(problem).splitlines() if line] or [type(problem).__name__]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+Error: ", line)), lines[0])


def slurm_executor(workers: int, folder: Path, options: Mapping[str, Any], cluster: str = "slurm") -> ClusterExecutor:
    """One SLURM job per trial; `options` are submitit's (timeout_min, slurm_partition, gpus_per_node ...)."""
    try:
        import submitit
    except ImportError:
        raise UserError("--executor slurm needs submitit: pip install 'hptransfer[slurm]'") from None
    try:
        scheduler = submitit.AutoExecutor(folder=folder / "slurm", cluster=cluster)
        scheduler.update_parameters(**{"name": "hptransfer", "cpus_per_task": 1, **options})
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as problem:
        raise UserError(f"--executor {cluster}: {str(problem).splitlines()[0]}") from None
    taking = threading.Lock()

    def send(job: Job, interrupted: StopFile) -> Handle:
        with taking:
            handle: Handle = scheduler.submit(Requeued(), job, interrupted)
        return handle

    return ClusterExecutor(workers, folder, send)


class Requeued:
    """`run_job` as submitit wants it: a job that is preempted, or out of time, is queued again and continues."""

    def __call__(self, job: Job, interrupted: StopFile) -> Outcome:
        """Runs the job."""
        return run_job(job, interrupted)

    def checkpoint(self, job: Job, interrupted: StopFile) -> Any:
        """What submitit queues again. The run itself has its checkpoint in its folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, interrupted)


def ray_executor(workers: int, folder: Path, options: Mapping[str, Any]) -> ClusterExecutor:
    """One Ray task per trial; `options` are those of ray.remote (num_cpus, num_gpus, resources ...)."""
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs Ray: pip install 'hptransfer[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    task = ray.remote(run_job_in).options(**{"num_cpus": 1, "max_retries": 0, **options})
    here = Path.cwd()
    return ClusterExecutor(workers, folder, lambda job, stop: RayHandle(ray, task.remote(here, job, stop)))


def run_job_in(folder: Path, job: Job, interrupted: StopFile) -> Outcome:
    """A Ray worker starts in a folder of its own; the paths of a run are relative to the one of the sweep."""
    os.chdir(folder)
    return run_job(job, interrupted)


class RayHandle:
    """A Ray task as a handle."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def done(self) -> bool:
        """Whether Ray has a value or an error for it."""
        return bool(self._ray.wait([self._reference], timeout=0)[0])

    def result(self) -> Outcome:
        """What it returned; raises where its worker or node died."""
        outcome = self._ray.get(self._reference)
        assert isinstance(outcome, Outcome)
        return outcome

    def cancel(self) -> None:
        """Kills its worker."""
        self._ray.cancel(self._reference, force=True)
