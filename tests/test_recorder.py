"""Runs of other people's loops as rows for `fit`."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny

from hptransfer import RunRecorder, read_rows
from hptransfer.errors import UserError
from hptransfer.records import Record
from hptransfer.scaling import resolve
from hptransfer.training import train

FACTS: dict[str, Any] = {"params": 1000, "tokens": 640, "lr": 0.01, "batch_tokens": 64, "width": 16, "seed": 3}


def record(runs: Path, losses: list[float], final: float, status: str | None = None, **facts: Any) -> Record:
    with RunRecorder(FACTS | facts, runs=runs) as run:
        for step, loss in enumerate(losses, start=1):
            if not run.log(step=step, loss=loss, grad_norm=1.0):
                break
        return run.finish(loss=final, status=status)


def falling(steps: int) -> list[float]:
    return [5 - 0.1 * step for step in range(steps)]


def test_a_finished_run_is_a_row(tmp_path: Path) -> None:
    found = record(tmp_path, falling(10), 4.0, depth=2, optimizer="adamw", data="mine")
    (row,) = read_rows([tmp_path])
    assert (row.params, row.tokens, row.lr, row.batch_tokens, row.loss, row.status) == (
        1000,
        640,
        0.01,
        64,
        4.0,
        "finished",
    )
    assert (row.width, row.depth, row.seed, row.tokens_seen) == (16, 2, 3, 640)
    assert row.recipe == {"optimizer": "adamw", "data": "mine"}
    assert row.source == str(found.path)
    lines = list(found.metrics())
    assert lines[0] == {"step": 1, "tokens": 64, "loss": 5.0, "grad_norm": 1.0}
    assert len(lines) == 10


def test_the_keys_are_those_of_train(on_text: Any, tmp_path: Path) -> None:
    config = on_text()
    ours = train(config, tmp_path / "ours").result
    with RunRecorder(config, runs=tmp_path / "theirs") as run:
        for step in range(1, 13):
            run.log(step=step, loss=3.0)
        theirs = run.finish(loss=3.0).result
    assert ours is not None and theirs is not None
    assert set(ours) - set(theirs) == {"accuracy", "epochs", "eval_tokens", "torch", "device"}
    assert set(theirs) <= set(ours)
    same = set(theirs) - {"loss", "seconds", "data", "status"}
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}
    assert Record(run.path).config == resolve(config).config
    assert len(read_rows([tmp_path])) == 2


@pytest.mark.parametrize(
    ("losses", "final", "status"),
    [
        (falling(10), 4.0, "finished"),
        (falling(9), 4.0, "cut_short"),
        ([*falling(5), math.nan], 4.0, "diverged"),
        (falling(10), math.inf, "diverged"),
        ([*falling(4), *[20.0] * 6], 4.0, "diverged"),
    ],
)
def test_status(tmp_path: Path, losses: list[float], final: float, status: str) -> None:
    record(tmp_path, losses, final)
    (row,) = read_rows([tmp_path])
    assert row.status == status
    assert math.isfinite(row.loss) == math.isfinite(final)


def test_a_diverged_loss_says_so_to_the_loop(tmp_path: Path) -> None:
    found = record(tmp_path, [2.0, math.inf, 2.0], math.nan)
    assert len(list(found.metrics())) == 2
    assert found.result is not None and found.result["tokens_seen"] == 128


def test_an_ended_run_is_not_written_over(tmp_path: Path) -> None:
    record(tmp_path, falling(10), 4.0)
    with pytest.raises(UserError, match=r"recorded-\w{16}: this run has ended; change a fact"):
        record(tmp_path, falling(10), 1.0)
    record(tmp_path, falling(10), 3.0, seed=4)
    assert sorted(row.loss for row in read_rows([tmp_path])) == [3.0, 4.0]


def test_what_breaks_off_leaves_a_reason_and_can_run_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunRecorder(FACTS, runs=tmp_path) as run:
        run.log(step=1, loss=5.0)
        _ = 1 / 0
    assert json.loads((run.path / "failure.json").read_text())["message"] == "ZeroDivisionError: division by zero"
    assert len(list(Record(run.path).metrics())) == 1
    again = record(tmp_path, falling(10), 4.0)
    assert again.path == run.path
    assert again.failure is None
    assert len(list(again.metrics())) == 10


def test_a_block_without_finish_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no result: call finish"), RunRecorder(FACTS, runs=tmp_path) as run:
        run.log(step=1, loss=5.0)


WRONG = [
    ({"width": None, "widht": 16}, "unknown fact 'widht'; did you mean 'width'"),
    ({"lr": None}, "lr missing; needed: params, tokens, lr, batch_tokens"),
    ({"params": -1}, "params: expected a positive number, got -1"),
    ({"tokens": "many"}, "tokens: expected a number, got 'many'"),
]


@pytest.mark.parametrize(("facts", "problem"), WRONG, ids=lambda value: str(value)[:20])
def test_wrong_facts_are_one_line(tmp_path: Path, facts: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        RunRecorder(FACTS | facts, runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_calls_are_one_line(tmp_path: Path) -> None:
    with RunRecorder(FACTS, runs=tmp_path) as run:
        run.log(step=5, loss=5.0)
        with pytest.raises(UserError, match="step = 5 after step 5"):
            run.log(step=5, loss=5.0)
        with pytest.raises(UserError, match="status = 'done'; allowed: finished, diverged, stopped"):
            run.finish(loss=4.0, status="done")
        with pytest.raises(UserError, match="a finished run needs a finite number"):
            run.finish(loss=math.nan, status="finished")
        run.finish(loss=4.0)


def test_a_config_and_our_own_run_of_it_have_two_folders(tmp_path: Path) -> None:
    assert RunRecorder(tiny(), runs=tmp_path).path.name.startswith("recorded-")
