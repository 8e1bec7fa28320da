"""The main job in a short form, interrupted and started again."""

from pathlib import Path

import pytest

from hptransfer.cli import main
from hptransfer.laws import Laws
from hptransfer.records import find_records

SHORT = ["train.tokens=10240", "train.eval_tokens=2048", "data.size_mb=1"]


@pytest.mark.slow
def test_quickstart_runs_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["quickstart", "--runs", str(tmp_path), *SHORT]
    assert main(command) == 0
    first = capsys.readouterr().out
    home = tmp_path / "quickstart"
    assert "transferred lr" in first
    assert (home / "report.html").stat().st_size > 10_000
    assert Laws.load(home / "laws.yaml").recipe["parametrization"] == "completep"
    target = find_records(home / "target")
    assert len(target) == 5
    kept = {record.path: (record.path / "result.json").stat().st_mtime_ns for record in find_records(home)}

    lost = target[0].path / "result.json"
    lost.unlink()
    assert main(command) == 0
    assert capsys.readouterr().out == first, "what a lost run finds again is what it found"
    del kept[lost.parent]
    assert all((path / "result.json").stat().st_mtime_ns == time for path, time in kept.items())
