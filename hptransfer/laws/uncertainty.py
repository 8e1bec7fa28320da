"""How far a fitted coefficient may be off: the posterior, and the same cells drawn again.

Resampling draws cells, never runs: the runs of a cell share one optimum and are not independent of each other. Each
resample is one Gauss-Newton step from the fit, in which a cell counts as often as it was drawn (the one-step bootstrap,
Shao & Tu 1995, section 2.1.4); cells meet only in the coefficients, so a resample costs one p x p solve.
"""

import numpy as np

from hptransfer.laws.pooled import Pooled
from hptransfer.laws.valley import Floats

ENOUGH_CELLS = 6
"""Below this many cells there is nothing to resample, and the posterior alone speaks."""
CHUNK = 200


def resample(pooled: Pooled, resamples: int, seed: int) -> Floats:
    """Coefficients (resamples, p), the cells drawn with replacement."""
    rng = np.random.default_rng(seed)
    cells = pooled.problem.cells
    away = pooled.problem.mean - pooled.coefficients
    steps = []
    for first in range(0, resamples, CHUNK):
        drawn = rng.multinomial(cells, np.full(cells, 1 / cells), min(CHUNK, resamples - first)).astype(float)
        information = np.einsum("rc,cpq->rpq", drawn, pooled.information) + np.diag(pooled.prior_precision)
        gradient = drawn @ pooled.score + pooled.prior_precision * away
        steps.append(np.linalg.solve(information, gradient[..., None])[..., 0])
    coefficients: Floats = pooled.coefficients + np.concatenate(steps)
    return coefficients


def covariance(pooled: Pooled, resamples: int, seed: int) -> Floats:
    """Of the coefficients: the posterior's; with enough cells and resamples, wider where resampling says so.

    Both are estimates of the same spread; resampling also sees what the model does not allow for, but runs short by
    about 1 / cells. Along every direction of the posterior the larger of the two is kept.
    """
    if pooled.problem.cells < ENOUGH_CELLS or resamples < 2:
        return pooled.covariance
    drawn = resample(pooled, resamples, seed) - pooled.coefficients
    empirical = drawn.T @ drawn / len(drawn) * pooled.problem.cells / (pooled.problem.cells - 1)
    root = np.linalg.cholesky(pooled.covariance)
    whitened = np.linalg.solve(root, np.linalg.solve(root, empirical).T)
    values, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
    outer = root @ vectors
    wider: Floats = outer @ (np.maximum(values, 1.0)[:, None] * outer.T)
    return wider


def draws(mean: Floats, spread: Floats, count: int, seed: int, freedom: float) -> Floats:
    """Multivariate Student-t draws (count, p) with this scale matrix; Gaussian where `freedom` is infinite."""
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(spread)
    normal = rng.standard_normal((count, len(mean))) * np.sqrt(np.maximum(values, 0.0))
    scale = np.ones(count) if np.isinf(freedom) else np.sqrt(freedom / rng.chisquare(freedom, count))
    drawn: Floats = mean + scale[:, None] * (normal @ vectors.T)
    return drawn
