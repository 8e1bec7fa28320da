"""Search spaces: quantile functions against their closed forms, and what a sweep file may not say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hptransfer.sweeps.space import DISTRIBUTIONS, Parameter, at, flatten, grid

shares = st.floats(0.0, 1.0, exclude_max=True)


def parameter(**keys: object) -> Parameter:
    return Parameter.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "u", "value"),
    [
        ({"value": 3}, 0.7, 3),
        ({"values": ["a", "b", "c", "d"]}, 0.5, "c"),
        ({"values": ["a", "b"], "probabilities": [3, 1]}, 0.74, "a"),
        ({"values": ["a", "b"], "probabilities": [3, 1]}, 0.76, "b"),
        ({"min": 1, "max": 4}, 0.999, 4),
        ({"min": 1, "max": 4}, 0.0, 1),
        ({"min": 0.0, "max": 4.0}, 0.25, 1.0),
        ({"min": 0, "max": 1, "distribution": "uniform"}, 0.25, 0.25),
        ({"min": 0, "max": 1, "distribution": "q_uniform", "q": 0.1}, 0.31, 0.3),
        ({"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}, 0.5, 1e-3),
        ({"min": 0, "max": 2, "distribution": "log_uniform"}, 0.5, math.e),
        ({"min": 0, "max": 2, "distribution": "inv_log_uniform"}, 0.5, 1 / math.e),
        ({"min": 1, "max": 64, "distribution": "q_log_uniform_values", "q": 4}, 0.5, 8),
        ({"distribution": "normal", "mu": 2, "sigma": 3}, 0.5, 2),
        ({"distribution": "normal"}, 0.841344746, 1.0),
        ({"distribution": "log_normal"}, 0.841344746, math.e),
        ({"distribution": "q_normal", "q": 0.5}, 0.84, 1.0),
    ],
)
def test_quantiles_equal_their_closed_forms(keys: dict[str, object], u: float, value: object) -> None:
    assert parameter(**keys).quantile(u) == (pytest.approx(value) if isinstance(value, float) else value)


@given(shares, shares)
def test_quantiles_rise(a: float, b: float) -> None:
    low, high = sorted((a, b))
    for kind in DISTRIBUTIONS:
        if kind in ("constant", "categorical", "categorical_w_probabilities"):
            continue
        bell = "normal" in kind
        p = parameter(distribution=kind, **({} if bell else {"min": 1, "max": 3}))
        assert p.quantile(low) <= p.quantile(high)


@given(shares)
def test_draws_stay_in_range(u: float) -> None:
    for kind in ("uniform", "log_uniform_values", "inv_log_uniform_values", "int_uniform"):
        assert 2 <= parameter(distribution=kind, min=2, max=5).quantile(u) <= 5


def test_whole_q_gives_whole_numbers() -> None:
    value = parameter(min=1, max=64, distribution="q_uniform", q=8).quantile(0.4)
    assert value == 24 and isinstance(value, int)


def test_nested_blocks_are_dotted_keys() -> None:
    blocks = {"model": parameter(parameters={"width": {"values": [1, 2]}, "mlp": {"parameters": {"r": {"value": 4}}}})}
    assert list(flatten(blocks)) == ["model.width", "model.mlp.r"]


def test_grid_is_the_product_in_order() -> None:
    space = {"a": parameter(values=[1, 2]), "b": parameter(min=0, max=1), "c": parameter(value="x")}
    points = list(grid(space))
    assert [(p["a"], p["b"]) for p in points] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(p["c"] == "x" for p in points)


def test_grid_of_multiples() -> None:
    p = parameter(min=0, max=0.3, distribution="q_uniform", q=0.1)
    assert p.points == [0.0, 0.1, 0.2, 0.3]


def test_a_point_of_the_cube() -> None:
    space = {"a": parameter(min=0.0, max=2.0), "b": parameter(values=[7, 8])}
    assert at(space, [0.5, 0.9]) == {"a": 1.0, "b": 8}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({}, "needs max, min"),
        ({"min": 1}, "needs max"),
        ({"values": []}, "values is empty"),
        ({"min": 2, "max": 1}, "min = 2 must be below max = 1"),
        ({"min": 0, "max": 1, "distribution": "log_uniform_values"}, "positive min"),
        ({"min": 0.5, "max": 2, "distribution": "int_uniform"}, "whole numbers"),
        ({"values": [1, 2], "q": 2}, "q: no key of distribution categorical"),
        ({"values": [1, 2], "probabilities": [1]}, "expected 2 numbers"),
        ({"distribution": "beta"}, "'beta' is not supported; supported: constant, "),
        ({"distribution": "log_uniform_value", "min": 1, "max": 2}, "did you mean 'log_uniform_values'"),
        ({"parameters": {}}, "at least one"),
        ({"parameters": {"a": {"value": 1}}, "value": 1}, "no other key beside it"),
        ({"distribution": "q_normal", "q": 0}, "q must be positive"),
    ],
)
def test_impossible_parameters_are_named(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint.replace("(", "\\(")):
        parameter(**keys)
