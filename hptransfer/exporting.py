"""Numbers for a model that is trained elsewhere: as JSON, or as torch.optim groups for a model with the same names."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from hptransfer.applied import draw_into, grouped, named_groups
from hptransfer.config import RunConfig
from hptransfer.errors import UserError
from hptransfer.plan import Plan, TensorPlan
from hptransfer.records import read_json
from hptransfer.scaling import resolve

if TYPE_CHECKING:
    from hptransfer.foreign import Parametrized

    Source: TypeAlias = RunConfig | Plan | Parametrized | Mapping[str, Any] | Path | str

FORMAT = 1
"""Raised with every change of the file that a reader has to know of."""


def export(source: "RunConfig | Plan | Parametrized") -> dict[str, Any]:
    """All numbers of a run as plain data, values as applied at its size.

    tensors: by name, shape, role, init_mean and init_std, multiplier, lr (peak), eps, weight_decay, betas, optimizer;
    groups: what torch.optim takes, with the names of its tensors;
    multipliers (of a run config): on the embeddings, the logits (times the readout's own `multiplier`), the attention
    logits (their whole scale), each residual branch. A parametrized model has them in its tensors already.
    """
    plan = resolve(source) if isinstance(source, RunConfig) else source
    tensors = {tensor.name: _without_name(tensor) for tensor in plan.tensors}
    common = {"format": FORMAT, "tensors": tensors, "groups": named_groups(plan.tensors)}
    return {**common, **(_of_run(plan) if isinstance(plan, Plan) else plan.to_dict())}


def param_groups(model: nn.Module, source: "Source") -> list[dict[str, Any]]:
    """Groups for torch.optim of a model whose parameters have the names of the source's, however it is wrapped.

    `source` is a run config, a plan, what `parametrize` gives back, or an export (data, or its file). Each group has
    `names` and `peak_lr` (its lr: a schedule multiplies it) beside what torch.optim knows.
    """
    return grouped(model, _tensors(source)[0])


def initialise(model: nn.Module, source: "Source") -> None:
    """Draws the initial weights of a model whose parameters have the names of the source's, however it is wrapped."""
    draw_into(model, *_tensors(source))


def _of_run(plan: Plan) -> dict[str, Any]:
    config = plan.config
    return {
        "multipliers": asdict(plan.multipliers),
        "schedule": config.schedule.model_dump(mode="json"),
        "budget": {
            "tokens": plan.tokens,
            "batch_tokens": plan.batch_tokens,
            "steps": plan.steps,
            "seq_len": config.data.seq_len,
            "grad_clip": config.train.grad_clip,
        },
        "params": plan.params_total,
        "params_non_embedding": plan.params,
        "seed": config.train.seed,
        "config": config.to_dict(),
    }


def _tensors(source: "Source") -> tuple[tuple[TensorPlan, ...], int]:
    """Numbers and seed of any source."""
    if isinstance(source, RunConfig):
        source = resolve(source)
    if isinstance(source, Plan):
        return source.tensors, source.config.train.seed
    if isinstance(source, (str, Path)):
        return _read(read_json(Path(source)), str(source))
    if isinstance(source, Mapping):
        return _read(source, "export")
    return source.tensors, source.seed


def _read(data: Mapping[str, Any] | None, name: str) -> tuple[tuple[TensorPlan, ...], int]:
    """The tensors and the seed in an export; UserError where it is none."""
    if data is None:
        raise UserError(f"{name}: no such file")
    if data.get("format") != FORMAT:
        raise UserError(f"{name}: format {data.get('format')!r}; this version reads {FORMAT}: hptransfer export")
    try:
        tensors = tuple(_tensor(name, values) for name, values in data["tensors"].items())
        return tensors, int(data["seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UserError(
            f"{name}: damaged ({type(problem).__name__}: {problem}); write it anew: hptransfer export"
        ) from None


def _tensor(name: str, values: Mapping[str, Any]) -> TensorPlan:
    numbers = {key: values[key] for key in _NUMBERS}
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers.values()):
        raise ValueError(f"{name}: expected numbers")
    return TensorPlan(
        name=name,
        shape=tuple(values["shape"]),
        betas=tuple(values["betas"]),
        role=str(values["role"]),
        optimizer=str(values["optimizer"]),
        **numbers,
    )


def _without_name(tensor: TensorPlan) -> dict[str, Any]:
    return {key: value for key, value in asdict(tensor).items() if key != "name"}


_NUMBERS = tuple(f.name for f in fields(TensorPlan) if f.type is float)
