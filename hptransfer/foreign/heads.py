"""The scale of the attention logits: a model that is not ours keeps its 1/sqrt(head_dim), so head_dim must not grow."""

import math

from torch import nn

from hptransfer.errors import UserError
from hptransfer.foreign.growth import Growth
from hptransfer.parametrization import SCHEMES, attention_scale
from hptransfer.sections import Parametrization

SIZES = (("embed_dim", "num_heads"), ("hidden_size", "num_heads"), ("n_embd", "n_head"))
"""What attention modules without `head_dim` call width and heads: PyTorch and timm, transformers, nanoGPT."""


def attention_notes(
    base: nn.Module, target: nn.Module, growth: Growth, parametrization: Parametrization, vouched: bool
) -> tuple[str, ...]:
    """What was found about heads; UserError where the model's own scale is not what the parametrization asks for."""
    if parametrization.multipliers.attention != 1.0:
        raise UserError("parametrize: multipliers.attention: a model that is not ours has no place for it")
    modules = {growth.pattern(name): module for name, module in target.named_modules() if _is_attention(module)}
    if vouched:
        return tuple(f"scale     {name}: attention_is_right=True, left as it is" for name in modules)
    return tuple(
        _verdict(
            name,
            _head_dim(base.get_submodule(name.replace("*", "0")), name),
            _head_dim(module, name),
            parametrization.name,
        )
        for name, module in modules.items()
    )


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower() and any(True for _ in module.parameters())


def _head_dim(module: nn.Module, name: str) -> int:
    """Size of a head; UserError where the module does not say it."""
    found = getattr(module, "head_dim", None)
    for width, heads in SIZES:
        if found is None and hasattr(module, width) and hasattr(module, heads):
            found = getattr(module, width) // getattr(module, heads)
    if not isinstance(found, int):
        raise UserError(
            f"parametrize: {name} ({type(module).__name__}) does not say its head_dim: where that is the same in base "
            "and target, or the scale of the attention logits has been set, give attention_is_right=True"
        )
    return found


def _verdict(name: str, base: int, size: int, scheme: str) -> str:
    """One line on a head_dim that needs nothing; UserError with what to set where it does."""
    what = SCHEMES[scheme]
    wanted = attention_scale(scheme, size, base if what.needs else size if what.attention == 0.5 else 1)
    if math.isclose(wanted, 1 / math.sqrt(size)):
        return f"scale     {name}: head_dim {base} -> {size}, attention logits keep their 1/sqrt({size})"
    raise UserError(
        f"parametrize: {name}: head_dim is {base} in base and {size} in the target, and {scheme} scales attention "
        f"logits by {wanted:.6g}, where the model itself has 1/sqrt({size}): let the number of heads grow in place of "
        "head_dim, or set the scale in build (transformers: `scaling` of the attention modules) and give "
        "attention_is_right=True"
    )
