"""What is known of each run, told once: what all runs share, and what is a run's own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import read_yaml
from hptransfer.figures.curves import Curve
from hptransfer.records import Record
from hptransfer.rows import NUMBERS, Row

Flat = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """Flat mappings of many runs, factored."""

    common: Flat
    """Keys with one value in all runs."""
    keys: tuple[str, ...]
    own: tuple[tuple[Any, ...], ...]
    """For each run the values of `keys`; None where it has none."""


def factor(runs: Sequence[Flat]) -> Facts:
    """What is common, and what is not."""
    keys = list(dict.fromkeys(key for run in runs for key in run))
    shared = [key for key in keys if all(key in run and run[key] == runs[0].get(key) for run in runs)]
    rest = tuple(key for key in keys if key not in set(shared))
    return Facts(
        {key: runs[0][key] for key in shared}, rest, tuple(tuple(run.get(key) for key in rest) for run in runs)
    )


def flat(value: Mapping[str, Any], prefix: str = "") -> Flat:
    """Nested mappings under dotted keys, as overrides write them."""
    result: Flat = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        result.update(flat(inner, f"{name}.") if isinstance(inner, Mapping) and inner else {name: inner})
    return result


def config_of(row: Row) -> Flat:
    """The run's config.yaml under dotted keys; empty where the row comes from a table."""
    path = Path(row.source) / "config.yaml"
    return flat(read_yaml(path)) if path.is_file() else {}


def result_of(row: Row) -> Flat:
    """The run's result.json; for a row of a table what the table gave."""
    if Path(row.source).is_dir() and (result := Record(Path(row.source)).result) is not None:
        return flat(result)
    values = {name: value for name in NUMBERS if (value := getattr(row, name)) is not None}
    return {"status": row.status, **values, **row.recipe}


def thin_numbers(curve: Curve) -> dict[str, list[float | None]]:
    """A curve for the page: four significant digits are more than a pixel."""
    values = {name: [_short(value) for value in line] for name, line in curve.values.items()}
    return {"tokens": [int(tokens) for tokens in curve.tokens], **values} if curve.tokens else {}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
