"""When a run is beyond saving: its loss is not finite, or stays far above its own running minimum."""

import math
from dataclasses import asdict, dataclass

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss: about ten steps."""
FAR = 0.15
"""Far above: by this part of what the run has gained since its start ..."""
FAR_FROM_START = 0.05
"""... and at least by this part of its first loss."""
PATIENCE = 0.05
"""Fraction of the run that the loss may stay far above, at least MIN_PATIENCE steps: a spike that recovers is none."""
MIN_PATIENCE = 20
ENOUGH = 10
"""Steps before the mean is good for a minimum ..."""
LUCK = 0.25
"""... until then it stands this part above the first loss: one batch that was easy by luck is no standard."""
HIGHEST = 2.0
"""A loss counts as at most so many times the first: a spike is forgotten as fast, however high it was."""


@dataclass
class Watch:
    """Follows the training loss; `above` counts the steps in a row that were far above the minimum."""

    steps: int
    first: float = math.nan
    seen: int = 0
    decayed: float = 0.0
    """Sum of the losses, each weighted by (1 - SMOOTHING) SMOOTHING^age."""
    best: float = math.inf
    above: int = 0

    def diverged(self, loss: float) -> bool:
        """Takes the loss of one step; True where the run should be stopped."""
        if not math.isfinite(loss):
            return True
        if self.seen == 0:
            self.first, self.best = loss, (1 + LUCK) * loss
        self.seen += 1
        self.decayed = SMOOTHING * self.decayed + (1 - SMOOTHING) * min(loss, HIGHEST * self.first)
        mean = self.decayed / (1 - SMOOTHING**self.seen)
        if self.seen >= ENOUGH:
            self.best = min(self.best, mean)
        margin = max(FAR * (self.first - self.best), FAR_FROM_START * self.first)
        self.above = self.above + 1 if mean > self.best + margin else 0
        return self.above >= max(MIN_PATIENCE, PATIENCE * self.steps)

    @property
    def unrecovered(self) -> bool:
        """At the end of a run: the loss is far above its minimum right now."""
        return self.above > 0

    def to_dict(self) -> dict[str, float]:
        """The state, for a checkpoint; `Watch(**state)` goes on from it."""
        return asdict(self)
