"""Optimizers by name: the family whose rules they follow, and how one is made from parameter groups."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hptransfer.sections import SGD, AdamW, Muon, OptimizerConfig

if TYPE_CHECKING:
    from hptransfer.plan import TensorPlan

Group = dict[str, Any]


def quoted(config: OptimizerConfig, optimizer: str) -> tuple[float, tuple[float, ...], float]:
    """(lr, betas, eps) at the base shape for tensors of this optimizer; SGD's and Muon's one beta is the momentum."""
    match config:
        case SGD():
            return config.lr, (config.momentum,), 0.0
        case Muon() if optimizer == "muon":
            return config.lr, (config.momentum,), config.eps
        case Muon():
            return config.adamw_lr, config.betas, config.eps
        case AdamW():
            return config.lr, config.betas, config.eps


def _adamw(tensor: "TensorPlan") -> Group:
    return {"lr": tensor.lr, "weight_decay": tensor.weight_decay, "eps": tensor.eps, "betas": tensor.betas}


def _sgd(tensor: "TensorPlan") -> Group:
    return {"lr": tensor.lr, "weight_decay": tensor.weight_decay, "momentum": tensor.betas[0]}


def _muon(tensor: "TensorPlan") -> Group:
    """torch.optim.Muon multiplies its update by sqrt(max(1, fan_out / fan_in)), but not its decay: taken out here."""
    own = math.sqrt(max(1.0, tensor.shape[0] / tensor.shape[1]))
    return {
        "lr": tensor.lr / own,
        "weight_decay": tensor.weight_decay * own,
        "momentum": tensor.betas[0],
        "eps": tensor.eps,
    }


GROUPS: dict[str, Callable[["TensorPlan"], Group]] = {"adamw": _adamw, "sgd": _sgd, "muon": _muon}
"""What varies from tensor to tensor, in torch's own words."""

CONSTRUCTORS: dict[str, Callable[[Sequence[Group]], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups),
    "muon": lambda groups: torch.optim.Muon(groups),
}


class Together:
    """Several optimizers as one: what the training loop needs of torch.optim.Optimizer, part by part."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[Group]:
        """Of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One step of every part."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The parts' states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a `state_dict`."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def make(groups: Iterable[Group]) -> Together:
    """The optimizers of groups that name theirs under `optimizer`."""
    by_name: dict[str, list[Group]] = {}
    for group in groups:
        by_name.setdefault(group["optimizer"], []).append(group)
    return Together([CONSTRUCTORS[name](members) for name, members in by_name.items()])
