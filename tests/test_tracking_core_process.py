"""A process of ours ends, whatever has become of wandb-core: one that is stopped never ends by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_wandb import API_KEY, FakeWandb
from processes import wait_for
from wandb_runs import LRS, RESULT, config, make_record, make_runs

from hptransfer.records import Record
from hptransfer.tracking import core_process, replay

LIMIT = 2.0

pytestmark = pytest.mark.usefixtures("wandb_session")


CODE = """
import os, signal, sys
from hptransfer.records import Record
from hptransfer.tracking import core_process, session, tracker
core_process.LEAVE, tracker.PATIENCE = float(sys.argv[2]), 1.0
record = Record(__import__("pathlib").Path(sys.argv[1]))
followed = tracker.open_tracker(record.config, run_id=record.path.name, folder=record.path, facts={})
followed.finish({"loss": 1.0})
os.kill(core_process._guard.process.pid, signal.SIGSTOP)
print("leaving", flush=True)
sys.exit(3)
"""
"""A run that is over, then a wandb-core that does nothing more."""


def leaving(record: Record, limit: float) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", CODE, str(record.path), str(limit)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("server")
def test_the_process_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    with leaving(make_record(tmp_path, 3, config(wandb="online"), RESULT), LIMIT) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (3, "leaving\n", "")


@pytest.mark.usefixtures("server")
def test_control_c_does_not_wait(tmp_path: Path) -> None:
    with leaving(make_record(tmp_path, 3, config(wandb="online"), RESULT), 600) as process:
        assert process.stdout
        assert process.stdout.readline() == "leaving\n"
        time.sleep(0.5)  # it is in its exit
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (3, "", "")


def test_teardown_then_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeWandb) -> None:
    """What `forget_broken` does while training goes on; a new wandb-core gets a guard of its own."""
    monkeypatch.setattr(core_process, "LEAVE", LIMIT)
    settings = config(wandb="online")
    record = make_record(tmp_path, 3, settings, RESULT)
    replay(record, settings.tracking)
    assert core_process._guard is not None
    first = core_process._guard.process
    os.kill(first.pid, signal.SIGSTOP)
    started = time.monotonic()
    core_process.teardown()
    assert time.monotonic() - started < LIMIT + 5
    assert first.returncode == -signal.SIGKILL
    again = make_record(tmp_path, 3, settings, RESULT, "a" * 16)
    replay(again, settings.tracking)
    assert core_process._guard.process is not first
    wait_for(lambda: "a" * 16 in server.runs)


@pytest.mark.slow
def test_sync_with_a_dead_network_from_a_terminal(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs", LRS)
    dead = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": API_KEY}
    words = [sys.executable, "-m", "hptransfer", "wandb", "sync", str(tmp_path / "runs")]
    done = subprocess.run(words, env=dead, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "run 1 of 4" in line


@pytest.mark.slow
def test_network_cut_then_the_process_ends(tmp_path: Path) -> None:
    """Rows that no server takes any more: training is interrupted, and the terminal is free again."""
    record = make_record(tmp_path, 0, config(wandb="online"))
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import os, time; from fake_wandb import serve; from processes import wait_for; from wandb_runs import row\n"
        "from hptransfer.records import Record; from hptransfer.tracking import open_tracker, tracker\n"
        "tracker.PATIENCE = 2.0; record = Record(Path(sys.argv[1]))\n"
        "with serve() as fake:\n"
        "    os.environ.update(fake.environment)\n"
        "    followed = open_tracker(record.config, run_id='first', folder=record.path, facts={})\n"
        "    wait_for(lambda: 'first' in fake.runs)\n"
        "for step in range(1, 100): followed.log(row(step))\n"
        "sys.exit(130)"
    )
    words = [sys.executable, "-c", code, str(record.path), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
