"""Loss against size and tokens: L = E + A / N^alpha + B / D^beta (Hoffmann et al., arXiv:2203.15556, equation 2).

Two fits of the same law. `fit_chinchilla` is the published procedure, log-Huber over many runs, for a table of tuned
runs. `fit_floor` is for the floors of a handful of cells: a posterior with broad priors, honest when there are two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws.valley import Floats

HUBER = 1e-3
"""On ln loss; Hoffmann et al., appendix D.3."""
GRID = np.linspace(0.05, 1.5, 30)
"""Exponents alpha, beta from which variable projection looks for a start."""
KEEP = 12
"""Grid points that are polished."""


@dataclass(frozen=True)
class LossLaw:
    """ln E, ln a, ln b, alpha, beta with L = E + a (N / N0)^-alpha + b (D / D0)^-beta, and their covariance."""

    values: Floats
    covariance: Floats
    params: float
    tokens: float
    scatter: float
    """Relative deviation of a new cell's floor from the law."""

    @property
    def chinchilla(self) -> dict[str, float]:
        """E, A, B, alpha, beta as published: N in parameters, D in tokens."""
        e, a, b, alpha, beta = (float(value) for value in self.values)
        return {
            "E": math.exp(e),
            "A": math.exp(a + alpha * math.log(self.params)),
            "B": math.exp(b + beta * math.log(self.tokens)),
            "alpha": alpha,
            "beta": beta,
        }

    def optimum(self, flops: float) -> tuple[float, float]:
        """Params and tokens of least loss at C = 6 N D (Hoffmann et al., equation 4)."""
        _, a, b, alpha, beta = (float(value) for value in self.values)
        compute = math.log(flops / (6 * self.params * self.tokens))
        params = (a + math.log(alpha) - b - math.log(beta) + beta * compute) / (alpha + beta)
        return self.params * math.exp(params), self.tokens * math.exp(compute - params)

    def predict(self, params: float, tokens: float) -> tuple[float, float, float]:
        """Loss at the optimum in nats per token, with its 95 % interval."""
        n, d = np.array([math.log(params / self.params)]), np.array([math.log(tokens / self.tokens)])
        value, slopes = _log_loss(self.values, n, d)
        sd = math.sqrt(float(slopes[0] @ self.covariance @ slopes[0]) + self.scatter**2)
        middle = float(value[0])
        return math.exp(middle), math.exp(middle - 1.96 * sd), math.exp(middle + 1.96 * sd)


def _log_loss(values: Floats, n: Floats, d: Floats) -> tuple[Floats, Floats]:
    """ln L at ln(N / N0), ln(D / D0), each (points,); its derivatives (points, 5). `values` may be (..., 5)."""
    e, a, b, alpha, beta = (values[..., i, None] for i in range(5))
    parts = [np.exp(e + 0 * n), np.exp(a - alpha * n), np.exp(b - beta * d)]
    total = parts[0] + parts[1] + parts[2]
    share = [part / total for part in parts]
    return np.log(total), np.stack([*share, -share[1] * n, -share[2] * d], -1)


def fit_floor(params: Floats, tokens: Floats, log_loss: Floats, sd: Floats) -> LossLaw:
    """A posterior from cell floors (cells,) and their sd in ln loss; t-weights keep one bad cell from bending it."""
    n0, d0 = math.exp(float(np.log(params).mean())), math.exp(float(np.log(tokens).mean()))
    n, d = np.log(params / n0), np.log(tokens / d0)
    lowest = float(log_loss.min())
    # half to most of the lowest loss is irreducible (E = 1.69 at L = 1.9 ... 2.5, arXiv:2203.15556); exponents of
    # published fits lie in 0.13 ... 0.45
    mean = np.array([lowest + math.log(0.65), lowest + math.log(0.2), lowest + math.log(0.2), 0.33, 0.33])
    prior_sd = np.array([0.35, 0.8, 0.8, 0.1, 0.1])
    values, scatter = mean.copy(), 0.01
    covariance = np.diag(prior_sd**2)
    for _ in range(60):
        model, slopes = _log_loss(values, n, d)
        residual = log_loss - model
        variance = sd**2 + scatter**2
        weight = 5 / (4 + residual**2 / variance) / variance
        information = (slopes * weight[:, None]).T @ slopes + np.diag(prior_sd**-2)
        step = np.linalg.solve(information, slopes.T @ (weight * residual) + (mean - values) / prior_sd**2)
        values = values + np.clip(step, -0.5, 0.5)
        covariance = np.linalg.inv(information)
        surprise = residual**2 + np.einsum("np,pq,nq->n", slopes, covariance, slopes)
        scatter = math.sqrt((2 * 0.005**2 + float(np.sum(weight * variance * surprise))) / (2 + len(n)))
    return LossLaw(values, covariance, n0, d0, scatter)


