"""Search spaces: what a sweep file says of a parameter, and the values that follow from it.

Every distribution is its quantile function, u in [0, 1) -> value, so that random draws, quasi-random designs and
model-based search all work on the unit cube. Names, keys and meanings are those of W&B sweep files.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import Any

from pydantic import Field, model_validator

from hptransfer.errors import did_you_mean
from hptransfer.sections import Section

Overrides = Mapping[str, Any]
"""Dotted config keys and the values that a trial gives them."""

Number = int | float


class Parameter(Section):
    """One parameter of a sweep file: a constant, a list of values, a distribution, or a block of nested parameters."""

    distribution: str | None = None
    """Default: constant for `value`, categorical for `values`, int_uniform or uniform for `min` and `max`."""
    value: Any = None
    values: list[Any] = Field([])
    probabilities: list[float] = Field([])
    """Of `values`, in proportion."""
    min: Number | None = None
    max: Number | None = None
    mu: float = 0.0
    sigma: float = 1.0
    q: Number = 1
    """Values are rounded to multiples of q."""
    parameters: dict[str, "Parameter"] = Field({})
    """Nested keys: {optimizer: {parameters: {lr: ...}}} is {optimizer.lr: ...}."""

    @model_validator(mode="after")
    def _complete(self) -> "Parameter":
        if "parameters" in self.model_fields_set:
            if len(self.model_fields_set) > 1 or not self.parameters:
                raise ValueError("a block of nested `parameters` needs at least one, and no other key beside it")
            return self
        if self.kind not in DISTRIBUTIONS:
            names = list(DISTRIBUTIONS)
            raise ValueError(
                f"distribution {self.kind!r} is not supported; supported: {', '.join(names)}"
                f"{did_you_mean(self.kind, names)}"
            )
        distribution = DISTRIBUTIONS[self.kind]
        given = self.model_fields_set - {"distribution"}
        if missing := sorted(set(distribution.needs) - given):
            raise ValueError(f"distribution {self.kind} needs {', '.join(missing)}")
        if surplus := sorted(given - {*distribution.needs, *distribution.may}):
            raise ValueError(f"{', '.join(surplus)}: no key of distribution {self.kind}")
        if problem := _problem(self):
            raise ValueError(problem)
        return self

    @property
    def kind(self) -> str:
        """Name of the distribution."""
        given = self.model_fields_set
        if self.distribution is not None:
            return self.distribution
        if "value" in given:
            return "constant"
        if "values" in given:
            return "categorical"
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        return "int_uniform" if whole else "uniform"

    def quantile(self, u: float) -> Any:
        """The value below which a share u, 0 <= u < 1, of all draws lies."""
        return DISTRIBUTIONS[self.kind].quantile(self, u)

    @property
    def points(self) -> list[Any] | None:
        """Every value that the parameter can take, in order; None where they are not a list."""
        return DISTRIBUTIONS[self.kind].points(self)


def _problem(p: Parameter) -> str | None:
    """What is impossible about the numbers of a parameter."""
    if p.kind == "categorical" and not p.values:
        return "values is empty: nothing to try"
    if p.probabilities and (
        len(p.probabilities) != len(p.values) or min(p.probabilities) < 0 or not sum(p.probabilities)
    ):
        return f"probabilities: expected {len(p.values)} numbers of at least 0, one per value, not all 0"
    if p.min is not None and p.max is not None and p.min >= p.max:
        return f"min = {p.min} must be below max = {p.max}"
    if p.kind.endswith("log_uniform_values") and not p.min > 0:  # type: ignore[operator]
        return f"min = {p.min}: a log-uniform distribution needs a positive min"
    if p.kind == "int_uniform" and not (isinstance(p.min, int) and isinstance(p.max, int)):
        return f"int_uniform needs whole numbers, got min = {p.min}, max = {p.max}"
    if p.q <= 0 or p.sigma < 0:
        return "q must be positive and sigma at least 0"
    return None


Draw = Callable[[Any, float], Any]
Points = Callable[[Any], list[Any] | None]


@dataclass(frozen=True)
class Distribution:
    """A row of the table: the keys that it needs and may have, its quantile function, its values if countable."""

    needs: tuple[str, ...]
    may: tuple[str, ...]
    quantile: Draw
    points: Points = lambda p: None


def _choice(p: Parameter, u: float) -> Any:
    weights = p.probabilities or [1.0] * len(p.values)
    target, reached = u * sum(weights), 0.0
    for value, weight in zip(p.values, weights, strict=True):
        reached += weight
        if target < reached:
            return value
    return p.values[-1]


def _uniform(p: Parameter, u: float) -> float:
    return float(p.min + u * (p.max - p.min))  # type: ignore[operator]


def _log_uniform(p: Parameter, u: float) -> float:
    """min and max are natural logarithms."""
    return math.exp(_uniform(p, u))


def _log_uniform_values(p: Parameter, u: float) -> float:
    return float(p.min * (p.max / p.min) ** u)  # type: ignore[operator]


def _inverse_log_uniform(p: Parameter, u: float) -> float:
    """min and max are logarithms of 1/x."""
    return math.exp(-_uniform(p, 1 - u))


def _normal(p: Parameter, u: float) -> float:
    return NormalDist(p.mu, p.sigma).inv_cdf(max(u, 1e-12)) if p.sigma else p.mu


def _log_normal(p: Parameter, u: float) -> float:
    return math.exp(_normal(p, u))


def _int_uniform(p: Parameter, u: float) -> int:
    return int(p.min + math.floor(u * (p.max - p.min + 1)))  # type: ignore[operator]


def _multiple(step: Number, q: Number) -> Number:
    """step * q without the dust of binary fractions: 3 * 0.1 is 0.3."""
    value = step * q
    return int(value) if isinstance(q, int) else float(f"{value:.12g}")


def _quantised(draw: Draw) -> Draw:
    """W&B's q_ distributions: the nearest multiple of q."""
    return lambda p, u: _multiple(round(draw(p, u) / p.q), p.q)


