"""u-muP as its paper writes it, against the absorbed form that the table has: one function, trained alike."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from hptransfer.config import RunConfig
from hptransfer.scaling import build, build_optimizer, resolve
from models import gpt

WIDTH, DEPTH, HEAD, VOCABULARY, FFN = 32, 4, 8, 256, 64
LR, DECAY = 0.5, 0.1


def config(**sections: Any) -> RunConfig:
    model = {"width": WIDTH, "depth": DEPTH, "head_dim": HEAD}
    nothing = dict.fromkeys(("base_width", "base_depth", "init_std"))
    optimizer = {"lr": LR, "eps": 1e-30, "weight_decay": DECAY}
    return tiny(model=model, optimizer=optimizer, parametrization={"name": "umup", **nothing}, **sections)


def test_numbers_by_hand() -> None:
    """Blake et al. 2407.17465, table 2, weights' multipliers 1/sqrt(fan_in) moved into init and lr."""
    plan = resolve(config())
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    expected = {  # (init_std, multiplier, lr, weight decay)
        "token_embedding.weight": (1, 1, LR / math.sqrt(WIDTH), DECAY * math.sqrt(WIDTH)),
        "blocks.0.attention.query.weight": (WIDTH**-0.5, 1, LR / WIDTH / 2, DECAY * WIDTH * 2),
        "blocks.3.feed_forward.up.weight": (WIDTH**-0.5, 1, LR / WIDTH / 2, DECAY * WIDTH * 2),
        "blocks.3.feed_forward.down.weight": (FFN**-0.5, 1, LR / FFN / 2, DECAY * FFN * 2),
        "blocks.1.attention.norm.weight": (0, 1, LR / 2, 0),
        "norm.weight": (0, 1, LR, 0),
        "readout.weight": (1, 1 / WIDTH, LR, DECAY),
    }
    for name, numbers in expected.items():
        tensor = tensors[name]
        found = (tensor.init_std, tensor.multiplier, tensor.lr, tensor.weight_decay)
        assert found == pytest.approx(numbers, rel=1e-15), name
    assert plan.multipliers.attention == 1 / HEAD
    assert plan.multipliers.residual == 1 / math.sqrt(DEPTH)


class Times(nn.Module):
    """A weight of unit variance times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.factor


class UnitBlock(gpt.Block):
    """`(x + τ f(x)) / sqrt(1 + τ²)` with τ² = 1 / (half the branches + those before), all α = 1 (appendix G)."""

    before: int

    def forward(self, x_BTD: Tensor, rotation: Any) -> Tensor:
        for index, branch in enumerate((lambda x: self.attention(x, rotation), self.feed_forward)):
            squared = 1 / (DEPTH + self.before + index)
            x_BTD = (x_BTD + math.sqrt(squared) * branch(x_BTD)) / math.sqrt(1 + squared)
        return x_BTD


def in_unit_form(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same model with weights of unit variance, its own residual, and lrs of section 4, independent decay."""
    for index, block in enumerate(model.blocks):
        block.__class__, block.before = UnitBlock, 2 * index
    groups = []
    for name, module in list(model.named_modules()):
        inside, linear = name.startswith("blocks."), isinstance(module, nn.Linear) and name != "readout"
        if linear:
            register_parametrization(module, "weight", Times(module.in_features**-0.5))
        for parameter in module.parameters(recurse=False):
            lr = LR / math.sqrt(WIDTH) if name == "token_embedding" else LR
            groups.append({"params": [parameter], "lr": lr / math.sqrt(DEPTH) if inside else lr})
            groups[-1]["weight_decay"] = 0.0 if "norm" in name else DECAY * LR / groups[-1]["lr"]
        if linear:
            lr = LR / math.sqrt(module.in_features) / math.sqrt(DEPTH)
            original = module.parametrizations.weight.original
            groups.append({"params": [original], "lr": lr, "weight_decay": DECAY * LR / lr})
    return model, torch.optim.AdamW(groups, eps=1e-30, betas=(0.9, 0.95))


def losses(model: nn.Module, optimizer: Any) -> list[float]:
    drawn = torch.randint(VOCABULARY, (4, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(4):
        loss = F.cross_entropy(model(drawn[:, :-1]).flatten(0, 1), drawn[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


def test_it_trains_as_the_papers_own_form() -> None:
    """Up to the eps of norms, which see a stream of another scale. The unscaled backward pass is nothing to Adam."""
    plan = resolve(config())
    ours, theirs = build(plan).double(), build(plan).double()
    expected = losses(*in_unit_form(theirs))
    assert losses(ours, build_optimizer(ours, plan)) == pytest.approx(expected, rel=1e-6)
    assert expected[-1] < expected[0] - 0.05
