"""Model-based search and early stopping: against toy losses, and with real training."""

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.errors import UserError
from hptransfer.sweeps import sampler_of, status, sweep
from hptransfer.sweeps.config import Hyperband, SweepConfig
from hptransfer.sweeps.early import EarlyStop, Watch, among_best, rungs_of
from hptransfer.sweeps.samplers import Tried
from hptransfer.sweeps.space import Overrides, Parameter, share
from hptransfer.training import Step

COMMAND = ["train", "base.yaml", "${args}"]
LR = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}


def config(**parameters: Any) -> SweepConfig:
    return SweepConfig.model_validate({"method": "bayes", "run_cap": 30, "command": COMMAND, "parameters": parameters})


@given(
    st.floats(0, 1, exclude_max=True), st.sampled_from(["uniform", "log_uniform_values", "int_uniform", "q_uniform"])
)
def test_share_inverts_the_quantile(u: float, kind: str) -> None:
    parameter = Parameter.model_validate({"distribution": kind, "min": 1, "max": 9})
    value = parameter.quantile(u)
    found = share(parameter, value)
    assert found is not None and parameter.quantile(found) == pytest.approx(value)
    assert share(parameter, 10) is None and share(parameter, 0.5) is None


def toy(point: Overrides) -> float:
    """A valley in ln lr whose floor, in category b, lies at 0.02."""
    return (math.log(point["lr"] / 0.02)) ** 2 + (0.0 if point["kind"] == "b" else 1.0)


def searched(method: str, seed: int, count: int) -> list[Tried]:
    space = config(lr=LR, kind={"values": ["a", "b", "c"]}, fixed={"value": 3})
    sampler = sampler_of(space.model_copy(update={"method": method, "run_cap": count}), seed)
    tried: list[Tried] = []
    while len(tried) < count:
        tried += [Tried(point, toy(point)) for point in sampler.propose(tried, 2)]
    return tried


def test_search_finds_the_floor_better_than_chance() -> None:
    def best(method: str) -> float:
        return sum(min(one.loss or 0.0 for one in searched(method, seed, 30)) for seed in range(8)) / 8

    assert best("bayes") < best("random") / 2


def test_proposals_follow_from_the_seed_and_the_past_alone() -> None:
    assert searched("bayes", 1, 14) == searched("bayes", 1, 14)
    assert searched("bayes", 1, 2) != searched("bayes", 2, 2)
    assert all(one.overrides["fixed"] == 3 for one in searched("bayes", 1, 4))


def test_a_small_space_is_exhausted_not_repeated() -> None:
    sampler = sampler_of(config(kind={"values": [{"a": 1}, {"a": 2}, {"a": 3}]}), 0)
    tried: Sequence[Tried] = []
    assert sorted(point["kind"]["a"] for point in sampler.propose(tried, 9)) == [1, 2, 3]


def test_diverged_unknown_and_foreign_points_are_taken() -> None:
    space = config(lr=LR)
    tried = [Tried({"lr": 0.5}, math.inf), Tried({"lr": 0.01}, None), Tried({"lr": 7.0}, 1.0), Tried({"lr": 0.02}, 2.0)]
    (point,) = sampler_of(space, 0).propose(tried, 1)
    assert 1e-4 <= point["lr"] <= 1


def test_quasi_random_points_leave_no_holes() -> None:
    """Of 2^k Sobol points, one lies in every k-th part of each axis."""
    space = config(x={"min": 0.0, "max": 1.0}, y={"min": 0.0, "max": 1.0}).model_copy(update={"method": "random"})
    points = sampler_of(space.model_copy(update={"run_cap": 16}), 3, "qmc").propose([], None)
    for axis in "xy":
        assert sorted(int(16 * point[axis]) for point in points) == list(range(16))
    assert points[:5] == sampler_of(space.model_copy(update={"run_cap": 5}), 3, "qmc").propose([], None)


@pytest.mark.parametrize(
    ("rule", "warmup", "rungs"),
    [
        ({"min_iter": 10, "eta": 3}, 0.0, (0.1, 0.3, 0.9)),
        ({"min_iter": 10, "eta": 3}, 0.1, (0.3, 0.9)),
        ({"max_iter": 27, "s": 2}, 0.0, (1 / 9, 1 / 3)),
        ({"max_iter": 8, "s": 2, "eta": 2}, 0.3, (0.5,)),
    ],
)
def test_rungs_lie_at_fractions_behind_warm_up(rule: dict[str, Any], warmup: float, rungs: tuple[float, ...]) -> None:
    assert rungs_of(Hyperband.model_validate({"type": "hyperband", **rule}), warmup) == pytest.approx(rungs)


def test_the_best_share_goes_on() -> None:
    others = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert [x for x in range(9) if among_best(x, others, 2.0)] == [0, 1, 2, 3, 4]
    assert [x for x in range(9) if among_best(x, others, 3.0)] == [0, 1, 2, 3]
    assert among_best(99.0, [1.0], 2.0), "one other is too few to be compared with"


