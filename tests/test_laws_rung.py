"""The judge of a last rung: right on made-up truths, whichever way the laws are wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hptransfer.errors import UserError
from hptransfer.laws import Laws, fit
from hptransfer.laws.rung import TOLERANCE, Line, foresee, judge, spaced
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World
from hptransfer.rows import Row

WORLD = replace(
    World(parametrization="completep", noise=0.002, spread=0.02), lr_exponents=(0.0, 0.0), batch_exponents=(0.0, 0.0)
)
PARAMS, TOKENS = BASE_PARAMS * 4**5, BASE_TOKENS * 4**3
WIDTH = 64 * (PARAMS / BASE_PARAMS) ** (1 / 3)
AT = {"params": PARAMS, "tokens": TOKENS, "width": WIDTH, "depth": WIDTH / 16, "batch_tokens": WORLD.batch_tokens}


def laws_of(world: World, seed: int = 0) -> Laws:
    rng = np.random.default_rng(seed)
    rows = [row for i in range(3) for row in world.line(rng, BASE_PARAMS * 4**i, BASE_TOKENS * 4**i, 7)]
    return fit(rows, resamples=0, validate=False)


def line_of(laws: Laws) -> Line:
    return Line(AT, laws.predict(**AT).lr.value)


def measured(world: World, lrs: tuple[float, ...], shift: float, seed: int = 1) -> dict[float, float | None]:
    """Losses where the best lr lies e^shift above the world's own law."""
    rng = np.random.default_rng(seed)
    optimum = world.law(PARAMS, TOKENS) + np.array([shift, 0.0])
    runs = {lr: world.run(rng, PARAMS, TOKENS, optimum, np.array([math.log(lr), optimum[1]])) for lr in lrs}
    return {lr: None if run.status == "diverged" else run.loss for lr, run in runs.items()}


@pytest.fixture(scope="module")
def laws() -> Laws:
    return laws_of(WORLD)


def test_three_lrs_round_the_recommended_one(laws: Laws) -> None:
    line = line_of(laws)
    low, middle, high = spaced(laws, line)
    assert middle == line.lr
    assert low < middle < high
    assert middle / low == pytest.approx(high / middle, rel=0.01)
    assert 1.99 < middle / low < 4.01


def test_what_is_foreseen_holds_what_happens(laws: Laws) -> None:
    line = line_of(laws)
    lrs = spaced(laws, line)
    foreseen = foresee(laws, line, lrs)
    assert foreseen[1].over.low == foreseen[1].over.high == 0
    inside = 0
    for seed in range(20):
        losses = measured(WORLD, lrs, shift=0.0, seed=seed)
        inside += all(run.loss is not None and run.loss.low < losses[run.lr] < run.loss.high for run in foreseen)
    assert inside >= 18


def test_go_where_the_law_is_right(laws: Laws) -> None:
    line = line_of(laws)
    verdicts = [judge(laws, line, measured(WORLD, spaced(laws, line), 0.0, seed)) for seed in range(12)]
    assert sum(verdict.go for verdict in verdicts) >= 11
    assert verdicts[0].to_text().startswith("GO: ")
    assert verdicts[0].best is not None
    assert verdicts[0].best.low < WORLD.lr < verdicts[0].best.high


@pytest.mark.parametrize(("shift", "side"), [(-1.4, "below"), (1.4, "above")])
def test_no_go_where_the_best_lr_is_elsewhere(laws: Laws, shift: float, side: str) -> None:
    line = line_of(laws)
    verdicts = [judge(laws, line, measured(WORLD, spaced(laws, line), shift, seed)) for seed in range(6)]
    assert not any(verdict.go for verdict in verdicts)
    assert all(verdict.regret > TOLERANCE for verdict in verdicts)
    assert sum(f"the best lr lies {side}" in verdict.to_text() for verdict in verdicts) >= 4


def test_the_verdict_is_that_of_the_truth_in_worlds_of_all_kinds() -> None:
    """GO exactly where the recommended lr truly loses no more than is tolerated, but for a few in the grey."""
    right = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        world = replace(World.draw(rng, "completep"), batch_exponents=(0.0, 0.0))
        laws = laws_of(world, seed)
        line, shift = Line({**AT, "batch_tokens": world.batch_tokens}, 0.0), rng.choice([-1.0, 0.0, 0.0, 1.0])
        line = replace(line, lr=laws.predict(**line.at).lr.value)
        verdict = judge(laws, line, measured(world, spaced(laws, line), shift, seed))
        truth = float(world.excess(np.array([math.log(line.lr) - world.law(PARAMS, TOKENS)[0] - shift, 0.0])))
        right += verdict.go == (truth <= TOLERANCE)
    assert right >= 14


