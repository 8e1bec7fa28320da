"""Does late training see only lr * weight_decay? (Trajectory invariance, arXiv:2509.25049.)

Where it does, runs of one cell and batch with equal products, as applied to hidden matrices, end at equal losses
whatever their lr, and a sweep over lr and weight decay is a sweep over one of them.
"""

import math
from collections.abc import Iterator

import numpy as np

from hptransfer.laws.evidence import Evidence
from hptransfer.laws.pooled import STUDENT, Pooled
from hptransfer.laws.timescale import fading
from hptransfer.laws.valley import Booleans, evaluate

EQUAL = 0.02
"""Products and batches that differ by less than this in ln are equal."""
NORMAL_95 = 1.645
ASTRAY = 6.0
"""A run that lies more than this many sd of the noise above the fitted valley fell off the cliff, and tells nothing."""


def invariance(evidence: Evidence, pooled: Pooled) -> str | None:
    """Whether it holds, with numbers; None where no two runs can tell.

    Scatter within groups of equal product, over the noise that the fit has found, against the 95 % quantile of
    chi-squared (by Wilson & Hilferty, PNAS 17, 1931).
    """
    problem = pooled.problem
    away = problem.x - pooled.optima[problem.cell]
    slopes = evaluate(problem.coordinates, problem.split(pooled.coefficients)[1], away)
    variance = pooled.noise.variance(slopes.ridge, slopes.excess)[0] * STUDENT / (STUDENT - 2)
    astray = problem.y - pooled.floors[problem.cell] - slopes.excess > ASTRAY * np.sqrt(variance)
    groups = list(_groups(evidence, pooled, problem.finished & ~astray))
    if not groups:
        return None
    surprise = scatter = noise = 0.0
    for group in groups:
        weight, y = 1 / variance[group], problem.y[group]
        surprise += float(weight @ (y - weight @ y / weight.sum()) ** 2)
        scatter += float(np.sum((y - y.mean()) ** 2))
        noise += float(variance[group].mean() * (len(group) - 1))
    free = sum(len(group) - 1 for group in groups)
    holds = surprise <= free * (1 - 2 / (9 * free) + NORMAL_95 * math.sqrt(2 / (9 * free))) ** 3
    apart = max(evidence.rows[i].lr / evidence.rows[j].lr for group in groups for i in group for j in group)
    return (
        f"{'holds' if holds else 'does not hold'}: {free + len(groups)} runs in {len(groups)} groups of equal "
        f"lr * weight_decay, lrs up to a factor of {apart:.3g} apart, differ by {math.sqrt(scatter / free):.2%} of the "
        f"loss; noise explains {math.sqrt(noise / free):.2%}"
    )


def _groups(evidence: Evidence, pooled: Pooled, counted: Booleans) -> Iterator[list[int]]:
    """Those of the counted runs of one cell, batch and product, with at least two lrs."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for i in np.flatnonzero(counted):
        row = evidence.rows[i]
        if fades := fading(row):
            product, batch = math.log(fades * row.batch_tokens / row.tokens), math.log(row.batch_tokens)
            key = (int(pooled.problem.cell[i]), round(batch / EQUAL), round(product / EQUAL))
            found.setdefault(key, []).append(int(i))
    for group in found.values():
        lrs = [evidence.rows[i].lr for i in group]
        if max(lrs) > min(lrs) * (1 + EQUAL):
            yield group
