"""A row: one run, as everything downstream of training sees it, whether a run folder or a CSV's line held it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hptransfer.errors import UserError, did_you_mean

RECIPE = (
    "parametrization",
    "base_width",
    "base_depth",
    "base_tokens",
    "base_batch_tokens",
    "model",
    "optimizer",
    "schedule",
    "warmup",
    "seq_len",
    "data",
    "precision",
    "weight_decay_rule",
    "embedding_lr",
)
"""What a law holds for: runs that differ in one of these are not pooled."""

STATUSES = ("finished", "diverged", "stopped", "cut_short")
"""How a run ended. Stopped: pruned, because it was losing. Cut short: for a reason that says nothing of its loss."""
CUT_SHORT = ("crashed", "failed", "killed", "preempted", "running")
"""W&B's words for it, as an exported CSV has them."""


@dataclass(frozen=True)
class Row:
    """One run, as everything downstream of training sees it. Sizes in parameters and tokens, loss in nats per token."""

    params: float
    """Non-embedding: all but token and position embeddings and readout."""
    tokens: float
    """The budget asked for."""
    lr: float
    """Peak, base units."""
    batch_tokens: float
    loss: float
    """On the held-out set; nan where not finite."""
    status: str = "finished"
    weight_decay: float | None = None
    """Base units."""
    lr_hidden: float | None = None
    """As applied to the hidden matrices."""
    weight_decay_hidden: float | None = None
    width: float | None = None
    depth: float | None = None
    seed: int | None = None
    tokens_seen: float | None = None
    flops: float | None = None
    seconds: float | None = None
    recipe: Mapping[str, str | float] = field(default_factory=dict)
    source: str = ""
    """Run folder, or file.csv:line."""


NUMBERS = tuple(f.name for f in fields(Row) if f.name not in ("status", "recipe", "source"))
REQUIRED = ("params", "tokens", "lr", "batch_tokens", "loss")


def row_of(values: Mapping[str, Any], source: str) -> Row:
    """A row from named values (result.json, a CSV line); UserError that names the source and the column."""
    numbers: dict[str, Any] = {name: _number(values.get(name), f"{source}: {name}") for name in NUMBERS}
    if values.get("loss") == "" and not values.get("status"):
        raise UserError(f"{source}: loss: empty; give a number, nan for a run that diverged, or a status")
    status = str(values.get("status") or ("diverged" if numbers["loss"] is None else "finished"))
    status = "cut_short" if status in CUT_SHORT else status
    if status not in STATUSES:
        raise UserError(
            f"{source}: status: {status!r}; allowed: {', '.join(STATUSES)}{did_you_mean(status, list(STATUSES))}"
        )
    if numbers["loss"] is None:
        if status == "finished":
            raise UserError(f"{source}: loss: a finished run needs a finite number, got {values.get('loss')!r}")
        numbers["loss"] = math.nan
    for name in REQUIRED[:-1]:
        if numbers[name] is None or not numbers[name] > 0:
            raise UserError(f"{source}: {name}: expected a positive number, got {values.get(name)!r}")
    if numbers["seed"] is not None:
        if numbers["seed"] != int(numbers["seed"]):
            raise UserError(f"{source}: seed: expected a whole number, got {values['seed']!r}")
        numbers["seed"] = int(numbers["seed"])
    known = {key: _recipe_value(values[key]) for key in RECIPE if values.get(key) not in (None, "")}
    return Row(**numbers, status=status, recipe=known, source=source)


def _number(value: Any, where: str) -> float | None:
    """A finite number; None where the cell is empty or holds nan or inf; UserError where it holds text."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected a number, got {value!r}") from None
    return number if math.isfinite(number) else None


def _recipe_value(value: Any) -> str | float:
    """Numbers as numbers, so that a CSV's "64" is a record's 64."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
