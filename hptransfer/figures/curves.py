"""What a run wrote while training, thinned: each point is the mean of the steps round it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from hptransfer.records import Record
from hptransfer.rows import Row

NOT_WATCHED = ("step", "tokens", "flops", "lr")
"""Numbers in metrics.jsonl that say where a step stands rather than how it went."""


@dataclass(frozen=True)
class Curve:
    """Quantities against tokens; nan where no step of a point was finite."""

    tokens: tuple[float, ...] = ()
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def read_curve(row: Row, points: int) -> Curve:
    """The run's metrics.jsonl in at most `points` points; empty where the row comes from a table."""
    folder = Path(row.source)
    if not (folder / "metrics.jsonl").is_file():
        return Curve()
    return thin([step for step in Record(folder).metrics() if _number(step.get("tokens")) is not None], points)


def thin(steps: Sequence[Mapping[str, Any]], points: int) -> Curve:
    """Equal parts of the run, each at its last step's tokens."""
    count = min(points, len(steps))
    bounds = [round(i * len(steps) / count) for i in range(count + 1)] if count else []
    parts = [steps[start:end] for start, end in pairwise(bounds)]
    names = dict.fromkeys(
        name for step in steps for name, value in step.items() if name not in NOT_WATCHED and _number(value) is not None
    )
    tokens = tuple(float(part[-1]["tokens"]) for part in parts)
    return Curve(tokens, {name: tuple(_mean(part, name) for part in parts) for name in names})


def coarser(curve: Curve, points: int) -> Curve:
    """The same curve in at most `points` points."""
    steps = [
        {"tokens": tokens, **{name: line[i] for name, line in curve.values.items()}}
        for i, tokens in enumerate(curve.tokens)
    ]
    return thin(steps, points)


def _mean(steps: Sequence[Mapping[str, Any]], name: str) -> float:
    numbers = [number for step in steps if (number := _number(step.get(name))) is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
