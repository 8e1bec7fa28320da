"""From a run config to a plan: every number of every tensor, the budget and the cost, before any compute is spent."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import nn

from hptransfer.applied import draw_into, grouped
from hptransfer.config import DEFAULT_TOKENS_PER_PARAM, RunConfig
from hptransfer.errors import UserError, did_you_mean
from hptransfer.modelfile import ModelFile, find_model, has_heads
from hptransfer.optimizers import Together, make, quoted
from hptransfer.parametrization import (
    FAMILIES,
    SCHEMES,
    Multipliers,
    Ratios,
    attention_scale,
    most_specific,
    rule,
)
from hptransfer.plan import NOT_COUNTED, Plan, TensorPlan, key_of
from hptransfer.rules import is_gain_or_bias
from hptransfer.sections import OptimizerConfig, Parametrization
from hptransfer.shapes import Shape


def resolve(config: RunConfig) -> Plan:
    """The plan of a run; UserError where the config can't be meant."""
    shapes, roles = _shapes_and_roles(config)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    params = sum(size for name, size in sizes.items() if not roles[name].startswith(NOT_COUNTED))
    config = config.updated(
        model=_fixed_head(config),
        parametrization={"init_std": config.parametrization.base_std},
        train={"batch_tokens": config.batch_tokens, "tokens": _budget(config, params), "tokens_per_param": None},
    )
    ratios = _run_ratios(config)
    parametrization, factors = config.parametrization, config.parametrization.multipliers
    residual = SCHEMES[parametrization.name].residual(ratios, parametrization.depth_exponent)
    multipliers = Multipliers(
        input=factors.input,
        output=factors.output,
        attention=factors.attention * _attention(config),
        residual=factors.residual * residual,
    )
    return Plan(
        config=config,
        tensors=_tensor_plans(config, shapes, roles, ratios),
        multipliers=multipliers,
        params=params,
        params_total=sum(sizes.values()),
    )


def build(plan: Plan) -> nn.Module:
    """The model of the plan with its initial weights, on the current default device.

    A tensor's initial weights depend on (seed, tensor name) alone, so they are the same on every device and in
    every order of building.
    """
    output = plan.multipliers.output * next((t.multiplier for t in plan.tensors if t.role.startswith("readout")), 1.0)
    model = find_model(plan.config.model.name).build(plan.config.shape, replace(plan.multipliers, output=output))
    initialise(model, plan)
    return model


def initialise(model: nn.Module, plan: Plan) -> None:
    """Draws every parameter of the model as the plan says."""
    draw_into(model, plan.tensors, plan.config.train.seed)


