"""Loss laws: the published numbers of the Chinchilla data, synthetic truths, floors of a few cells."""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest

from hptransfer.cli import main
from hptransfer.errors import UserError
from hptransfer.laws.batch import COLUMNS, ToTarget, critical_batches, fit_critical_batch, read_to_target
from hptransfer.laws.isoflop import fit_isoflop
from hptransfer.laws.loss import bootstrap_chinchilla, fit_chinchilla, fit_floor
from hptransfer.laws.steps import fit_steps


def published(name: str) -> list[dict[str, str]]:
    """A published table; the test is skipped, aloud, where the data is not on this machine."""
    folder = os.environ.get("HPTRANSFER_DATA")
    if not folder or not (path := Path(folder) / name).exists():
        pytest.skip(f"{name} is needed: set HPTRANSFER_DATA to the folder that holds it")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made_up(count: int, noise: float, seed: int = 0) -> tuple[list[float], list[float], list[float]]:
    rng = np.random.default_rng(seed)
    params, tokens = 10 ** rng.uniform(7.5, 10, count), 10 ** rng.uniform(9, 12, count)
    loss = (1.8 + 480 * params**-0.35 + 2100 * tokens**-0.37) * np.exp(noise * rng.standard_normal(count))
    return list(params), list(tokens), list(loss)


def test_noiseless_coefficients_come_back() -> None:
    found = fit_chinchilla(*made_up(60, 0.0)).chinchilla
    for name, value in {"E": 1.8, "A": 480, "B": 2100, "alpha": 0.35, "beta": 0.37}.items():
        assert found[name] == pytest.approx(value, rel=1e-3)


def test_outliers_do_not_move_the_fit() -> None:
    params, tokens, loss = made_up(100, 0.001)
    spoiled = [value * (1.2 if i % 15 == 0 else 1) for i, value in enumerate(loss)]
    assert fit_chinchilla(params, tokens, spoiled).chinchilla["alpha"] == pytest.approx(0.35, abs=0.03)


def test_pinned_floor() -> None:
    law = fit_chinchilla(*made_up(60, 0.002), floor=1.8)
    assert law.chinchilla["E"] == pytest.approx(1.8, rel=1e-9)
    assert law.chinchilla["beta"] == pytest.approx(0.37, abs=0.03)


def test_too_few_runs() -> None:
    with pytest.raises(UserError, match="at least 6 runs, got 5"):
        fit_chinchilla(*made_up(5, 0.0))


def test_interval_of_an_extrapolation_holds_the_truth() -> None:
    inside = 0
    truth = 1.8 + 480 * 1e11**-0.35 + 2100 * 1e13**-0.37
    for seed in range(8):
        _, low, high = fit_chinchilla(*made_up(40, 0.003, seed)).predict(1e11, 1e13)
        inside += low <= truth <= high
    assert inside >= 6


def test_chinchilla_as_published() -> None:
    table = sorted(published("chinchilla_svg.csv"), key=lambda line: float(line["loss"]))[:-5]
    columns = [[float(line[name]) for line in table] for name in ("n_params", "tokens", "loss")]
    begin = time.process_time()
    found = fit_chinchilla(*columns).chinchilla
    assert time.process_time() - begin < 2  # the target is 0.5 s on an idle core
    assert found["E"] == pytest.approx(1.817, abs=5e-4)
    assert found["A"] == pytest.approx(477.8, abs=0.2)
    assert found["B"] == pytest.approx(2143.9, rel=1e-3)
    assert found["alpha"] == pytest.approx(0.3473, abs=5e-5)
    assert found["beta"] == pytest.approx(0.3672, abs=5e-5)
    spread = bootstrap_chinchilla(*columns, resamples=200)
    assert spread["alpha"].std() == pytest.approx(0.0145, rel=0.35)  # 100 refits by BFGS from one start: 0.0145


def test_least_loss_at_a_budget_is_where_the_law_says() -> None:
    law = fit_chinchilla(*made_up(60, 0.0))
    params, tokens = law.optimum(1e21)
    assert 6 * params * tokens == pytest.approx(1e21)
    best = law.predict(params, tokens)[0]
    assert best < min(law.predict(params * f, tokens / f)[0] for f in (0.95, 1.05))