def fit_chinchilla(
    params: Sequence[float], tokens: Sequence[float], loss: Sequence[float], floor: float | None = None
) -> LossLaw:
    """Minimises the summed Huber loss of ln L; `floor` pins E (nats per token). UserError below 6 runs.

    For runs near their budget's best size, as published; whole IsoFLOP sweeps bend it: isoflop.py is for those.
    Starts come from variable projection: for each (alpha, beta) on a grid of 900, E, A and B are linear, so the
    weighted least squares in closed form rank the grid; the best are polished by Gauss-Newton on the Huber weights.
    """
    if len(loss) < 6:
        raise UserError(f"a loss law has five coefficients: it needs at least 6 runs, got {len(loss)}")
    n_all, d_all, y = (
        np.log(np.asarray(params, float)),
        np.log(np.asarray(tokens, float)),
        np.log(np.asarray(loss, float)),
    )
    n0, d0 = float(n_all.mean()), float(d_all.mean())
    n, d = n_all - n0, d_all - d0
    starts = _projected(n, d, np.exp(y), floor)
    fits = [_polish(start, n, d, y, np.ones_like(y), floor) for start in starts]
    best = _polish(min(fits, key=lambda values: _huber_sum(values, n, d, y)), n, d, y, np.ones_like(y), floor, 1e-13)
    drawn = _resample(best, n, d, y, floor, resamples=200, seed=0)
    scatter = 1.4826 * float(np.median(np.abs(y - _log_loss(best, n, d)[0])))
    return LossLaw(best, np.cov(drawn.T), math.exp(n0), math.exp(d0), scatter)


def bootstrap_chinchilla(
    params: Sequence[float], tokens: Sequence[float], loss: Sequence[float], resamples: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """E, A, B, alpha, beta of `resamples` refits of runs drawn with replacement."""
    law = fit_chinchilla(params, tokens, loss)
    n, d, y = (np.log(np.asarray(values, float)) for values in (params, tokens, loss))
    fits = _resample(law.values, n - math.log(law.params), d - math.log(law.tokens), y, None, resamples, seed)
    alpha, beta = fits[:, 3], fits[:, 4]
    return {
        "E": np.exp(fits[:, 0]),
        "A": np.exp(fits[:, 1] + alpha * math.log(law.params)),
        "B": np.exp(fits[:, 2] + beta * math.log(law.tokens)),
        "alpha": alpha,
        "beta": beta,
    }


def _resample(best: Floats, n: Floats, d: Floats, y: Floats, floor: float | None, resamples: int, seed: int) -> Floats:
    """Refits (resamples, 5) from `best`, a hundred at a time."""
    rng = np.random.default_rng(seed)
    parts = []
    for first in range(0, resamples, 100):
        counts = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), min(100, resamples - first)).astype(float)
        parts.append(_polish(np.tile(best, (len(counts), 1)), n, d, y, counts, floor, tolerance=1e-5))
    return np.concatenate(parts)


