"""Where the next trials of a sweep lie. A sampler keeps no state: it is told what has been tried."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from hptransfer.sweeps.config import SweepConfig
from hptransfer.sweeps.space import Overrides, at, grid


@dataclass(frozen=True)
class Tried:
    """A point that was proposed before, and what came of it."""

    overrides: Overrides
    loss: float | None
    """None while it is not known, inf where training diverged or failed."""


class Sampler(Protocol):
    """Proposes trials."""

    def propose(self, tried: Sequence[Tried], n: int | None) -> list[Overrides]:
        """At most n further points (None: all that there are); an empty list ends the sweep."""


@dataclass(frozen=True)
class Listed:
    """A design that does not depend on what is found: every point is known before the first trial."""

    points: Sequence[Overrides]

    def propose(self, tried: Sequence[Tried], n: int | None) -> list[Overrides]:
        """The next ones in order."""
        return list(self.points[len(tried) :][:n])


def sampler_of(config: SweepConfig, seed: int, design: str = "random") -> Sampler:
    """The sampler that a sweep's method names; the first points of a random sweep do not depend on its run_cap.

    `design` of a random sweep: independent draws, or a quasi-random sequence (qmc), which leaves no holes.
    """
    if config.method == "grid":
        return Listed(list(islice(grid(config.space), config.run_cap)))
    if config.method == "bayes":
        from hptransfer.sweeps.bayes import Bayes, import_optuna

        import_optuna("method: bayes")
        return Bayes(config.space, seed)
    cubes = {"random": _independent, "qmc": _quasi_random}[design](len(config.space), seed)
    return Listed([at(config.space, cube) for cube in islice(cubes, config.run_cap)])


def _independent(dimensions: int, seed: int) -> Iterator[list[float]]:
    generator = random.Random(seed)
    while True:
        yield [generator.random() for _ in range(dimensions)]


def _quasi_random(dimensions: int, seed: int) -> Iterator[list[float]]:
    """A scrambled Sobol sequence."""
    import torch

    sequence = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    while True:
        yield sequence.draw(dtype=torch.float64)[0].tolist()
