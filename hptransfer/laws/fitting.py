"""rows -> Laws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hptransfer.laws import priors
from hptransfer.laws.evidence import Evidence, gather, point
from hptransfer.laws.invariance import invariance
from hptransfer.laws.laws import FittedCell, Laws, LeftOut
from hptransfer.laws.loss import LossLaw, fit_floor
from hptransfer.laws.pooled import Noise, Pooled, fit_pooled
from hptransfer.laws.uncertainty import covariance
from hptransfer.laws.valley import Booleans, evaluate
from hptransfer.rows import Row

MIXED = 0.03
"""Runs at the floor differ by 0.1 % to 2 % of their loss (priors.NOISE_NEAR); more is not noise."""
STRANGE, STRANGE_SD = math.log(1.5), 4.0
"""A cell is named whose optimum is off by more than this factor and this many standard deviations."""
FEW_RUNS = 4
"""Finished runs below which a cell says little about its own optimum."""


def fit(
    rows: Sequence[Row], *, pool: bool = False, resamples: int = 1000, seed: int = 0, validate: bool = True
) -> Laws:
    """The laws in `rows`; UserError where they are of different recipes (unless `pool`) or hold nothing to fit.

    `validate` leaves out the largest size and the largest budget, each with a fit of its own.
    """
    evidence = gather(rows, pool)
    settings: dict[str, str | float] = {"resamples": resamples, "seed": seed, "prior": _prior_name(evidence)}
    if evidence.problem is None:
        return _carried(evidence, settings)
    pooled = fit_pooled(evidence.problem)
    spread = covariance(pooled, resamples, seed)
    optima = len(pooled.coefficients) - evidence.problem.floor_features.shape[1]
    cells = _fitted_cells(evidence, pooled)
    validation = _validate(evidence, pooled, resamples, seed) if validate else ()
    laws = Laws(
        recipe=evidence.recipe,
        data=_data(evidence),
        settings=settings,
        coordinates=evidence.problem.coordinates,
        features=evidence.features,
        coefficients=pooled.coefficients[:optima],
        covariance=spread[:optima, :optima],
        spread=dict(zip(("floor", *evidence.problem.coordinates), map(float, pooled.spread), strict=True)),
        noise=pooled.noise,
        cells=cells,
        validation=validation,
        validated=_validated(validation),
        applied=_applied(evidence),
        loss=_loss(cells),
        checks={"trajectory invariance": found} if (found := invariance(evidence, pooled)) else {},
    )
    return replace(laws, warnings=(*evidence.warnings, *_guards(laws)))


def _prior_name(evidence: Evidence) -> str:
    name = str(evidence.recipe.get("parametrization", ""))
    return "no drift with size" if name in priors.WIDTH_RULE else "published laws of standard-parametrized models"


def _data(evidence: Evidence) -> dict[str, str | float]:
    counts = {status: sum(row.status == status for row in evidence.rows) for status in ("diverged", "stopped")}
    gone = sum(cell.diverged for cell in evidence.cells)
    runs = len(evidence.rows)
    return {"hash": evidence.hash, "runs": runs, **counts, "diverged": gone, "cells": len(evidence.cells)}


def _carried(evidence: Evidence, settings: Mapping[str, str | float]) -> Laws:
    """Laws of runs in which nothing was swept: every hyperparameter is carried over."""
    cells = tuple(
        FittedCell(cell, {}, {}, math.log(cell.best_loss), priors.SPREAD["floor"])
        for cell in evidence.cells
        if math.isfinite(cell.best_loss)
    )
    warning = "nothing was swept: no cell has two values of lr, batch_tokens or weight_decay"
    return Laws(
        evidence.recipe,
        _data(evidence),
        settings,
        (),
        evidence.features,
        np.zeros(0),
        np.zeros((0, 0)),
        {},
        Noise(math.exp(priors.NOISE_NEAR[0]), math.exp(priors.NOISE_FAR[0]), 0.0, 0.0),
        cells,
        loss=_loss(cells),
        warnings=(*evidence.warnings, warning),
    )


def _fitted_cells(evidence: Evidence, pooled: Pooled) -> tuple[FittedCell, ...]:
    names = pooled.problem.coordinates
    optima, floors, sd = pooled.optima, pooled.floors, pooled.offsets_sd
    return tuple(
        FittedCell(
            cell,
            dict(zip(names, map(float, optima[c]), strict=True)),
            dict(zip(names, map(float, sd[c, 1:]), strict=True)),
            float(floors[c]),
            float(sd[c, 0]),
            _edge(evidence, c, float(optima[c, 0])) if names[0] == "lr" else None,
        )
        for c, cell in enumerate(evidence.cells)
    )


def _edge(evidence: Evidence, cell: int, optimum: float) -> str | None:
    """Which end of the cell's sweep the best lr lies at or beyond; a diverged run above encloses it."""
    assert evidence.problem is not None
    inside = evidence.problem.cell == cell
    lrs = np.unique(evidence.problem.x[inside, 0])
    if len(lrs) < 2:
        return None
    return "low" if optimum <= lrs[0] else "high" if optimum >= lrs[-1] else None


