"""What the tests of tracking share: run records as training leaves them, followed and abandoned."""

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import FakeWandb

from hptransfer.config import RunConfig, to_yaml
from hptransfer.records import Record, write_json
from hptransfer.tracking import Tracker, open_tracker, tracker

FACTS = {"params": 98304, "params_total": 131072, "steps": 8, "lr_hidden": 0.001}
RESULT: dict[str, Any] = {
    "status": "finished",
    "loss": 1.5,
    "params": 98304,
    "tokens": 8192,
    "lr": 0.004,
    "batch_tokens": 1024,
    "optimizer": "adamw",
}


def point_at(monkeypatch: pytest.MonkeyPatch, fake: FakeWandb) -> None:
    """Makes W&B talk to this server."""
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)


def config(**tracking: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"width": 64, "depth": 2},
            "parametrization": {"base_width": 64, "base_depth": 2},
            "tracking": tracking,
        }
    )


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "tokens": 1024 * step, "flops": 1e6 * step, "loss": 4 / step, "lr": 0.004, **more}


def make_record(
    runs: Path, steps: int, settings: RunConfig, result: dict[str, Any] | None = None, name: str = "0123456789abcdef"
) -> Record:
    """A run record as training leaves it."""
    record = Record(runs / name)
    record.path.mkdir(parents=True, exist_ok=True)
    (record.path / "config.yaml").write_text(to_yaml(settings.to_dict()))
    lines = [json.dumps(row(step)) + "\n" for step in range(1, steps + 1)]
    (record.path / "metrics.jsonl").write_text("".join(lines))
    if result:
        write_json(record.path / "result.json", result)
    return record


def make_runs(runs: Path, lrs: list[float], **tracking: Any) -> list[Record]:
    """Ended runs of a small lr sweep; the highest lr diverged."""
    records = []
    for number, lr in enumerate(lrs):
        diverged = number == len(lrs) - 1
        loss = math.nan if diverged else (math.log(lr) + 5) ** 2 / 10 + 2
        result = {**RESULT, "lr": lr, "status": "diverged" if diverged else "finished", "loss": loss, "seed": 1}
        records.append(make_record(runs, 5, config(**tracking), result, f"{number:016x}"))
    return records


LRS = [0.001, 0.004, 0.016, 0.064]


def follow(record: Record, settings: RunConfig, steps: range, result: dict[str, Any] | None = RESULT) -> Tracker:
    """What the training loop does with its tracker."""
    followed = open_tracker(settings, run_id=record.path.name, folder=record.path, facts=FACTS)
    for step in steps:
        followed.log(row(step))
    if result is not None:
        followed.finish(result)
    return followed


def abandon(followed: Tracker) -> None:
    """Training is interrupted and drops its tracker."""
    assert isinstance(followed, tracker.WandbTracker)
    thread = followed._thread
    del followed
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the user is told."""
    return [entry.getMessage() for entry in caplog.records if entry.name.startswith("hptransfer")]
