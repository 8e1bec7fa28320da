"""The pool of worker processes, with a work function that does what each test asks of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import living, wait_for

from hptransfer.config import RunConfig
from hptransfer.sweeps.devices import environment_of
from hptransfer.sweeps.jobs import Job, Outcome
from hptransfer.sweeps.local import LocalExecutor

CONFIG = RunConfig.model_validate({"model": {"name": "mlp", "width": 8, "depth": 1}, "parametrization": {"name": "sp"}})


def job(folder: Path) -> Job:
    return Job(CONFIG, folder, 0)


def say_pid(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    return Outcome("ended", str(os.getpid()))


def die_once(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    mark = job.folder / "died"
    if mark.exists():
        return Outcome("ended", "second time")
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    with (job.folder / "tries").open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    (job.folder / f"{os.getpid()}.pid").touch()
    while True:
        time.sleep(1)


def until_interrupted(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    (job.folder / f"{os.getpid()}.pid").touch()
    while not interrupted():
        time.sleep(0.01)
    (job.folder / f"{os.getpid()}.saved").touch()
    return Outcome("interrupted")


@contextmanager
def pool(workers: int, **options: Any) -> Iterator[LocalExecutor]:
    executor = LocalExecutor(workers, **options)
    try:
        yield executor
    finally:
        executor.close()


def test_workers_stay_for_the_next_trial(tmp_path: Path) -> None:
    with pool(2, work=say_pid) as executor:
        outcomes = [future.result() for future in [executor.submit(job(tmp_path)) for _ in range(20)]]
    pids = {outcome.message for outcome in outcomes}
    assert {outcome.kind for outcome in outcomes} == {"ended"}
    assert 1 <= len(pids) <= 2 and str(os.getpid()) not in pids


def test_a_trial_is_tried_again_when_its_worker_dies(tmp_path: Path) -> None:
    with pool(1, work=die_once) as executor:
        assert executor.submit(job(tmp_path)).result() == Outcome("ended", "second time")


def test_twice_is_enough_and_the_pool_goes_on(tmp_path: Path) -> None:
    with pool(1, work=die) as executor:
        outcomes = [executor.submit(job(tmp_path)).result() for _ in range(2)]
    assert {outcome.kind for outcome in outcomes} == {"lost"}
    assert outcomes[0].message == "its worker process died 2 times (signal 9, SIGKILL; out of memory?)"
    assert (tmp_path / "tries").read_text() == "xxxx"


def test_a_trial_that_hangs_is_ended(tmp_path: Path) -> None:
    with pool(1, work=hang, timeout=2.5) as executor:
        future = executor.submit(job(tmp_path))
        (mark,) = wait_for(lambda: list(tmp_path.glob("*.pid")))
        assert future.result() == Outcome("lost", "took longer than 2.5 s and was ended")
        assert int(mark.stem) not in {process.pid for process in living()}


def test_stop_lets_trials_save_and_cancels_the_queue(tmp_path: Path) -> None:
    with pool(2, work=until_interrupted) as executor:
        futures = [executor.submit(job(tmp_path)) for _ in range(6)]
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        executor.stop()
        assert [futures[i].result().kind for i in range(2)] == ["interrupted"] * 2
        assert all(future.cancelled() for future in futures[2:])
    assert len(list(tmp_path.glob("*.saved"))) == 2


def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    with pool(1, work=hang) as executor:
        future = executor.submit(job(tmp_path))
        wait_for(lambda: list(tmp_path.glob("*.pid")))
        executor.stop()
        executor.stop()
        assert future.result(timeout=60).kind == "interrupted"


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from hptransfer.sweeps import local
from test_sweeps_local import {work}, job
if __name__ == "__main__":
    local.PRELOAD.clear()
    executor = local.LocalExecutor(2, work={work})
    for _ in range(4):
        executor.submit(job(Path({folder!r})))
"""


@pytest.mark.parametrize("work", ["until_interrupted", pytest.param("hang", marks=pytest.mark.slow)])
def test_no_orphan_survives_a_killed_parent(tmp_path: Path, work: str) -> None:
    """A worker that looks up at all leaves at once, with a checkpoint; one that hangs is ended after the grace time."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent), work=work, folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, str(script)]) as parent:
        try:
            wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        finally:
            parent.kill()
    pids = {int(mark.stem) for mark in tmp_path.glob("*.pid")}
    wait_for(lambda: not pids & {process.pid for process in living()}, seconds=30)
    assert len(list(tmp_path.glob("*.saved"))) == (2 if work == "until_interrupted" else 0)
    assert len(list(tmp_path.glob("*.pid"))) == 2, "a worker without a parent took another trial"


def test_workers_own_one_thread_and_leave_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    with pool(1, work=say_threads) as executor:
        assert executor.submit(job(tmp_path)).result().message == "1"
    assert dict(os.environ) == before


def say_threads(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    return Outcome("ended", os.environ["OMP_NUM_THREADS"])


@pytest.mark.parametrize(
    ("visible", "devices", "workers", "seen"),
    [(None, 2, 4, "0011"), ("5,7", 2, 2, "57"), (None, 1, 2, ["all", "all"]), ("3", 1, 1, "3")],
)
def test_workers_share_the_accelerators(
    visible: str | None, devices: int, workers: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = [{**os.environ, **environment_of(worker, devices)} for worker in range(workers)]
    assert sorted(environment.get("CUDA_VISIBLE_DEVICES", "all") for environment in given) == list(seen)


def test_a_replaced_worker_keeps_its_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pool(2, devices=2, work=die_once_then_say_device) as executor:
        futures = [executor.submit(job(tmp_path)) for _ in range(2)]
        assert sorted(future.result().message for future in futures) == ["0", "1"]


def die_once_then_say_device(job: Job, interrupted: Callable[[], bool]) -> Outcome:
    mark = job.folder / os.environ["CUDA_VISIBLE_DEVICES"]
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return Outcome("ended", mark.name)
