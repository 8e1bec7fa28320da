"""Whole sweeps with real training of tiny models: resumed, interrupted, killed, failing, two at once."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import children, living, wait_for

from hptransfer.errors import UserError
from hptransfer.sweeps import status, sweep
from hptransfer.sweeps.bar import Bar
from hptransfer.sweeps.jobs import Job, Outcome
from hptransfer.sweeps.running import Loop, open_search

BASE = """\
model: {name: mlp, width: 16, depth: 1, window: 4}
parametrization: {name: sp}
data: {source: text, path: corpus, seq_len: 16}
train: {tokens: 8192, batch_tokens: 256, eval_tokens: 512, checkpoint_seconds: 0.05, save_weights: false}
"""
LRS = [0.001, 0.003, 0.01, 0.03]


def write_sweep(**parameters: Any) -> None:
    command = ["hptransfer", "train", "base.yaml", "${args}"]
    data = {"method": "grid", "command": command, "parameters": parameters}
    Path("sweep.yaml").write_text(yaml.safe_dump(data))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("corpus").mkdir()
    letters = random.Random(0)
    for number in range(30):
        text = " ".join(letters.choice(["ab", "bra", "ca", "da", "bra"]) for _ in range(200))
        Path(f"corpus/{number}.txt").write_text(f"{number} {text}")
    write_sweep(**{"optimizer.lr": {"values": LRS}})


def results(runs: str = "runs") -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in Path(runs).glob("*/result.json")}


def inodes() -> dict[str, int]:
    """Of every result: a result that is written again gets another."""
    return {path.parent.name: path.stat().st_ino for path in Path("runs").glob("*/result.json")}


def test_every_run_once_and_the_same_as_train() -> None:
    from hptransfer.training import train

    result = sweep("sweep.yaml", workers=2)
    assert not result.failed and len(result.runs) == 4
    found = results()
    assert sorted(r["lr"] for r in found.values()) == LRS
    alone = train(result.runs[2].trial.config, "alone")
    assert (alone.path / "metrics.jsonl").read_bytes() == Path("runs", alone.path.name, "metrics.jsonl").read_bytes()
    assert alone.result is not None and alone.result["loss"] == found[alone.path.name]["loss"]

    before = inodes()
    again = sweep("sweep.yaml", workers=2)
    assert inodes() == before
    lines = again.to_text().splitlines()
    assert lines[0].split() == ["optimizer.lr", "status", "loss", "seconds", "folder"]
    losses = [float(line.split()[2]) for line in lines[1:5]]
    assert losses == sorted(losses) and lines[-1] == "sweep: 4 done"


def test_a_longer_sweep_runs_only_what_is_missing() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS[:2]}})
    sweep("sweep.yaml", workers=2)
    before = inodes()
    write_sweep(**{"optimizer.lr": {"values": [*LRS, 0.0010, "1e-3"]}})
    assert len(sweep("sweep.yaml", workers=2).runs) == 4
    assert before.items() <= inodes().items() and len(inodes()) == 4


def test_dry_run_shows_the_cost_and_trains_nothing() -> None:
    result = sweep("sweep.yaml", dry_run=True)
    text = result.to_text()
    assert "0 done, 4 waiting" in text and "time unknown" in text
    assert not results()
    from hptransfer.scaling import resolve

    plan = resolve(result.runs[0].trial.config)
    assert f"{4 * plan.flops:.2g} of {4 * plan.flops:.2g} FLOPs to do" in text
    assert text.count(f"{plan.params:,}") == 4
    write_sweep(**{"optimizer.lr": {"values": LRS[:1]}})
    sweep("sweep.yaml", workers=1)
    write_sweep(**{"optimizer.lr": {"values": LRS}})
    after = sweep("sweep.yaml", dry_run=True, workers=3).to_text()
    assert "1 done, 3 waiting" in after and " s with 3 workers" in after


def test_a_failing_trial_is_recorded_and_does_not_stop_the_others() -> None:
    write_sweep(train={"values": [{"seed": 1}, {"seed": 2, "device": "nowhere"}, {"seed": 3}]})
    result = sweep("sweep.yaml", workers=2)
    (failed,) = result.failed
    assert len(results()) == 2
    assert failed.record.failure is not None and failed.record.failure["attempts"] == 1
    assert "nowhere" in failed.record.failure["message"]
    assert "2 done, 1 failed" in result.to_text()
    told = status("sweep.yaml").to_dict()
    assert told["states"] == {"finished": 2, "failed": 1} and told["flops"] == told["flops_done"]
    assert [run["message"] for run in told["runs"] if run["status"] == "failed"] == [failed.record.failure["message"]]

    assert len(sweep("sweep.yaml", workers=2).failed) == 1
    assert failed.record.failure["attempts"] == 1, "a failed run was run again without being asked for"
    assert len(sweep("sweep.yaml", workers=2, retry_failed=True).failed) == 1
    assert failed.record.failure["attempts"] == 2

    write_sweep(train={"values": [{"seed": 1}, {"seed": 2}, {"seed": 3}]})
    assert not sweep("sweep.yaml", workers=2, retry_failed=True).failed
    assert len(results()) == 3


def test_a_trial_that_takes_too_long_is_recorded() -> None:
    write_sweep(**{"train.tokens": {"values": [256 * 10**6]}})
    (failed,) = sweep("sweep.yaml", workers=1, timeout=2.0).failed
    assert failed.record.failure == {"message": "took longer than 2 s and was ended", "attempts": 1}


class Scripted:
    """An executor whose jobs end as it was told, in order."""

    slots = 1

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)

    def submit(self, job: Job) -> "Future[Outcome]":
        future: Future[Outcome] = Future()
        future.set_result(self.outcomes.pop(0))
        return future

    def stop(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_a_trial_that_others_interrupt_or_train_is_asked_for_again() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS[:1]}})
    search, failures = open_search("sweep.yaml", "runs", 0, "random"), {}
    executor = Scripted(Outcome("interrupted"), Outcome("busy"), Outcome("busy"), Outcome("lost", "node died"))
    Loop(search, executor, Bar(search, False), failures).run(search.runs)
    (run,) = search.runs
    assert not executor.outcomes and failures == {run.record.path: "node died"}
    assert run.record.failure == {"message": "node died", "attempts": 1}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_progress_and_a_pipe_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep("sweep.yaml", runs="piped", workers=2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    sweep("sweep.yaml", workers=2)
    assert "sweep: 0 done, 4 waiting   0%|" in terminal.getvalue()
    assert "sweep: 4 done 100%|" in terminal.getvalue()


def test_nothing_starts_when_one_trial_is_not_valid() -> None:
    write_sweep(**{"optimizer.lr": {"values": [0.1]}, "train.tokens": {"values": [4096, 100]}})
    with pytest.raises(UserError, match=r"^sweep.yaml: parameters.train.tokens=100: .* is less than one step of"):
        sweep("sweep.yaml")
    assert not list(Path("runs").glob("*/config.yaml"))
    write_sweep(**{"data.path": {"values": ["corpus", "corpse"]}})
    with pytest.raises(UserError, match="corpse"):
        sweep("sweep.yaml")


def start(*options: str) -> "subprocess.Popen[str]":
    """The sweep on the command line, in a process group of its own."""
    command = [sys.executable, "-m", "hptransfer", "sweep", "sweep.yaml", "--workers", "2", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def workers_of(pid: int) -> list[int]:
    """The fork server's children."""
    return [worker for server in children(pid) for worker in children(server)]


