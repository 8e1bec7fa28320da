"""Published laws against hand-computed values; comparing with held-out runs; proposing a ladder."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hptransfer.config import load_config
from hptransfer.errors import UserError
from hptransfer.laws import figures, fit
from hptransfer.laws.compare import compare, to_text
from hptransfer.laws.ladder import LEAST_STEPS, Rung, halvings, propose
from hptransfer.laws.published import LAWS, listing, predict_published, rivals, show
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World
from hptransfer.laws.timescale import timescale
from hptransfer.rows import Row


def test_step_law_by_hand() -> None:
    # 1.79 * 1e9^-0.713 * 2e10^0.307 = 9.960e-4; 0.58 * 2e10^0.571 = 441892 tokens
    prediction = predict_published("step_law", params=1e9, tokens=2e10)
    assert prediction.lr.value == pytest.approx(9.960e-4, rel=1e-3)
    assert prediction.batch_tokens.value == pytest.approx(441892, rel=1e-5)
    assert prediction.lr.low is None
    assert not prediction.in_range


def test_deepseek_and_porian_by_hand() -> None:
    compute = 6 * 1e9 * 2e10
    assert LAWS["deepseek"].values(1e9, 2e10)["lr"] == pytest.approx(0.3118 * compute**-0.125)
    assert LAWS["porian"].values(1e9, 2e10)["batch_tokens"] == pytest.approx(0.7576 * 1e9**0.703)


def test_the_laws_of_zhang_agree_with_each_other() -> None:
    for n in (85e6, 302e6):
        by_size = 93.20 * (n / 1e6) ** 0.468 * 512
        assert LAWS["zhang_cbs"].values(n, 20 * n)["critical_batch"] == pytest.approx(by_size, rel=0.05)


def test_a_law_without_an_lr_says_so() -> None:
    with pytest.raises(UserError, match=r"gives no lr and batch by itself.*step_law"):
        predict_published("bjorck", params=1e9, tokens=2e10)
    with pytest.raises(UserError, match="did you mean 'step_law'"):
        predict_published("step_lw", params=1e9, tokens=2e10)
    with pytest.raises(UserError, match="tokens: expected a positive number"):
        predict_published("step_law", params=1e9, tokens=-1)


def test_every_law_shows_its_setting() -> None:
    for name in LAWS:
        assert name in listing()
        text = show(name)
        assert all(part in text for part in ("arXiv", "setting:", "parametrization:", "held fixed:", "checked:"))


def test_rivals_speak_of_the_same_kind_of_lr() -> None:
    assert "step_law" in rivals("sp", 1e9, 2e10, 5e5)
    assert "step_law" not in rivals("completep", 1e9, 2e10, 5e5)
    assert "power_lines" in rivals("completep", 1e9, 2e10, 5e5)


def rows_of(world: World, sizes: list[int], runs: int = 16) -> list[Row]:
    rng = np.random.default_rng(0)
    return [row for i in sizes for row in world.scattered(rng, BASE_PARAMS * 4**i, BASE_TOKENS * 4**i, runs)]


def test_compare_with_held_out_runs() -> None:
    world = World(noise=0.001, spread=0.02)
    laws = fit(rows_of(world, [0, 1, 2]))
    held_out = compare(laws, rows_of(world, [4]))
    (cell,) = held_out
    assert not cell.seen
    assert cell.inside == {"lr": True, "batch_tokens": True}
    x = np.log([cell.prediction.lr.value, cell.prediction.batch_tokens.value])
    truth = world.law(cell.params, cell.tokens)
    assert cell.regret["laws"] == pytest.approx(float(world.excess(x - truth)), abs=0.004)
    assert cell.regret["laws"] < cell.regret["largest proxy"]
    text = to_text(held_out)
    assert "1 of 1 best lrs inside" in text
    assert text.startswith("warning: params lies 1.20 decades beyond the runs; 0.60 are validated")
    assert "cells are among" not in text
    assert "warning: 1 of 1 cells" in to_text(compare(laws, rows_of(world, [2])))


def test_compare_scores_weight_decay_too() -> None:
    """With the floor at a timescale of 0.1 (D / N / 20)^-0.5: a weight decay that is carried over loses."""

    def sweep(params: float, tokens: float) -> list[Row]:
        best = 0.1 * (tokens / params / 20) ** -0.5
        return [
            Row(params, tokens, lr, 2e4, 3 * params**-0.05 * math.exp(0.02 * u * u + 0.02 * t * t), weight_decay=decay)
            for lr in (1e-3, 2e-3, 4e-3, 8e-3)
            for decay in (0.0, 0.3, 1.0, 3.0)
            for u, t in [(math.log(lr / 4e-3), math.log(timescale(lr * decay * tokens / 2e4) / best))]
        ]

    laws = fit([row for tokens in (2e7, 4e7, 8e7) for row in sweep(1e6, tokens)])
    (cell,) = compare(laws, sweep(1e6, 64e7))
    assert cell.inside == {"lr": True, "timescale": True}
    assert cell.regret["laws"] < 0.003 < cell.regret["largest proxy"]
    assert "1 of 1 best weight decays inside" in to_text([cell])


def test_compare_refuses_another_recipe() -> None:
    laws = fit(rows_of(World(), [0, 1]))
    with pytest.raises(UserError, match="parametrization: the runs have sp, the target has mup"):
        compare(laws, rows_of(World(parametrization="mup"), [2]))
    with pytest.raises(UserError, match="nothing was swept"):
        compare(laws, rows_of(World(), [2], runs=1))


def test_figures_of_a_fit() -> None:
    rows = rows_of(World(cliff=1.2), [0, 1, 2])
    laws = fit(rows)
    contours = figures.valley_contours(rows, laws)
    assert contours is not None
    assert len(contours.axes) == 3
    left = figures.residuals(rows, laws)
    assert left is not None
    drawn = sum(len(line.get_xdata()) for line in left.axes[0].lines[:-1])
    assert drawn == sum(row.status == "finished" for row in rows)
    prediction = laws.predict(params=1e9, tokens=2e10)
    rivals = figures.against_rivals(prediction)
    assert rivals is not None
    own, *theirs = (float(line.get_xdata()[0]) for line in rivals.axes[0].lines[1:])
    assert own == pytest.approx(math.log2(prediction.lr.value))
    lrs = [math.log2(values["lr"]) for values in prediction.rivals.values() if "lr" in values]
    assert theirs == pytest.approx(lrs)
    assert figures.against_rivals(replace(prediction, rivals={})) is None
    bands = figures.optima(laws)
    assert bands is not None
    assert [axis.get_ylabel() for axis in bands.axes] == ["best lr"] * 2 + ["best batch_tokens"] * 2
    coverage = figures.left_out(laws)
    assert coverage is not None
    (points, *_), *rest = coverage.axes[0].containers
    assert len(rest) + 1 == len(laws.validation)
    assert points.get_xdata()[0] == pytest.approx(laws.validation[0].miss["lr"] / math.log(2))
    alone = fit(rows_of(World(), [0]))
    assert figures.optima(alone) is None
    assert figures.left_out(alone) is None
    assert figures.valley_contours(rows, fit(rows_of(World(), [0], runs=1))) is None


TARGET = Rung({"width": 512, "depth": 16}, BASE_PARAMS * 4096, BASE_TOKENS * 4096, 1e20, 10**6)
HALVED = [
    Rung(
        {"width": 512 >> i, "depth": max(2, 16 >> i)},
        BASE_PARAMS * 4096 / 8**i,
        BASE_TOKENS * 4096 / 8**i,
        1e20 / 64**i,
        10**6 // 8**i,
    )
    for i in range(1, 5)
]


def test_a_ladder_keeps_to_its_budget_and_narrows_with_it() -> None:
    small, large = (propose(TARGET, HALVED, budget) for budget in (0.005, 0.2))
    assert small.flops <= 0.005 * TARGET.flops
    assert large.flops <= 0.2 * TARGET.flops
    assert large.interval < small.interval
    assert [rung.params for rung in small.rungs] == sorted(rung.params for rung in small.rungs)
    said = small.to_text(seconds_per_flop=3600 / small.flops)
    assert "about 60 min on one worker" in said
    assert "no estimate of the time" in small.to_text()
    growth = (TARGET.tokens / small.rungs[-1].tokens) ** 0.5
    assert f"The best batch grows about {growth:.2g} times" in said
    assert "--batch" not in replace(small, sweep_batch=True).to_text()
    sweep = small.to_sweep("configs/x.yaml", 0.01, 4096, 20)
    assert sweep["method"] == "grid"
    lrs = sweep["parameters"]["optimizer.lr"]["values"]
    assert len(lrs) == small.runs_per_rung
    assert math.prod(lrs) ** (1 / len(lrs)) == pytest.approx(0.01, rel=1e-3)
    assert sweep["parameters"]["model"]["values"][0] == dict(small.rungs[0].model)


def test_a_budget_that_is_too_small_names_the_least_that_works() -> None:
    with pytest.raises(UserError, match=r"the cheapest ladder costs .*%"):
        propose(TARGET, HALVED, 1e-9)
    with pytest.raises(UserError, match="too small for a ladder"):
        propose(TARGET, HALVED[:1], 0.5)


def test_rungs_of_a_handful_of_steps_are_not_proposed() -> None:
    short = [replace(rung, steps=steps) for rung, steps in zip(HALVED, (3000, 400, 50, 6), strict=True)]
    assert all(rung.steps >= LEAST_STEPS for rung in propose(TARGET, short, 0.5).rungs)
    with pytest.raises(UserError, match=r"a run of width 128, depth 4 has 3 steps; .* two sizes of at least 100") as no:
        propose(TARGET, [replace(rung, steps=rung.steps // 5000) for rung in HALVED][1:], 0.5)
    assert "\n" not in str(no.value)


def test_steps_of_the_halvings_follow_the_targets_tokens_per_parameter() -> None:
    config = load_config("configs/quickstart_target.yaml", ["train={tokens: 2e5, batch_tokens: 1024}"])
    target, found = halvings(config)
    assert target.steps == round(2e5 / config.batch_tokens)
    for rung in found:
        assert rung.tokens / rung.params == pytest.approx(target.tokens / target.params)
        assert rung.steps == max(1, round(rung.tokens / config.batch_tokens))
    with pytest.raises(UserError, match=f"at least {LEAST_STEPS}"):
        propose(target, found, 0.5)


def test_a_joint_ladder_is_random_and_capped() -> None:
    ladder = replace(propose(TARGET, HALVED[-2:], 0.1), sweep_batch=True)
    sweep = ladder.to_sweep("configs/x.yaml", 0.01, 4096, 20)
    assert sweep["method"] == "random"
    assert sweep["run_cap"] == ladder.runs_per_rung * len(ladder.rungs)
    assert 4096 in sweep["parameters"]["train.batch_tokens"]["values"]
