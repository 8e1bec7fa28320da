"""What is a divergence and what is not, as losses over steps."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hptransfer.divergence import Watch

STEPS = 400


def ends_at(losses: list[float]) -> int | None:
    """The step at which the run is stopped; None where it goes through, its last state included."""
    watch = Watch(len(losses))
    for step, loss in enumerate(losses):
        if watch.diverged(loss):
            return step
    return len(losses) if watch.unrecovered else None


def descent(steps: int = STEPS, start: float = 5.5, end: float = 2.0) -> list[float]:
    """A power law from `start` towards `end`."""
    return [end + (start - end) * (1 + step / 10) ** -0.5 for step in range(steps)]


def noisy(losses: list[float], relative: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [loss * (1 + draw.gauss(0, relative)) for loss in losses]


def test_a_good_run() -> None:
    assert ends_at(descent()) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("relative", [0.02, 0.05])
def test_a_slow_noisy_descent(seed: int, relative: float) -> None:
    assert ends_at(noisy(descent(end=4.5), relative, seed)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_hardly_learns_is_not_diverged(seed: int) -> None:
    assert ends_at(noisy([5.5 - 0.0005 * step for step in range(STEPS)], 0.03, seed)) is None


@pytest.mark.parametrize("plateau", [3.5, 4.0, 5.0, 5.5, 7.0, 50.0])
@pytest.mark.parametrize("begins", [100, 200, 340])
def test_a_plateau_is_caught_even_below_the_initial_loss(plateau: float, begins: int) -> None:
    losses = descent()
    assert losses[begins] < 3.1
    stopped = ends_at(losses[:begins] + [plateau] * (STEPS - begins))
    assert stopped is not None
    assert begins < stopped <= begins + 50


@pytest.mark.parametrize("height", [4.0, 10.0, 1e6])
def test_a_spike_that_recovers_is_none(height: float) -> None:
    losses = descent()
    losses[150] = height
    assert ends_at(losses) is None
    slow = descent()
    for step in range(8):
        slow[150 + step] = 4.5 - step * 0.2
    assert ends_at(slow) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 100])
def test_what_is_not_finite_is_a_divergence_at_once(bad: float, at: int) -> None:
    losses = descent()
    losses[at] = bad
    assert ends_at(losses) == at


@pytest.mark.parametrize("luck", [0.8, 0.9, 0.95, 1.05, 1.3])
@pytest.mark.parametrize("slope", [0.0, 0.002])
def test_luck_with_the_first_batch_decides_nothing(luck: float, slope: float) -> None:
    losses = [5.5 - slope * step for step in range(STEPS)]
    losses[0] *= luck
    assert ends_at(losses) is None


@pytest.mark.parametrize("blown", [7.5, 9.0, 40.0, 1e4, 1e30])
def test_blown_up_by_the_first_steps(blown: float) -> None:
    """An lr far too high: the loss jumps in the second step and stays."""
    stopped = ends_at([5.5, *[blown] * (STEPS - 1)])
    assert stopped is not None
    assert stopped <= 60


def test_blown_up_in_a_run_too_short_for_patience() -> None:
    assert ends_at([5.5, 5.0, 80.0, 300.0, 200.0]) is not None
    assert ends_at(descent(5)) is None


@given(st.lists(st.floats(0, 20) | st.just(math.nan), min_size=1, max_size=80), st.data())
def test_a_watch_goes_on_from_its_state(losses: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(losses)))
    whole, first = Watch(100), Watch(100)
    expected = [whole.diverged(loss) for loss in losses]
    answers = [first.diverged(loss) for loss in losses[:cut]]
    second = Watch(**json.loads(json.dumps(first.to_dict())))
    assert answers + [second.diverged(loss) for loss in losses[cut:]] == expected
    assert second.unrecovered == whole.unrecovered
