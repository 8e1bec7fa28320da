"""Where the factor of the residual branches can go in a model that has no place for it: found by trying.

A block has to be x + f(x). Its output projections are the layers that, all set to zero, make it the identity; each has
to enter what the block adds linearly, so that a factor on its weights is a factor on its branch. Both are measured on
the base model with random weights: a block of another kind (a norm behind the sum, or behind the branch) is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.errors import UserError
from hptransfer.foreign.growth import Growth, find_stacks, pattern
from hptransfer.foreign.roles import Placed

PROBE_TOKENS = 8
TOLERANCE = 1e-3
"""Relative; norms that compute in float32 whatever comes in are right to 1e-7."""


@dataclass(frozen=True)
class Branches:
    """The factor on residual branches, and the tensors (patterns over blocks) that it is folded into."""

    factor: float
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """A layer of a block, or its copies side by side (experts), with its weights and biases."""

    patterns: tuple[str, ...]
    """Of its parameters, over all blocks."""
    parameters: tuple[nn.Parameter, ...]


class Block:
    """The first block of a list, in a model that is run to see what it does."""

    def __init__(self, model: nn.Module, stack: str, run: Callable[[nn.Module], object]) -> None:
        self.model, self.stack, self.run = model, stack, run
        blocks = list(model.get_submodule(stack).children())
        self.module = blocks[0]
        self.next = blocks[1] if len(blocks) > 1 else None

    def units(self, roles: Mapping[str, str]) -> list[Unit]:
        """Its layers with hidden matrices, the last one registered first."""
        found: dict[str, list[tuple[str, nn.Parameter]]] = {}
        lists = find_stacks(self.module)
        for name, module in self.module.named_modules():
            own = [(f"{name}.{key}".strip("."), value) for key, value in module.named_parameters(recurse=False)]
            patterns = [pattern(f"{self.stack}.0.{key}", (self.stack,)) for key, _ in own]
            if any(roles.get(each, "").startswith("hidden") for each in patterns):
                found.setdefault(pattern(name, lists), []).extend(
                    zip(patterns, (value for _, value in own), strict=True)
                )
        return [Unit(tuple(p for p, _ in own), tuple(v for _, v in own)) for own in reversed(found.values())]

    def added(self) -> Tensor:
        """What the block adds to its input: the stream before the next block (where there is one, else behind this
        one) minus the stream before it."""
        seen: list[Tensor] = []

        def before(_: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append(first_tensor((args, kwargs)))

        def after(_: nn.Module, args: Any, output: Any) -> None:
            seen.append(first_tensor(output))

        handles = [self.module.register_forward_pre_hook(before, with_kwargs=True)]
        if self.next is None:
            handles.append(self.module.register_forward_hook(after))
        else:
            handles.append(self.next.register_forward_pre_hook(before, with_kwargs=True))
        try:
            self.run(self.model)
        finally:
            for handle in handles:
                handle.remove()
        if len(seen) != 2 or seen[0].shape != seen[1].shape:
            sizes = ", ".join(" x ".join(map(str, each.shape)) for each in seen)
            raise UserError(f"parametrize: {self.stack}: expected one stream through the blocks, saw {sizes or 'none'}")
        return (seen[1] - seen[0]).double()


def find_branches(
    factor: float, base: nn.Module, growth: Growth, placed: Sequence[Placed], run: Callable[[nn.Module], object] | None
) -> Branches:
    """Where the factor goes, found on the base model (whose weights are lost)."""
    if factor == 1.0:
        return Branches(factor, ())
    if not growth.stacks:
        raise UserError("parametrize: no list of repeated blocks, so that residual branches cannot be found")
    if run is None:
        raise UserError("parametrize: inputs missing: what the model's forward takes, to find its residual branches")
    roles = {each.tensor.pattern: each.role for each in placed}
    units = [unit for stack in growth.stacks for unit in output_projections(Block(base, stack, run), roles)]
    return Branches(factor, tuple(pattern for unit in reversed(units) for pattern in unit.patterns))


def token_ids(placed: Sequence[Placed]) -> Tensor | None:
    """What a model that embeds tokens takes; None for any other."""
    for each in placed:
        if each.role == "embedding.token" or each.tied:
            return torch.arange(PROBE_TOKENS, device="cpu").unsqueeze(0) % each.tensor.base[0]
    return None


def output_projections(block: Block, roles: Mapping[str, str]) -> tuple[Unit, ...]:
    """The layers to fold the residual factor into; UserError where there is no such set."""
    _randomise(block.module)
    units = block.units(roles)
    _refuse_unless_reached(block, units)
    size = block.added().norm()
    found: list[Unit] = []
    for unit in units:
        with _times(0.0, found):
            before = block.added()
            with _times(0.0, [unit]):
                if (block.added() - before).norm() > TOLERANCE * size:
                    found.append(unit)
    with _times(0.0, found):
        if block.added().norm() > TOLERANCE * size:
            raise UserError(
                f"parametrize: blocks of {block.stack} are not x + f(x): with all their matrices at zero they still "
                f"change x, as with a norm behind the sum; {INSTEAD}"
            )
    for unit in found:
        _refuse_unless_linear(block, unit, [other for other in found if other is not unit])
    return tuple(found)


INSTEAD = "a scheme without depth rules (mup) needs no factor there, or give the model build(shape, multipliers)"


def _refuse_unless_reached(block: Block, units: Sequence[Unit]) -> None:
    """What the example inputs do not reach (an expert that no token is sent to) says nothing."""
    total = block.added().square().sum()
    for unit in units:
        trained = [parameter for parameter in unit.parameters if parameter.requires_grad]
        slopes = torch.autograd.grad(total, trained, retain_graph=True, allow_unused=True)
        if not any(slope is not None and slope.any() for slope in slopes):
            raise UserError(
                f"parametrize: {unit.patterns[0]}: the example inputs do not reach it; give inputs= with more in them"
            )


def _refuse_unless_linear(block: Block, unit: Unit, others: Sequence[Unit]) -> None:
    with _times(0.0, others):
        whole = block.added()
        with _times(0.5, [unit]):
            half = block.added()
    if (half - whole / 2).norm() > TOLERANCE * whole.norm():
        raise UserError(
            f"parametrize: {unit.patterns[0]}: half the weights do not add half as much, as with a norm behind the "
            f"branch, so that no factor can be folded into them; {INSTEAD}"
        )


def runner(inputs: Any) -> Callable[[nn.Module], object] | None:
    """Runs a model on example inputs: one tensor, a tuple of arguments, or a dict of keyword arguments."""
    if inputs is None:
        return None

    def run(model: nn.Module) -> object:
        try:
            with torch.device("cpu"):
                if isinstance(inputs, Mapping):
                    return model(**inputs)
                return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        except UserError:
            raise
        except Exception as problem:
            said = " ".join(str(problem).split())
            raise UserError(
                f"parametrize: the base model does not run on the example inputs ({type(problem).__name__}: {said}); "
                "give inputs= that its forward takes"
            ) from problem

    return run


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """No weight at a special value: matrices at 1/sqrt(fan-in), something on top of gains and biases."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.add_(noise / 4)


@contextmanager
def _times(factor: float, units: Sequence[Unit]) -> Iterator[None]:
    """All parameters of the units times a factor, for a while."""
    parameters = [parameter for unit in units for parameter in unit.parameters]
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor)
        yield
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)


def first_tensor(values: Any) -> Tensor:
    """The first floating tensor in arguments or an output."""
    if isinstance(values, Tensor) and values.is_floating_point():
        return values
    inner = values.values() if isinstance(values, Mapping) else values if isinstance(values, (tuple, list)) else ()
    for value in inner:
        try:
            return first_tensor(value)
        except LookupError:
            continue
    raise LookupError("no tensor")
