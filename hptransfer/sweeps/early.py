"""Early stopping: at fixed fractions of their horizon, trials that are not among the best 1/eta of their like stop.

Every trial decides for itself from what the others left in their run folders, so that it works the same on one
machine and on many. Losses are compared at equal fractions of equal budgets and shapes, never during warm-up. Even so,
ranks before the lr decay favour low lrs: sweeps that feed a law do better without.
"""

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hptransfer.files import writing
from hptransfer.records import to_json
from hptransfer.sweeps.bayes import import_optuna
from hptransfer.sweeps.config import Hyperband

if TYPE_CHECKING:
    from hptransfer.training import Step

FILE = "rungs.jsonl"

SMOOTHING = 20
"""The loss at a rung is the mean over the last 1/20 of the run's steps before it."""


@dataclass(frozen=True)
class EarlyStop:
    """The rule as it travels with a job."""

    rungs: tuple[float, ...]
    """Fractions of the run, rising."""
    eta: float
    group: str
    """Trials are compared within it."""


def rungs_of(rule: Hyperband, warmup: float) -> tuple[float, ...]:
    """The fractions of a run at which trials may stop: those of the rule that lie behind warm-up."""
    if rule.min_iter is not None:
        count = math.ceil(math.log(100 / rule.min_iter, rule.eta))
        fractions = [rule.min_iter / 100 * rule.eta**power for power in range(count)]
    else:
        fractions = [rule.eta**-power for power in range(rule.s or 0, 0, -1)]
    return tuple(fraction for fraction in fractions if warmup < fraction < 1)


class Watch:
    """Sees every step of a trial and says at each rung whether it goes on."""

    def __init__(self, rule: EarlyStop, folder: Path) -> None:
        self.rule, self.folder = rule, folder
        self.rungs: dict[int, float] | None = None
        self.losses: deque[float] = deque()

    def goes_on(self, step: "Step") -> bool:
        """Whether the trial is worth its next step."""
        if self.rungs is None:
            self.rungs = {round(fraction * step.steps): fraction for fraction in self.rule.rungs}
            self.losses = deque(maxlen=max(1, step.steps // SMOOTHING))
        self.losses.append(step.loss)
        fraction = self.rungs.get(step.step)
        return fraction is None or self._passes(fraction, fmean(self.losses))

    def _passes(self, fraction: float, loss: float) -> bool:
        line = {"group": self.rule.group, "fraction": fraction, "loss": loss}
        with writing(self.folder / FILE), (self.folder / FILE).open("a") as file:
            file.write(to_json(line) + "\n")
        others = [
            other["loss"]
            for path in self.folder.parent.glob(f"*/{FILE}")
            if path.parent != self.folder
            for other in _lines(path)
            if (other["group"], other["fraction"]) == (line["group"], fraction)
        ]
        return among_best(loss, others, self.rule.eta)


def among_best(loss: float, others: list[float], eta: float) -> bool:
    """Whether a loss is in the best 1/eta, by Optuna's percentile pruner; always before eta others are known."""
    optuna = import_optuna("early_terminate")
    pruner = optuna.pruners.PercentilePruner(100 / eta, n_startup_trials=math.ceil(eta))
    study = optuna.create_study(pruner=pruner)
    complete = optuna.trial.TrialState.COMPLETE
    study.add_trials([optuna.trial.create_trial(state=complete, value=x, intermediate_values={0: x}) for x in others])
    trial = study.ask()
    trial.report(loss, 0)
    return not trial.should_prune()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that another process may be writing."""
    latest: dict[tuple[str, float], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            value = json.loads(line)
            latest[value["group"], value["fraction"]] = value
        except (ValueError, LookupError):
            continue
    yield from latest.values()