def test_a_trial_stops_at_a_rung_by_what_others_left(tmp_path: Path) -> None:
    """Ten trials in turn at constant losses; a foreign group and a half-written line are passed over."""
    rule, stopped = EarlyStop((0.25, 0.5), 2.0, "g"), {}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "rungs.jsonl").write_text(
        '{"group": "h", "fraction": 0.25, "loss": 0.0}\n{"group": "g", "fr'
    )
    for number, loss in enumerate([5.0, 4.0, 6.0, 3.0, 9.0, 1.0]):
        folder = tmp_path / str(number)
        folder.mkdir()
        watch = Watch(rule, folder)
        steps = (step for step in range(1, 41) if not watch.goes_on(Step(step, 40, step, loss, 0.1)))
        stopped[loss] = next(steps, None)
    assert stopped == {5.0: None, 4.0: None, 6.0: 10, 3.0: None, 9.0: 10, 1.0: None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(
        "model: {name: mlp, width: 16, depth: 1, window: 4}\n"
        "parametrization: {name: sp}\n"
        "data: {source: text, path: corpus, seq_len: 16}\n"
        "train: {tokens: 8192, batch_tokens: 256, eval_tokens: 512, save_weights: false}\n"
    )
    Path("corpus").mkdir()
    words = random.Random(0)
    for number in range(30):
        Path(f"corpus/{number}.txt").write_text(f"{number} " + " ".join(words.choices(["ab", "bra", "ca"], k=200)))


def write_sweep(**changes: Any) -> None:
    data = {"method": "bayes", "run_cap": 6, "command": COMMAND, "parameters": {"optimizer.lr": LR}, **changes}
    Path("sweep.yaml").write_text(yaml.safe_dump(data))


def lrs() -> set[float]:
    return {json.loads(path.read_text())["lr"] for path in Path("runs").glob("*/result.json")}


@pytest.mark.usefixtures("folder")
def test_a_search_is_taken_up_from_the_records() -> None:
    write_sweep(run_cap=3)
    first = sweep("sweep.yaml", workers=2)
    assert len(first.runs) == len(lrs()) == 3 and not first.failed
    write_sweep(run_cap=6)
    before = lrs()
    told = status("sweep.yaml").to_text()
    assert "3 done, 3 to be proposed; " in told and "FLOPs to do, about" in told
    second = sweep("sweep.yaml", workers=2)
    assert len(second.runs) == len(lrs()) == 6 and before < lrs()
    assert len(sweep("sweep.yaml", workers=2).runs) == 6 and len(lrs()) == 6


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "method: bayes"),
        ({"method": "random", "early_terminate": {"type": "hyperband", "min_iter": 5}}, "early_ter"),
    ],
)
def test_no_optuna_is_one_line(changes: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    write_sweep(**changes)
    with pytest.raises(UserError, match=rf"^{what}.* needs Optuna: pip install 'hptransfer\[sweep\]'$"):
        sweep("sweep.yaml")


@pytest.mark.usefixtures("folder")
def test_a_small_space_ends_the_search_before_its_cap() -> None:
    write_sweep(parameters={"optimizer.lr": {"values": [0.01, 0.02]}})
    result = sweep("sweep.yaml", workers=2)
    assert lrs() == {0.01, 0.02} and "to be proposed" not in result.to_text()


@pytest.mark.usefixtures("folder")
def test_the_ends_of_a_search_space_are_checked_before_it_starts() -> None:
    write_sweep(parameters={"optimizer.lr": {"min": -1.0, "max": 1.0}})
    with pytest.raises(UserError, match=r"sweep.yaml: parameters.optimizer.lr=-1.0: .* greater than 0"):
        sweep("sweep.yaml")
    write_sweep(parameters={"optimizer.lr": LR, "model.width": {"values": [16, 32, -8]}})
    with pytest.raises(UserError, match=r"sweep.yaml: parameters.model.width=-8: "):
        sweep("sweep.yaml")
    assert not Path("runs").exists()


@pytest.mark.usefixtures("folder")
def test_early_stopping_with_real_training() -> None:
    lr = {"values": [0.006, 0.008, 0.01, 1e-5, 2e-5]}
    stop = {"type": "hyperband", "max_iter": 4, "s": 1, "eta": 2}
    write_sweep(method="grid", parameters={"optimizer.lr": lr}, early_terminate=stop)
    result = sweep("sweep.yaml", workers=1)
    found = {run.trial.config.optimizer.lr: run.record.result for run in result.runs}
    stopped = {lr: ended["tokens_seen"] for lr, ended in found.items() if ended and ended["status"] == "stopped"}
    assert stopped == {1e-5: 4096, 2e-5: 4096}, "half of the run's 8192 tokens"