def test_a_loss_far_above_the_foreseen_is_no_go_and_one_below_is_none(laws: Laws) -> None:
    line = line_of(laws)
    losses = measured(WORLD, spaced(laws, line), 0.0)
    worse = {lr: loss and loss * 1.3 for lr, loss in losses.items()}
    verdict = judge(laws, line, worse)
    assert [objection.partition(" is ")[0] for objection in verdict.objections] == ["the loss at the recommended lr"]
    assert judge(laws, line, {lr: loss and loss * 0.8 for lr, loss in losses.items()}).go


def test_divergence(laws: Laws) -> None:
    line = line_of(laws)
    low, middle, high = spaced(laws, line)
    losses = measured(WORLD, (low, middle, high), 0.0)
    assert judge(laws, line, {**losses, high: None}).go
    verdict = judge(laws, line, {**losses, middle: None, high: None})
    assert verdict.to_text().startswith(f"NO-GO: the recommended lr {middle:.3g} diverged")


def test_a_swept_batch_is_held_at_the_rungs() -> None:
    rng = np.random.default_rng(0)
    sizes = [(BASE_PARAMS * 4**i, BASE_TOKENS * 4**i) for i in range(3)]
    laws = fit([row for size in sizes for row in WORLD.scattered(rng, *size, 24)], resamples=0, validate=False)
    at = {**AT, "batch_tokens": WORLD.batch_tokens * 4}
    line = Line(at, laws.predict(**at).lr.value)
    steps = np.linspace(-2, 2, 4001)
    away = np.stack([steps, np.full_like(steps, math.log(4))], 1)
    best = WORLD.lr * math.exp(steps[np.argmin(WORLD.excess(away))])
    optimum = WORLD.law(PARAMS, TOKENS)
    losses = {}
    for lr in spaced(laws, line):
        x = np.array([math.log(lr), math.log(at["batch_tokens"])])
        losses[lr] = WORLD.run(rng, PARAMS, TOKENS, optimum, x).loss
    verdict = judge(laws, line, losses)
    assert verdict.go
    assert verdict.best is not None
    assert verdict.best.low < best < verdict.best.high


def test_weight_decay_is_fixed_and_the_timescale_moves_with_the_lr() -> None:
    """Along the line lr * weight_decay * D / B moves with the lr, and the timescale with it; no decay is one, too."""
    rows = [
        Row(
            params, 20 * params, lr, 2e4, weight_decay=decay,
            loss=3 * (params / 1e6) ** -0.1
            * (1 + 0.03 * math.log(2e4 / (lr * decay * 20 * params) / 0.2) ** 2 + 0.005 * math.log(lr / 4e-3) ** 2),
        )
        for params in (1e6, 4e6)
        for lr in (1e-3, 2e-3, 4e-3, 8e-3)
        for decay in (0.02, 0.06, 0.2, 0.6)
    ]  # fmt: skip
    laws = fit(rows, resamples=0, validate=False)
    assert laws.coordinates == ("lr", "timescale")
    at = {"params": 4e6, "tokens": 8e7, "batch_tokens": 2e4}
    line = Line(at, 4e-3, fading=2.5)
    assert line.points(laws.coordinates, np.log([8e-3]))[0] == pytest.approx(
        [math.log(8e-3), math.log((1 - math.exp(-5)) / 5)]
    )
    losses = {lr: 3 * 4**-0.1 * math.exp(0.03 * math.log(4e-3 * 2 / lr) ** 2) for lr in spaced(laws, line)}
    assert judge(laws, line, losses, tolerance=0.5).best is not None
    assert replace(line, fading=0.0).points(laws.coordinates, np.log([8e-3]))[0, 1] == pytest.approx(0.0)


def test_laws_without_an_lr_have_nothing_to_confirm() -> None:
    rng = np.random.default_rng(0)
    laws = fit(WORLD.line(rng, BASE_PARAMS, BASE_TOKENS, 1))
    with pytest.raises(UserError, match="no lr to confirm"):
        judge(laws, Line(AT, 0.01), {0.01: 3.0})
