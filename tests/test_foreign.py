"""Models that nobody prepared for us: what is inferred of them, against plans of the same models with roles and places
for multipliers."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import Tensor, nn

from hptransfer.errors import UserError
from hptransfer.foreign import Parametrized, parametrize
from hptransfer.foreign.folding import absorb
from hptransfer.parametrization import SCHEMES, Multipliers
from hptransfer.scaling import Plan, build, build_optimizer, resolve
from models import gpt, mlp

OPTIMIZERS = {
    "adamw": {"name": "adamw", "lr": 0.01, "eps": 1e-4, "weight_decay": 0.1},
    "sgd": {"name": "sgd", "lr": 0.1, "weight_decay": 0.01},
    "muon": {"name": "muon", "lr": 0.02, "eps": 1e-4},
}
RICH = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rope", "qk_norm": True}
LEARNED = {"positions": "learned", "norm": "layernorm"}
TIED = {"tie_embeddings": True, "positions": "learned"}


def factory(model: dict[str, Any]) -> Callable[..., nn.Module]:
    """Our own model as a factory of somebody else's: sizes in, module out, no multipliers."""

    def make(width: int, depth: int) -> nn.Module:
        config = tiny(model={**model, "width": width, "depth": depth}, parametrization={"name": "sp"})
        module = mlp if model.get("name") == "mlp" else gpt
        return module.build(config.shape, Multipliers(attention=8**-0.5))

    return make


def both(
    model: dict[str, Any], scheme: str, optimizer: str, width: int = 64, depth: int = 4
) -> tuple[Plan, Parametrized]:
    """The plan of a model with roles beside it, and the same model parametrized from the outside."""
    shape = {"width": width, "depth": depth}
    based = SCHEMES[scheme].needs
    plan = resolve(
        tiny(
            model={**model, **shape},
            optimizer=OPTIMIZERS[optimizer],
            parametrization={"name": scheme} | ({} if based else {"base_width": None, "base_depth": None}),
        )
    )
    result = parametrize(
        factory(model),
        base={"width": 16, "depth": 2},
        delta={"width": 32, "depth": 2},
        target=shape,
        scheme=scheme,
        optimizer=OPTIMIZERS[optimizer],
        attention_is_right=scheme == "umup",
    )
    return plan, result


def losses(model: nn.Module, optimizer: Any, steps: int = 5) -> list[float]:
    tokens = torch.randint(256, (steps, 4, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for batch in tokens:
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


CASES = [
    (model, scheme, optimizer)
    for model in ({}, RICH, LEARNED, TIED, {"name": "mlp"})
    for scheme, optimizer in (("completep", "adamw"), ("completep", "sgd"), ("depth_mup", "adamw"), ("mup", "adamw"))
] + [(RICH, "spectral", "muon"), (TIED, "sp", "adamw")]


@pytest.mark.parametrize(("model", "scheme", "optimizer"), CASES, ids=str)
def test_inferred_from_the_outside_is_what_stands_beside_the_model(model: Any, scheme: str, optimizer: str) -> None:
    """Roles, and numbers up to what is folded: the residual factor into output projections, the readout's into itself."""
    plan, result = both(model, scheme, optimizer)
    planned = {tensor.name: tensor for tensor in plan.tensors}
    assert [tensor.name for tensor in result.tensors] == list(planned)
    assert result.params == plan.params
    for tensor in result.tensors:
        expected = planned[tensor.name]
        if tensor.name.endswith(("attention_output.weight", "down.weight")):
            expected = absorb(expected, plan.multipliers.residual)
        if expected.role == "readout" and "tie_embeddings" not in model:
            expected = replace(absorb(expected, expected.multiplier), multiplier=1.0)
        assert tensor == expected


@pytest.mark.parametrize(("model", "scheme", "optimizer"), CASES, ids=str)
def test_it_trains_the_same(model: Any, scheme: str, optimizer: str) -> None:
    """Folded multipliers give the same losses as multipliers in the forward pass (abc symmetry), eps and decay on."""
    plan, result = both(model, scheme, optimizer)
    ours, theirs = build(plan).double(), result.model.double()
    expected = losses(ours, build_optimizer(ours, plan))
    assert losses(theirs, result.build_optimizer()) == pytest.approx(
        expected, rel=1e-6 if optimizer == "muon" else 1e-9
    )
    assert expected[-1] != expected[0]
