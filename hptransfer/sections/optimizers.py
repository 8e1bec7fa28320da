"""The `optimizer` section: one class per optimizer."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from hptransfer.sections.values import Beta, NonNegative, Positive, Section, tagged_by


class AdamW(Section):
    """torch.optim.AdamW: weight decay multiplied by lr."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 0.004
    """Peak lr at the base shape."""
    weight_decay: NonNegative = 0.1
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    eps: Positive = 1e-8


class SGD(Section):
    """torch.optim.SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    """Peak lr at the base shape."""
    weight_decay: NonNegative = 0.0
    momentum: Beta = 0.9


class Muon(Section):
    """torch.optim.Muon for hidden matrices, updates scaled by sqrt(fan_out / fan_in); AdamW for the rest."""

    name: Literal["muon"] = "muon"
    lr: Positive = 0.02
    """Peak lr of the hidden matrices."""
    adamw_lr: Positive = 0.004
    """Peak lr of the other tensors at the base shape; it keeps its ratio to lr through the schedule."""
    weight_decay: NonNegative = 0.1
    momentum: Beta = 0.95
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    """Of AdamW."""
    eps: Positive = 1e-8


OptimizerConfig = Annotated[
    Annotated[AdamW, Tag("adamw")] | Annotated[SGD, Tag("sgd")] | Annotated[Muon, Tag("muon")],
    tagged_by("name", "adamw"),
]
