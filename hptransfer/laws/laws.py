"""Laws: what a fit leaves behind, enough to predict without the runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hptransfer.laws.evidence import Cell, Features
from hptransfer.laws.loss import LossLaw
from hptransfer.laws.pooled import Noise
from hptransfer.laws.valley import Floats, shape_names

if TYPE_CHECKING:
    from hptransfer.laws.predict import Prediction


@dataclass(frozen=True)
class FittedCell:
    """A cell with its own optimum and floor (ln), their posterior sd, and whether the sweep enclosed the optimum."""

    cell: Cell
    optimum: Mapping[str, float]
    optimum_sd: Mapping[str, float]
    floor: float
    floor_sd: float
    edge: str | None = None
    """`low` or `high` where the best lr lies at or beyond that end of the sweep."""


@dataclass(frozen=True)
class LeftOut:
    """One cell of the largest size (or budget), predicted from the smaller ones."""

    by: str
    """`params` or `tokens`: what was left out is the largest of these."""
    decades: Mapping[str, float]
    """How far beyond the remaining data the cell lies, by feature."""
    miss: Mapping[str, float]
    """ln(predicted / fitted optimum) by hyperparameter."""
    sd: Mapping[str, float]
    regret: float
    """Relative loss at the predicted optimum over the cell's floor, on the valley of the full fit."""
    inside: bool
    """Whether every 95 % interval held the cell's own optimum."""


@dataclass(frozen=True)
class Laws:
    """Optimal hyperparameters and loss as laws of size and tokens, with everything a prediction needs."""

    recipe: Mapping[str, str | float]
    """What all the runs share, and so what the laws hold for."""
    data: Mapping[str, str | float]
    """hash, runs, diverged, stopped, cells."""
    settings: Mapping[str, str | float]
    coordinates: tuple[str, ...]
    features: Features
    coefficients: Floats
    covariance: Floats
    spread: Mapping[str, float]
    noise: Noise
    cells: tuple[FittedCell, ...]
    validation: tuple[LeftOut, ...] = ()
    validated: Mapping[str, float] = field(default_factory=dict)
    """Decades beyond the data that leaving out the largest size has validated, by feature."""
    applied: Mapping[str, float] = field(default_factory=dict)
    """ln(lr_hidden * weight_decay_hidden / (lr * weight_decay)) as coefficients of 1, ln width, ln depth."""
    loss: LossLaw | None = None
    warnings: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    """What the runs say of the literature's claims, by claim."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients, in order."""
        optima = [f"{coordinate} {column}" for coordinate in self.coordinates for column in self.features.columns]
        return (*optima, *shape_names(self.coordinates))

    @property
    def exponents(self) -> dict[str, tuple[float, float, float]]:
        """Exponent of each feature in each optimum with its 95 % interval, as `lr ~ params`."""
        sd = np.sqrt(np.diag(self.covariance))
        width = len(self.features.columns)
        result = {}
        for j, coordinate in enumerate(self.coordinates):
            for i, feature in enumerate(self.features.names, start=1):
                value, half = float(self.coefficients[j * width + i]), 1.96 * float(sd[j * width + i])
                result[f"{coordinate} ~ {feature}"] = (value, value - half, value + half)
        return result

    def largest(self, name: str) -> float:
        """The largest value of a feature in the data."""
        return max(float(getattr(one.cell, name)) for one in self.cells)

    def smallest(self, name: str) -> float:
        """The smallest value of a feature in the data."""
        return min(float(getattr(one.cell, name)) for one in self.cells)

    def predict(
        self,
        *,
        params: float,
        tokens: float,
        width: float | None = None,
        depth: float | None = None,
        batch_tokens: float | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> "Prediction":
        """What to use at this size and budget; with `batch_tokens` given, at that batch.

        `params` non-embedding; base-unit lr and weight decay. `recipe`: the target's, as far as it is known; what
        differs from the runs' is a warning. UserError where an argument is not positive, and where the target is of
        another parametrization, optimizer or base shape.
        """
        from hptransfer.laws.predict import predict

        return predict(
            self, params=params, tokens=tokens, width=width, depth=depth, batch_tokens=batch_tokens, recipe=recipe
        )

    def differences(self, recipe: Mapping[str, Any]) -> list[str]:
        """One line for each part of the target's recipe that is not what the laws were fitted on."""
        lines = [self.difference(key, recipe) for key in dict.fromkeys((*self.recipe, *recipe))]
        return [line for line in lines if line]

    def difference(self, key: str, recipe: Mapping[str, Any]) -> str | None:
        """`key: the runs have x, the target has y`; None where they agree."""
        ours, theirs = self.recipe.get(key), recipe.get(key)
        if ours == theirs:
            return None
        return f"{key}: the runs have {plain(ours)}, the target has {plain(theirs)}"

    @property
    def batch_range(self) -> tuple[float, float]:
        """The smallest and the largest batch of the runs, in tokens."""
        return self.smallest("lowest_batch"), self.largest("highest_batch")

    def save(self, path: Path | str, overwrite: bool = True) -> None:
        """Readable YAML, written whole or not at all; UserError where a file is in the way that must stay."""
        from hptransfer.laws.store import save

        save(self, Path(path), overwrite)

    @staticmethod
    def load(path: Path | str) -> "Laws":
        """UserError where the file is cut off, or of a format this version does not read."""
        from hptransfer.laws.store import load

        return load(Path(path))

    def summary(self) -> str:
        """What was fitted, in a few lines of text."""
        from hptransfer.laws.summary import summary

        return summary(self)


def plain(value: str | float | None) -> str:
    """A value of a recipe as text."""
    return "no value" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
