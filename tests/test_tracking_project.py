"""Ended runs into a W&B project afterwards, and rows out of it, against a server on loopback."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import ENTITY, FakeWandb
from wandb_runs import LRS, config, make_record, make_runs

from hptransfer.errors import UserError
from hptransfer.records import read_rows
from hptransfer.tracking import project, rows_from, rows_from_wandb, session, sync

pytestmark = pytest.mark.usefixtures("wandb_session")


def test_sync_then_rows_are_the_records(tmp_path: Path, server: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "PAGE", 2)
    records = make_runs(tmp_path / "runs", LRS, project="ladder", group="lr sweep")
    make_record(tmp_path / "runs", 3, config(), None, "f" * 16)  # has not ended
    heard: list[tuple[int, int]] = []
    assert sync([tmp_path / "runs"], on_run=lambda *progress: heard.append(progress)) == 4
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {run.group for run in server.runs.values()} == {"lr sweep"}
    rows = {row.source: row for row in rows_from_wandb(f"{ENTITY}/ladder")}
    assert set(rows) == {f"wandb:{ENTITY}/ladder/{record.path.name}" for record in records}
    for row in read_rows([tmp_path / "runs"]):
        same = replace(rows[f"wandb:{ENTITY}/ladder/{Path(row.source).name}"], source=row.source)
        assert repr(same) == repr(row)  # nan is not equal to itself


def test_folders_and_projects_side_by_side(tmp_path: Path, server: FakeWandb) -> None:
    make_runs(tmp_path, LRS)
    sync([tmp_path])
    rows = rows_from([tmp_path, f"wandb:{ENTITY}/hptransfer"])
    assert [row.lr for row in rows] == LRS * 2
    assert rows_from([tmp_path])[0].source == str(tmp_path / ("0" * 16))


def test_sync_again_doubles_nothing(tmp_path: Path, server: FakeWandb) -> None:
    make_runs(tmp_path, LRS)
    for _ in range(2):
        sync([tmp_path], project=f"{ENTITY}/elsewhere")
    assert {run.project for run in server.runs.values()} == {"elsewhere"}
    assert all([entry["step"] for entry in run.history] == [1, 2, 3, 4, 5] for run in server.runs.values())


def test_a_run_reported_twice_is_one_row(tmp_path: Path, server: FakeWandb) -> None:
    make_runs(tmp_path, LRS)
    sync([tmp_path])
    again = replace(server.runs["0" * 16], name="agents-own-id")
    server.runs["agents-own-id"] = again
    heard: list[str] = []
    rows = rows_from_wandb(f"{ENTITY}/hptransfer", heard.append)
    assert [row.lr for row in rows] == LRS
    assert heard == []


def test_other_peoples_runs_are_left_out_aloud(tmp_path: Path, server: FakeWandb) -> None:
    make_runs(tmp_path, LRS)
    sync([tmp_path])
    server.UpsertBucket({"name": "other", "project": "hptransfer", "summaryMetrics": '{"loss": 1}'})
    heard: list[str] = []
    assert len(rows_from_wandb(f"{ENTITY}/hptransfer", heard.append)) == 4
    assert heard == [f"W&B: {ENTITY}/hptransfer: 1 of 5 runs have not ended or are not ours; left out"]


class TestErrors:
    @pytest.mark.parametrize("function", [lambda path: sync([path]), lambda path: rows_from_wandb("team/p")])
    def test_no_key(self, tmp_path: Path, function: Any) -> None:
        make_runs(tmp_path, LRS)
        with pytest.raises(UserError, match="no API key") as problem:
            function(tmp_path)
        assert len(str(problem.value).splitlines()) == 1

    def test_dead_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "START", 1.0)
        monkeypatch.setattr(project, "TIMEOUT", 1)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        make_runs(tmp_path, LRS)
        with pytest.raises(UserError, match="run 1 of 4"):
            sync([tmp_path])
        with pytest.raises(UserError, match="W&B: team/p: "):
            rows_from_wandb("team/p")

    def test_no_project(self, server: FakeWandb) -> None:
        with pytest.raises(UserError, match="W&B: team/missing: Could not find project"):
            rows_from_wandb("team/missing")

    @pytest.mark.usefixtures("server")
    def test_nothing_to_sync(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no ended run"):
            sync([tmp_path])
        with pytest.raises(UserError, match="no such file or folder"):
            sync([tmp_path / "missing"])

    def test_malformed_project(self, tmp_path: Path) -> None:
        make_runs(tmp_path, LRS)
        with pytest.raises(UserError, match="expected entity/project or project"):
            sync([tmp_path], project="a/b/c")
