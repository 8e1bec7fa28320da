"""Which dimensions of a model grow, and where its repeated blocks are: shapes on the meta device, nothing computed.

Names are matched across sizes by pattern, the number of a repeated block replaced by `*`, so that base and delta may
have another depth than the target.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from hptransfer.errors import UserError

Shape = tuple[int, ...]
Factory = Callable[..., nn.Module]


@dataclass(frozen=True)
class Owner:
    """A module that holds a tensor, and under which attribute."""

    name: str
    module: nn.Module
    attribute: str

    @property
    def leaf(self) -> str:
        """A short name of the tensor: that of its module, or of itself where it is not the module's weight or bias."""
        return self.name.rpartition(".")[2] if self.attribute in ("weight", "bias") else self.attribute


@dataclass(frozen=True)
class Tensor:
    """A trained parameter of the target, beside the same parameter of the base."""

    name: str
    pattern: str
    owners: tuple[Owner, ...]
    shape: Shape
    base: Shape
    grows: tuple[bool, ...]
    """By axis."""
    inside: bool
    """In a repeated block."""

    @property
    def size(self) -> int:
        """Number of parameters."""
        return prod(self.shape)


@dataclass(frozen=True)
class Growth:
    """What changes from the base to the target."""

    tensors: tuple[Tensor, ...]
    frozen: tuple[str, ...]
    stacks: tuple[str, ...]
    """Names of the lists of repeated blocks."""
    depth: int
    """Repeated blocks of the target, of all lists; 1 where there are none."""
    base_depth: int

    def pattern(self, name: str) -> str:
        """The name with the number of its repeated block as `*`."""
        return pattern(name, self.stacks)


def make(build: Factory, size: Any) -> nn.Module:
    """The factory's model at a size: keyword arguments, or one argument."""
    model = build(**size) if isinstance(size, Mapping) else build(size)
    if not isinstance(model, nn.Module):
        raise UserError(f"parametrize: build returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def find_growth(build: Factory, base: Any, delta: Any, target: Any, base_depth: int | None = None) -> Growth:
    """Growth from the shapes at three sizes; UserError where base, delta and target do not match each other.

    `base_depth` is that at which hyperparameters are quoted; by default what `base` has.
    """
    with torch.device("meta"):
        small, wider, model = (make(build, size) for size in (base, delta, target))
    stacks = find_stacks(model)
    base_shapes, shapes = (_by_pattern(each, stacks, what) for each, what in ((small, "base"), (model, "target")))
    delta_shapes = _by_pattern(wider, stacks, "delta")
    for what, other in (("base", base_shapes), ("delta", delta_shapes)):
        _same_names(what, other, shapes)
    grows = growing_axes(base_shapes, delta_shapes)
    _nothing_else_grows(base_shapes, shapes, grows)
    owners = _owners(model)
    tensors = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            at = pattern(name, stacks)
            sizes = (tuple(parameter.shape), base_shapes[at], grows[at])
            tensors.append(Tensor(name, at, owners[id(parameter)], *sizes, inside=at != name))
    frozen = tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    depth, found = _depths(model, small, stacks)
    if base_depth is not None and not stacks:
        raise UserError("parametrize: base_depth: the model has no list of repeated blocks that could be deeper")
    return Growth(tuple(tensors), frozen, stacks, depth, base_depth or found)


def growing_axes(base: Mapping[str, Shape], delta: Mapping[str, Shape]) -> dict[str, tuple[bool, ...]]:
    """By name, the axes that differ between base and delta: the `mup` package's infinite dimensions."""
    from mup.shape import make_base_shapes

    return {name: tuple(dim.isinf() for dim in shape) for name, shape in make_base_shapes(base, delta).items()}


def pattern(name: str, stacks: tuple[str, ...]) -> str:
    """The name with the number of its repeated block as `*`."""
    for stack in stacks:
        if re.match(rf"{re.escape(stack)}\.\d+(\.|$)", name):
            return stack + re.sub(r"\d+", "*", name[len(stack) :], count=1)
    return name


def find_stacks(model: nn.Module, prefix: str = "") -> tuple[str, ...]:
    """Names of the outermost lists whose children are alike: blocks of modules, with equal names and shapes."""
    found: list[str] = []
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        found += [path] if _is_stack(child) else find_stacks(child, f"{path}.")
    return tuple(found)


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return False
    blocks = list(module)
    signatures = {(type(block), *((name, p.shape) for name, p in block.named_parameters())) for block in blocks}
    composed = all(any(True for child in block.children() for _ in child.parameters()) for block in blocks)
    return len(signatures) == 1 and composed and len(blocks) > isinstance(module, nn.Sequential)


def _by_pattern(model: nn.Module, stacks: tuple[str, ...], what: str) -> dict[str, Shape]:
    """Shapes by pattern; all blocks of a list have to be alike."""
    shapes: dict[str, Shape] = {}
    for name, parameter in model.named_parameters():
        at = pattern(name, stacks)
        if shapes.setdefault(at, tuple(parameter.shape)) != tuple(parameter.shape):
            raise UserError(f"parametrize: {what}: {name} is {tuple(parameter.shape)}, other blocks have {shapes[at]}")
    return shapes


def _same_names(what: str, other: Mapping[str, Shape], target: Mapping[str, Shape]) -> None:
    for have, lack, of in (
        (target, other, f"the target, not of {what}"),
        (other, target, f"{what}, not of the target"),
    ):
        if missing := [name for name in have if name not in lack]:
            raise UserError(
                f"parametrize: parameters of {of}: {', '.join(missing[:8])}; tensors are matched by name: build base "
                "and delta with the target's options and depth, and say base_depth="
            )
    for name, shape in target.items():
        if len(other[name]) != len(shape):
            raise UserError(f"parametrize: {name} has {len(shape)} axes in the target, {len(other[name])} in {what}")


def _nothing_else_grows(
    base: Mapping[str, Shape], target: Mapping[str, Shape], grows: Mapping[str, tuple[bool, ...]]
) -> None:
    """What the target has more of than the base, delta has to have more of too."""
    for name, shape in target.items():
        for axis, (size, base_size, growing) in enumerate(zip(shape, base[name], grows[name], strict=True)):
            if size != base_size and not growing:
                raise UserError(
                    f"parametrize: axis {axis} of {name} is {base_size} in base and {size} in the target, and stays "
                    "in delta: delta has to differ from base in everything that grows"
                )


def _owners(model: nn.Module) -> dict[int, tuple[Owner, ...]]:
    """Of every parameter all modules that hold it: a tied tensor has several."""
    found: dict[int, tuple[Owner, ...]] = {}
    for name, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            found[id(parameter)] = (*found.get(id(parameter), ()), Owner(name, module, attribute))
    return found


def _depths(model: nn.Module, base: nn.Module, stacks: tuple[str, ...]) -> tuple[int, int]:
    """Repeated blocks of target and base; all lists have to grow alike."""
    counts = {stack: [len(list(m.get_submodule(stack).children())) for m in (model, base)] for stack in stacks}
    depth, base_depth = (sum(count[i] for count in counts.values()) or 1 for i in (0, 1))
    for stack, (here, there) in counts.items():
        if here * base_depth != there * depth:
            raise UserError(f"parametrize: {stack} grows from {there} to {here} blocks, other lists of blocks do not")
    return depth, base_depth
