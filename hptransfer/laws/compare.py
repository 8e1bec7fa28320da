"""Laws against runs that they have not seen: regret, coverage, and how the rivals would have done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws.evidence import Evidence, gather, point
from hptransfer.laws.laws import Laws
from hptransfer.laws.pooled import Pooled, fit_pooled
from hptransfer.laws.predict import Prediction, applied_factor
from hptransfer.laws.timescale import timescale
from hptransfer.laws.valley import evaluate
from hptransfer.rows import Row
from hptransfer.tables import table

PLURALS = {"lr": "lrs", "batch_tokens": "batches", "timescale": "weight decays"}


@dataclass(frozen=True)
class Compared:
    """One held-out cell. Regrets are relative losses over its floor, read off a valley fitted to the held-out runs."""

    params: float
    tokens: float
    runs: int
    seen: bool
    """Whether the laws were fitted to a cell of this size and budget."""
    prediction: Prediction
    best: Mapping[str, float]
    """The cell's own optimum, by hyperparameter."""
    inside: Mapping[str, bool]
    """Whether the 95 % interval holds it, within the uncertainty of that optimum."""
    regret: Mapping[str, float]
    """By predictor: `laws`, published ones, `largest proxy` (its own best, unchanged). Who says nothing of weight decay
    leaves it at that of the largest proxy."""


def compare(laws: Laws, rows: Sequence[Row]) -> list[Compared]:
    """Every cell of `rows`; UserError where their recipe differs from the laws', or nothing was swept in them."""
    evidence = gather(rows, pool=True)
    if differences := laws.differences(evidence.recipe):
        raise UserError("the held-out runs are of another recipe than the laws\n  " + "\n  ".join(differences))
    if evidence.problem is None or not set(evidence.problem.coordinates) & {"lr", "batch_tokens"}:
        raise UserError("nothing was swept in the held-out runs: regret needs several lrs (or batches) in a cell")
    pooled = fit_pooled(evidence.problem)
    return [_compared(laws, evidence, pooled, c) for c in range(len(evidence.cells))]


def to_text(compared: Sequence[Compared]) -> str:
    """Warnings, the regret table (a line per cell, then means), and how many optima lie inside their intervals."""
    names = list(dict.fromkeys(name for one in compared for name in one.regret))
    lines = [_line(one, names) for one in compared]
    means = {name: np.mean([one.regret[name] for one in compared if name in one.regret]) for name in names}
    lines.append(
        {**dict.fromkeys(lines[0], ""), "params": "mean", **{f"{name} %": _percent(means[name]) for name in names}}
    )
    seen = sum(one.seen for one in compared)
    warnings = [f"{seen} of {len(compared)} cells are among those that the laws were fitted to"] if seen else []
    warnings += dict.fromkeys(warning for one in compared for warning in one.prediction.warnings)
    notes = ["%: regret, the loss at that recommendation over the least of the cell, minus 1"]
    if any(not one.inside.get("lr", True) for one in compared):
        notes.append("!: the best lr lies outside of its interval")
    for name, plural in PLURALS.items():
        if held := [one.inside[name] for one in compared if name in one.inside]:
            notes.append(f"{sum(held)} of {len(held)} best {plural} inside their 95 % intervals")
    return "\n".join([*(f"warning: {warning}" for warning in warnings), table(lines), *notes])


def _line(one: Compared, names: Sequence[str]) -> dict[str, str]:
    lr = one.prediction.lr
    interval = f" [{lr.low:.3g}, {lr.high:.3g}]" if lr.low and lr.high else ""
    return {
        "params": f"{one.params:.3g}",
        "tokens": f"{one.tokens:.3g}",
        "runs": str(one.runs),
        "best lr": f"{one.best['lr']:.3g}" if "lr" in one.best else "not swept",
        "predicted lr (95 %)": f"{lr.value:.3g}{interval}{'' if one.inside.get('lr', True) else ' !'}",
        **{f"{name} %": _percent(one.regret[name]) if name in one.regret else "" for name in names},
    }


def _percent(regret: float | np.floating[Any]) -> str:
    return f"{regret * 100:.2f}"


def _compared(laws: Laws, evidence: Evidence, pooled: Pooled, c: int) -> Compared:
    cell, problem = evidence.cells[c], pooled.problem
    here = point(cell)
    fixed = None if "batch_tokens" in problem.coordinates else cell.batch_tokens
    prediction = laws.predict(
        params=cell.params, tokens=cell.tokens, width=cell.width, depth=cell.depth, batch_tokens=fixed
    )
    near = max(laws.cells, key=lambda one: one.cell.params * one.cell.tokens)
    carried = {} if near.cell.weight_decay is None else {"weight_decay": near.cell.weight_decay}
    said = {"lr": prediction.lr, "batch_tokens": prediction.batch_tokens}
    if prediction.weight_decay is not None:
        said["weight_decay"] = prediction.weight_decay
    candidates: dict[str, Mapping[str, float]] = {
        "laws": {name: estimate.value for name, estimate in said.items()},
        **{
            name: {"batch_tokens": prediction.batch_tokens.value, **carried, **values}
            for name, values in prediction.rivals.items()
            if "lr" in values
        },
        "largest proxy": {
            "batch_tokens": near.cell.batch_tokens,
            **carried,
            **{name: math.exp(value) for name, value in near.optimum.items()},
        },
    }
    optimum, sd = pooled.optima[c], pooled.offsets_sd[c, 1:]
    shape = problem.split(pooled.coefficients)[1]
    regret = {}
    for name, values in candidates.items():
        at = _coordinates(laws, here, values)
        x = [math.log(at[name]) if name in at else float(optimum[j]) for j, name in enumerate(problem.coordinates)]
        regret[name] = float(evaluate(problem.coordinates, shape, np.array(x) - optimum).excess)
    inside = {}
    for j, name in enumerate(problem.coordinates):
        key = "weight_decay" if name == "timescale" else name
        estimate = said.get(key)
        if estimate is not None and estimate.low is not None and estimate.high is not None:
            ends = [_coordinates(laws, here, {**candidates["laws"], key: end}) for end in (estimate.low, estimate.high)]
            low, high = sorted(math.log(end[name]) for end in ends)
            slack = 1.96 * float(sd[j])
            inside[name] = low - slack <= optimum[j] <= high + slack
    seen = any(
        all(abs(math.log(here[name] / getattr(one.cell, name))) < 0.01 for name in ("params", "tokens"))
        for one in laws.cells
    )
    best = {name: math.exp(float(optimum[j])) for j, name in enumerate(problem.coordinates)}
    return Compared(cell.params, cell.tokens, cell.runs, seen, prediction, best, inside, regret)


def _coordinates(laws: Laws, here: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    """lr, batch and, where there is a weight decay, the timescale that it means with them."""
    at = {name: values[name] for name in ("lr", "batch_tokens") if name in values}
    if len(at) == 2 and "weight_decay" in values:
        fades = at["lr"] * values["weight_decay"] * applied_factor(laws, here) * here["tokens"] / at["batch_tokens"]
        at["timescale"] = float(timescale(fades))
    return at