def _projected(n: Floats, d: Floats, loss: Floats, floor: float | None) -> list[Floats]:
    """The KEEP best (alpha, beta) of the grid with E, A, B by least squares of the relative residual, as starts."""
    alpha, beta = (axis.ravel() for axis in np.meshgrid(GRID, GRID))
    columns = np.stack([np.exp(-alpha[:, None] * n), np.exp(-beta[:, None] * d)], -1) / loss[:, None]
    target = np.ones_like(loss)
    if floor is None:
        columns = np.concatenate([np.broadcast_to((1 / loss)[:, None], (*columns.shape[:2], 1)), columns], -1)
    else:
        target = target - floor / loss
    gram = columns.transpose(0, 2, 1) @ columns
    solved = np.linalg.solve(gram + 1e-9 * np.eye(gram.shape[-1]), (columns * target[:, None]).sum(1)[..., None])[
        ..., 0
    ]
    misfit = ((columns @ solved[..., None])[..., 0] - target) ** 2
    order = np.argsort(misfit.sum(1) + 1e3 * (solved <= 0).any(1))[:KEEP]
    known = solved if floor is None else np.column_stack([np.full(len(solved), floor), solved])
    logs = np.log(np.maximum(known, 1e-3 * loss.min()))
    return [np.array([*logs[i], alpha[i], beta[i]]) for i in order]


def _huber_sum(values: Floats, n: Floats, d: Floats, y: Floats) -> float:
    away = np.abs(y - _log_loss(values, n, d)[0])
    return float(np.sum(np.where(away <= HUBER, away**2 / 2, HUBER * (away - HUBER / 2))))


def _polish(
    values: Floats, n: Floats, d: Floats, y: Floats, counts: Floats, floor: float | None, tolerance: float = 1e-9
) -> Floats:
    """Levenberg on weights min(1, HUBER / |residual|); `values` (..., 5), each with its `counts` (..., points)."""
    rows = np.atleast_2d(values).copy()
    counts = np.broadcast_to(np.atleast_2d(counts), (len(rows), len(y)))
    open_ = np.arange(len(rows))
    damping, small = np.full(len(rows), 1e-3), np.zeros(len(rows), int)
    model, slopes = _log_loss(rows, n, d)
    score = _huber_rows(y - model, counts)
    for _ in range(300):
        trial = rows[open_] + _levenberg(y - model, slopes, counts[open_], damping[open_], floor is not None)
        trial_model, trial_slopes = _log_loss(trial, n, d)
        trial_score = _huber_rows(y - trial_model, counts[open_])
        better = trial_score < score[open_]
        gain = (score[open_] - trial_score) / score[open_]
        rows[open_[better]], score[open_[better]] = trial[better], trial_score[better]
        model[better], slopes[better] = trial_model[better], trial_slopes[better]
        damping[open_] = np.clip(np.where(better, damping[open_] / 5, damping[open_] * 5), 1e-9, 1e9)
        small[open_] = np.where(better & (gain > tolerance), 0, small[open_] + 1)
        going = small[open_] < 4
        open_, model, slopes = open_[going], model[going], slopes[going]
        if not len(open_):
            break
    return rows[0] if values.ndim == 1 else rows


def _levenberg(residual: Floats, slopes: Floats, counts: Floats, damping: Floats, pinned: bool) -> Floats:
    """One damped step (rows, 5); a pinned floor does not move."""
    weight = counts / np.maximum(np.abs(residual) / HUBER, 1.0)
    weighted = slopes.transpose(0, 2, 1) * weight[:, None, :]
    gradient, information = (weighted @ residual[..., None])[..., 0], weighted @ slopes
    diagonal = np.einsum("rpp->rp", information)
    information = information + (damping[:, None] * diagonal + 1e-12)[:, :, None] * np.eye(5)
    if pinned:
        gradient[:, 0], information[:, 0, :], information[:, :, 0] = 0.0, 0.0, 0.0
        information[:, 0, 0] = 1.0
    step: Floats = np.linalg.solve(information, gradient[..., None])[..., 0]
    return step


def _huber_rows(residual: Floats, counts: Floats) -> Floats:
    away = np.abs(residual)
    total: Floats = np.sum(counts * np.where(away <= HUBER, away**2 / 2, HUBER * (away - HUBER / 2)), -1)
    return total
