"""The sizes that are compared, and the configs at them."""

from typing import Any

from pydantic import ValidationError

from hptransfer.config import RunConfig
from hptransfer.coordcheck.promises import Axis
from hptransfer.errors import UserError

DEPTHS = (2, 4, 8, 16)
SMALLEST_WIDTH = 64
CHANNELS = (16, 32, 64)
"""Default widths of a ResNet: with 8 channels gradients have not begun to fall as 1/width, and 128 take minutes."""


def default_widths(config: RunConfig) -> tuple[int, ...]:
    """Four doublings from the first multiple of what a width must be a multiple of that is not below the smallest."""
    if config.model.name == "resnet":
        return CHANNELS
    unit = _width_unit(config)
    first = -(-SMALLEST_WIDTH // unit) * unit
    return tuple(first * 2**i for i in range(4))


def _width_unit(config: RunConfig) -> int:
    """Widths are its multiples: whole groups of heads of the fixed size (a group shares a key head), or the fixed
    number of heads, of even size."""
    shape = config.shape
    if not hasattr(shape, "heads"):
        return 1
    if _fixed_heads(config):
        return 2 * int(shape.heads)
    return int(shape.head_dim * (shape.kv_heads if _fixed_kv_heads(config) else shape.heads // shape.kv_heads))


def _fixed_heads(config: RunConfig) -> bool:
    return getattr(config.model, "heads", None) is not None


def _fixed_kv_heads(config: RunConfig) -> bool:
    """Whether the config says that the base has as many of them: then every width has."""
    kv_heads = getattr(config.model, "kv_heads", None)
    return kv_heads is not None and kv_heads == config.parametrization.base_kv_heads


def at_size(config: RunConfig, axis: Axis, size: int, seed: int) -> RunConfig:
    """The (resolved) config with another width or depth and seed. Query heads per key head stay, or the number of key
    heads does where the config's own is base_kv_heads too."""
    model: dict[str, Any] = {axis: size}
    grows = not _fixed_heads(config) and not _fixed_kv_heads(config)
    if axis == "width" and getattr(config.model, "kv_heads", None) and grows:
        model["kv_heads"] = max(1, size // _width_unit(config))
    try:
        return config.updated(model=model, train={"seed": seed})
    except ValidationError as problem:
        reason = problem.errors()[0]["msg"].removeprefix("Value error, ").splitlines()[0]
        unit = f"; allowed: multiples of {_width_unit(config)}" if axis == "width" else ""
        raise UserError(f"--{axis} {size}: {reason}{unit}") from None


def refuse(sizes: dict[Axis, tuple[int, ...]], steps: int, seeds: int) -> None:
    """UserError for sizes and counts that leave no slope to fit."""
    for axis, of in sizes.items():
        if 0 < len(of) < 3:
            raise UserError(f"--{axis} {','.join(map(str, of))}: a slope with an error needs three different sizes")
        if any(size < 2 for size in of):
            raise UserError(f"--{axis} {min(of)}: sizes start at 2")
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"--{name} {value}: at least 1")
    if not any(sizes.values()):
        raise UserError("--width and --depth are both empty: nothing to check")
