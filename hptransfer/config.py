"""What a run is, as the user writes it. `load_config` is the only way from YAML to a RunConfig."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from hptransfer.loading import read_source, read_yaml, to_yaml, validate
from hptransfer.parametrization import FAMILIES, PRINTED_ONLY
from hptransfer.sections import (
    AdamW,
    DataConfig,
    Linear,
    ModelConfig,
    OptimizerConfig,
    Parametrization,
    PythonSource,
    ScheduleConfig,
    Section,
    Tracking,
    Train,
)
from hptransfer.shapes import Shape, shape_at

__all__ = ["RunConfig", "load_config", "read_yaml", "run_schema", "to_yaml"]

DEFAULT_TOKENS_PER_PARAM = 20.0  # Hoffmann et al. (arXiv:2203.15556), section 3: about 20 tokens per parameter
DEFAULT_SEQUENCES = 64
EXCLUSIVE = {
    "train.tokens": "train.tokens_per_param",
    "train.tokens_per_param": "train.tokens",
    "model.heads": "model.head_dim",
    "model.head_dim": "model.heads",
}


class RunConfig(Section):
    """One training run."""

    model: ModelConfig
    parametrization: Parametrization
    optimizer: OptimizerConfig = AdamW()
    schedule: ScheduleConfig = Linear()
    data: DataConfig = PythonSource()
    train: Train = Train()
    tracking: Tracking = Tracking()

    @model_validator(mode="before")
    @classmethod
    def _parametrized(cls, data: Any) -> Any:
        return {"parametrization": {}, **data} if isinstance(data, dict) else data

    @field_validator("optimizer", mode="before")
    @classmethod
    def _run_here(cls, value: Any) -> Any:
        name = value.get("name") if isinstance(value, dict) else None
        if isinstance(name, str) and name in PRINTED_ONLY:
            raise ValueError(
                f"{name} is not run here, its rows are printed: hptransfer table {PRINTED_ONLY[name]} {name}; "
                f"allowed: {', '.join(FAMILIES)}"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        problems = [*self._batch_problems(), *self._stable_problems(), *shape_problems(self)]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _batch_problems(self) -> list[str]:
        batch, seq_len = self.train.batch_tokens, self.data.seq_len
        if batch is not None and batch % seq_len:
            low, high = batch // seq_len * seq_len, (batch // seq_len + 1) * seq_len
            nearest = f"{low} or {high}" if low else str(high)
            return [f"train.batch_tokens: {batch} is not a multiple of data.seq_len = {seq_len}; nearest: {nearest}"]
        return []

    def _stable_problems(self) -> list[str]:
        schedule = self.schedule
        if self.train.keep_stable and not (schedule.name == "wsd" and schedule.decay > 0):
            return [f"train.keep_stable: schedule {schedule.name} has no stable phase before a decay; wsd has"]
        return []

    @property
    def shape(self) -> Shape:
        """The model's shape with everything that follows from it."""
        return shape_at(self.model, self.parametrization, self.data, base=False)

    @property
    def base_shape(self) -> Shape:
        """The same model at the base width and, since tensors are matched by name, at its own depth."""
        return shape_at(self.model, self.parametrization, self.data, base=True)

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.train.batch_tokens or DEFAULT_SEQUENCES * self.data.seq_len

    def to_dict(self) -> dict[str, Any]:
        """Plain data, keys at null left out; `load_config` reads it back to an equal config."""
        return self.model_dump(mode="json", exclude_none=True)

    def updated(self, **sections: dict[str, Any]) -> "RunConfig":
        """A validated copy with some keys of some sections changed; None takes a key back to its default."""
        data = self.to_dict()
        for section, changes in sections.items():
            data[section] = {key: value for key, value in {**data[section], **changes}.items() if value is not None}
        return RunConfig.model_validate(data)


def shape_problems(config: RunConfig) -> list[str]:
    """What is impossible about the shape, at the target and at the base: one line each, key path first."""
    problems = []
    for base in (False, True):
        try:
            shape_at(config.model, config.parametrization, config.data, base=base)
        except ValueError as problem:
            problems.append(str(problem))
    return list(dict.fromkeys(problems))


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """A run config from YAML and overrides (`a.b=v`); UserError with one line for every problem in it."""
    return validate(RunConfig, read_source(path, overrides, EXCLUSIVE))


def run_schema() -> str:
    """The JSON Schema of a run config, for editors. Nothing is required in it: the file it `extends` may give it."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "A config file that this one is laid over.",
    }
    return json.dumps(_as_json_schema(schema), indent=2) + "\n"


JSON_SCHEMA = {
    "oneOf": "anyOf",
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
"""pydantic's words and the schema's: {lr: 0.1} may stand for more than one optimizer, and a bound behind a validator of
ours keeps its Python name."""


def _as_json_schema(node: Any) -> Any:
    """The schema in JSON Schema's own words, without `required`."""
    if isinstance(node, dict):
        return {JSON_SCHEMA.get(key, key): _as_json_schema(inner) for key, inner in node.items() if key != "required"}
    return [_as_json_schema(inner) for inner in node] if isinstance(node, list) else node
