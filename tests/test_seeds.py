"""Noise between seeds, by hand and in a fit."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hptransfer.laws import fit
from hptransfer.laws.synthetic import World
from hptransfer.report.findings import findings
from hptransfer.rows import Row
from hptransfer.seeds import seed_noise

ROW = Row(params=1e6, tokens=2e7, lr=0.004, batch_tokens=4096, loss=3.0, seed=0)


def seeds(losses: list[float], **changes: float) -> list[Row]:
    return [replace(ROW, loss=loss, seed=seed, **changes) for seed, loss in enumerate(losses)]


def test_pooled_by_hand() -> None:
    """Squared deviations 0.02 of 2 - 1 and 0.02 of 3 - 1 degrees of freedom."""
    noise = seed_noise([*seeds([3.0, 3.2]), *seeds([2.9, 3.0, 3.1], lr=0.008), replace(ROW, lr=0.016)])
    assert noise is not None
    assert noise.sd == pytest.approx(math.sqrt(0.04 / 3))
    assert noise.best == pytest.approx(0.1)
    assert (noise.points, noise.runs) == (2, 5)
    logs = [np.log([3.0, 3.2]), np.log([2.9, 3.0, 3.1])]
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in logs)
    assert noise.relative == pytest.approx(math.sqrt(squares / 3))
    assert str(noise).startswith("between seeds a loss differs by 0.12 nats per token, 3.79% of it (standard deviation")
    assert "5 runs at 2 points); by 0.1 at" in str(noise)


@pytest.mark.parametrize(
    "rows",
    [
        [ROW],
        [ROW, replace(ROW, lr=0.008, seed=1)],
        [ROW, replace(ROW, loss=3.1)],  # one seed: the runs differ in something else
        [ROW, replace(ROW, loss=math.nan, status="diverged", seed=1)],
        [ROW, replace(ROW, loss=3.3, status="stopped", seed=1)],
        [replace(ROW, seed=None), replace(ROW, seed=None, loss=3.1)],
        [ROW, replace(ROW, seed=1, recipe={"data": "other"})],
    ],
)
def test_none_where_no_point_has_two_seeds(rows: list[Row]) -> None:
    assert seed_noise(rows) is None


def test_the_report_says_it() -> None:
    rows = seeds([3.0, 3.2])
    texts = [finding.text for finding in findings(rows, [], [{}, {}])]
    assert any(text.startswith("Between seeds a loss differs by 0.14 nats") for text in texts)


def test_the_fit_finds_the_noise_that_the_seeds_show() -> None:
    """Seeds of one point are runs like any other: what they differ by is the noise of the fit."""
    rng = np.random.default_rng(0)
    world = World(noise=0.006, far_noise=0.0)
    rows = []
    for params, tokens in ((1e6, 2e7), (4e6, 8e7), (1.6e7, 3.2e8)):
        optimum = world.optimum(rng, params, tokens)
        for away in (-1.0, -0.5, 0.0, 0.5):
            point = optimum + np.array([away, 0.0])
            rows += [replace(world.run(rng, params, tokens, optimum, point), seed=seed) for seed in range(4)]
    noise = seed_noise(rows)
    assert noise is not None
    assert fit(rows, resamples=50, validate=False).noise.near == pytest.approx(noise.relative, rel=0.4)
