"""A config quoted at one base shape, quoted at another of the same scheme: the same model, another unit.

Every rule is a power of (shape / base), so a change of base multiplies what a role is quoted at by a factor of its own
(under mup the hidden matrices' lr by base / new base, the embedding's by 1). No single lr can make up for that. But
initial weights and forward multipliers have factors by role and place in a config: those are set such that the model
stays exactly what it was. The optimizer's numbers (lr, weight decay, eps, betas) are then quoted at the new base.
"""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from hptransfer.config import RunConfig
from hptransfer.errors import UserError
from hptransfer.parametrization import most_specific
from hptransfer.plan import Plan

SAME = 1e-9
"""Relative difference below which two factors are one: rounding."""


def rebased(config: RunConfig, base: Mapping[str, int]) -> tuple[RunConfig, dict[str, str]]:
    """The config at another base width, depth, duration or batch, and the reason for every key that moved.

    UserError where the model is not possible at that base, or tensors of one role need different factors.
    """
    from hptransfer.scaling import resolve

    before = resolve(config)
    model = before.config.model.model_dump(mode="json", exclude_none=True)  # a default head size would follow the base
    try:
        moved = config.updated(model=model, parametrization=dict(base))
    except ValidationError as problem:
        why = problem.errors()[0]["msg"].removeprefix("Value error, ").splitlines()[0]
        raise UserError(f"parametrization: not possible at the base of the runs: {why}") from None
    after = resolve(moved)
    old = config.parametrization
    reasons = {
        f"parametrization.{key}": f"as in the runs (the file had {getattr(old, key)}): the unit of lr and weight_decay"
        for key in base
    }
    init = _init_multipliers(before, after, old.init_multipliers)
    factors = {**old.multipliers.model_dump(), **_forward(before, after)}
    if not _close(init, old.init_multipliers):
        reasons["parametrization.init_multipliers"] = "so that the initial weights stay what they were"
    if not _close(factors, old.multipliers.model_dump()):
        reasons["parametrization.multipliers"] = "so that the forward pass stays what it was"
    return moved.updated(parametrization={"init_multipliers": init, "multipliers": factors}), reasons


def decay_moves(before: RunConfig, after: RunConfig) -> bool:
    """Whether weight decay as applied to some tensor differs, the number in the config being the same."""
    from hptransfer.scaling import resolve

    pairs = zip(resolve(before).tensors, resolve(after).tensors, strict=True)
    return any(abs(one.weight_decay - other.weight_decay) > SAME * one.weight_decay for one, other in pairs)


def _init_multipliers(before: Plan, after: Plan, given: Mapping[str, float]) -> dict[str, float]:
    """Factors by role that give every tensor of `after` the initial scale that it has in `before`."""
    needed: dict[str, float] = {}
    for one, other in zip(before.tensors, after.tensors, strict=True):
        if other.init_std:
            known = most_specific(given, one.role)
            factor = (1.0 if known is None else known) * one.init_std / other.init_std
            if abs(needed.setdefault(one.role, factor) / factor - 1) > SAME:
                raise UserError(
                    f"parametrization: tensors of the role {one.role!r} need different factors at the base of the "
                    "runs; quote the target at their base"
                )
    zero = {role: 0.0 for role, factor in given.items() if factor == 0}
    return _by_kind({**needed, **zero})


def _by_kind(factors: Mapping[str, float]) -> dict[str, float]:
    """One entry for all roles of a kind where they agree; none where it is 1."""
    kinds: dict[str, dict[str, float]] = {}
    for role, factor in factors.items():
        kinds.setdefault(role.partition(".")[0], {})[role] = factor
    merged = {
        role: factor
        for kind, roles in kinds.items()
        for role, factor in ({kind: next(iter(roles.values()))} if _alike(roles.values()) else roles).items()
    }
    return {role: factor for role, factor in merged.items() if abs(factor - 1) > SAME}


def _alike(values: Iterable[float]) -> bool:
    first, *rest = values
    return all(abs(value - first) <= SAME * abs(first) for value in rest)


def _forward(before: Plan, after: Plan) -> dict[str, float]:
    """Tuned multipliers that make those of `after`, as applied, those of `before`."""
    given = before.config.parametrization.multipliers
    one, other = before.multipliers, after.multipliers
    return {
        "output": given.output * _readout(before) / _readout(after),
        "attention": given.attention * one.attention / other.attention,
        "residual": given.residual * one.residual / other.residual,
    }


def _readout(plan: Plan) -> float:
    """The readout's own factor on the logits."""
    return next((tensor.multiplier for tensor in plan.tensors if tensor.role.startswith("readout")), 1.0)


def _close(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(_alike((one[key], other[key])) for key in one)
