"""One process at a time runs a sweep: refused, taken over, lost."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hptransfer.errors import UserError
from hptransfer.sweeps import alone as module
from hptransfer.sweeps.alone import alone

HOST = re.escape(socket.gethostname())

HOLDER = """
import sys, time
from pathlib import Path
from hptransfer.sweeps import alone as module
module.HEARTBEAT = 0.1
with module.alone("lrs", Path("runs")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "HEARTBEAT", 0.1)


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the sweep `lrs`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.name.startswith("hptransfer")]


def test_the_second_is_told_who_the_first_is(holder: "subprocess.Popen[str]") -> None:
    who = rf"host {HOST}, process {holder.pid}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\S*"
    line = rf"^runs: the sweep lrs is being run here \({who}\); --share works beside it$"
    with pytest.raises(UserError, match=line), alone("lrs", Path("runs")):
        pass
    with alone("another", Path("runs")):  # of another name, on the same folder
        pass


def test_one_that_was_killed_is_taken_over_at_once(
    holder: "subprocess.Popen[str]", caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with alone("lrs", Path("runs")) as check:
        check()
    assert time.monotonic() - started < 5
    (line,) = said(caplog)
    assert re.match(rf"runs: taken over from a run of the sweep lrs that has died \(host {HOST}, process ", line)
    assert not list(Path("runs").iterdir())


def test_one_that_ended_leaves_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with alone("a/b c", Path("runs")) as check:
            check()
            assert {path.name for path in Path("runs").iterdir()} == {".sweep-a_b_c.lock", ".sweep-a_b_c.json"}
    with pytest.raises(ZeroDivisionError), alone("lrs", Path("runs")):
        raise ZeroDivisionError
    assert said(caplog) == [] and not list(Path("runs").iterdir())


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lease of a process on another machine (filelock's protocol 2)."""
    monkeypatch.setattr(module, "LEASE", 1.0)
    Path("runs").mkdir()
    path = Path("runs/.sweep-lrs.lock")
    path.write_text("filelock/2\npid=17\nhost=elsewhere\nmode=lease\ntoken=abc\nduration=1.0\n")
    path.with_suffix(".json").write_text('{"since": "2026-01-02 03:04:05+00:00", "token": "abc"}')
    return path


def test_silence_on_another_machine_is_waited_out(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    with alone("lrs", Path("runs")):
        assert time.monotonic() - started > 0.9
    (line,) = said(caplog)
    assert line.endswith("that has died (host elsewhere, process 17, since 2026-01-02 03:04:05+00:00)")


def test_a_heartbeat_counts_though_its_clock_runs_backwards(elsewhere: Path) -> None:
    stop = threading.Event()

    def beat() -> None:
        when = 1_000_000_000
        while not stop.wait(0.1):
            os.utime(elsewhere, (when, when))
            when -= 3600

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        line = r"being run here \(host elsewhere, process 17, since 2026-01-02"
        with pytest.raises(UserError, match=line), alone("lrs", Path("runs")):
            pass
    finally:
        stop.set()
        thread.join()


def test_one_that_slept_through_its_lease_hears_of_it() -> None:
    with alone("lrs", Path("runs")) as check:
        check()
        path = Path("runs/.sweep-lrs.lock")
        path.unlink()
        path.write_text("filelock/2\npid=17\nhost=elsewhere\nmode=lease\ntoken=abc\nduration=60.0\n")
        end = time.monotonic() + 20
        with pytest.raises(UserError, match=r"taken over by another process \(host elsewhere, process 17\) while"):
            while time.monotonic() < end:
                check()
                time.sleep(0.05)
    assert "elsewhere" in path.read_text()


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=r"^runs: cannot write: "), alone("lrs", Path("runs")):
        pass
