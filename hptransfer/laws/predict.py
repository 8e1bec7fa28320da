"""Laws and a target -> what to use there, and how sure that is.

`optimum` is the fitted floor; `value` is what to use: the point of least expected loss over the posterior of the
optimum and of the valley's shape. Where a high lr costs more than a low one, it lies below the optimum, the more so
the less is known: for one coordinate of known asymmetry k and a Gaussian optimum, by 1.5 k sd^2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws.fitting import freedom
from hptransfer.laws.laws import FittedCell, Laws
from hptransfer.laws.timescale import fading_of
from hptransfer.laws.uncertainty import draws
from hptransfer.laws.valley import Floats, evaluate, ridge_offset, shape_names

DRAWS = 2000
REGRET_DRAWS = 500
OPTIONS = ("weight_decay_rule", "embedding_lr")
"""Parts of a recipe that are not given where the parametrization's own rule holds."""
UNSCALED = ("sp", "sp_fan_in")
"""Parametrizations that apply the lr as it is quoted: what the lr of runs is taken for that do not say theirs."""
REFUSED = ("parametrization", "optimizer", "base_width", "base_depth", *OPTIONS)
"""Parts of a recipe that a law does not survive."""
SEED = 0
ROUNDING = 0.005
"""Decades (1 %): two sizes or budgets that differ by less are the same."""
FURTHEST = math.log(2)
"""How far, in ln, a recommendation may lie from the fitted optimum."""


@dataclass(frozen=True)
class Estimate:
    """What to use; the fitted floor and its 95 % interval, where it was fitted. A batch that the user fixed is the
    value, beside the floor and interval of the best one."""

    value: float
    low: float | None = None
    high: float | None = None
    optimum: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers."""
        return {"value": self.value, "low": self.low, "high": self.high, "optimum": self.optimum}


@dataclass(frozen=True)
class Prediction:
    """A recommendation at one size and budget. lr and weight decay in base units, loss in nats per token."""

    lr: Estimate
    batch_tokens: Estimate
    weight_decay: Estimate | None
    loss: Estimate | None
    decades_beyond_data: Mapping[str, float]
    in_range: bool
    warnings: tuple[str, ...]
    regret: Mapping[str, float] = field(default_factory=dict)
    """Relative loss given away: expected, its 90th percentile (p90), expected with the batch rounded to a power of two
    (batch_rounded), and the part of it that a batch costs which the user fixed (batch_fixed)."""
    rivals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object of `predict --json`."""
        return {
            "lr": self.lr.to_json(),
            "batch_tokens": self.batch_tokens.to_json(),
            "weight_decay": self.weight_decay.to_json() if self.weight_decay else None,
            "loss": self.loss.to_json() if self.loss else None,
            "decades_beyond_data": dict(self.decades_beyond_data),
            "in_range": self.in_range,
            "warnings": list(self.warnings),
            "regret": dict(self.regret),
            "rivals": {name: dict(values) for name, values in self.rivals.items()},
        }


def predict(
    laws: Laws,
    *,
    params: float,
    tokens: float,
    width: float | None,
    depth: float | None,
    batch_tokens: float | None,
    recipe: Mapping[str, Any] | None,
) -> Prediction:
    """See `Laws.predict`."""
    given = {"params": params, "tokens": tokens, "width": width, "depth": depth, "batch_tokens": batch_tokens}
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{name}: expected a positive number, got {value!r}")
    target = {name: float(value) for name, value in given.items() if value is not None}
    warnings = [*laws.warnings, *_other_recipe(laws, recipe or {}), *_complete(laws, target)]
    near = _nearest(laws, target)
    if "batch_tokens" not in laws.coordinates:
        target.setdefault("batch_tokens", near.cell.batch_tokens)
    if "lr" not in laws.coordinates:
        target["lr"] = math.sqrt(near.cell.lowest_lr * near.cell.highest_lr)
    estimates, regret = _hyperparameters(laws, target, near, batch_tokens, warnings)
    beyond = _decades(laws, target)
    too_far = {name: value for name, value in beyond.items() if value > laws.validated.get(name, 0.0) + ROUNDING}
    warnings += [
        f"{name} lies {value:.2f} decades beyond the runs; {laws.validated.get(name, 0.0):.2f} are validated"
        for name, value in too_far.items()
    ]
    loss = None
    if laws.loss is not None:
        middle, low, high = laws.loss.predict(params, tokens)
        fixed = 1 + regret.get("batch_fixed", 0.0)
        value = min(middle * (1 + regret.get("expected", 0.0)), high * fixed)
        loss = Estimate(value, low * fixed, high * fixed, middle)
    return Prediction(
        estimates["lr"],
        estimates["batch_tokens"],
        estimates.get("weight_decay"),
        loss,
        beyond,
        not too_far,
        tuple(dict.fromkeys(warnings)),
        regret,
        _rivals(laws, target, estimates),
    )


