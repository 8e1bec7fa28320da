"""parametrize(build, base, delta, target): growth and roles are inferred, numbers computed, weights drawn."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hptransfer.errors import UserError
from hptransfer.foreign.branches import find_branches, runner, token_ids
from hptransfer.foreign.folding import fold, hook_multipliers
from hptransfer.foreign.growth import Factory, Growth, find_growth, make
from hptransfer.foreign.heads import attention_notes
from hptransfer.foreign.result import Parametrized
from hptransfer.foreign.roles import Placed, place_all
from hptransfer.foreign.stream import refuse_growing_embeddings
from hptransfer.loading import Source, validate
from hptransfer.parametrization import SCHEMES, Ratios
from hptransfer.plan import TensorPlan
from hptransfer.rules import is_gain_or_bias
from hptransfer.scaling import check_role_keys, ratios_of, tensor_plan
from hptransfer.sections import AdamW, OptimizerConfig, Parametrization, Section


class Settings(Section):
    """The sections of a run config that parametrize takes."""

    parametrization: Parametrization
    optimizer: OptimizerConfig = AdamW()


def parametrize(
    build: Factory,
    *,
    base: Any,
    delta: Any,
    target: Any,
    scheme: str = "completep",
    optimizer: Mapping[str, Any] | OptimizerConfig | None = None,
    roles: Mapping[str, str] | None = None,
    inputs: Any = None,
    base_depth: int | None = None,
    attention_is_right: bool = False,
    tokens: int | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Parametrized:
    """The factory's model at `target`, with weights and optimizer groups as the parametrization asks for.

    `build(**size)`, or `build(size)` where a size is no dict, makes the model; `base` is the size at which the
    hyperparameters are quoted, `delta` differs from it in everything that grows with width. `optimizer` and the other
    options are those of a run config: {"name": "adamw", "lr": 0.01}, init_std=, alpha=, multipliers=, base_tokens=...
    `roles` overrules by name pattern. `inputs` is what the model's forward takes (default: token ids). Where blocks
    cannot be matched by name, build base and delta at the target's depth and say `base_depth`. `attention_is_right`
    vouches for the scale of the attention logits (head_dim is fixed, or the scale has been set).

    UserError names every tensor that cannot be placed, and everything that the model cannot host.
    """
    growth = find_growth(build, base, delta, target, base_depth)
    placed = place_all(growth.tensors, roles or {})
    width, base_width = _widths(placed)
    options |= {"name": scheme, "base_width": base_width, "base_depth": growth.base_depth}
    settings = _settings(options, optimizer)
    parametrization = settings.parametrization
    check_role_keys(parametrization, {each.role for each in placed}, "the model")
    run = _run_ratios(parametrization, growth, tokens, batch_tokens)
    with torch.device("cpu"):
        small, wider = (make(build, size).double().eval() for size in (base, delta))
    model = make(build, target)
    notes = attention_notes(small, model, growth, parametrization, attention_is_right)
    planned = _planned(settings, placed, run, _starts(small, growth, placed))
    factor = SCHEMES[scheme].residual(run, parametrization.depth_exponent) * parametrization.multipliers.residual
    run_model = runner(token_ids(placed) if inputs is None else inputs)
    branches = find_branches(factor, small, growth, placed, run_model)
    if run_model and growth.stacks and SCHEMES[scheme].needs:
        refuse_growing_embeddings(small, wider, growth, placed, run_model)
    factors = parametrization.multipliers
    tensors = tuple(fold(each, tensor, factors, branches) for each, tensor in zip(placed, planned, strict=True))
    hook_multipliers(model, placed, tensors)
    result = Parametrized(
        model, parametrization, settings.optimizer, growth, placed, tensors, branches, notes, width, seed
    )
    result.initialise()
    return result


def _settings(options: dict[str, Any], optimizer: Mapping[str, Any] | OptimizerConfig | None) -> Settings:
    data: dict[str, Any] = {"parametrization": options}
    if optimizer is not None:
        data["optimizer"] = dict(optimizer) if isinstance(optimizer, Mapping) else optimizer.model_dump()
    return validate(Settings, Source("parametrize", data))


def _widths(placed: tuple[Placed, ...]) -> tuple[int, int]:
    """Fan-in of the readout, at the target and at the base."""
    readout = next(each for each in placed if each.role.startswith("readout"))
    return readout.oriented(readout.tensor.shape)[1], readout.oriented(readout.tensor.base)[1]


def _run_ratios(parametrization: Parametrization, growth: Growth, tokens: int | None, batch: int | None) -> Ratios:
    """What grows for all tensors alike."""
    base_tokens, base_batch = parametrization.base_tokens, parametrization.base_batch_tokens
    if (base_tokens or base_batch) and not (tokens and batch):
        raise UserError("parametrize: tokens and batch_tokens of the target's run missing: base_tokens is given")
    return Ratios(
        depth=growth.depth / growth.base_depth,
        batch=batch / base_batch if batch and base_batch else 1.0,
        tokens=tokens / base_tokens if tokens and base_tokens else 1.0,
        absolute=Ratios(depth=growth.depth),
    )


def _planned(
    settings: Settings, placed: tuple[Placed, ...], run: Ratios, starts: Mapping[str, float]
) -> list[TensorPlan]:
    """Every tensor's numbers, its multipliers not folded yet."""
    planned = []
    for each in placed:
        tensor = each.tensor
        ratios = ratios_of(each.role, each.oriented(tensor.shape), each.oriented(tensor.base), run)
        plan = tensor_plan(settings.parametrization, settings.optimizer, tensor.name, tensor.shape, each.role, ratios)
        planned.append(replace(plan, init_mean=starts.get(tensor.pattern, plan.init_mean)))
    return planned


def _starts(base: nn.Module, growth: Growth, placed: tuple[Placed, ...]) -> dict[str, float]:
    """What gains and biases start at: the constant that the factory gives them (some norms multiply by 1 + gain);
    biases that it draws at random start at 0."""
    parameters = {growth.pattern(name): parameter for name, parameter in base.named_parameters()}
    found: dict[str, float] = {}
    for each in placed:
        if is_gain_or_bias(each.role):
            values = set(parameters[each.tensor.pattern].tolist())
            if len(values) > 1 and not each.is_bias:
                raise UserError(f"parametrize: {each.tensor.pattern}: a gain that does not start at one value")
            found[each.tensor.pattern] = values.pop() if len(values) == 1 else 0.0
    return found