def _grid_of_multiples(p: Parameter) -> list[Any]:
    first, last = round(p.min / p.q), round(p.max / p.q)  # type: ignore[operator]
    return [_multiple(step, p.q) for step in range(first, last + 1)]


_RANGE = ("min", "max")
_BELL = ("mu", "sigma")

DISTRIBUTIONS: dict[str, Distribution] = {
    "constant": Distribution(("value",), (), lambda p, u: p.value, lambda p: [p.value]),
    "categorical": Distribution(("values",), ("probabilities",), _choice, lambda p: p.values),
    "categorical_w_probabilities": Distribution(("values", "probabilities"), (), _choice, lambda p: p.values),
    "int_uniform": Distribution(_RANGE, (), _int_uniform, lambda p: list(range(p.min, p.max + 1))),
    "uniform": Distribution(_RANGE, (), _uniform),
    "q_uniform": Distribution(_RANGE, ("q",), _quantised(_uniform), _grid_of_multiples),
    "log_uniform": Distribution(_RANGE, (), _log_uniform),
    "log_uniform_values": Distribution(_RANGE, (), _log_uniform_values),
    "q_log_uniform": Distribution(_RANGE, ("q",), _quantised(_log_uniform)),
    "q_log_uniform_values": Distribution(_RANGE, ("q",), _quantised(_log_uniform_values)),
    "inv_log_uniform": Distribution(_RANGE, (), _inverse_log_uniform),
    "inv_log_uniform_values": Distribution(_RANGE, (), _log_uniform_values),
    "normal": Distribution((), _BELL, _normal),
    "q_normal": Distribution((), (*_BELL, "q"), _quantised(_normal)),
    "log_normal": Distribution((), _BELL, _log_normal),
    "q_log_normal": Distribution((), (*_BELL, "q"), _quantised(_log_normal)),
}


def flatten(parameters: Mapping[str, Parameter], prefix: str = "") -> dict[str, Parameter]:
    """Nested blocks as dotted keys."""
    flat: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        key = f"{prefix}{name}"
        flat |= flatten(parameter.parameters, f"{key}.") if parameter.parameters else {key: parameter}
    return flat


def at(space: Mapping[str, Parameter], cube: Sequence[float]) -> Overrides:
    """The overrides at a point of the unit cube, one coordinate per parameter."""
    return {key: parameter.quantile(u) for (key, parameter), u in zip(space.items(), cube, strict=True)}


def grid(space: Mapping[str, Parameter]) -> Iterator[Overrides]:
    """Every combination; the last parameter changes fastest."""
    for combination in product(*(parameter.points or [] for parameter in space.values())):
        yield dict(zip(space, combination, strict=True))


def share(parameter: Parameter, value: float) -> float | None:
    """The inverse of `quantile`: the middle of all u that give `value`; None where none does."""
    low = _first(lambda u: parameter.quantile(u) >= value)
    high = _first(lambda u: parameter.quantile(u) > value)
    middle = min((low + high) / 2, math.nextafter(1.0, 0.0))
    return middle if math.isclose(parameter.quantile(middle), value, rel_tol=1e-9) else None


def _first(reached: Callable[[float], bool]) -> float:
    """The least u in [0, 1) from which on a rising condition holds, by bisection; 1 where it never does."""
    low, high = 0.0, 1.0
    if reached(low):
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
