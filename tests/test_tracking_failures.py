"""W&B breaks in every way it can beside training: at most one line on stderr, and the run goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import API_KEY, FakeWandb, serve
from processes import wait_for
from wandb_runs import RESULT, config, follow, make_record, point_at, row, said

from hptransfer.sections import Tracking
from hptransfer.tracking import core_process, replay, session, tracker

pytestmark = pytest.mark.usefixtures("wandb_session")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that are not there."""
    monkeypatch.setattr(session, "START", 2.0)
    monkeypatch.setattr(tracker, "PATIENCE", 2.0)


def assert_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Training with a tracker that can't work: no exception, one line."""
    settings = config(wandb="online")
    record = make_record(tmp_path, 0, settings)
    follow(record, settings, range(1, 20))
    (line,) = said(caplog)
    assert text in line
    assert len(line.splitlines()) == 1
    assert f"hptransfer wandb sync {tmp_path}" in line


def test_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_one_warning(tmp_path, caplog, "no API key")


@pytest.mark.usefixtures("impatient")
def test_dead_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    with serve() as fake:
        point_at(monkeypatch, fake)
    assert_one_warning(tmp_path, caplog, "context deadline exceeded")


def test_wandb_not_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert_one_warning(tmp_path, caplog, "wandb")


@pytest.mark.usefixtures("impatient")
def test_network_cut_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    settings = config(wandb="online")
    record = make_record(tmp_path, 20, settings)
    with serve() as fake:
        point_at(monkeypatch, fake)
        followed = follow(record, settings, range(21, 30), result=None)
        wait_for(lambda: record.path.name in fake.runs)
    followed.log(row(30))
    followed.finish(RESULT)
    assert len(said(caplog)) == 1
    make_record(tmp_path, 30, settings, RESULT)
    monkeypatch.setattr(tracker, "_silent_until", 0.0)
    with serve() as fake:
        core_process.teardown()
        point_at(monkeypatch, fake)
        replay(record, Tracking(wandb="online"))
        assert [entry["step"] for entry in fake.runs[record.path.name].history] == list(range(1, 31))


@pytest.mark.slow
def test_full_disk(tmp_path: Path) -> None:
    """Files may not grow beyond 20 kB in a child process, whose offline run then can't be written."""
    make_record(tmp_path, 2000, config(), RESULT)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from pathlib import Path; from hptransfer.records import Record;"
        "from hptransfer.sections import Tracking; from hptransfer.tracking import replay;"
        f"record = Record(Path({str(tmp_path)!r}) / '0123456789abcdef');"
        "replay(record, Tracking(wandb='offline')); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    (line,) = done.stderr.splitlines()
    assert "is the disk full?" in line


@pytest.mark.slow
def test_wandbs_process_dies(tmp_path: Path, server: FakeWandb) -> None:
    """Killed in the middle (out of memory, say): one line, no traceback at exit, and the next run is reported."""
    make_record(tmp_path, 0, config(wandb="online"))
    code = (
        "import subprocess, time; from pathlib import Path; from hptransfer.records import Record;"
        "from hptransfer.tracking import open_tracker, replay, tracker as module; started = []\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **options): super().__init__(*args, **options); started.append(self)\n"
        "subprocess.Popen = Popen\n"
        f"record = Record(Path({str(tmp_path)!r}) / '0123456789abcdef'); config = record.config;"
        "tracker = open_tracker(config, run_id='first', folder=record.path, facts={})\n"
        "while not list(record.path.glob('wandb/run-*/*.wandb')): time.sleep(0.05)\n"
        "time.sleep(1.5)\n"
        "for process in started: process.kill()\n"
        "for step in range(1, 100): tracker.log({'step': step, 'loss': 1.0})\n"
        "tracker.finish({'loss': 1.0}); module._silent_until = 0.0\n"
        "after = open_tracker(config, run_id='second', folder=record.path, facts={})\n"
        "after.log({'step': 1, 'loss': 1.0}); after.finish({'loss': 1.0})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert server.runs["second"].history == [{"_step": 1, "step": 1, "train/loss": 1}]


def test_one_wait_for_many_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(wandb="online")
    record = make_record(tmp_path, 0, settings)
    for _ in range(3):
        follow(record, settings, range(1, 4))
    assert len(said(caplog)) == 1


@pytest.mark.slow
def test_interrupted_training_leaves_quietly(tmp_path: Path, server: FakeWandb) -> None:
    make_record(tmp_path, 0, config(wandb="online"))
    told = tmp_path / "0123456789abcdef/told"
    code = (
        "import sys, time; from pathlib import Path; from hptransfer.records import Record;"
        "from hptransfer.tracking import open_tracker, tracker as module; log_row = module.log_row\n"
        f"module.log_row = lambda run, row: (log_row(run, row), Path({str(told)!r}).touch());"
        f"record = Record(Path({str(told.parent)!r}));"
        "tracker = open_tracker(record.config, run_id=record.path.name, folder=record.path, facts={});"
        "tracker.log({'step': 1, 'loss': 2.0}); time.sleep(float(sys.argv[1])); sys.stdin.read(); sys.exit(130)"
    )
    for seconds in ("0", "0.3"):
        done = subprocess.run([sys.executable, "-c", code, seconds], capture_output=True, text=True, input="")
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    told.unlink(missing_ok=True)
    streams: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code, "0"], text=True, **streams) as process:
        wait_for(told.exists)  # wandb-core has the step, and sends it when the next one comes or the run ends
        assert process.communicate() == ("", "")
    assert process.returncode == 130
    run = server.runs["0123456789abcdef"]
    assert run.history == [{"_step": 1, "step": 1, "train/loss": 2}]
    assert run.state == "failed"


@pytest.mark.usefixtures("impatient")
def test_logging_costs_training_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handing a row over takes microseconds even while the server does not answer."""
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    settings = config(wandb="online")
    record = make_record(tmp_path, 0, settings)
    started = time.perf_counter()
    followed = follow(record, settings, range(1, 1001), result=None)
    assert time.perf_counter() - started < 1.0
    followed.finish(RESULT)


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_one_line_on_stderr(tmp_path: Path) -> None:
    make_record(tmp_path, 3, config(), RESULT)
    code = (
        "from pathlib import Path; from hptransfer.records import Record;"
        "from hptransfer.sections import Tracking; from hptransfer.tracking import replay, session;"
        f"session.START = 2.0; record = Record(Path({str(tmp_path)!r}) / '0123456789abcdef');"
        "replay(record, Tracking(wandb='online')); print('done')"
    )
    dead = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": API_KEY}
    for environment in ({}, dead):
        environment = {**os.environ, **environment}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "done\n")
        assert len(done.stderr.splitlines()) == 1, done.stderr
