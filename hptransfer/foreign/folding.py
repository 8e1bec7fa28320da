"""Multipliers in a model that has no place for them.

A forward multiplier A on a tensor W that is drawn with std B and trained with lr C can be moved into B and C. Adam's
step has the size of C whatever the size of the gradient: with W' = A W, W' starts with std A B and moves by A C a step,
so the same function is trained by A' = 1, B' = A B, C' = A C. The gradient of W' is that of W over A: eps' = eps / A.
AdamW shrinks by lr * weight_decay, which has to stay: weight_decay' = weight_decay / A. Muon's update has a fixed size
too. SGD's step is C times the gradient: W' moves by A C g = A^2 C g', so C' = A^2 C and weight_decay' = weight_decay /
A^2. (abc symmetry, Tensor Programs V, arXiv:2203.03466, appendix J, with theta = 1/A.) Clipping by the global norm of
the gradient sees g' in place of g.

The one multiplier that cannot move is that of a readout that shares its tensor with the embedding: it stays a factor on
what enters the readout, in a forward pre-hook. A hook is no parameter and renames none, so `state_dict`, safetensors,
DDP, FSDP2 and torch.compile see the model as it was; `deepcopy` and `torch.save(model)` take it along.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hptransfer.errors import UserError
from hptransfer.foreign.branches import Branches
from hptransfer.foreign.roles import Placed
from hptransfer.plan import TensorPlan
from hptransfer.sections import Factors


def absorb(tensor: TensorPlan, factor: float) -> TensorPlan:
    """The tensor with a forward multiplier of `factor` moved into its numbers."""
    lr = factor**2 if tensor.optimizer == "sgd" else factor
    return replace(
        tensor,
        init_mean=tensor.init_mean * factor,
        init_std=tensor.init_std * factor,
        lr=tensor.lr * lr,
        eps=tensor.eps / factor,
        weight_decay=tensor.weight_decay / lr,
    )


def fold(each: Placed, tensor: TensorPlan, factors: Factors, branches: Branches) -> TensorPlan:
    """One tensor's numbers with every multiplier in them that can be; a tied readout keeps its own."""
    if each.tensor.pattern in branches.hosts:
        return absorb(tensor, branches.factor)
    if each.role.startswith("embedding"):
        return absorb(tensor, factors.input)
    if not each.role.startswith("readout"):
        return tensor
    whole = tensor.multiplier * factors.output
    if not each.tied:
        return replace(absorb(tensor, whole), multiplier=1.0)
    if factors.input != 1.0:
        raise UserError(f"parametrize: multipliers.input: {tensor.name} is both embedding and readout, a factor is not")
    return replace(tensor, multiplier=whole)


@dataclass(frozen=True)
class ScaledInput:
    """A forward pre-hook: the module's first argument times a factor."""

    factor: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * self.factor, *args[1:])


def hook_multipliers(model: nn.Module, placed: Sequence[Placed], tensors: Sequence[TensorPlan]) -> None:
    """Puts the multipliers that could not be folded before the layers that they belong to."""
    for each, tensor in zip(placed, tensors, strict=True):
        if tensor.multiplier != 1.0:
            layers = [owner.name for owner in each.tensor.owners if not isinstance(owner.module, nn.Embedding)]
            if len(layers) != 1:
                raise UserError(f"parametrize: {tensor.name}: tied to {len(layers)} layers, its factor needs one")
            model.get_submodule(layers[0]).register_forward_pre_hook(ScaledInput(tensor.multiplier))