def _validate(evidence: Evidence, pooled: Pooled, resamples: int, seed: int) -> tuple[LeftOut, ...]:
    """Leaves out the largest size, then the largest token budget, and predicts what was left out."""
    found: list[LeftOut] = []
    for by in ("params", "tokens"):
        values = np.array([getattr(cell, by) for cell in evidence.cells])
        kept = values < values.max() * (1 - 1e-6)
        if kept.any():
            found += _leave_out(evidence, pooled, by, kept, resamples, seed)
    return tuple(found)


def _leave_out(
    evidence: Evidence,
    pooled: Pooled,
    by: str,
    kept: Booleans,
    resamples: int,
    seed: int,
) -> list[LeftOut]:
    problem = pooled.problem
    runs = kept[problem.cell]
    smaller = replace(
        problem,
        x=problem.x[runs],
        y=problem.y[runs],
        diverged=problem.diverged[runs],
        stopped=problem.stopped[runs],
        cell=(np.cumsum(kept) - 1)[problem.cell[runs]],
        features=problem.features[kept],
        floor_features=problem.floor_features[kept],
    )
    if not smaller.finished.any():
        return []
    part = fit_pooled(smaller)
    spread = covariance(part, resamples, seed)
    coefficients = problem.split(part.coefficients)[0]
    width = problem.features.shape[1]
    result = []
    for c in np.flatnonzero(~kept):
        at = problem.features[c]
        miss = coefficients @ at - pooled.optima[c]
        variance = [
            float(at @ spread[j * width : (j + 1) * width, j * width : (j + 1) * width] @ at) + part.spread[1 + j] ** 2
            for j in range(len(problem.coordinates))
        ]
        sd = np.sqrt(np.array(variance) + pooled.offsets_sd[c, 1:] ** 2)
        regret = evaluate(problem.coordinates, problem.split(pooled.coefficients)[1], miss).excess
        names = problem.coordinates
        result.append(
            LeftOut(
                by,
                _beyond(evidence, kept, int(c)),
                dict(zip(names, map(float, miss), strict=True)),
                dict(zip(names, map(float, sd), strict=True)),
                float(regret),
                bool(np.all(np.abs(miss) <= quantile(smaller.cells) * sd)),
            )
        )
    return result


def freedom(cells: int) -> float:
    """Degrees of freedom of an interval: the weight of the prior on the spread, plus the cells that estimate it."""
    return priors.SPREAD_CELLS + cells


def quantile(cells: int) -> float:
    """The 97.5 % quantile of Student's t (Hill 1970, to first two orders; exact to 1 % from 3 degrees on)."""
    z, v = 1.959964, freedom(cells)
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def _beyond(evidence: Evidence, kept: Booleans, cell: int) -> dict[str, float]:
    here = point(evidence.cells[cell])
    rest = [point(one) for one, stays in zip(evidence.cells, kept, strict=True) if stays]
    names = dict.fromkeys(("params", "tokens", *evidence.features.names))
    return {
        name: max(0.0, math.log10(here[name] / max(one[name] for one in rest)))
        for name in names
        if name != "batch_tokens"
    }


def _validated(validation: Sequence[LeftOut]) -> dict[str, float]:
    """Per feature, the farthest reach over which most left-out cells were predicted within their intervals."""
    reach: dict[str, float] = {}
    for by in ("params", "tokens"):
        group = [one for one in validation if one.by == by]
        if group and sum(one.inside for one in group) * 2 > len(group):
            for name in group[0].decades:
                reach[name] = max(reach.get(name, 0.0), *(one.decades[name] for one in group))
    return reach


