"""Critical batch: how far steps to a target loss go down as the batch goes up.

Steps to a loss follow steps(B) = a + b / B (McCandlish et al., arXiv:1812.06162, section 2.3: a the least number of
steps, b the least number of tokens). The critical batch of Zhang et al. (arXiv:2410.21676, section 2) is where steps
are 20 % above linear scaling from a reference batch B0: a + b / B = 1.2 (a + b / B0) B0 / B, so B = 1.2 B0 + 0.2 b / a.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hptransfer.errors import UserError, did_you_mean
from hptransfer.laws.valley import Floats

OVERHEAD = 0.2
COLUMNS = ("params", "tokens", "batch_tokens", "steps_to_target", "target_loss")


@dataclass(frozen=True)
class ToTarget:
    """One batch size of one model: the steps that it took to the target loss."""

    params: float
    tokens: float
    batch_tokens: float
    steps_to_target: float
    target_loss: float


@dataclass(frozen=True)
class CriticalBatch:
    """One model's steps(B) = least_steps + least_tokens / B, and its critical batch in tokens."""

    params: float
    tokens: float
    target_loss: float
    least_steps: float
    least_tokens: float
    critical: float
    scatter: float
    """Rms of ln(steps / fitted)."""


@dataclass(frozen=True)
class CriticalBatchLaw:
    """critical batch = constant * size^exponent, in tokens, with the standard error of the exponent."""

    by: str
    constant: float
    exponent: float
    exponent_se: float
    models: tuple[CriticalBatch, ...]

    def at(self, size: float) -> float:
        """Tokens."""
        return self.constant * math.exp(self.exponent * math.log(size))


def read_to_target(path: Path) -> list[ToTarget]:
    """A CSV with the columns COLUMNS; UserError with file, line and column otherwise."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, lines = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"{path}: cannot read: {problem}") from None
    for name in COLUMNS:
        if name not in columns:
            raise UserError(
                f"{path}: column {name!r} is missing{did_you_mean(name, columns)}; needed: {', '.join(COLUMNS)}"
            )
    return [
        ToTarget(*(_positive(line[name], f"{path}:{i}: {name}") for name in COLUMNS)) for i, line in enumerate(lines, 2)
    ]


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: expected a positive number, got {text!r}")
    return value


def critical_batches(runs: Sequence[ToTarget], reference: float) -> list[CriticalBatch]:
    """Each model's critical batch relative to the batch `reference` (tokens); UserError below 3 batch sizes."""
    groups: dict[tuple[float, float], list[ToTarget]] = {}
    for run in runs:
        groups.setdefault((run.params, run.target_loss), []).append(run)
    return [_critical(group, reference) for _, group in sorted(groups.items())]


def fit_critical_batch(runs: Sequence[ToTarget], reference: float, by: str = "params") -> CriticalBatchLaw:
    """The power law through the models' critical batches, in `params` or `tokens`; UserError below 2 sizes."""
    models = tuple(critical_batches(runs, reference))
    x = np.log([float(getattr(model, by)) for model in models])
    if len(np.unique(x)) < 2:
        raise UserError(f"a law in {by} needs at least two values of it, got {len(np.unique(x))}")
    y = np.log([model.critical for model in models])
    away = x - x.mean()
    slope = float(away @ y / (away @ away))
    rest = y - y.mean() - slope * away
    se = math.sqrt(float(rest @ rest) / max(len(x) - 2, 1) / float(away @ away))
    return CriticalBatchLaw(by, math.exp(float(y.mean() - slope * x.mean())), slope, se, models)


def _critical(group: Sequence[ToTarget], reference: float) -> CriticalBatch:
    batch = np.array([run.batch_tokens for run in group])
    steps = np.array([run.steps_to_target for run in group])
    if len(np.unique(batch)) < 3:
        raise UserError(
            f"params {group[0].params:.3g}: a critical batch needs 3 batch sizes, got {len(np.unique(batch))}"
        )
    least_steps, least_tokens = _hyperbola(batch, steps)
    critical = (1 + OVERHEAD) * reference + OVERHEAD * least_tokens / least_steps
    scatter = math.sqrt(float(np.mean(np.log(steps / (least_steps + least_tokens / batch)) ** 2)))
    first = group[0]
    return CriticalBatch(first.params, first.tokens, first.target_loss, least_steps, least_tokens, critical, scatter)


def _hyperbola(batch: Floats, steps: Floats) -> tuple[float, float]:
    """a, b of ln steps = ln(a + b / B) by Gauss-Newton on their logarithms."""
    values = np.log([steps.min() / 2, (steps * batch).min() / 2])
    for _ in range(200):
        a, b = np.exp(values)
        model = a + b / batch
        slopes = np.stack([a / model, b / batch / model], 1)
        step = np.linalg.lstsq(slopes, np.log(steps / model), rcond=None)[0]
        values = values + np.clip(step, -1, 1)
        if np.max(np.abs(step)) < 1e-10:
            break
    a, b = np.exp(values)
    return float(a), float(b)
