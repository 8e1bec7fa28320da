"""What a user reads of a prediction."""

import numpy as np
import pytest

from hptransfer.laws import Laws, fit
from hptransfer.laws.published import predict_published
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World
from hptransfer.recommendation import to_text

AT = {"params": BASE_PARAMS * 64, "tokens": BASE_TOKENS * 64}


@pytest.fixture(scope="module")
def laws() -> Laws:
    rng = np.random.default_rng(0)
    rows = [row for i in range(2) for row in World().scattered(rng, BASE_PARAMS * 4**i, BASE_TOKENS * 4**i, 12)]
    return fit(rows, resamples=0)


def test_warnings_come_first_and_every_number_has_its_unit_and_rivals(laws: Laws) -> None:
    prediction = laws.predict(**AT)
    lines = to_text(prediction).splitlines()
    warnings = len(prediction.warnings)
    assert warnings > 0
    assert lines[:warnings] == [f"warning: {warning}" for warning in prediction.warnings]
    head, *table = lines[warnings : warnings + 4]
    assert head.split("  ")[-1] == "by zhang_cbs"
    assert [line.split(")")[0] for line in table] == [
        "lr (peak, base units",
        "batch_tokens (tokens",
        "loss (nats per token",
    ]
    numbers = table[0].split(")")[1].split()
    lr = prediction.lr
    ours = [lr.value, lr.low, lr.high, lr.optimum, prediction.rivals["step_law"]["lr"]]
    assert [float(number) for number in numbers[:5]] == pytest.approx(ours, rel=1e-3)
    assert f"expected regret: {prediction.regret['expected']:.2%} of the loss" in lines[-2]
    assert f"{prediction.regret['batch_rounded']:.2%} with the batch rounded" in lines[-2]
    assert "params 1.20" in lines[-1]
    assert "OUTSIDE of" in lines[-1]


def test_what_a_fixed_batch_costs_is_said_and_moves_the_loss(laws: Laws) -> None:
    free = laws.predict(**AT)
    assert free.loss is not None
    fixed = laws.predict(**AT, batch_tokens=free.batch_tokens.value * 32)
    cost = fixed.regret["batch_fixed"]
    assert cost > 0.005
    assert f"the fixed batch costs {cost:.2%}" in to_text(fixed)
    assert fixed.loss is not None
    assert fixed.loss.high == pytest.approx(free.loss.high * (1 + cost))
    assert fixed.loss.low == pytest.approx(free.loss.low * (1 + cost))
    assert fixed.loss.low < fixed.loss.value <= fixed.loss.high
    same = laws.predict(**AT, batch_tokens=free.batch_tokens.optimum)
    assert same.regret["batch_fixed"] == pytest.approx(0.0, abs=1e-6)
    assert "the fixed batch" not in to_text(same)


def test_a_published_law_has_no_interval_and_no_distance_from_runs() -> None:
    lines = to_text(predict_published("step_law", params=1e9, tokens=2e10)).splitlines()
    assert [line.split("(")[0].strip() for line in lines[2:]] == ["lr", "batch_tokens"]
