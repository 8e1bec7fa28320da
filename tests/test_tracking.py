"""W&B beside training: offline runs read back, online runs against a server on loopback."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import API_KEY, FakeWandb
from wandb_runs import FACTS, RESULT, abandon, config, follow, make_record, row, said

from hptransfer.records import Record, find_records
from hptransfer.sections import Tracking
from hptransfer.tracking import open_tracker, replay, session
from hptransfer.tracking.log_file import ends_well, payloads, records

pytestmark = pytest.mark.usefixtures("wandb_session")


def offline_files(record: Record) -> list[Path]:
    return sorted(record.path.glob("wandb/offline-run-*/*.wandb"))


def read_offline(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Config, history and summary of an offline run, from its transaction log."""
    settings: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for record in records(path):
        for update in [*record.run.config.update, *record.config.update]:
            settings[update.key] = json.loads(update.value_json)
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            history.append({key: value for key, value in items.items() if not key.startswith("_") or key == "_step"})
        for update in record.summary.update:
            summary[update.key or update.nested_key[0]] = json.loads(update.value_json)
    return settings, history, summary


class TestMode:
    @pytest.mark.parametrize(
        ("wandb", "environment", "expected"),
        [
            ("disabled", {}, "disabled"),
            ("disabled", {"WANDB_MODE": "online"}, "disabled"),
            ("disabled", {"WANDB_SWEEP_ID": "s"}, "online"),
            ("disabled", {"WANDB_SWEEP_ID": "s", "WANDB_MODE": "offline"}, "offline"),
            ("disabled", {"WANDB_SWEEP_ID": "s", "WANDB_MODE": "disabled"}, "disabled"),
            ("offline", {"WANDB_SWEEP_ID": "s"}, "offline"),
            ("online", {}, "online"),
            ("online", {"WANDB_MODE": "dryrun"}, "offline"),
        ],
    )
    def test_config_agent_and_environment(self, wandb: Any, environment: dict[str, str], expected: str) -> None:
        assert session.mode_of(Tracking(wandb=wandb), environment) == expected

    def test_disabled_does_not_import_wandb(self, tmp_path: Path) -> None:
        make_record(tmp_path, 3, config(), RESULT)
        code = (
            "import sys; from pathlib import Path; from hptransfer.records import Record;"
            "from hptransfer.tracking import open_tracker, replay;"
            f"record = Record(Path({str(tmp_path)!r}) / '0123456789abcdef');"
            "tracker = open_tracker(record.config, run_id='x', folder=record.path, facts={});"
            "tracker.log({'step': 1}); tracker.finish({}); replay(record, record.config.tracking);"
            "assert not {'wandb', 'torch'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestOffline:
    def test_reads_back(self, tmp_path: Path) -> None:
        settings = config(wandb="offline", group="lr sweep", job_type="proxy", tags=["a", "b"])
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 9), {**RESULT, "diverged_at": float("nan")})
        (path,) = offline_files(record)
        sent, history, summary = read_offline(path)
        assert history == [
            {"_step": n, "step": n, "tokens": 1024 * n, "flops": 1e6 * n, "train/loss": 4 / n, "train/lr": 0.004}
            for n in range(1, 9)
        ]
        assert summary.items() >= RESULT.items()
        assert summary["diverged_at"] is None
        assert sent["params"] == 98304
        assert sent["lr_hidden"] == 0.001
        assert sent["optimizer"]["lr"] == settings.optimizer.lr
        assert sent["run"] == record.path.name
        assert "tracking" not in sent
        (run,) = [entry.run for entry in records(path) if entry.HasField("run") and entry.run.project]
        assert (run.run_id, run.project, run.run_group, run.job_type, list(run.tags)) == (
            record.path.name,
            "hptransfer",
            "lr sweep",
            "proxy",
            ["a", "b"],
        )
        metrics = {entry.metric.name or entry.metric.glob_name: entry.metric for entry in records(path)}
        assert metrics["*"].step_metric == "step"
        assert {"step", "tokens", "flops"} <= set(metrics)

    @pytest.mark.slow
    def test_agrees_with_wandbs_own_reader(self, tmp_path: Path) -> None:
        settings = config(wandb="offline")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 900))
        (path,) = offline_files(record)
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
        told = [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]
        assert path.stat().st_size > 2 * 32768
        assert len(list(payloads(path))) == len(told)
        assert sum(entry["type"] == "history" for entry in told) == len(read_offline(path)[1]) == 899

    @pytest.mark.slow
    def test_wandbs_own_sync_takes_it(self, tmp_path: Path, server: FakeWandb) -> None:
        settings = config(wandb="offline", group="lr sweep")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 9))
        (path,) = offline_files(record)
        command = [str(Path(sys.executable).with_name("wandb")), "sync", "--yes", str(path.parent)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        run = server.runs[record.path.name]
        assert [entry["step"] for entry in run.history] == list(range(1, 9))
        assert (run.state, run.group, run.summary["loss"]) == ("finished", "lr sweep", 1.5)

    def test_not_finite_is_null(self, tmp_path: Path) -> None:
        settings = config(wandb="offline")
        record = make_record(tmp_path, 0, settings)
        followed = open_tracker(settings, run_id=record.path.name, folder=record.path, facts=FACTS)
        followed.log(row(1, grad_norm=float("inf"), validation_loss=float("nan")))
        followed.finish({**RESULT, "status": "diverged", "loss": float("nan")})
        _, history, summary = read_offline(offline_files(record)[0])
        assert history[0]["train/grad_norm"] is None
        assert history[0]["loss"] is None
        assert summary["loss"] is None

    def test_resumed_run_is_written_whole_once(self, tmp_path: Path) -> None:
        settings = config(wandb="offline")
        record = make_record(tmp_path, 0, settings)
        abandon(follow(record, settings, range(1, 6), result=None))
        make_record(tmp_path, 4, settings)  # training goes on from a checkpoint at step 4
        follow(record, settings, range(5, 9))
        (path,) = offline_files(record)
        assert [entry["step"] for entry in read_offline(path)[1]] == list(range(1, 9))

    def test_replay(self, tmp_path: Path) -> None:
        record = make_record(tmp_path, 8, config(), RESULT)
        replay(record, Tracking(wandb="offline", group="again"))
        sent, history, summary = read_offline(offline_files(record)[0])
        assert [entry["step"] for entry in history] == list(range(1, 9))
        assert summary["loss"] == 1.5
        assert sent["params"] == 98304

    def test_nothing_outside_the_run_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        settings = config(wandb="offline")
        record = make_record(tmp_path / "runs", 0, settings)
        follow(record, settings, range(1, 4))
        assert {path.name for path in tmp_path.iterdir()} <= {"runs", "home"}


class TestOnline:
    def test_end_to_end(self, tmp_path: Path, server: FakeWandb, caplog: pytest.LogCaptureFixture) -> None:
        settings = config(wandb="online", entity="team", group="g", job_type="target", tags=["t"], name="big")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 9))
        run = server.runs[record.path.name]
        assert [entry["step"] for entry in run.history] == list(range(1, 9))
        assert run.history[3] == {
            "_step": 4,
            "step": 4,
            "tokens": 4096,
            "flops": 4e6,
            "train/loss": 1,
            "train/lr": 0.004,
        }
        assert run.summary.items() >= RESULT.items()
        assert (run.state, run.group, run.job_type, run.tags, run.display_name) == (
            "finished",
            "g",
            "target",
            ["t"],
            "big",
        )
        assert run.config["model"]["width"] == 64
        assert not said(caplog)

    def test_resumed_run_has_no_gap_and_no_double(self, tmp_path: Path, server: FakeWandb) -> None:
        settings = config(wandb="online")
        record = make_record(tmp_path, 0, settings)
        abandon(follow(record, settings, range(1, 6), result=None))
        run_id = record.path.name
        assert server.runs[run_id].state == "failed"
        server.runs[run_id].lines = server.runs[run_id].lines[:3]  # what came after was never delivered
        server.runs[run_id].summary["_step"] = 3
        make_record(tmp_path, 4, settings)
        follow(record, settings, range(5, 9))
        assert [entry["step"] for entry in server.runs[run_id].history] == list(range(1, 9))
        assert server.runs[run_id].state == "finished"

    def test_replay_twice_is_replay_once(self, tmp_path: Path, server: FakeWandb) -> None:
        record = make_record(tmp_path, 8, config(), RESULT)
        for _ in range(2):
            replay(record, Tracking(wandb="online"))
        run = server.runs[record.path.name]
        assert server.operations.count("RunResumeStatus") == 2
        assert [entry["step"] for entry in run.history] == list(range(1, 9))
        assert run.summary["loss"] == 1.5

    def test_the_key_is_nowhere(
        self, tmp_path: Path, server: FakeWandb, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        settings = config(wandb="online")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 4))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".wandb" for path in files)
        assert not [path for path in files if API_KEY.encode() in path.read_bytes()]
        assert API_KEY not in caplog.text
        assert "".join(capfd.readouterr()) == ""
        assert API_KEY not in json.dumps(server.runs[record.path.name].node())

    def test_only_run_records_are_found(self, tmp_path: Path, server: FakeWandb) -> None:
        settings = config(wandb="online")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 4))
        assert find_records(tmp_path) == [record]


class TestLogFile:
    def test_cut_file_does_not_end_well(self, tmp_path: Path) -> None:
        settings = config(wandb="offline")
        record = make_record(tmp_path, 0, settings)
        follow(record, settings, range(1, 300))
        (path,) = offline_files(record)
        assert ends_well(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert not ends_well(path)
        assert not ends_well(tmp_path / "missing.wandb")
