"""Compute-optimal size and loss, from IsoFLOP sweeps: several sizes at each of several compute budgets.

Of each budget, ln loss is a parabola in ln params near its floor (approach 2 of Hoffmann et al., arXiv:2203.15556):
its vertex and height, with standard errors. A budget whose best size is at the end of its sweep has no vertex and is
left out. Over the budgets C,

    ln N*(C) = level + exponent ln C        L*(C) = E + K C^-gamma

Runs of small budgets (few steps, a warm-up that takes up most of them) often follow a law of their own. So a budget is
trusted the less the further it lies below the largest: its deviation from the law has the variance

    standard error^2 + stray^2 + (drift ln(C_max / C))^2,

with stray and drift fitted; the same drift widens the intervals ahead of the largest budget. Runs far from the floor
inform nothing, where a fit of E + A / N^alpha + B / D^beta to the whole table bends to them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws.fitting import quantile
from hptransfer.laws.valley import Floats

NEAR = 0.03
"""In ln loss above the best run of a budget: the valley is a parabola there."""
LEAST = 4
"""Sizes of a budget that its parabola takes, however far up they lie."""
LOSS_ERROR = 0.002
"""Runs differ by this much of their loss, with the weight of two runs."""
EXPONENT = (0.55, 0.15)
"""Of N* in C: 0.46 ... 0.73 (Hoffmann et al.: 0.49; Kaplan et al., arXiv:2001.08361: 0.73)."""
GAMMA = (0.15, 0.1)
"""alpha beta / (alpha + beta): 0.154 with .34, .28 (arXiv:2203.15556), 0.178 with .347, .367 (arXiv:2404.10102)."""
FLOOR_SHARE = (math.log(0.6), 0.35)
"""ln of the irreducible share of the lowest loss."""
REST_SHARE = (math.log(0.4), 0.8)
STUDENT = 4.0
ITERATIONS = 60


@dataclass(frozen=True)
class Curve:
    """A law over ln(C / C_max): coefficients with covariance, and how far budgets lie from it."""

    values: Floats
    covariance: Floats
    stray: float
    drift: float

    def sd(self, slopes: Floats, beyond: float) -> float:
        """Of a new budget `beyond` C_max in ln C, where the curve has these derivatives."""
        known = float(slopes @ self.covariance @ slopes)
        return math.sqrt(known + self.stray**2 + (self.drift * max(beyond, 0.0)) ** 2)


@dataclass(frozen=True)
class ComputeLaw:
    """N*(C) and L*(C); `largest` is C_max in FLOPs, `budgets` those with a vertex."""

    largest: float
    budgets: tuple[float, ...]
    size: Curve
    loss: Curve

    @property
    def exponent(self) -> float:
        """Of C in the compute-optimal size."""
        return float(self.size.values[1])

    def params(self, flops: float) -> tuple[float, float, float]:
        """Compute-optimal size with its 95 % interval; parameters as counted in the runs."""
        beyond = math.log(flops / self.largest)
        return self._span(self.size, _line(self.size.values, np.array([beyond])), beyond)

    def least_loss(self, flops: float) -> tuple[float, float, float]:
        """Loss at the compute-optimal size with its 95 % interval, nats per token."""
        beyond = math.log(flops / self.largest)
        return self._span(self.loss, _decay(self.loss.values, np.array([beyond])), beyond)

    def _span(self, curve: Curve, at: tuple[Floats, Floats], beyond: float) -> tuple[float, float, float]:
        middle, half = float(at[0][0]), quantile(len(self.budgets)) * curve.sd(at[1][0], beyond)
        return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def fit_isoflop(flops: Sequence[float], params: Sequence[float], loss: Sequence[float]) -> ComputeLaw:
    """Budgets are the distinct `flops`; UserError where fewer than two have a floor within their sizes."""
    c, n, y = (np.log(np.asarray(values, float)) for values in (flops, params, loss))
    budgets = np.unique(np.round(c, 6))
    found = [(at, _vertex(n[near], y[near])) for at in budgets if (near := np.abs(c - at) < 1e-5).sum() >= LEAST]
    whole = [(at, *vertex) for at, vertex in found if vertex is not None]
    if len(whole) < 2:
        raise UserError(
            f"{len(whole)} of {len(budgets)} budgets have a least loss within their sizes; a law over compute needs 2: "
            f"at least {LEAST} sizes a budget, on both sides of the best one"
        )
    at, size, size_se, floor, floor_se = np.array(whole).T
    x = at - at[-1]
    lowest = float(floor[-1])
    mean = np.array([lowest + FLOOR_SHARE[0], lowest + REST_SHARE[0], GAMMA[0]])
    sd = np.array([FLOOR_SHARE[1], REST_SHARE[1], GAMMA[1]])
    line_mean, line_sd = np.array([float(size[-1]), EXPONENT[0]]), np.array([2.0, EXPONENT[1]])
    return ComputeLaw(
        math.exp(float(at[-1])),
        tuple(np.exp(at).tolist()),
        _fit(_line, line_mean, line_sd, x, size, size_se, (0.03, 0.02)),
        _fit(_decay, mean, sd, x, floor, floor_se, (0.002, 0.003)),
    )


def _vertex(n: Floats, y: Floats) -> tuple[float, float, float, float] | None:
    """ln N* with its standard error, ln L* with its own; None where the floor lies beyond the sizes."""
    order = np.argsort(y)
    best = n[order[0]]
    near = order[: max(LEAST, int(np.sum(y < y.min() + NEAR)))]
    away = n[near] - best
    if best in (n.min(), n.max()) or len(np.unique(away)) < 3:
        return None
    design = np.stack([np.ones_like(away), away, away**2], 1)
    values = np.linalg.lstsq(design, y[near], rcond=None)[0]
    if values[2] <= 0:
        return None
    rest = y[near] - design @ values
    variance = (float(rest @ rest) + 2 * LOSS_ERROR**2) / (len(near) - 3 + 2)
    covariance = np.linalg.inv(design.T @ design) * variance
    place = float(np.clip(-values[1] / 2 / values[2], away.min(), away.max()))
    in_place = np.array([0.0, -0.5 / values[2], 0.5 * values[1] / values[2] ** 2])
    height = np.array([1.0, place, place**2])
    return (
        float(best) + place,
        math.sqrt(float(in_place @ covariance @ in_place)),
        float(height @ values),
        math.sqrt(float(height @ covariance @ height)),
    )


def _line(values: Floats, x: Floats) -> tuple[Floats, Floats]:
    slopes = np.stack([np.ones_like(x), x], 1)
    return slopes @ values, slopes


def _decay(values: Floats, x: Floats) -> tuple[Floats, Floats]:
    """ln(E + K exp(-gamma x)) and its derivatives in ln E, ln K, gamma."""
    floor, rest = np.exp(values[0] + 0 * x), np.exp(values[1] - values[2] * x)
    total = floor + rest
    return np.log(total), np.stack([floor / total, rest / total, -rest / total * x], 1)


def _fit(
    model: Callable[[Floats, Floats], tuple[Floats, Floats]],
    mean: Floats,
    sd: Floats,
    x: Floats,
    y: Floats,
    error: Floats,
    deviation: tuple[float, float],
) -> Curve:
    """Expectation maximisation as in pooled.py: Gauss-Newton for the coefficients, Fisher scoring for stray and drift
    about their prior `deviation` (a factor of e either side), whose residuals carry the coefficients' covariance."""
    values, noise = mean.copy(), np.log(deviation)
    covariance = np.diag(sd**2)
    for _ in range(ITERATIONS):
        parts = np.stack([np.full_like(x, math.exp(2 * noise[0])), np.exp(2 * noise[1]) * x**2])
        variance = parts.sum(0) + error**2
        fitted, slopes = model(values, x)
        weight = (STUDENT + 1) / (STUDENT + (y - fitted) ** 2 / variance) / variance
        covariance = np.linalg.inv((slopes * weight[:, None]).T @ slopes + np.diag(sd**-2))
        step = covariance @ (slopes.T @ (weight * (y - fitted)) + (mean - values) / sd**2)
        values = values + np.clip(step, -0.3, 0.3)
        fitted, slopes = model(values, x)
        squared = (y - fitted) ** 2 + np.minimum(np.einsum("np,pq,nq->n", slopes, covariance, slopes), variance)
        share = parts / variance
        surplus = 1 - (STUDENT + 1) / (STUDENT + squared / variance) * squared / variance
        gradient = share @ surplus + noise - np.log(deviation)
        fisher = 2 * share @ share.T * STUDENT / (STUDENT + 3) + np.eye(2)
        noise = noise - np.clip(np.linalg.solve(fisher, gradient), -0.5, 0.5)
    return Curve(values, covariance, math.exp(noise[0]), math.exp(noise[1]))
