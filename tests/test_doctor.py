"""The doctor sees what is there, and never the key itself."""

from pathlib import Path

import pytest

from hptransfer.doctor import examine


def found(rows: list[dict[str, str]], name: str) -> dict[str, str]:
    (row,) = [row for row in rows if row[""] == name]
    return row


def test_every_finding_says_what_it_means(tmp_path: Path) -> None:
    rows = examine(tmp_path / "runs", {})
    assert all(row["found"] and row["which means"] for row in rows)
    assert int(found(rows, "cores")["found"]) >= 1
    assert "not writable" not in found(rows, "disk")["which means"]


def test_wandb_key_is_seen_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(examine(tmp_path, {}), "wandb")["found"] == "not logged in"
    rows = examine(tmp_path, {"WANDB_API_KEY": "k" * 40})
    assert found(rows, "wandb")["found"] == "logged in"
    assert "kkk" not in str(rows)
    (tmp_path / ".netrc").write_text("machine example.test login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert found(examine(tmp_path, {"WANDB_BASE_URL": "https://example.test"}), "wandb")["found"] == "logged in"
