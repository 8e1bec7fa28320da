"""Planned numbers on a module's parameters: initial weights and optimizer groups, by name, whatever wraps it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hptransfer.errors import UserError, did_you_mean
from hptransfer.optimizers import GROUPS

if TYPE_CHECKING:
    from hptransfer.plan import TensorPlan

INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, FSDP1 and activation checkpointing put into the names of parameters."""


def draw(tensor: "TensorPlan", seed: int) -> Tensor:
    """The initial values of one tensor, which depend on (seed, tensor name) and its planned mean and std alone."""
    digest = hashlib.sha256(f"{seed}/{tensor.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.normal(tensor.init_mean, tensor.init_std, tensor.shape, generator=generator, device="cpu")


@torch.no_grad()
def draw_into(model: nn.Module, tensors: Sequence["TensorPlan"], seed: int) -> None:
    """Draws every planned parameter of the model; of a sharded one (DTensor) each process keeps its part."""
    parameters = find_parameters(model, tensors)
    for tensor in tensors:
        parameter = parameters[tensor.name]
        if not parameter.is_meta:
            parameter.copy_(_laid_out_as(parameter, draw(tensor, seed)))


def grouped(model: nn.Module, tensors: Sequence["TensorPlan"]) -> list[dict[str, Any]]:
    """Groups for torch.optim: tensors with equal numbers share one; `names` and `peak_lr` say what is in it."""
    parameters = find_parameters(model, tensors)
    return [{**group, "params": [parameters[name] for name in group["names"]]} for group in named_groups(tensors)]


def named_groups(tensors: Sequence["TensorPlan"]) -> list[dict[str, Any]]:
    """The groups without their parameters."""
    groups: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        numbers = {"optimizer": tensor.optimizer, **GROUPS[tensor.optimizer](tensor)}
        group = groups.setdefault(repr(numbers), {**numbers, "peak_lr": numbers["lr"], "names": []})
        group["names"].append(tensor.name)
    return list(groups.values())


def find_parameters(model: nn.Module, tensors: Iterable["TensorPlan"]) -> Mapping[str, nn.Parameter]:
    """The parameters by planned name: all that are planned and all that are trained, else UserError."""
    planned = {tensor.name for tensor in tensors}
    found = {planned_name(name, planned): parameter for name, parameter in model.named_parameters()}
    if missing := sorted(planned - set(found)):
        raise UserError(f"the model has no parameter {missing[0]!r}{did_you_mean(missing[0], sorted(found))}")
    extra = [name for name, parameter in found.items() if parameter.requires_grad and name not in planned]
    if extra:
        raise UserError(f"no numbers for the parameter {extra[0]!r}{did_you_mean(extra[0], sorted(planned))}")
    return found


def planned_name(name: str, planned: Iterable[str]) -> str:
    """A parameter's name without what DDP (`module.`), torch.compile (`_orig_mod.`) and FSDP1 put into it."""
    plain = ".".join(part for part in name.split(".") if part not in INSERTED)
    while plain not in planned and plain.startswith("module."):
        plain = plain.removeprefix("module.")
    return plain


def _laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """The values on the parameter's device, sharded like it."""
    values = values.to(parameter.device, parameter.dtype)
    if type(parameter).__module__.startswith("torch.nn") or type(parameter) is Tensor:
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return values
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)