def isoflop(noise: float, late: float = 0.0, seed: int = 0) -> tuple[list[float], list[float], list[float]]:
    """Sweeps over size at seven budgets; runs of less than 2e18 FLOPs are worse by `late` per ln below it."""
    rng = np.random.default_rng(seed)
    flops = np.repeat(3e17 * 2.0 ** np.arange(7), 12)
    params = np.tile(3e7 * 2.0 ** np.arange(12), 7)
    tokens = flops / 6 / params
    loss = 1.8 + 480 * params**-0.35 + 2100 * tokens**-0.37
    loss = loss * np.exp(late * np.log(2e18 / flops) * (flops < 2e18) + noise * rng.standard_normal(len(flops)))
    return list(flops), list(params), list(loss * np.where(tokens < 0.3 * params, 1.5, 1.0))


def test_isoflop_sweeps_say_size_and_loss_at_a_larger_budget() -> None:
    """Chinchilla's form: the best size in closed form; runs that hardly began do not matter."""
    law = fit_isoflop(*isoflop(0.001))
    flops = 8 * law.largest
    best = ((0.35 * 480) / (0.37 * 2100) * (flops / 6) ** 0.37) ** (1 / 0.72)
    least = 1.8 + 480 * best**-0.35 + 2100 * (flops / 6 / best) ** -0.37
    params, loss = law.params(flops), law.least_loss(flops)
    assert params[0] == pytest.approx(best, rel=0.15)
    assert params[1] < best < params[2]
    assert loss[0] == pytest.approx(least, rel=0.01)
    assert loss[1] < least < loss[2]
    assert law.exponent == pytest.approx(0.37 / 0.72, abs=0.04)


def test_small_budgets_of_another_law_count_for_less() -> None:
    straight, bent = fit_isoflop(*isoflop(0.001)), fit_isoflop(*isoflop(0.001, late=0.08))
    assert bent.loss.drift > 2 * straight.loss.drift
    flops = 4 * straight.largest
    assert bent.least_loss(flops)[0] == pytest.approx(straight.least_loss(flops)[0], rel=0.03)


def test_isoflop_needs_floors_within_the_sweeps() -> None:
    flops, params, loss = isoflop(0.0)
    small = [i for i, n in enumerate(params) if n < 1e8]
    with pytest.raises(UserError, match="0 of 7 budgets"):
        fit_isoflop(*([values[i] for i in small] for values in (flops, params, loss)))


def test_floors_of_two_cells_give_a_wide_honest_answer() -> None:
    law = fit_floor(np.array([1e6, 8e6]), np.array([2e7, 1.6e8]), np.log([3.0, 2.6]), np.array([0.003, 0.003]))
    middle, low, high = law.predict(6.4e7, 1.28e9)
    assert low < middle < 2.6
    assert middle < high
    assert high / low > 1.02
    again = law.predict(8e6, 1.6e8)[0]
    assert again == pytest.approx(2.6, rel=0.02)


