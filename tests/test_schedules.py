"""Schedules by property: bounded, continuous, exact at their ends, the same whatever the horizon."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hptransfer.schedules import factor, progress
from hptransfer.sections import WSD, Constant, Cosine, Linear, ScheduleConfig

shares = st.floats(0, 1)
progresses = st.floats(0, 1)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    warmup, final = draw(st.just(0.0) | st.floats(1e-3, 1)), draw(shares)
    kind = draw(st.sampled_from([Constant, Linear, Cosine, WSD]))
    if kind is Constant:
        return Constant(warmup=warmup)
    if kind is WSD:
        decay = draw(st.just(0.0) | st.floats(1e-3, 1))
        assume(warmup + decay <= 1)
        return WSD(warmup=warmup, decay=decay, final=final)
    return kind(warmup=warmup, final=final)


@given(schedules(), progresses)
def test_between_zero_and_the_peak(schedule: ScheduleConfig, at: float) -> None:
    assert 0 <= factor(schedule, at) <= 1 + 1e-15
    if at >= schedule.warmup:
        assert factor(schedule, at) >= getattr(schedule, "final", 1.0) - 1e-15


@given(schedules(), progresses, progresses)
def test_up_to_the_end_of_the_warm_up_then_never_up_again(schedule: ScheduleConfig, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if high <= schedule.warmup:
        assert factor(schedule, low) <= factor(schedule, high)
    if low >= schedule.warmup:
        assert factor(schedule, low) >= factor(schedule, high) - 1e-15


@given(schedules(), progresses)
def test_no_jumps(schedule: ScheduleConfig, at: float) -> None:
    """The steepest a schedule gets is a cosine or a line over the shortest of its parts."""
    parts = [schedule.warmup, 1 - schedule.warmup, getattr(schedule, "decay", 1.0)]
    steepest = math.pi / 2 / min(part for part in parts if part > 0)
    step = 1e-9
    assume(at + step <= 1)
    assert abs(factor(schedule, at + step) - factor(schedule, at)) <= steepest * step + 1e-14


@given(schedules())
def test_exact_ends(schedule: ScheduleConfig) -> None:
    assert factor(schedule, 0) == (0 if schedule.warmup else 1)
    assert factor(schedule, schedule.warmup) == pytest.approx(1, abs=1e-15)
    drops = isinstance(schedule, (Linear, Cosine)) or (isinstance(schedule, WSD) and schedule.decay)
    if drops and schedule.warmup < 1:
        assert factor(schedule, 1) == pytest.approx(schedule.final, abs=1e-15)
    else:
        assert factor(schedule, 1) == 1


@given(shares, st.floats(0.01, 0.9))
def test_wsd_is_flat_until_its_decay_and_linear_in_it(final: float, decay: float) -> None:
    schedule = WSD(warmup=0.1, decay=decay, final=final)
    assert factor(schedule, 0.1) == factor(schedule, max(0.1, 1 - decay - 1e-12)) == pytest.approx(1, abs=1e-9)
    assert factor(schedule, 1 - decay / 2) == pytest.approx((1 + final) / 2)


def test_by_hand() -> None:
    assert factor(Linear(warmup=0.2, final=0), 0.1) == 0.5
    assert factor(Linear(warmup=0.2, final=0), 0.6) == pytest.approx(0.5)
    assert factor(Linear(warmup=0, final=0.5), 0.5) == 0.75
    assert factor(Cosine(warmup=0.5, final=0), 0.75) == pytest.approx(0.5)
    assert factor(Cosine(warmup=0, final=0.1), 1 / 3) == pytest.approx(0.1 + 0.9 * 0.75)
    assert factor(Constant(warmup=0.25), 0.125) == 0.5


@given(st.integers(1, 10_000), st.integers(1, 50))
def test_a_run_of_any_length_sees_the_same_schedule(steps: int, times: int) -> None:
    """A run `times` as long passes the same progress at the middle of each group of `times` steps (`times` odd)."""
    times = 2 * times - 1
    step = steps // 2
    assert progress(times * step + times // 2, times * steps) == pytest.approx(progress(step, steps))


@given(st.integers(1, 10**7))
def test_no_step_is_wasted(steps: int) -> None:
    assert 0 < progress(0, steps) <= progress(steps - 1, steps) < 1
    assert factor(Linear(warmup=0.1, final=0), progress(0, steps)) > 0
    assert factor(Linear(warmup=0.1, final=0), progress(steps - 1, steps)) > 0


@pytest.mark.parametrize("hundredths", range(101))
def test_warm_up_and_decay_may_fill_the_whole_run(hundredths: int) -> None:
    WSD(warmup=hundredths / 100, decay=(100 - hundredths) / 100)
