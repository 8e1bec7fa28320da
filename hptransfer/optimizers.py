"""Optimizers by name: the family whose rules they follow, and how one is made from parameter groups."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hptransfer.sections import SGD, AdamW, OptimizerConfig


@dataclass(frozen=True)
class Kind:
    """One optimizer: `family` picks the rows of the parametrization table, `group` the keys that vary per tensor."""

    family: str
    build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    group: Callable[[Any], dict[str, Any]]


def _adamw_group(tensor: Any) -> dict[str, Any]:
    return {"lr": tensor.lr, "weight_decay": tensor.weight_decay, "eps": tensor.eps, "betas": tensor.betas}


def _sgd_group(tensor: Any) -> dict[str, Any]:
    return {"lr": tensor.lr, "weight_decay": tensor.weight_decay, "momentum": tensor.betas[0]}


OPTIMIZERS: dict[str, Kind] = {
    "adamw": Kind("adam", lambda groups: torch.optim.AdamW(groups, fused=True), _adamw_group),
    "sgd": Kind("sgd", lambda groups: torch.optim.SGD(groups), _sgd_group),
}


def moments(optimizer: OptimizerConfig) -> tuple[tuple[float, ...], float]:
    """(betas, eps) at the base shape; SGD's one beta is its momentum and it has no eps."""
    match optimizer:
        case AdamW():
            return optimizer.betas, optimizer.eps
        case SGD():
            return (optimizer.momentum,), 0.0
