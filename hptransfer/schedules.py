"""Learning-rate schedules: pure functions of progress that multiply each parameter group's own peak lr."""

import math

from hptransfer.sections import WSD, Constant, Cosine, Linear, ScheduleConfig


def progress(step: int, steps: int) -> float:
    """How far in the run the middle of a step is, 0 <= `step` < `steps`: never 0 or 1, so no step is wasted on lr 0."""
    return (step + 0.5) / steps


def factor(schedule: ScheduleConfig, at: float) -> float:
    """lr over its peak at progress 0 <= `at` <= 1: a line up over `warmup`, then the schedule's own way down."""
    if at < schedule.warmup:
        return at / schedule.warmup
    match schedule:
        case Constant():
            return 1.0
        case Linear():
            return _mix(_part(at, schedule.warmup), schedule.final)
        case Cosine():
            return _mix((1 - math.cos(math.pi * _part(at, schedule.warmup))) / 2, schedule.final)
        case WSD():
            return _mix(_part(at, 1 - schedule.decay), schedule.final)


def stable_steps(schedule: WSD, steps: int) -> int:
    """Steps before the way down begins. A longer run with as many steps of warm-up begins with the same factors."""
    return sum(progress(step, steps) <= 1 - schedule.decay for step in range(steps))


def _part(at: float, start: float) -> float:
    """0 up to `start`, then linear to 1 at the end of the run."""
    return max(0.0, (at - start) / (1 - start)) if start < 1 else 0.0


def _mix(down: float, final: float) -> float:
    """From 1 (down = 0) to `final` (down = 1)."""
    return 1 - down * (1 - final)
