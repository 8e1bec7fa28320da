"""Critical batch: how far steps to a target loss go down as the batch goes up.

Steps to a loss follow steps(B) = a + b / B (McCandlish et al., arXiv:1812.06162, section 2.3: a the least number of
steps, b the least number of tokens). The critical batch of Zhang et al. (arXiv:2410.21676, section 2) is where steps
are 20 % above linear scaling from a reference batch B0: a + b / B = 1.2 (a + b / B0) B0 / B, so B = 1.2 B0 + 0.2 b / a.

Over models, the critical batch is a power law of size, and so is (a B0 + b) / D, the tokens to the target at B0 over
the budget D whose loss is the target. Two or three sizes fix no exponent, so both have a prior, and each model strays
from the law; that is part of every interval.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hptransfer.errors import UserError, did_you_mean
from hptransfer.laws.fitting import quantile
from hptransfer.laws.valley import Floats
from hptransfer.tables import table

OVERHEAD = 0.2
CRITICAL = (0.47, 0.15)
"""Exponent of the critical batch in N at a fixed number of tokens per parameter, and in D: 0.468, 0.47 (Zhang et al.),
0.462 (Power Lines, arXiv:2505.13738)."""
SHARE = (0.0, 0.03)
"""Exponent of tokens to the target at the reference batch over budget: 1 at any size, where that run has set it."""
STRAY = 0.05
"""How far, in ln, a model lies from the laws, with the weight of two models."""
COLUMNS = ("params", "tokens", "batch_tokens", "steps_to_target", "target_loss")


@dataclass(frozen=True)
class ToTarget:
    """One batch size of one model: the steps that it took to the target loss, which is that of a run of `tokens`."""

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
class PowerLaw:
    """ln y = level + exponent ln(size / middle), the covariance of both, and how far a new model strays."""

    middle: float
    level: float
    exponent: float
    covariance: Floats
    stray: float

    def at(self, size: float) -> float:
        """The value."""
        return math.exp(self.level + self.exponent * math.log(size / self.middle))

    def sd(self, size: float) -> float:
        """Of a new model's own ln value."""
        slopes = np.array([1.0, math.log(size / self.middle)])
        return math.sqrt(float(slopes @ self.covariance @ slopes) + self.stray**2)


@dataclass(frozen=True)
class CriticalBatchLaw:
    """Critical batch, and tokens to the target at the reference batch over budget, as power laws of `by`: params or
    tokens."""

    by: str
    reference: float
    critical: PowerLaw
    share: PowerLaw
    models: tuple[CriticalBatch, ...]

    @property
    def exponent(self) -> float:
        """Of the critical batch in size."""
        return self.critical.exponent

    @property
    def exponent_se(self) -> float:
        """Its standard error."""
        return math.sqrt(float(self.critical.covariance[1, 1]))

    def at(self, size: float) -> float:
        """The critical batch in tokens."""
        return self.critical.at(size)

    def interval(self, size: float) -> tuple[float, float]:
        """95 % of a model's own critical batch, in tokens."""
        half = quantile(len(self.models)) * self.critical.sd(size)
        return self.at(size) * math.exp(-half), self.at(size) * math.exp(half)

    def steps(self, params: float, tokens: float, batch_tokens: float) -> float:
        """Steps to the loss of a run of `tokens` at the reference batch: a + b / B. UserError where none can be."""
        size = params if self.by == "params" else tokens
        beyond = self.at(size) - (1 + OVERHEAD) * self.reference
        if beyond <= 0:
            raise UserError(f"the critical batch {self.at(size):.3g} lies below 1.2 times the reference batch")
        ratio = OVERHEAD / beyond  # a / b
        return self.share.at(size) * tokens * (ratio + 1 / batch_tokens) / (1 + ratio * self.reference)


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
    """The power laws through the models, in `params` or `tokens`; UserError below 2 sizes."""
    models = tuple(critical_batches(runs, reference))
    x = np.log([float(getattr(model, by)) for model in models])
    if len(np.unique(x)) < 2:
        raise UserError(f"a law in {by} needs at least two values of it, got {len(np.unique(x))}")
    critical = _power_law(x, np.log([model.critical for model in models]), CRITICAL)
    needed = [(model.least_steps * reference + model.least_tokens) / model.tokens for model in models]
    share = _power_law(x, np.log(needed), SHARE)
    return CriticalBatchLaw(by, reference, critical, share, models)


def _power_law(x: Floats, y: Floats, prior: tuple[float, float]) -> PowerLaw:
    """The posterior of level (flat prior) and exponent; stray by expectation maximisation."""
    design, stray = np.stack([np.ones_like(x), x - x.mean()], 1), STRAY
    belief, pull = np.diag([1e-9, prior[1] ** -2]), np.array([0.0, prior[0] / prior[1] ** 2])
    values, covariance = np.zeros(2), np.eye(2)
    for _ in range(50):
        covariance = np.linalg.inv(design.T @ design / stray**2 + belief)
        values = covariance @ (design.T @ y / stray**2 + pull)
        squared = (y - design @ values) ** 2 + np.einsum("np,pq,nq->n", design, covariance, design)
        stray = math.sqrt((2 * STRAY**2 + float(squared.sum())) / (2 + len(y)))
    return PowerLaw(math.exp(float(x.mean())), float(values[0]), float(values[1]), covariance, stray)


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


def to_text(law: CriticalBatchLaw, sizes: Sequence[float]) -> str:
    """Each model's critical batch, the law through them, and what it says at `sizes`; all in tokens."""
    models = [
        {
            law.by: getattr(model, law.by),
            "target loss": model.target_loss,
            "critical batch": model.critical,
            "least steps": model.least_steps,
            "steps off the fit": f"{model.scatter:.2%}",
        }
        for model in law.models
    ]
    known = max(getattr(model, law.by) for model in law.models)
    lines = [table(models)]
    lines.append(
        f"critical batch ~ {law.by}^{law.exponent:.3f} (standard error {law.exponent_se:.3f}): {OVERHEAD:.0%} more "
        f"steps than linear scaling from {law.reference:g} tokens"
    )
    for size in sizes:
        low, high = law.interval(size)
        beyond = f"; {math.log10(size / known):.2f} decades beyond the models" if size > known * 1.01 else ""
        lines.append(f"at {law.by} {size:.4g}: {law.at(size):.4g} tokens, 95 % {low:.4g} to {high:.4g}{beyond}")
    return "\n".join(lines)