def _applied(evidence: Evidence) -> dict[str, float]:
    """How lr * weight_decay as applied to hidden matrices follows from base units, by least squares over the cells."""
    swept = evidence.problem is not None and "timescale" in evidence.problem.coordinates
    if not swept or any(row.lr_hidden is None or row.weight_decay_hidden is None for row in evidence.rows):
        return {}
    known = [row for row in evidence.rows if row.lr_hidden and row.weight_decay_hidden and row.weight_decay]
    shaped = all(row.width and row.depth for row in known)
    columns = [[1.0, *((math.log(row.width or 1.0), math.log(row.depth or 1.0)) if shaped else ())] for row in known]
    target = [
        math.log((row.lr_hidden or 1) * (row.weight_decay_hidden or 1) / (row.lr * (row.weight_decay or 1)))
        for row in known
    ]
    solved = np.linalg.lstsq(np.array(columns), np.array(target), rcond=None)[0]
    return dict(zip(("level", "width", "depth"), map(float, solved), strict=False))


def _loss(cells: Sequence[FittedCell]) -> LossLaw | None:
    """The loss law through the cells' floors."""
    usable = [one for one in cells if math.isfinite(one.cell.best_loss)]
    if not usable:
        return None
    columns = np.array([[one.cell.params, one.cell.tokens, one.floor, one.floor_sd] for one in usable]).T
    return fit_floor(columns[0], columns[1], columns[2], columns[3])


def _guards(laws: Laws) -> list[str]:
    """What a user must know before trusting these laws."""
    measured = "how the optimum moves with {} is the prior's word, not measured"
    warnings = [
        f"{cell_name(one)}: the best lr lies at or beyond the {one.edge} end of its sweep; sweep {one.edge}er lrs"
        for one in laws.cells
        if one.edge
    ]
    for end, other in (("low", "smaller"), ("high", "larger")):
        if cells := [one for one in laws.cells if _batch_edge(one) == end]:
            more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
            lies = f"the best batch lies at or beyond the {end} end of its sweep"
            warnings.append(f"{cell_name(cells[-1])}{more}: {lies}; sweep {other} batches")
    warnings += _strange(laws)
    few = sum(one.cell.runs - one.cell.diverged < FEW_RUNS for one in laws.cells)
    if few * 2 > len(laws.cells):
        warnings.append(
            f"{few} of {len(laws.cells)} cells have fewer than {FEW_RUNS} finished runs: "
            "their optima lean on the other cells and on the prior"
        )
    if laws.noise.near > MIXED:
        warnings.append(
            f"runs at the floor of a cell differ by {laws.noise.near:.1%} of their loss: cells look to mix models or "
            "recipes; columns that tell them apart (params, width, depth, a part of the recipe) make them cells"
        )
    if len({one.cell.params for one in laws.cells}) == 1:
        warnings.append(f"runs of one size only: {measured.format('size')}")
    if laws.largest("tokens") / laws.smallest("tokens") < 1.05:
        warnings.append(f"runs of one token budget only: {measured.format('tokens')}")
    if laws.validation and not laws.validated:
        warnings.append("the optima of the largest cells were not predicted from the others: no range is validated")
    return warnings


def _strange(laws: Laws) -> list[str]:
    """The cells whose own optimum lies off the law by far more than the others': they have lost their say in it."""
    optima = laws.coefficients[: len(laws.coordinates) * len(laws.features.columns)]
    at = laws.features.matrix([point(one.cell) for one in laws.cells])
    said = at @ optima.reshape(len(laws.coordinates), -1).T
    warnings = []
    for one, law in zip(laws.cells, said, strict=True):
        for name, value in zip(laws.coordinates, law, strict=True):
            off = one.optimum[name] - float(value)
            if abs(off) > max(STRANGE, STRANGE_SD * math.hypot(laws.spread[name], one.optimum_sd[name])):
                warnings.append(
                    f"{cell_name(one)}: its best {name} is {math.exp(off):.2g} times what the law says there, so it "
                    "has little say in the law; are its runs like the others'?"
                )
    return warnings


def _batch_edge(one: FittedCell) -> str | None:
    """Which end of the cell's sweep the best batch lies at or beyond."""
    best, cell = one.optimum.get("batch_tokens"), one.cell
    if best is None or cell.lowest_batch == cell.highest_batch:
        return None
    low, high = math.log(cell.lowest_batch), math.log(cell.highest_batch)
    return "low" if best <= low else "high" if best >= high else None


def cell_name(one: FittedCell) -> str:
    """`params 1.2e+06, tokens 2.4e+07`."""
    return f"params {one.cell.params:.3g}, tokens {one.cell.tokens:.3g}"