def group_is_empty(pid: int) -> bool:
    """Whether no process of a process group is left."""
    return all(process.group != pid for process in living())


def test_several_seeds_say_how_far_losses_move_by_themselves() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS[:2]}, "train.seed": {"values": [0, 1]}})
    assert "between seeds" not in status("sweep.yaml").to_text()
    result = sweep("sweep.yaml", workers=2, show_progress=False)
    found = {}
    for record in results().values():
        found.setdefault(record["lr"], []).append(record["loss"])
    pooled = (sum((a - b) ** 2 / 2 for a, b in found.values()) / 2) ** 0.5
    noise = result.to_dict()["seed_noise"]
    assert noise["sd"] == pytest.approx(pooled) and (noise["points"], noise["runs"]) == (2, 4)
    assert f"between seeds a loss differs by {pooled:.2g} nats per token" in result.to_text()


def test_ctrl_c_leaves_checkpoints_and_the_same_command_continues() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS}, "train.tokens": {"value": 256 * 300}})
    process = start()
    wait_for(lambda: list(Path("runs").glob("*/checkpoint.pt")))
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and "continue" in err and "Traceback" not in err, (code, err)
    wait_for(lambda: group_is_empty(process.pid), 60)
    assert list(Path("runs").glob("*/checkpoint.pt")) and not list(Path("runs").glob("*/failure.json"))
    code, out, err = finish(start())
    assert code == 0 and not err, (out, err)
    assert len(results()) == 4 and not list(Path("runs").glob("*/checkpoint.pt"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_a_run_and_nothing_is_lost() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS}, "train.tokens": {"value": 256 * 100}})
    Path("runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", "runs"]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        code, out, err = finish(start())
        assert code == 1 and out.count("No space left on device") == 4, (out, err)
        warned = err.splitlines()
        assert len(warned) <= 4 and all("training goes on" in line for line in warned), err
        subprocess.run(["mount", "-o", "remount,size=20m", "runs"], check=True)
        code, out, err = finish(start("--retry-failed"))
        assert code == 0 and not err and "4 done" in out, (out, err)
    finally:
        subprocess.run(["umount", "runs"], check=True)


