"""Model-based search through Optuna (extra `sweep`), on the unit cube of the search space."""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError
from hptransfer.sweeps.samplers import Tried
from hptransfer.sweeps.space import Overrides, Parameter, share

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

NEW_POINT_TRIES = 50
"""Proposals after which a space is taken to be exhausted."""


def import_optuna(what_for: str) -> Any:
    """The module, told to be quiet; UserError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(f"{what_for} needs Optuna: pip install 'hptransfer[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True)
class Bayes:
    """Tree-structured Parzen estimator (Watanabe, arXiv:2304.11127). The method of this name at W&B is another one, a
    Gaussian process.
    """

    space: Mapping[str, Parameter]
    seed: int

    def propose(self, tried: Sequence[Tried], n: int | None) -> list[Overrides]:
        """Up to n points that were not tried. Trials under way count as poor ones, so that workers spread out."""
        points: list[Overrides] = []
        while len(points) < (n or 1):
            point = self._next([*tried, *(Tried(overrides, None) for overrides in points)])
            if point is None:
                break
            points.append(point)
        return points

    def _next(self, tried: Sequence[Tried]) -> Overrides | None:
        """Follows from the seed and what was tried alone."""
        study = import_optuna("method: bayes").create_study(sampler=self._sampler(len(tried)))
        study.add_trials([told for one in tried if (told := self._told(one)) is not None])
        for _ in range(NEW_POINT_TRIES):
            point = self._overrides(study.ask(self._distributions).params)
            if all(point != one.overrides for one in tried):
                return point
        return None

    def _sampler(self, count: int) -> "BaseSampler":
        optuna = import_optuna("method: bayes")
        seed = random.Random(f"{self.seed} {count}").getrandbits(32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: BaseSampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return sampler

    @property
    def _free(self) -> dict[str, Parameter]:
        return {key: parameter for key, parameter in self.space.items() if parameter.kind != "constant"}

    @property
    def _distributions(self) -> dict[str, Any]:
        """Categories by their number, everything else by its share of the distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            key: CategoricalDistribution(range(len(parameter.values))) if parameter.values else FloatDistribution(0, 1)
            for key, parameter in self._free.items()
        }

    def _overrides(self, coordinates: Mapping[str, Any]) -> Overrides:
        below_one = math.nextafter(1.0, 0.0)
        return {
            key: parameter.value
            if parameter.kind == "constant"
            else parameter.values[coordinates[key]]
            if parameter.values
            else parameter.quantile(min(coordinates[key], below_one))
            for key, parameter in self.space.items()
        }

    def _told(self, tried: Tried) -> Any:
        """The trial as Optuna has it; None where its values lie outside of the space as it stands in the file."""
        from optuna.trial import TrialState, create_trial

        coordinates = {key: _coordinate(parameter, tried.overrides[key]) for key, parameter in self._free.items()}
        if None in coordinates.values():
            return None
        state = TrialState.RUNNING if tried.loss is None else TrialState.COMPLETE
        return create_trial(state=state, params=coordinates, distributions=self._distributions, value=tried.loss)


def _coordinate(parameter: Parameter, value: Any) -> int | float | None:
    if parameter.values:
        return parameter.values.index(value) if value in parameter.values else None
    return share(parameter, value)
