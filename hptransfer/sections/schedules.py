"""The `schedule` section: one class per learning-rate schedule."""

from typing import Annotated, Literal

from pydantic import Tag, model_validator

from hptransfer.sections.values import Fraction, Section, tagged_by


class Linear(Section):
    """Warm-up, then a straight line to `final`."""

    name: Literal["linear"] = "linear"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    final: Fraction = 0.0
    """lr at the end, as a fraction of the peak."""


class Cosine(Section):
    """Warm-up, then half a cosine to `final`."""

    name: Literal["cosine"] = "cosine"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    final: Fraction = 0.1
    """lr at the end, as a fraction of the peak."""


class WSD(Section):
    """Warm-up, stable, decay: a straight line to `final` over the last part."""

    name: Literal["wsd"] = "wsd"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    decay: Fraction = 0.2
    """Fraction of the run spent lowering lr."""
    final: Fraction = 0.0
    """lr at the end, as a fraction of the peak."""

    @model_validator(mode="after")
    def _fits(self) -> "WSD":
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g} is more than the whole run")
        return self


class Constant(Section):
    """Warm-up, then the peak."""

    name: Literal["constant"] = "constant"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""


ScheduleConfig = Annotated[
    Annotated[Linear, Tag("linear")]
    | Annotated[Cosine, Tag("cosine")]
    | Annotated[WSD, Tag("wsd")]
    | Annotated[Constant, Tag("constant")],
    tagged_by("name", "linear"),
]