@dataclass(frozen=True)
class Posterior:
    """Draws of the optimum at a target (draws, d) and of the shape (parameters, draws), and the centre of each."""

    coordinates: tuple[str, ...]
    optimum: Floats
    shape: Floats
    centre: Floats
    centre_shape: Floats


def posterior(laws: Laws, target: Mapping[str, float]) -> Posterior:
    """What is believed of a target cell: its own offset from the law included."""
    at = laws.features.matrix([target])[0]
    d, m = len(laws.coordinates), len(at)
    degrees = freedom(len(laws.cells))
    drawn = draws(laws.coefficients, laws.covariance, DRAWS, SEED, math.inf)
    spread = np.diag([laws.spread[name] ** 2 for name in laws.coordinates])
    offset = draws(np.zeros(d), spread, DRAWS, SEED + 1, degrees)
    optimum = drawn[:, : d * m].reshape(-1, d, m) @ at + offset
    centre = laws.coefficients[: d * m].reshape(d, m) @ at
    return Posterior(laws.coordinates, optimum, drawn[:, d * m :].T, centre, laws.coefficients[d * m :])


def expected_regret(believed: Posterior, x: Floats) -> Floats:
    """Mean of ln(1 + excess) over the first draws of the posterior at points x (..., d)."""
    away = x[..., None, :] - believed.optimum[:REGRET_DRAWS]
    excess = evaluate(believed.coordinates, believed.shape[:, :REGRET_DRAWS], away).excess
    return np.asarray(np.log1p(excess).mean(-1))


def recommend(believed: Posterior, start: Floats, fixed: frozenset[str]) -> Floats:
    """The point of least expected regret: each free coordinate in turn on a grid that closes in, a few rounds.

    At most FURTHEST from the fitted optimum: what would ask for more is the tail of a posterior that knows nothing.
    """
    x = start.copy()
    sd = believed.optimum.std(0)
    for shrink in (2.0, 1.0, 0.5, 0.2, 0.05, 0.02):
        for j, name in enumerate(believed.coordinates):
            if name not in fixed:
                trial = np.tile(x, (15, 1))
                trial[:, j] += np.linspace(-1, 1, 15) * shrink * min(float(sd[j]), 3.0)
                trial[:, j] = np.clip(trial[:, j], start[j] - FURTHEST, start[j] + FURTHEST)
                x = trial[int(np.argmin(expected_regret(believed, trial)))]
    return x


def at_batch(believed: Posterior, log_batch: float) -> tuple[Floats, Floats]:
    """Optimum (d,) and its draws (draws, d) when the batch is fixed: the lr moves with it.

    The best lr lies between the ridge at that batch and the joint optimum, where both of its bowls pull the same way;
    bisection finds where they balance.
    """
    b = believed.coordinates.index("batch_tokens")
    names = shape_names(believed.coordinates)
    result = []
    for optimum, shape in ((believed.centre[None], believed.centre_shape[:, None]), (believed.optimum, believed.shape)):
        away = np.zeros_like(optimum)
        away[:, b] = log_batch - optimum[:, b]
        if "lr" in believed.coordinates:
            ridge = away[:, 0] - ridge_offset(dict(zip(names, shape, strict=True)), {"batch_tokens": away[:, b]})
            low, high = np.minimum(ridge, 0.0), np.maximum(ridge, 0.0)
            for _ in range(40):
                away[:, 0] = (low + high) / 2
                rising = evaluate(believed.coordinates, shape, away).excess_at[:, 0] > 0
                low, high = np.where(rising, low, away[:, 0]), np.where(rising, away[:, 0], high)
        result.append(optimum + away)
    return result[0][0], result[1]


