"""Finished WSD runs go on to a longer horizon: bit for bit what training from scratch gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.cli import main
from hptransfer.config import load_config
from hptransfer.errors import UserError
from hptransfer.records import read_rows
from hptransfer.schedules import factor, progress, stable_steps
from hptransfer.sections import WSD
from hptransfer.sweeps import sweep
from hptransfer.sweeps.deepening import prepare
from hptransfer.training import Step, train

LRS = [0.003, 0.01, 0.03]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """31 steps a run, so that no phase ends on a whole step; losses are measured and looked at on the way."""
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    for number in range(20):
        Path(f"corpus/{number}.txt").write_text(f"{number} " + "abra ca dabra " * (30 + number))
    write()


def write(schedule: str = "{name: wsd}", keep: bool = True, name: str = "sp", **parameters: Any) -> None:
    base = {
        "model": {"name": "mlp", "width": 16, "depth": 1, "window": 4},
        "parametrization": {"name": name, **({} if name == "sp" else {"base_width": 16, "base_depth": 1})},
        "schedule": yaml.safe_load(schedule),
        "data": {"source": "text", "path": "corpus", "seq_len": 16},
        "train": {
            "tokens": 128 * 31,
            "batch_tokens": 128,
            "eval_tokens": 256,
            "eval_every": 9,
            "watch_every": 7,
            "keep_stable": keep,
            "save_weights": True,
        },
    }
    if name == "completedp":
        base["parametrization"] |= {"base_tokens": 1024, "base_batch_tokens": 128}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    grid = {"method": "grid", "command": ["train", "base.yaml", "${args}"]}
    Path("sweep.yaml").write_text(
        yaml.safe_dump({**grid, "parameters": parameters or {"optimizer.lr": {"values": LRS}}})
    )


def test_the_stable_phase_does_not_depend_on_the_length() -> None:
    for steps in (7, 31, 100, 1000):
        for warmup, decay in ((0.1, 0.2), (0.03, 0.5), (0.5, 0.5), (0.0, 0.1)):
            short = WSD(warmup=warmup, decay=decay)
            stable = stable_steps(short, steps)
            assert all(factor(short, progress(i, steps)) < 1 for i in range(stable, steps))
            for times in (2, 8):
                longer = WSD(warmup=warmup / times, decay=decay)
                assert [factor(longer, progress(i, times * steps)) for i in range(stable)] == [
                    factor(short, progress(i, steps)) for i in range(stable)
                ]


def test_deepened_runs_are_those_from_scratch() -> None:
    sweep("sweep.yaml", workers=2, show_progress=False)
    short = {row.lr: row for row in read_rows(["runs"])}
    result = sweep("sweep.yaml", workers=2, deepen=4, show_progress=False)
    assert {run.record.result["status"] for run in result.runs if run.record.result} == {"finished"}
    assert len(result.runs) == 3 and "schedule.warmup" in result.runs[0].trial.overrides
    for run in result.runs:
        deep = run.record
        scratch = train(load_config(deep.path / "config.yaml"), "scratch")
        assert scratch.path.name == deep.path.name
        for name in ("metrics.jsonl", "weights.pt", "config.yaml"):
            assert (scratch.path / name).read_bytes() == (deep.path / name).read_bytes(), name
        assert deep.result and scratch.result
        told = {**deep.result, "seconds": scratch.result["seconds"]}
        assert told.pop("branched_from") == Path(short[deep.result["lr"]].source).name
        assert told == scratch.result
        assert deep.branch == {"run": Path(short[deep.result["lr"]].source).name, "step": 25}
        assert deep.result["tokens"] == 4 * 128 * 31
    assert sweep("sweep.yaml", workers=1, deepen=4, show_progress=False).to_text() == result.to_text()


def test_only_the_rest_is_trained() -> None:
    write(**{"optimizer.lr": {"values": LRS[:1]}})
    sweep("sweep.yaml", workers=1, show_progress=False)
    seen: list[int] = []

    def on_step(step: Step) -> None:
        seen.append(step.step)

    result = sweep("sweep.yaml", workers=1, deepen=2, dry_run=True)
    prepare(result.runs)
    (run,) = result.runs
    train(run.trial.config, "runs", on_step)
    assert seen == list(range(26, 63))
    assert (run.record.path / "stable.pt").exists()


def test_the_best_of_each_size_alone() -> None:
    write(**{"optimizer.lr": {"values": LRS}, "model.width": {"values": [16, 32]}})
    shallow = sweep("sweep.yaml", workers=2, show_progress=False)
    deep = sweep("sweep.yaml", deepen=2, best=1, dry_run=True)
    best: dict[int, float] = {}
    for run in shallow.runs:
        assert run.record.result
        best[run.params] = min(best.get(run.params, 9.0), run.record.result["loss"])
    sources = [json.loads((Path(run.trial.branch or "") / "result.json").read_text())["loss"] for run in deep.runs]
    assert sorted(sources) == sorted(best.values()) and len(sources) == 2
    assert not [run for run in deep.runs if run.record.path.exists()], "a dry run touches nothing"


@pytest.mark.parametrize(
    ("setting", "deepen", "words"),
    [
        ({}, 3, "--deepen 3: expected 2, 4, 8"),
        ({"schedule": "{name: cosine}", "keep": False}, 2, "schedule cosine has no stable phase; it needs wsd"),
        ({"keep": False}, 2, r"runs/\w+: no stable\.pt to go on from; train\.keep_stable: true has to be set"),
        ({"name": "completedp"}, 2, "under completedp the numbers of a run depend on its length"),
    ],
)
def test_what_cannot_be_deepened_is_one_line(setting: dict[str, Any], deepen: int, words: str) -> None:
    write(**setting, **{"optimizer.lr": {"values": LRS[:1]}})
    with pytest.raises(UserError, match="no finished run" if deepen != 3 else words):
        sweep("sweep.yaml", deepen=deepen, dry_run=True)
    train(load_config("base.yaml", [f"optimizer.lr={LRS[0]}"]))
    with pytest.raises(UserError, match=words) as caught:
        sweep("sweep.yaml", workers=1, deepen=deepen, show_progress=False)
    assert len(str(caught.value).splitlines()) == 1


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    write(**{"optimizer.lr": {"values": LRS[:1]}})
    train(load_config("base.yaml", [f"optimizer.lr={LRS[0]}"]))
    assert main(["sweep", "sweep.yaml", "--deepen", "4x", "--best", "1", "--dry-run"]) == 0
    assert f"{4 * 128 * 31:,}" in capsys.readouterr().out
    assert main(["status", "sweep.yaml", "--deepen", "4x"]) == 0
    assert "1 waiting" in capsys.readouterr().out
    assert main(["train", "base.yaml", "schedule.name=linear"]) == 2
    assert "train.keep_stable: schedule linear has no stable phase" in capsys.readouterr().err
