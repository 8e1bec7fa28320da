"""How far a loss moves with the seed alone: the yardstick for every difference between two runs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hptransfer.rows import Row


@dataclass(frozen=True)
class SeedNoise:
    """The pooled standard deviation of losses within points: sqrt(sum of squared deviations / (runs - points))."""

    sd: float
    """Nats per token."""
    relative: float
    """Of ln loss: a fraction of the loss."""
    best: float
    """Nats per token, at the point of lowest mean loss alone: noise grows away from the optimum."""
    points: int
    runs: int

    def __str__(self) -> str:
        points = f"{self.points} point{'s' if self.points > 1 else ''}"
        return (
            f"between seeds a loss differs by {self.sd:.2g} nats per token, {self.relative:.2%} of it (standard "
            f"deviation, {self.runs} runs at {points}); by {self.best:.2g} at the best of them"
        )

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return vars(self)


def seed_noise(rows: Iterable[Row]) -> SeedNoise | None:
    """From the points with two finished seeds or more; None where there is none.

    A point is what a row says but for its seed. Where a seed occurs twice at one, its runs differ in something that
    rows do not hold, and it is left out. So is a point at which a seed diverged: its spread has no measure.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(_point(row), []).append(row)
    points = [[row.loss for row in group] for group in groups.values() if _seeds_alone_differ(group)]
    if not points:
        return None
    best = min(points, key=fmean)
    logs = [[math.log(loss) for loss in losses] for losses in points]
    return SeedNoise(_pooled(points), _pooled(logs), _pooled([best]), len(points), sum(map(len, points)))


def _point(row: Row) -> tuple[Any, ...]:
    shape = (row.params, row.width, row.depth, row.tokens)
    return (*shape, row.lr, row.batch_tokens, row.weight_decay, *sorted(row.recipe.items()))


def _seeds_alone_differ(group: Sequence[Row]) -> bool:
    seeds = [row.seed for row in group if row.seed is not None]
    finished = all(row.status == "finished" and row.loss > 0 for row in group)
    return finished and len(group) > 1 and len(set(seeds)) == len(group)


def _pooled(points: Sequence[Sequence[float]]) -> float:
    squares = sum((value - fmean(values)) ** 2 for values in points for value in values)
    return math.sqrt(squares / sum(len(values) - 1 for values in points))
