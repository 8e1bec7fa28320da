"""The valley's closed-form slopes, and what its parameters mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.laws.valley import REACH, bowl, evaluate, ridge_offset, shape_names

COMBINATIONS = [
    ("lr",),
    ("batch_tokens",),
    ("lr", "batch_tokens"),
    ("lr", "timescale"),
    ("lr", "batch_tokens", "timescale"),
]


@pytest.mark.parametrize("coordinates", COMBINATIONS)
def test_slopes_are_the_derivatives(coordinates: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    shape = rng.normal(0, 0.3, len(shape_names(coordinates)))
    at = rng.normal(0, 1, (20, len(coordinates)))
    slopes = evaluate(coordinates, shape, at)
    step = 1e-6
    for j in range(len(coordinates)):
        d = np.eye(len(coordinates))[j] * step
        up, down = evaluate(coordinates, shape, at + d), evaluate(coordinates, shape, at - d)
        np.testing.assert_allclose((up.excess - down.excess) / (2 * step), slopes.excess_at[:, j], atol=1e-6)
        np.testing.assert_allclose((up.ridge - down.ridge) / (2 * step), slopes.ridge_at[:, j], atol=1e-6)
    for i in range(len(shape)):
        d = np.eye(len(shape))[i] * step
        up, down = evaluate(coordinates, shape + d, at), evaluate(coordinates, shape - d, at)
        np.testing.assert_allclose((up.excess - down.excess) / (2 * step), slopes.excess_shape[:, i], atol=1e-6)
        np.testing.assert_allclose((up.ridge - down.ridge) / (2 * step), slopes.ridge_shape[:, i], atol=1e-6)


def test_hand_computed_excess() -> None:
    # bowl of k = 0.5 at 1: (e^0.5 - 1.5) / 0.25 = 0.5948850828, at -1: (e^-0.5 - 0.5) / 0.25 = 0.4261226389;
    # of k = 3 at 1: (e^3 - 4) / 9 = 1.7872818803, at -1: (e^-3 + 2) / 9 = 0.2277541187
    slopes = evaluate(("lr",), np.array([np.log(0.04), 0.5, np.log(0.01), 3.0]), np.array([[1.0], [-1.0]]))
    expected = [0.04 * 0.5948850828 + 0.01 * 1.7872818803, 0.04 * 0.4261226389 + 0.01 * 0.2277541187]
    np.testing.assert_allclose(slopes.excess, expected, rtol=1e-8)


@given(st.floats(-3, 3), st.floats(-5e-3, 5e-3))
def test_bowl_is_a_parabola_where_the_asymmetry_vanishes(distance: float, asymmetry: float) -> None:
    value, slope, _ = bowl(np.array(distance), np.array(asymmetry))
    assert float(value) == pytest.approx(distance**2 / 2, abs=1.1 * abs(asymmetry * distance**3) / 6 + 1e-9)
    assert float(slope) == pytest.approx(distance, abs=1.1 * abs(asymmetry) * distance**2 / 2 + 1e-9)


@given(st.floats(-REACH, REACH), st.floats(-1, 1), st.floats(-0.5, 0.5))
def test_without_a_wall_the_ridge_is_the_best_lr_at_a_batch(v: float, tilt: float, bend: float) -> None:
    coordinates = ("lr", "batch_tokens")
    shape = np.array([np.log(0.03), 0.4, -50.0, 3.0, np.log(0.02), 0.1, tilt, bend, 0.2])
    best = -ridge_offset(dict(zip(shape_names(coordinates), shape, strict=True)), {"batch_tokens": np.array(v)})
    at = np.array([[float(best) + step, v] for step in (-0.01, 0.0, 0.01)])
    low, middle, high = evaluate(coordinates, shape, at).excess
    assert middle <= low
    assert middle <= high


def test_shapes_broadcast_with_draws() -> None:
    coordinates = ("lr", "batch_tokens")
    rng = np.random.default_rng(1)
    shapes = rng.normal(0, 0.2, (9, 50))
    at = rng.normal(0, 1, (3, 50, 2))
    together = evaluate(coordinates, shapes, at).excess
    assert together.shape == (3, 50)
    np.testing.assert_allclose(together[2, 17], evaluate(coordinates, shapes[:, 17], at[2, 17]).excess)
