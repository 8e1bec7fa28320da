"""From what the config says of a model's shape to every number that follows from it. Arithmetic only, no torch."""

from types import SimpleNamespace
from typing import Any

from hptransfer.sections import (
    GPT,
    MLP,
    Custom,
    DataConfig,
    Images,
    ModelConfig,
    Parametrization,
    PythonSource,
    ResNet,
    Text,
    Tokens,
    ViT,
)

Shape = SimpleNamespace
"""The model section's keys, all of them numbers, with what the data gives: vocab_size and seq_len, or image_size,
channels and classes (models/*.py: build takes one)."""


def shape_at(model: ModelConfig, parametrization: Parametrization, data: DataConfig, base: bool) -> Shape:
    """The shape of the model (base=False), or of its base: base width, heads and ffn_ratio at the model's own depth.

    ValueError, key path first, where heads and width do not fit each other.
    """
    keys: dict[str, Any] = model.model_dump(exclude={"name"}, exclude_none=True)
    keys |= _of_data(model, data)
    base_width = parametrization.base_width or model.width
    if base:
        keys["width"] = base_width
        if not isinstance(model, ResNet):
            keys["ffn_ratio"] = parametrization.base_ffn_ratio or model.ffn_ratio
    if isinstance(model, GPT | ViT) or (isinstance(model, Custom) and (model.heads or model.head_dim)):
        heads, kv_heads = _target_heads(model, base_width)
        if base:
            heads, kv_heads = _base_heads(model, parametrization, heads, kv_heads, base_width)
        keys |= {"heads": heads, "kv_heads": kv_heads, "head_dim": keys["width"] // heads}
    return Shape(**keys)


def _of_data(model: ModelConfig, data: DataConfig) -> dict[str, int]:
    """What the data says of the shape; ValueError where it is none for this model."""
    if isinstance(data, Images):
        if isinstance(model, GPT | MLP):
            raise ValueError(f"model.name: {model.name} reads tokens, but data.source: images; allowed: vit, resnet")
        if isinstance(model, ViT):
            _divides("model.patch", model.patch, data.size, "data.size")
        return {"image_size": data.size, "channels": 1, "classes": data.classes}
    if isinstance(model, ViT | ResNet):
        raise ValueError(f"model.name: {model.name} reads images, but data.source: {data.source}; allowed: images")
    return {"vocab_size": vocab_size(data), "seq_len": data.seq_len}


def vocab_size(data: PythonSource | Text | Tokens) -> int:
    """Number of token ids."""
    if isinstance(data, Tokens):
        return data.vocab_size
    return data.vocab_size or 256


def default_head_dim(base_width: int) -> int:
    """The largest power of two up to 64 that divides the base width: the same for every width of a ladder."""
    return next(size for size in (64, 32, 16, 8, 4, 2, 1) if base_width % size == 0)


def _target_heads(model: GPT | ViT | Custom, base_width: int) -> tuple[int, int]:
    """(heads, kv_heads) of the model."""
    if model.heads is not None:
        heads = model.heads
        _divides("model.heads", heads, model.width, "model.width")
    else:
        head_dim = model.head_dim or default_head_dim(base_width)
        _divides("model.head_dim", head_dim, model.width, "model.width")
        heads = model.width // head_dim
    kv_heads = getattr(model, "kv_heads", None) or heads
    _divides("model.kv_heads", kv_heads, heads, "the number of heads")
    _even_head(model, model.width // heads)
    return heads, kv_heads


def _base_heads(
    model: GPT | ViT | Custom, parametrization: Parametrization, heads: int, kv_heads: int, base_width: int
) -> tuple[int, int]:
    """(heads, kv_heads) at the base: of heads and head_dim the one given stays, or base_head_dim says."""
    head_dim = parametrization.base_head_dim
    if head_dim is None and model.heads is not None:
        _divides("parametrization.base_width: model.heads", heads, base_width, "base_width")
        base_heads = heads
    else:
        head_dim = head_dim or model.width // heads
        _divides("parametrization.base_head_dim", head_dim, base_width, "base_width")
        base_heads = base_width // head_dim
    group = heads // kv_heads
    base_kv_heads = parametrization.base_kv_heads
    if base_kv_heads is None:
        if base_heads % group:
            raise ValueError(
                f"parametrization.base_kv_heads: missing: {group} query heads per key head (as in the model) do not "
                f"divide the base shape's {base_heads} heads"
            )
        base_kv_heads = base_heads // group
    _divides("parametrization.base_kv_heads", base_kv_heads, base_heads, "the base shape's number of heads")
    return base_heads, base_kv_heads


def _divides(path: str, part: int, whole: int, of: str) -> None:
    """ValueError with the nearest values that would do, unless `part` divides `whole`."""
    if whole % part == 0:
        return
    fits = [size for size in range(1, whole + 1) if whole % size == 0]
    near = sorted(sorted(fits, key=lambda size: abs(size - part))[:2])
    raise ValueError(f"{path}: {part} does not divide {of} = {whole}; nearest: {' or '.join(map(str, near))}")


def _even_head(model: GPT | ViT | Custom, head_dim: int) -> None:
    if isinstance(model, GPT) and model.positions == "rope" and head_dim % 2:
        raise ValueError(f"model.head_dim: {head_dim} is odd; positions: rope turns pairs, so it must be even")