def test_critical_batch_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{n},{20 * n},{b},{1000 + 1e8 * n / 1e8 / b},3" for n in (1e8, 4e8) for b in (1e4, 3e4, 1e5, 3e5)]
    path = tmp_path / "steps.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines]))
    assert main(["critical", str(path), "--reference", "1e4", "--at", "4e8", "--at", "1.6e9"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:3] == ["1e+08", "3", "3.2e+04"]
    law = fit_critical_batch(read_to_target(path), 1e4)
    assert said[-2].startswith(f"at params 4e+08: {law.at(4e8):.4g} tokens, 95 % {law.interval(4e8)[0]:.4g} to")
    assert said[-1].endswith("0.60 decades beyond the models")
    path.write_text("params,tokens\n1,1")
    assert main(["critical", str(path), "--reference", "1e4"]) == 2
    assert "column 'batch_tokens' is missing" in capsys.readouterr().err


def test_critical_batch_of_a_hyperbola() -> None:
    # steps = 1000 + 1e8 / B: 20 % above linear scaling from 1e4 at 1.2e4 + 0.2 * 1e8 / 1000 = 32000
    runs = [ToTarget(1e8, 2e9, b, 1000 + 1e8 / b, 3.0) for b in (1e4, 3e4, 1e5, 3e5, 1e6)]
    (found,) = critical_batches(runs, reference=1e4)
    assert found.critical == pytest.approx(32000, rel=1e-6)
    assert found.least_steps == pytest.approx(1000, rel=1e-6)


def test_steps_to_the_target_at_another_size() -> None:
    """steps = a + b / B with a B0 + b = 20 N, so that the target is the loss of 20 N tokens at B0."""
    runs = []
    for n in (1e8, 2e8, 4e8):
        critical = 1e5 * (n / 1e8) ** 0.5
        ratio = 0.2 / (critical - 1.2e4)
        b = 20 * n / (1 + ratio * 1e4)
        runs += [ToTarget(n, 20 * n, batch, ratio * b + b / batch, 3.0) for batch in (1e4, 3e4, 1e5, 3e5, 1e6)]
    law = fit_critical_batch(runs[:10], reference=1e4)
    for run in runs[10:]:
        assert law.steps(4e8, 8e9, run.batch_tokens) == pytest.approx(run.steps_to_target, rel=0.02)
    low, high = law.interval(4e8)
    assert low < 2e5 < high
    assert law.at(4e8) == pytest.approx(2e5, rel=0.02)
    assert law.interval(4e9)[1] / law.interval(4e9)[0] > 1.2 * high / low


def test_critical_batch_needs_three_batches_and_two_sizes() -> None:
    runs = [ToTarget(1e8, 2e9, b, 1000 + 1e8 / b, 3.0) for b in (1e4, 3e4, 1e5)]
    with pytest.raises(UserError, match="needs 3 batch sizes, got 2"):
        critical_batches(runs[:2], reference=1e4)
    with pytest.raises(UserError, match="at least two values"):
        fit_critical_batch(runs, reference=1e4)


def test_critical_batches_as_published() -> None:
    runs = [
        ToTarget(n, 20 * n, float(line["batch_tokens"]), float(line["steps_to_target"]), float(line["target_loss"]))
        for line in published("zhang_cbs_small.csv")
        if (n := float(line["n_params"]))
    ]
    law = fit_critical_batch(runs, reference=256 * 512)
    assert [round(model.critical / 512) for model in law.models] == [745, 955, 1394]  # as the authors print them
    assert law.at(604e6) / 512 == pytest.approx(1889, rel=0.05)  # theirs, not in the data


def test_reading_steps_to_target(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("params,tokens,batch_tokens,steps_to_target,target_loss\n1e8,2e9,1e4,100,3\n1e8,2e9,1e5,x,3\n")
    with pytest.raises(UserError, match=r"steps.csv:3: steps_to_target: expected a positive number, got 'x'"):
        read_to_target(path)
    path.write_text("params,tokens,batch,steps_to_target,target_loss\n")
    with pytest.raises(UserError, match="'batch_tokens' is missing; did you mean"):
        read_to_target(path)


def test_steps_and_batch_apart() -> None:
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7.5, 9.5, 80), 10 ** rng.uniform(9, 11, 80)
    batch = 10 ** rng.uniform(4.5, 6.5, 80)
    steps = tokens / batch
    loss = 1.7 + 40 * params**-0.25 + 12 * steps**-0.3 + 8 * batch**-0.2
    law = fit_steps(list(params), list(tokens), list(batch), list(loss))
    for name, value in {"E": 1.7, "a": 0.25, "b": 0.3, "c": 0.2}.items():
        assert law.values[name] == pytest.approx(value, rel=0.02)
    assert law.batch_exponent == pytest.approx(0.6, abs=0.01)
    best = law.best_batch(1e10)
    assert law.loss(1e9, 1e10, best) < min(law.loss(1e9, 1e10, best * 1.1), law.loss(1e9, 1e10, best / 1.1))
    with pytest.raises(UserError, match="at least 8 points, got 3"):
        fit_steps([1e8] * 3, [1e9] * 3, [1e5] * 3, [3.0] * 3)
