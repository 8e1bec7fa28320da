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
    """A point that was proposed before, and the loss that was found there: None while it is not known, inf where
    training diverged."""

    overrides: Overrides
    loss: float | None


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


def draws(config: SweepConfig, seed: int) -> Iterator[Overrides]:
    """Independent draws without end. A larger run_cap adds draws and leaves the first ones as they were."""
    generator = random.Random(seed)
    space = config.space
    while True:
        yield at(space, [generator.random() for _ in space])


def sampler_of(config: SweepConfig, seed: int) -> Sampler:
    """The sampler that a sweep's method names."""
    if config.method == "grid":
        return Listed(grid(config.space)[: config.run_cap])
    return Listed(list(islice(draws(config, seed), config.run_cap)))