def param_groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Groups for torch.optim: tensors with equal numbers share one; `names` and `peak_lr` say what is in it."""
    return grouped(model, plan.tensors)


def build_optimizer(model: nn.Module, plan: Plan) -> Together:
    """The plan's optimizer over the model's parameters."""
    return make(param_groups(model, plan))


def assign_roles(names: list[str], patterns: Mapping[str, str], model: str) -> dict[str, str]:
    """The role of every parameter: exactly one pattern has to match its name; UserError that names it otherwise."""
    roles = {}
    for name in names:
        found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len(found) != 1:
            matches = " and ".join(map(repr, found)) if found else "no pattern"
            raise UserError(f"{model}: ROLES: the parameter {name!r} matches {matches}; it needs exactly one")
        roles[name] = patterns[found[0]]
    return roles


def _shapes_and_roles(config: RunConfig) -> tuple[Mapping[str, tuple[int, ...]], dict[str, str]]:
    """Dimensions and role of every parameter."""
    model = find_model(config.model.name)
    shapes = tensor_shapes(model, key_of(config.shape))
    roles = assign_roles(list(shapes), model.roles, model.file)
    check_role_keys(config.parametrization, set(roles.values()), config.model.name)
    return shapes, roles


def _tensor_plans(
    config: RunConfig, shapes: Mapping[str, tuple[int, ...]], roles: Mapping[str, str], run: Ratios
) -> tuple[TensorPlan, ...]:
    base_shapes = tensor_shapes(find_model(config.model.name), key_of(config.base_shape))
    return tuple(
        tensor_plan(
            config.parametrization,
            config.optimizer,
            name,
            shape,
            roles[name],
            ratios_of(roles[name], shape, base_shapes[name], run),
        )
        for name, shape in shapes.items()
    )


def tensor_plan(
    parametrization: Parametrization,
    optimizer: OptimizerConfig,
    name: str,
    shape: tuple[int, ...],
    role: str,
    ratios: Ratios,
) -> TensorPlan:
    """The numbers of one tensor: the value quoted at the base shape, times the role's rule, times the user's factor."""
    row = rule(parametrization.name, FAMILIES[optimizer.name], role, parametrization.options)
    alpha = parametrization.depth_exponent
    by = row.optimizer or optimizer.name
    if by == "muon" and len(shape) != 2:
        raise UserError(f"optimizer.name: muon takes matrices, and {name} has {len(shape)} axes; allowed: adamw, sgd")
    lr, betas, eps = quoted(optimizer, by)
    vector = is_gain_or_bias(role)
    init_factor = most_specific(parametrization.init_multipliers, role)
    lr_factor = most_specific(parametrization.lr_multipliers, role)
    init_std = parametrization.base_std * row.init(ratios, alpha) * (1.0 if init_factor is None else init_factor)
    decayed = parametrization.decay_vectors or not vector
    return TensorPlan(
        name=name,
        shape=shape,
        role=role,
        init_mean=0.0 if not vector or name.endswith("bias") else 1.0,
        init_std=0.0 if vector else init_std,
        multiplier=row.multiplier(ratios, alpha),
        lr=lr * row.lr(ratios, alpha) * (1.0 if lr_factor is None else lr_factor),
        eps=eps * row.eps(ratios, alpha),
        weight_decay=optimizer.weight_decay * row.weight_decay(ratios, alpha) if decayed else 0.0,
        betas=tuple(scaled_beta(beta, row.betas(ratios, alpha)) for beta in betas),
        optimizer=by,
    )


def scaled_beta(beta: float, factor: float) -> float:
    """1 - (1 - beta) * factor, not below 0 (a proxy with far fewer steps per token would ask for less)."""
    return beta if factor == 1 else max(0.0, 1 - (1 - beta) * factor)


def ratios_of(role: str, shape: tuple[int, ...], base: tuple[int, ...], run: Ratios) -> Ratios:
    """Growth of one tensor from its real dimensions, beside what grows for all tensors alike.

    In an embedding and a vector only fan-out grows, in a readout only fan-in, whichever axis that is; a hidden
    tensor is (out, in, ...) as torch stores it.
    """
    growth = [size / base_size for size, base_size in zip(shape, base, strict=True)]
    sizes = replace(run.absolute or Ratios(), fan_out=shape[0], fan_in=prod(shape[1:]))
    match role.split(".")[0]:
        case "readout":
            return replace(run, fan_in=prod(growth), absolute=sizes)
        case "hidden":
            return replace(run, fan_out=growth[0], fan_in=prod(growth[1:]), absolute=sizes)
        case "embedding":  # a table of rows (positions or tokens, width); a patch embedding is (width, in, ...)
            table = replace(sizes, fan_in=shape[0], fan_out=shape[-1])
            absolute = sizes if role.startswith("embedding.patch") else table
            return replace(run, fan_out=prod(growth), absolute=absolute)
        case _:
            return replace(run, fan_out=prod(growth), absolute=sizes)


def check_role_keys(parametrization: Parametrization, roles: set[str], model: str) -> None:
    """UserError for a factor by role that no tensor of the model takes."""
    for table in ("lr_multipliers", "init_multipliers"):
        for key in getattr(parametrization, table):
            if not any(role == key or role.startswith(f"{key}.") for role in roles):
                allowed = sorted(roles | {role.split(".")[0] for role in roles})
                hint = did_you_mean(key, allowed) or f"; it has {', '.join(allowed)}"
                raise UserError(f"parametrization.{table}.{key}: no tensor of {model} has this role{hint}")


def _budget(config: RunConfig, params: int) -> int:
    """Tokens of the run."""
    train = config.train
    tokens = train.tokens or round((train.tokens_per_param or DEFAULT_TOKENS_PER_PARAM) * params)
    if tokens < config.batch_tokens:
        raise UserError(
            f"train.tokens: {tokens} is less than one step of train.batch_tokens = {config.batch_tokens}; "
            "give more tokens or a smaller batch"
        )
    return tokens


def _run_ratios(config: RunConfig) -> Ratios:
    """What grows for all tensors alike: depth, batch, tokens. What the base does not say has not grown."""
    base, train = config.parametrization, config.train
    assert train.tokens is not None
    return Ratios(
        depth=config.model.depth / (base.base_depth or config.model.depth),
        batch=config.batch_tokens / (base.base_batch_tokens or config.batch_tokens),
        tokens=train.tokens / (base.base_tokens or train.tokens),
        absolute=Ratios(depth=config.model.depth, batch=config.batch_tokens, tokens=train.tokens),
    )


def _fixed_head(config: RunConfig) -> dict[str, Any]:
    """The head size that a default stands for, so that a resolved config does not depend on the default."""
    shape = config.shape
    given = getattr(config.model, "heads", None) or not has_heads(shape)
    return {} if given else {"head_dim": shape.head_dim}


def _attention(config: RunConfig) -> float:
    """The factor on the attention logits; 1 for a model without attention heads."""
    if not has_heads(config.shape):
        return 1.0
    scheme, head_dim = SCHEMES[config.parametrization.name], config.shape.head_dim
    base = config.base_shape.head_dim if scheme.needs else head_dim if scheme.attention == 0.5 else 1
    return attention_scale(config.parametrization.name, head_dim, base)


@lru_cache(maxsize=256)
def tensor_shapes(model: ModelFile, key: tuple[tuple[str, Any], ...]) -> Mapping[str, tuple[int, ...]]:
    """Dimensions of every parameter of a model, found on the meta device."""
    with torch.device("meta"):
        module = model.build(Shape(**dict(key)), Multipliers())
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
