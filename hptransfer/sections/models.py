"""The `model` section: one class per model."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag, model_validator

from hptransfer.sections.values import Count, Flag, NonNegative, Positive, Section, tagged_by


def _one_of_heads_and_head_dim(heads: int | None, head_dim: int | None) -> None:
    if heads is not None and head_dim is not None:
        raise ValueError(f"give heads (= {heads}) or head_dim (= {head_dim}), not both: the one given stays fixed")


LOAD_BALANCE = 0.01  # Switch Transformer (arXiv:2101.03961), section 2.2


class GPT(Section):
    """A decoder-only transformer (models/gpt.py)."""

    name: Literal["gpt"] = "gpt"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of blocks."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed from base to target."""
    head_dim: Count | None = None
    """Size of a head. Default (with no `heads`): the largest power of two up to 64 that divides the base width."""
    kv_heads: Count | None = None
    """Key and value heads (grouped-query attention). Default: as many as heads."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    positions: Literal["learned", "rope"] = "rope"
    qk_norm: Flag = False
    """Normalise queries and keys per head, with a gain shared over heads."""
    tie_embeddings: Flag = False
    """One tensor for token embedding and readout."""
    experts: Count | None = None
    """Experts in every block's feed-forward branch, each `ffn_ratio * width` wide. Default: none, a dense model. Their
    number may grow from base to target as long as the share of them that a token is sent to stays."""
    experts_per_token: Count | None = None
    """Experts that a token is sent to."""
    load_balance: NonNegative | None = None
    """Coefficient of the loss that keeps experts equally busy. Default, where there are experts: 0.01."""

    @model_validator(mode="before")
    @classmethod
    def _balanced(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("experts") is not None and data.get("load_balance") is None:
            return {**data, "load_balance": LOAD_BALANCE}
        return data

    @model_validator(mode="after")
    def _one_head_size(self) -> "GPT":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self

    @model_validator(mode="after")
    def _routed(self) -> "GPT":
        if self.experts is None:
            if given := [key for key in ("experts_per_token", "load_balance") if getattr(self, key) is not None]:
                raise ValueError(f"{given[0]} = {getattr(self, given[0])}, but there are no experts: give experts too")
        elif self.experts_per_token is None:
            raise ValueError(f"experts_per_token missing: to how many of its {self.experts} experts a token is sent")
        elif self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token = {self.experts_per_token} is more than experts = {self.experts}")
        return self


class MLP(Section):
    """A residual MLP that predicts the next token from a window of previous ones (models/mlp.py)."""

    name: Literal["mlp"] = "mlp"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of residual blocks."""
    window: Count = 8
    """Tokens that a prediction sees."""
    ffn_ratio: Positive = 4.0
    """Width of a block's hidden layer over `width`."""


class ViT(Section):
    """A vision transformer with a class token (models/vit.py). Reads images."""

    name: Literal["vit"] = "vit"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of blocks."""
    patch: Count = 4
    """Side of the square patches in pixels; divides data.size."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed from base to target."""
    head_dim: Count | None = None
    """Size of a head. Default (with no `heads`): the largest power of two up to 64 that divides the base width."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: Flag = False
    """Normalise queries and keys per head, with a gain shared over heads."""

    @model_validator(mode="after")
    def _one_head_size(self) -> "ViT":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self


class ResNet(Section):
    """A pre-activation residual network of convolutions (models/resnet.py). Reads images."""

    name: Literal["resnet"] = "resnet"
    width: Count
    """Channels of the first stage, which has half the image's height and width; every further stage has twice the
    channels on half the height and width."""
    depth: Count
    """Residual blocks per stage, two convolutions each."""
    stages: Count = 2


def _free(value: Any) -> Any:
    """A key that only a user's own build knows: one number, text, true or false."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):  # as in values.py: _number
        return float(value)
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"expected a number, a text, true or false, got {value!r}")
    return value


class Custom(Section):
    """A model of your own: `name: path/to/file.py:build`, with ROLES beside it. `build` finds all keys in its shape,
    those that only it knows too."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_free)]]

    name: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    """File, from the current folder, and the function in it."""
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of residual blocks."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed; neither: no attention."""
    head_dim: Count | None = None
    """Size of a head."""
    kv_heads: Count | None = None
    """Key and value heads. Default: as many as heads."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""

    @model_validator(mode="after")
    def _one_head_size(self) -> "Custom":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self


FILE = "path/to/file.py:build"
"""Stands for every name of a user's model file."""

ModelConfig = Annotated[
    Annotated[GPT, Tag("gpt")]
    | Annotated[MLP, Tag("mlp")]
    | Annotated[ViT, Tag("vit")]
    | Annotated[ResNet, Tag("resnet")]
    | Annotated[Custom, Tag(FILE)],
    tagged_by("name", "gpt", lambda name: FILE if ".py" in name else name),
]