def _hyperparameters(
    laws: Laws, target: Mapping[str, float], near: FittedCell, fixed_batch: float | None, warnings: list[str]
) -> tuple[dict[str, Estimate], dict[str, float]]:
    estimates: dict[str, Estimate] = {}
    regret: dict[str, float] = {}
    if laws.coordinates:
        believed = posterior(laws, target)
        optimum, drawn = believed.centre, believed.optimum
        fixed: frozenset[str] = frozenset()
        if fixed_batch is not None and "batch_tokens" in laws.coordinates:
            optimum, drawn = at_batch(believed, math.log(fixed_batch))
            fixed = frozenset({"batch_tokens"})
        x = recommend(believed, optimum, fixed)
        estimates = _estimates(laws, target, x, optimum, drawn)
        if fixed_batch is not None and fixed:
            away = evaluate(believed.coordinates, believed.centre_shape, optimum - believed.centre).excess
            free = _estimates(laws, target, believed.centre, believed.centre, believed.optimum)["batch_tokens"]
            estimates["batch_tokens"] = Estimate(fixed_batch, free.low, free.high, free.optimum)
            regret["batch_fixed"] = math.expm1(float(away))
        regret |= _regret(believed, x, fixed)
    return {**_carried(target, near, fixed_batch, estimates, warnings), **estimates}, regret


def _estimates(
    laws: Laws, target: Mapping[str, float], x: Floats, optimum: Floats, drawn: Floats
) -> dict[str, Estimate]:
    """Logarithms back to units; the timescale as the weight decay that it means at the recommended lr and batch."""
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    result = {
        name: Estimate(*(math.exp(float(v[j])) for v in (x, low, high, optimum)))
        for j, name in enumerate(laws.coordinates)
    }
    if "timescale" in result:
        tau = result.pop("timescale")
        lr = result["lr"].value if "lr" in result else target["lr"]
        batch = result["batch_tokens"].value if "batch_tokens" in result else target["batch_tokens"]
        factor = applied_factor(laws, target)
        assert tau.low is not None and tau.high is not None and tau.optimum is not None
        result["weight_decay"] = Estimate(
            *(
                fading_of(memory) * batch / (lr * target["tokens"] * factor)
                for memory in (tau.value, tau.high, tau.low, tau.optimum)
            )
        )
    return result


def applied_factor(laws: Laws, target: Mapping[str, float]) -> float:
    """lr * weight_decay as applied to hidden matrices, over the same in base units."""
    shape = sum(laws.applied.get(name, 0.0) * math.log(target.get(name, 1.0)) for name in ("width", "depth"))
    return math.exp(laws.applied.get("level", 0.0) + shape)


def _regret(believed: Posterior, x: Floats, fixed: frozenset[str]) -> dict[str, float]:
    away = x - believed.optimum
    lost = evaluate(believed.coordinates, believed.shape, away).excess
    result = {"expected": float(np.expm1(expected_regret(believed, x))), "p90": float(np.quantile(lost, 0.9))}
    if "batch_tokens" in believed.coordinates and not fixed:
        rounded, b = x.copy(), believed.coordinates.index("batch_tokens")
        rounded[b] = round(x[b] / math.log(2)) * math.log(2)
        again = recommend(believed, rounded, frozenset({"batch_tokens"}))
        result["batch_rounded"] = float(np.expm1(expected_regret(believed, again)))
    return result


