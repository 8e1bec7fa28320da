"""Loss against size, steps and batch apart: L = E + A N^-a + F S^-b + G B^-c with S = D / B steps.

The idea is that of Schaipp (arXiv:2607.01487), whose abstract alone was read: the equation is the natural form of it.

Unlike a law in N and D it also describes batches that are not the best one, and so says which is: at fixed D the batch
balances fewer steps against less noise, B* = (c G / (b F))^(1 / (b + c)) D^(b / (b + c)).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws.valley import Floats

STARTS = (0.1, 0.25, 0.5)
"""Exponents of size, steps and batch from which all combinations start."""
HUBER = 1e-3
"""On ln loss, as in loss.py."""


@dataclass(frozen=True)
class StepsLaw:
    """E, A, a, F, b, G, c with N in parameters, S in steps, B in tokens; `rms` of ln loss about it."""

    values: dict[str, float]
    rms: float

    @property
    def batch_exponent(self) -> float:
        """Of D in the optimal batch."""
        return self.values["b"] / (self.values["b"] + self.values["c"])

    def loss(self, params: float, tokens: float, batch_tokens: float) -> float:
        """Nats per token."""
        v, steps = self.values, tokens / batch_tokens
        terms = ((v["A"], v["a"], params), (v["F"], v["b"], steps), (v["G"], v["c"], batch_tokens))
        return v["E"] + sum(scale * math.exp(-power * math.log(at)) for scale, power, at in terms)

    def best_batch(self, tokens: float) -> float:
        """Tokens per batch of least loss at a budget."""
        v = self.values
        scale = math.log(v["c"] * v["G"] / (v["b"] * v["F"])) / (v["b"] + v["c"])
        return math.exp(scale + self.batch_exponent * math.log(tokens))


def fit_steps(
    params: Sequence[float], tokens: Sequence[float], batch_tokens: Sequence[float], loss: Sequence[float]
) -> StepsLaw:
    """Summed Huber loss of ln L, from 27 starts; each point is the best lr of one size, budget and batch.

    UserError below 8 points.
    """
    if len(loss) < 8:
        raise UserError(f"this loss law has seven coefficients: it needs at least 8 points, got {len(loss)}")
    n, d, b = (np.log(np.asarray(values, float)) for values in (params, tokens, batch_tokens))
    logs = np.stack([n, d - b, b])
    centre = logs.mean(1)
    away, y = logs - centre[:, None], np.log(np.asarray(loss, float))
    fits = [_polish(np.array(start), away, y) for start in itertools.product(STARTS, repeat=3)]
    best, _ = min(fits, key=lambda found: found[1])
    scales = np.exp(best[1:4] + best[4:] * centre)
    names = ("E", "A", "F", "G", "a", "b", "c")
    found = dict(zip(names, [math.exp(best[0]), *map(float, scales), *map(float, best[4:])], strict=True))
    return StepsLaw(found, float(np.sqrt(np.mean((y - _log_loss(best, away)[0]) ** 2))))


def _log_loss(values: Floats, away: Floats) -> tuple[Floats, Floats]:
    """ln L at centred logs (3, points); derivatives (points, 7) in ln E, ln A, ln F, ln G at the centre and a, b, c."""
    terms = np.exp(values[1:4, None] - values[4:, None] * away)
    total = math.exp(values[0]) + terms.sum(0)
    share = terms / total
    return np.log(total), np.concatenate([[math.exp(values[0]) / total], share, -share * away]).T


def _polish(exponents: Floats, away: Floats, y: Floats) -> tuple[Floats, float]:
    """Levenberg on Huber weights from these exponents; values and their Huber sum."""
    lowest = float(y.min())
    values = np.concatenate([[lowest + math.log(0.6)], np.full(3, lowest + math.log(0.15)), exponents])
    damping, score = 1e-2, math.inf
    for _ in range(400):
        model, slopes = _log_loss(values, away)
        residual = y - model
        weight = 1 / np.maximum(np.abs(residual) / HUBER, 1.0)
        score = _huber(residual)
        information = (slopes * weight[:, None]).T @ slopes
        damped = information + damping * np.diag(np.diag(information)) + 1e-12 * np.eye(7)
        trial = values + np.clip(np.linalg.solve(damped, slopes.T @ (weight * residual)), -1.0, 1.0)
        after = _huber(y - _log_loss(trial, away)[0])
        if after < score:
            values, damping = trial, max(damping / 5, 1e-9)
            if score - after < 1e-9 * score:
                break
        else:
            damping *= 5
            if damping > 1e9:
                break
    return values, score


def _huber(residual: Floats) -> float:
    away = np.abs(residual)
    return float(np.sum(np.where(away <= HUBER, away**2 / 2, HUBER * (away - HUBER / 2))))
