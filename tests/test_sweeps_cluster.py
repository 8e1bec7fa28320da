"""Trials on other machines: submitit's local and debug executors, and a Ray cluster simulated on this machine."""

import gc
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import wait_for

from hptransfer.errors import UserError
from hptransfer.sweeps import sweep
from hptransfer.sweeps.cluster import ClusterExecutor, Requeued, StopFile, slurm_executor
from hptransfer.sweeps.jobs import Job, Outcome, attempts
from hptransfer.sweeps.running import open_executor, open_search

LRS = [0.001 * 1.5**number for number in range(6)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    words = random.Random(0)
    for number in range(30):
        Path(f"corpus/{number}.txt").write_text(f"{number} " + " ".join(words.choices(["ab", "bra", "ca"], k=200)))
    write(8192)


def write(tokens: int) -> None:
    Path("base.yaml").write_text(
        "model: {name: mlp, width: 16, depth: 1, window: 4}\n"
        "parametrization: {name: sp}\n"
        "data: {source: text, path: corpus, seq_len: 16}\n"
        f"train: {{tokens: {tokens}, batch_tokens: 256, eval_tokens: 512, checkpoint_seconds: 0.05}}\n"
    )
    parameters = {"optimizer.lr": {"values": LRS}}
    Path("sweep.yaml").write_text(
        yaml.safe_dump({"method": "grid", "command": ["train", "base.yaml", "${args}"], "parameters": parameters})
    )


def lrs() -> list[float]:
    return sorted(json.loads(path.read_text())["lr"] for path in Path("runs").glob("*/result.json"))


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def jobs() -> list[Job]:
    runs = open_search("sweep.yaml", "runs", 0, "random").runs
    return [Job(run.trial.config, run.record.path, attempts(run.record)) for run in runs]


class Told:
    """A handle that fails as often as it is told to, and otherwise ends at once."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures

    def done(self) -> bool:
        return True

    def result(self) -> Outcome:
        if self.failures:
            raise self.failures.pop()
        return Outcome("ended")

    def cancel(self) -> None:
        raise AssertionError


@pytest.fixture
def submitit() -> Iterator[Any]:
    """The module; the processes and log files that it leaves open are collected inside the tests that use it."""
    yield pytest.importorskip("submitit")
    gc.collect()


uses_submitit = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@contextmanager
def executing(*arguments: Any) -> Iterator[ClusterExecutor]:
    executor = ClusterExecutor(*arguments)
    try:
        yield executor
    finally:
        executor.close()


def test_a_lost_job_is_sent_again_once(tmp_path: Path) -> None:
    (job, *_) = jobs()
    once = Told([RuntimeError("node died\ntraceback")])
    with executing(1, tmp_path, lambda job, stop: once) as executor:
        assert executor.submit(job).result() == Outcome("ended")
    twice = Told([RuntimeError("trace:\n--\nTraceback\nOSError: node died\n--\nsee logs")] * 2)
    with executing(1, tmp_path, lambda job, stop: twice) as executor:
        outcome = executor.submit(job).result()
    assert outcome == Outcome("lost", "lost 2 times by the scheduler (OSError: node died)")


def test_stop_reaches_jobs_through_the_shared_folder(tmp_path: Path) -> None:
    class Obedient(Told):
        def __init__(self, stop: StopFile) -> None:
            self.stop = stop

        def done(self) -> bool:
            return self.stop()

        def result(self) -> Outcome:
            return Outcome("interrupted")

    (job, *_) = jobs()
    with executing(1, tmp_path, lambda job, stop: Obedient(stop)) as executor:
        first, second = executor.submit(job), executor.submit(job)
        time.sleep(0.1)
        assert not first.done()
        executor.stop()
        assert first.result(timeout=60).kind == "interrupted" and second.cancelled()
    assert not list(tmp_path.glob(".stop*"))


def test_what_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^executor: 'slrm'; allowed: local, slurm, ray; did you mean 'slurm'"):
        open_executor("slrm", 1, tmp_path)
    for name in ("slurm", "ray"):
        try:
            __import__({"slurm": "submitit"}.get(name, name))
        except ImportError:
            with pytest.raises(UserError, match=rf"--executor {name} needs .*: pip install 'hptransfer\[{name}\]'"):
                open_executor(name, 1, tmp_path)


@uses_submitit
def test_no_slurm_here_is_one_line(submitit: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--executor slurm: "):
        open_executor("slurm", 1, tmp_path)
    with pytest.raises(UserError, match=r"^--executor local: .*no_such_option"):
        slurm_executor(1, tmp_path, {"no_such_option": 1}, cluster="local")


@pytest.mark.slow
@uses_submitit
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_submitit_runs_the_trials(submitit: Any, cluster: str) -> None:
    executor = slurm_executor(1 if cluster == "debug" else 2, Path("runs"), {"timeout_min": 5}, cluster)
    outcomes = [future.result() for future in [executor.submit(job) for job in jobs()[:2]]]
    executor.close()
    assert [outcome.kind for outcome in outcomes] == ["ended"] * 2
    assert lrs() == LRS[:2]
    assert not sweep("sweep.yaml", workers=2).failed and lrs() == LRS


def signal_task(number: int) -> None:
    """To the process that trains."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(Path("runs/slurm").absolute()) in words[-2]:
            os.kill(int(entry.parent.name), number)


@pytest.mark.slow
@uses_submitit
def test_a_submitit_job_that_is_killed_is_sent_again(submitit: Any) -> None:
    write(256 * 500)
    job = jobs()[0]
    executor = slurm_executor(1, Path("runs"), {"timeout_min": 5}, "local")
    future = executor.submit(job)
    wait_for((job.folder / "checkpoint.pt").exists)
    signal_task(signal.SIGKILL)
    assert future.result(timeout=300) == Outcome("ended")
    executor.close()
    assert steps_of(job.folder) == list(range(1, 501))


@pytest.mark.slow
@uses_submitit
def test_a_preempted_submitit_job_continues(submitit: Any) -> None:
    write(256 * 500)
    job = jobs()[0]
    scheduler = submitit.AutoExecutor(folder="runs/slurm", cluster="local")
    scheduler.update_parameters(timeout_min=5)
    handle = scheduler.submit(Requeued(), job, StopFile(Path("runs")))
    wait_for((job.folder / "checkpoint.pt").exists)
    signal_task(signal.SIGUSR2)  # as a scheduler would; submitit's own `_interrupt` reaches its controller alone
    assert handle.result() == Outcome("ended")
    assert "Caught signal SIGUSR2" in handle.stderr()
    assert steps_of(job.folder) == list(range(1, 501))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_on_three_nodes_with_one_killed_in_the_middle() -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    write(256 * 400)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    try:
        ray.init(address=cluster.address, log_to_driver=False)

        def kill_a_node() -> None:
            wait_for(lambda: len(list(Path("runs").glob("*/checkpoint.pt"))) == 2)
            cluster.remove_node(nodes[0], allow_graceful=False)

        killer = threading.Thread(target=kill_a_node)
        killer.start()
        result = sweep("sweep.yaml", workers=2, executor="ray", show_progress=False)
        killer.join()
        assert not result.failed and lrs() == LRS
        for path in Path("runs").glob("*/metrics.jsonl"):
            assert steps_of(path.parent) == list(range(1, 401))
    finally:
        ray.shutdown()
        cluster.shutdown()
