"""Factors that a model's own code takes from its width show in no shape: those on the embeddings are looked for.

With all embeddings at 1, what enters the first block is the same number at every width, unless the code multiplies it
by one of its own (Gemma: sqrt(width)), which no parametrization here expects.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.errors import UserError
from hptransfer.foreign.branches import first_tensor
from hptransfer.foreign.growth import Growth
from hptransfer.foreign.roles import Placed


def refuse_growing_embeddings(
    base: nn.Module, delta: nn.Module, growth: Growth, placed: Sequence[Placed], run: Callable[[nn.Module], object]
) -> None:
    """UserError where the stream before the first block grows from base to delta (whose weights are lost).

    Nothing is said of a model with matrices outside of its blocks: they may stand before the first.
    """
    if any(each.role.startswith("hidden.outer") for each in placed):
        return
    small, wider = (_entering(model, growth, placed, run) for model in (base, delta))
    if not math.isclose(small, wider, rel_tol=1e-3):
        raise UserError(
            f"parametrize: with all embeddings at 1, what enters {growth.stacks[0]} has an rms of {small:.4g} in base "
            f"and {wider:.4g} in delta: the model's code multiplies it by something of its width; undo that in build, "
            "by a forward hook on the embedding, say"
        )


def _entering(model: nn.Module, growth: Growth, placed: Sequence[Placed], run: Callable[[nn.Module], object]) -> float:
    """Its rms."""
    values = {each.tensor.pattern: 1.0 for each in placed if each.role.startswith("embedding") or each.tied}
    values |= {each.tensor.pattern: 0.0 for each in placed if each.role == "vector.outer" and each.is_bias}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if growth.pattern(name) in values:
                parameter.fill_(values[growth.pattern(name)])
    seen: list[Tensor] = []

    def look(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(first_tensor((args, kwargs)))

    handle = model.get_submodule(f"{growth.stacks[0]}.0").register_forward_pre_hook(look, with_kwargs=True)
    try:
        run(model)
    finally:
        handle.remove()
    return float(seen[0].detach().double().square().mean().sqrt())
