"""confirm: what is proposed for a budget, that it is run, judged and learnt from, and what is refused."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import plain, write

from hptransfer.cli import main
from hptransfer.config import RunConfig
from hptransfer.confirming import losses_of, moved, propose, refit
from hptransfer.errors import UserError
from hptransfer.laws import Laws, fit
from hptransfer.laws.ladder import LEAST_STEPS
from hptransfer.laws.store import load
from hptransfer.records import read_rows, recipe
from hptransfer.rows import Row
from hptransfer.scaling import resolve
from hptransfer.target import transfer

LRS = [2.0**exponent for exponent in range(-9, -3)]
BEST = 2.0**-6


def target(**sections: dict[str, object]) -> RunConfig:
    big = {"model": {"width": 64, "depth": 8}, "train": {"tokens": 64 * 4000}}
    return RunConfig.model_validate(plain(**{**big, **sections}))


def rows(shapes: list[tuple[int, int]], tokens: float = 64.0 * LEAST_STEPS, best: float = BEST) -> list[Row]:
    """Cells with one and the same best lr, an exact parabola in ln lr."""
    known = recipe(target(), "0123456789")
    return [
        Row(
            params=12.0 * width**2 * depth,
            tokens=tokens,
            lr=lr,
            batch_tokens=64.0,
            loss=(2.0 + 10 / width) * (1 + 0.05 * math.log(lr / best) ** 2),
            weight_decay=0.1,
            width=width,
            depth=depth,
            recipe=known,
            source=f"{width}/{lr}",
        )
        for width, depth in shapes
        for lr in LRS
    ]


PROXIES = rows([(16, 2), (32, 4)])


@pytest.fixture(scope="module")
def laws() -> Laws:
    return fit(PROXIES)


@pytest.fixture(scope="module")
def tuned(laws: Laws) -> RunConfig:
    return transfer(laws, target()).config


def test_the_rung_keeps_to_its_budget_at_the_targets_own_shape(laws: Laws, tuned: RunConfig) -> None:
    proposal = propose(laws, tuned, 0.08)
    assert proposal.rung.model == {"width": 64, "depth": 8}
    assert proposal.rung.steps == int(0.08 / 3 * 4000)
    assert 0.078 * resolve(tuned).flops < proposal.flops <= 0.08 * resolve(tuned).flops
    assert [run.lr for run in proposal.runs][1] == proposal.line.lr == pytest.approx(BEST, rel=0.1)
    assert proposal.warnings == ()


def test_a_smaller_budget_pays_for_a_smaller_shape_and_a_larger_one_for_no_more_than_the_target(
    laws: Laws, tuned: RunConfig
) -> None:
    small = fit(rows([(16, 2)]))
    proposal = propose(small, transfer(small, target()).config, 0.02)
    assert proposal.rung.model == {"width": 32, "depth": 4}
    assert proposal.rung.steps >= LEAST_STEPS
    assert propose(laws, tuned, 40.0).rung.steps == 4000


def test_a_budget_that_pays_for_nothing_new_names_the_one_that_would_do(laws: Laws, tuned: RunConfig) -> None:
    with pytest.raises(UserError, match=r"--budget 0\.1%: .* at least 100 steps .*; (.*)% would do") as refused:
        propose(laws, tuned, 0.001)
    found = re.search(r"([\d.]+)% would do", str(refused.value))
    assert found is not None
    assert "\n" not in str(refused.value)
    rung = propose(laws, tuned, float(found[1]) / 100).rung
    assert rung.model == {"width": 16, "depth": 2}, "the cheapest: longer, not larger"
    assert LEAST_STEPS < rung.steps < 2 * LEAST_STEPS


def test_a_rung_is_not_shorter_than_every_run_of_the_laws(tuned: RunConfig) -> None:
    """The best lr of the first steps of a run is not that of its end: such a rung would say NO-GO to good laws."""
    long = fit(rows([(16, 2), (32, 4)], tokens=64.0 * 1000))
    rung = propose(long, tuned, 0.08).rung
    assert rung.model == {"width": 16, "depth": 2}
    assert rung.tokens > 64 * 1000
    assert propose(long, tuned, 0.751).rung.steps == 1001
    full = fit(rows([(16, 2), (32, 4)], tokens=64.0 * 4000))
    with pytest.raises(UserError, match=r"the tokens of their shortest; 297% would do"):
        propose(full, tuned, 0.08)


def test_the_sweep_makes_the_runs_that_were_proposed(laws: Laws, tuned: RunConfig) -> None:
    proposal = propose(laws, tuned, 0.08)
    sweep = proposal.to_sweep("x.yaml", ["train.device=cpu"])
    assert sweep["command"][:4] == ["hptransfer", "train", "x.yaml", "train.device=cpu"]
    values = {key: parameter.get("value", parameter.get("values")) for key, parameter in sweep["parameters"].items()}
    assert values == {
        "model": {"width": 64, "depth": 8},
        "train.tokens": 64 * proposal.rung.steps,
        "optimizer.weight_decay": 0.1,
        "optimizer.lr": [run.lr for run in proposal.runs],
    }


def test_an_lr_of_the_users_own_is_carried_to_the_rung_and_said(laws: Laws, tuned: RunConfig) -> None:
    mine = tuned.updated(optimizer={"lr": tuned.optimizer.lr * 3})
    proposal = propose(laws, mine, 0.08)
    assert proposal.line.lr == pytest.approx(3 * propose(laws, tuned, 0.08).line.lr, rel=0.01)
    assert "is not what these laws recommend" in proposal.warnings[0]


def test_laws_learn_from_the_rung_once(laws: Laws, tuned: RunConfig) -> None:
    rung = rows([(64, 8)], tokens=64.0 * 106, best=BEST / 2)
    after = refit(laws, PROXIES, rung)
    assert after.data["runs"] == len(PROXIES) + len(rung)
    assert refit(laws, [*PROXIES, *rung], rung).data == after.data
    assert "lr" in moved(laws, after, tuned)
    old, new = (one.predict(params=4e5, tokens=6784, width=64, depth=8, batch_tokens=64) for one in (laws, after))
    assert new.lr.value < old.lr.value


def test_laws_are_not_fitted_again_without_their_own_runs(laws: Laws) -> None:
    with pytest.raises(UserError, match="the 11 runs given as --evidence are not the 12 that the laws were fitted to"):
        refit(laws, PROXIES[1:], rows([(64, 8)]))


def test_a_diverged_run_has_no_loss() -> None:
    gone = replace(PROXIES[0], status="diverged", loss=math.nan)
    assert losses_of([gone, PROXIES[1]]) == {LRS[0]: None, LRS[1]: PROXIES[1].loss}


Said = Callable[..., str]


@pytest.fixture
def swept(tmp_path: Path, plain_on_text: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tuned config, its laws and the runs that they were fitted to: four real ones of 12 steps."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "proxy.yaml", plain_on_text())
    write(tmp_path / "target.yaml", plain_on_text(model={"width": 32, "depth": 2}, train={"tokens": 64 * 300}))
    for lr in (0.002, 0.006, 0.02, 0.06):
        assert main(["train", "proxy.yaml", f"optimizer.lr={lr}"]) == 0
    assert main(["fit", "runs", "-o", "laws.yaml"]) == 0
    assert main(["transfer", "laws.yaml", "target.yaml", "-o", "tuned.yaml"]) == 0
    return tmp_path


def test_from_plan_to_verdict_on_the_command_line(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    command = ["confirm", "tuned.yaml", "--budget", "100%", "--workers", "1"]
    assert main(command) == 0
    plan = capsys.readouterr()
    assert "width 32, depth 2" in plan.out
    assert "in 100 steps" in plan.out
    assert "nothing was trained" in plan.err
    assert len(read_rows(["runs"])) == 4
    assert not (swept / "laws_confirmed.yaml").exists()

    status = main([*command, "--run"])
    said = capsys.readouterr().out
    assert status == (0 if "\nGO: " in said else 1)
    assert ("\nGO: " in said) != ("\nNO-GO: " in said)
    found = {row.lr: row.loss for row in read_rows(["runs"]) if row.width == 32}
    assert len(found) == 3
    assert all(f"{loss:.4g}" in said for loss in found.values())
    assert load(swept / "laws_confirmed.yaml").data["runs"] == 7
    written = (swept / "laws_confirmed.yaml").read_bytes()

    assert main([*command, "--run"]) == status, "again: the same, and nothing is trained or lost"
    assert capsys.readouterr().out == said
    (swept / "laws_confirmed.yaml").write_text("mine")
    assert main([*command, "--run"]) == status
    assert "laws_confirmed.yaml: exists and is not overwritten; name another file with -o" in capsys.readouterr().err
    assert (swept / "laws_confirmed.yaml").read_text() == "mine"
    assert main([*command, "--run", "-o", "other.yaml"]) == status
    assert (swept / "other.yaml").read_bytes() == written


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "1%"], "--budget 1%: does not pay for three runs that are larger or longer"),
        (["--budget", "8%", "--laws", "none.yaml"], "none.yaml: "),
        (["--budget", "8%", "parametrization.name=mup"], "the laws do not hold for this target"),
    ],
)
def test_what_cannot_be_planned_is_said_plainly(
    swept: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["confirm", "tuned.yaml", *more]) == 2
    assert capsys.readouterr().err.startswith(f"hptransfer: {message}")