def _carried(
    target: Mapping[str, float],
    near: FittedCell,
    fixed_batch: float | None,
    estimates: Mapping[str, Estimate],
    warnings: list[str],
) -> dict[str, Estimate]:
    """The hyperparameters that were not swept, at the value of the nearest cell."""
    found: dict[str, Estimate] = {}
    if "lr" not in estimates:
        found["lr"] = Estimate(target["lr"])
        warnings.append(f"lr was not swept: {target['lr']:.3g} is carried over from {near.cell.params:.3g} parameters")
    if "batch_tokens" not in estimates:
        found["batch_tokens"] = Estimate(target["batch_tokens"])
        if fixed_batch is None:
            warnings.append(f"batch_tokens was not swept: {target['batch_tokens']:.0f} is carried over")
        elif abs(math.log(fixed_batch / near.cell.batch_tokens)) > 1e-9:
            warnings.append("batch_tokens was not swept: how the lr moves with it is the prior's word, not measured")
    if "weight_decay" not in estimates and near.cell.weight_decay is not None:
        found["weight_decay"] = Estimate(near.cell.weight_decay)
        warnings.append(f"weight_decay was not swept: {near.cell.weight_decay:g} is carried over")
    return found


def _other_recipe(laws: Laws, recipe: Mapping[str, Any]) -> list[str]:
    """Warnings where the target's recipe differs; UserError where no law carries over."""
    keys = [key for key in recipe if key in laws.recipe or key in OPTIONS]
    if "parametrization" in recipe:
        keys += [key for key in OPTIONS if key in laws.recipe]
    unscaled = "parametrization" not in laws.recipe
    if unscaled and recipe.get("parametrization", "sp") not in UNSCALED:
        raise UserError(
            "the laws do not hold for this target\n"
            "  parametrization: the runs do not say one, so their lr is taken for that of sp; "
            f"the target has {recipe['parametrization']}\n"
            "add a column `parametrization` to the CSV and fit again"
        )
    unknown = [
        key
        for key in recipe
        if key not in (*laws.recipe, *OPTIONS) and not (unscaled and key.startswith(("parametrization", "base_")))
    ]
    unchecked = f"the runs do not say their {', '.join(unknown)}: make sure that the target's are the same"
    differences = {key: laws.difference(key, recipe) for key in keys}
    named = {key: line for key, line in differences.items() if line}
    if refused := [named[key] for key in REFUSED if key in named]:
        hint = "\nquote the target at the base shape of the runs, as `hptransfer transfer` does: it is only a unit"
        raise UserError(
            "the laws do not hold for this target\n  " + "\n  ".join(refused) + hint * ("base_" in str(refused))
        )
    return [f"another recipe: {line}" for line in named.values()] + [unchecked] * bool(unknown)


def _complete(laws: Laws, target: dict[str, float]) -> list[str]:
    """Fills in width and depth, where the laws need them and the caller gave none, from how the runs' shapes grow."""
    warnings = []
    for name in ("width", "depth"):
        if name in laws.features.names and name not in target:
            sizes = np.log([one.cell.params for one in laws.cells])
            values = np.log([float(getattr(one.cell, name)) for one in laws.cells])
            away = sizes - sizes.mean()
            # parameters grow as width^2 * depth: both as the cube root when they grow together
            slope = float(away @ values / (away @ away)) if away @ away > 1e-6 else 1 / 3
            target[name] = math.exp(float(values.mean()) + slope * (math.log(target["params"]) - float(sizes.mean())))
            warnings.append(f"{name} was not given: {target[name]:.4g} is what the runs' shapes suggest at this size")
    return warnings


def _nearest(laws: Laws, target: Mapping[str, float]) -> FittedCell:
    return min(
        laws.cells,
        key=lambda one: sum(abs(math.log(target[name] / getattr(one.cell, name))) for name in ("params", "tokens")),
    )


def _decades(laws: Laws, target: Mapping[str, float]) -> dict[str, float]:
    """Per feature, decades above the largest or below the smallest value of the runs."""
    names = [name for name in dict.fromkeys(("params", "tokens", *laws.features.names)) if name != "batch_tokens"]
    return {
        name: max(0.0, math.log10(target[name] / laws.largest(name)), math.log10(laws.smallest(name) / target[name]))
        for name in names
    }


def _rivals(laws: Laws, target: Mapping[str, float], estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """What the published laws that speak of the same kind of lr say here."""
    from hptransfer.laws.published import rivals

    name = str(laws.recipe.get("parametrization", ""))
    return rivals(name, target["params"], target["tokens"], estimates["batch_tokens"].value)