@pytest.mark.slow
def test_a_second_sweep_is_told_of_the_first() -> None:
    write_sweep(**{"optimizer.lr": {"values": LRS}, "train.tokens": {"value": 256 * 20_000}})
    first = start()
    wait_for(lambda: list(Path("runs").glob("*/metrics.jsonl")))
    code, out, err = finish(start())
    assert (code, out) == (2, "")
    assert re.fullmatch(
        rf"hptransfer: runs: the sweep sweep is being run here \(.*, process {first.pid}, since .*\); --share .*\n", err
    )
    os.killpg(first.pid, signal.SIGINT)
    code, out, err = finish(first)
    assert code == 130 and len(err.splitlines()) == 1, (out, err)
    assert not list(Path("runs").glob(".sweep*"))


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work() -> None:
    write_sweep(**{"optimizer.lr": {"values": [0.001 * 1.3**i for i in range(10)]}})
    seen: dict[str, int] = {}
    both = [start("--share"), start("--share")]
    while any(process.poll() is None for process in both):
        for name, inode in inodes().items():
            assert seen.setdefault(name, inode) == inode, "a finished run was run again"
        time.sleep(0.02)
    for process in both:
        code, out, err = finish(process)
        assert code == 0 and not err and "10 done" in out, (out, err)
    assert inodes() == seen and len(seen) == 10


@pytest.mark.slow
def test_killed_at_random_moments_no_run_is_lost_or_doubled() -> None:
    """kill -9 of a worker, of the parent, of both; then the same command. Every metric as in a sweep left alone."""
    rounds = int(os.environ.get("KILL_ROUNDS", "3"))
    lrs = [0.001 * 1.2**i for i in range(2 + 4 * rounds)]  # more than two workers end before the last kill
    write_sweep(**{"optimizer.lr": {"values": lrs}, "train.tokens": {"value": 256 * 500}})
    chance = random.Random(int(os.environ.get("KILL_SEED", "0")))
    seen: dict[str, int] = {}
    for number in range(rounds):
        process = start()
        workers = wait_for(lambda pid=process.pid: len(found := workers_of(pid)) == 2 and found)
        time.sleep(chance.uniform(0, 1))
        victims = [[chance.choice(workers)], [process.pid], [process.pid, *workers]][number % 3]
        for victim in victims:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(victim, signal.SIGKILL)
        time.sleep(chance.uniform(0, 1))
        process.kill()
        finish(process)
        for name, inode in inodes().items():
            assert seen.setdefault(name, inode) == inode, "a finished run was run again"
    code, out, err = finish(start())
    assert code == 0 and re.fullmatch(r"runs: taken over from a run of the sweep sweep that has died .*\n", err), err
    assert f"{len(lrs)} done" in out and seen.items() <= inodes().items()
    assert sorted(r["lr"] for r in results().values()) == lrs

    sweep("sweep.yaml", runs="alone", workers=2)
    for name, result in results("alone").items():
        assert result["loss"] == results()[name]["loss"]
        assert Path("alone", name, "metrics.jsonl").read_bytes() == Path("runs", name, "metrics.jsonl").read_bytes()
