"""A last rung before a big run: what the laws foresee of a few lrs at one size, and whether what was measured bears
them out.

The rung is a line: one shape, budget, batch and weight decay; only the lr moves. GO means that nothing the rung can
show speaks against the laws. Three questions, each with one number:

1. Does the recommended lr train, and is its loss no higher than the upper end of the laws' 95 % interval? A loss above
   it says that something else than the lr is wrong (one-sided, false alarms 2.5 %); a lower one is no objection.
2. Do the laws have the best lr where the runs have it? The runs' own best lr comes from their losses alone: floor and
   place of the valley are free (flat priors), only its shape is the laws'. The laws' place and the runs' place, each
   with its uncertainty, may not lie further apart than in 5 % of draws. This is Box's check of a prior against data
   (J. R. Stat. Soc. A 143, 1980): a law that misses by more than it allows for is not to be trusted further away.
3. Does the recommended lr lose little: the expected loss there, over that at the best lr by the runs alone, is at most
   the tolerated regret? The laws' belief in the place has no say in it.

A run that diverged tells of the place what it tells a fit: its lr lies above the ridge by about the usual factor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws import priors
from hptransfer.laws.laws import Laws
from hptransfer.laws.pooled import CLIFF_HEIGHT
from hptransfer.laws.predict import Posterior, posterior
from hptransfer.laws.timescale import timescale
from hptransfer.laws.valley import Floats, Slopes, evaluate

TOLERANCE = 0.005
"""Tolerated regret: what an lr half (0.35 %) to twice (0.65 %) the best one costs in the dense Step Law cells."""
LEAST_FACTOR, MOST_FACTOR = 2.0, 4.0
"""Between neighbouring lrs: an octave tells two losses apart; runs fall off the cliff from 2 to 4 times the best lr."""
REACH = math.log(16)
"""How far from the recommended lr, in ln, the runs' own best lr is looked for."""
GRID = np.linspace(-REACH, REACH, 121)
SHAPES = 200
PARTICLES = 500
SEED = 0


@dataclass(frozen=True)
class Line:
    """Where the rung lies. `fading` is lr * weight_decay * D / B of a run at `lr`, as applied to hidden matrices."""

    at: Mapping[str, float]
    """params, tokens, batch_tokens; width and depth."""
    lr: float
    """The recommended one."""
    fading: float = 0.0

    def points(self, coordinates: Sequence[str], log_lrs: Floats) -> Floats:
        """(..., coordinates) natural logarithms at these ln lrs, the weight decay fixed."""
        known = {"lr": log_lrs, "batch_tokens": np.full_like(log_lrs, math.log(self.at["batch_tokens"]))}
        if "timescale" in coordinates:
            known["timescale"] = np.log(timescale(self.fading * np.exp(log_lrs) / self.lr))
        return np.stack([known[name] for name in coordinates], -1)


@dataclass(frozen=True)
class Span:
    """The middle and the 95 % interval."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Foreseen:
    """What the laws say of one run: loss in nats per token, and over that of the recommended lr, minus 1."""

    lr: float
    loss: Span | None
    over: Span


@dataclass(frozen=True)
class Verdict:
    """GO or NO-GO."""

    objections: tuple[str, ...]
    """One line each; none is a GO."""
    notes: tuple[str, ...]
    """What was found, whatever the verdict."""
    best: Span | None = None
    """The best lr by the runs alone."""
    regret: float = math.nan
    """Of the recommended lr, by the runs alone."""

    @property
    def go(self) -> bool:
        """Whether nothing speaks against the big run."""
        return not self.objections

    def to_text(self) -> str:
        """The verdict, its reasons, and what was found."""
        head = "GO: the laws hold here" if self.go else "NO-GO: " + "; ".join(self.objections)
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


def spaced(laws: Laws, line: Line) -> tuple[float, float, float]:
    """The recommended lr with one either side: at the ends of the laws' 95 % interval, 2 to 4 times away."""
    best = np.exp(_best(laws.coordinates, line, *_believed(laws, line)))
    half = math.sqrt(float(np.quantile(best, 0.975) / np.quantile(best, 0.025)))
    factor = min(max(half, LEAST_FACTOR), MOST_FACTOR)
    return _short(line.lr / factor), line.lr, _short(line.lr * factor)


def foresee(laws: Laws, line: Line, lrs: Sequence[float]) -> list[Foreseen]:
    """The predictive distribution of each run, noise included; the recommended lr is one of `lrs`."""
    at = _run_draws(laws, line, np.log(lrs), np.random.default_rng(SEED))
    over = np.expm1(at - at[:, [lrs.index(line.lr)]])
    loss = None
    if laws.loss is not None:
        middle, low, high = laws.loss.predict(line.at["params"], line.at["tokens"])
        floor = np.random.default_rng(SEED + 1).normal(math.log(middle), math.log(high / low) / 3.92, (PARTICLES, 1))
        loss = np.exp(floor + at)
    return [Foreseen(lr, None if loss is None else _span(loss[:, i]), _span(over[:, i])) for i, lr in enumerate(lrs)]


def judge(laws: Laws, line: Line, losses: Mapping[float, float | None], tolerance: float = TOLERANCE) -> Verdict:
    """The verdict on measured losses by lr (None: diverged)."""
    measured = losses.get(line.lr)
    if measured is None:
        return Verdict((f"the recommended lr {line.lr:.3g} diverged",), ())
    (foreseen,) = foresee(laws, line, [line.lr])
    objections, notes = [], []
    if foreseen.loss is not None:
        expected = f"{foreseen.loss.middle:.4f} ({foreseen.loss.low:.4f} to {foreseen.loss.high:.4f})"
        notes.append(f"loss at the recommended lr: {measured:.4f}, foreseen {expected}")
        if measured > foreseen.loss.high:
            objections.append(
                f"the loss at the recommended lr is {measured:.4f}, foreseen at most {foreseen.loss.high:.4f}"
            )
    optimum, shape = _by_runs_alone(laws, line, losses)
    own, law = (_best(laws.coordinates, line, *drawn) for drawn in ((optimum, shape), _believed(laws, line)))
    best, foretold = _span(np.exp(own)), _span(np.exp(law))
    notes.append(f"best lr by the runs alone: {_lrs(best)}; by the laws: {_lrs(foretold)}")
    apart = abs(float(np.median(own) - np.median(law)))
    if np.mean(np.abs((law - np.median(law)) - (own - np.median(own))) >= apart) < 0.05:
        side = "below" if best.middle < foretold.middle else "above"
        objections.append(f"the best lr lies {side} what the laws allow for")
    regret, there = _regret(laws, line, optimum, shape)
    notes.append(f"regret of the recommended lr, by the runs alone: {regret:.2%} ({tolerance:.2%} are tolerated)")
    if regret > tolerance:
        objections.append(f"lr {there:.3g} would lose {regret:.2%} less than the recommended {line.lr:.3g}")
    return Verdict(tuple(objections), tuple(notes), best, regret)


def _believed(laws: Laws, line: Line) -> tuple[Floats, Floats]:
    """Draws of the optimum (particles, d) and of the shape (parameters, particles) by the laws."""
    if "lr" not in laws.coordinates:
        raise UserError("the lr was not swept in the runs of these laws: there is no lr to confirm")
    believed: Posterior = posterior(laws, line.at)
    return believed.optimum[:PARTICLES], believed.shape[:, :PARTICLES]


def _along(coordinates: tuple[str, ...], line: Line, log_lrs: Floats, optimum: Floats, shape: Floats) -> Slopes:
    """The valleys (particles) at ln lrs (n,): values (particles, n)."""
    away = line.points(coordinates, log_lrs)[None] - optimum[:, None]
    return evaluate(coordinates, shape[:, :, None], away)


def _best(coordinates: tuple[str, ...], line: Line, optimum: Floats, shape: Floats) -> Floats:
    """Each particle's best ln lr on the line (particles,)."""
    log_lrs = math.log(line.lr) + GRID
    best: Floats = log_lrs[np.argmin(_along(coordinates, line, log_lrs, optimum, shape).excess, 1)]
    return best


def _run_draws(laws: Laws, line: Line, log_lrs: Floats, rng: np.random.Generator) -> Floats:
    """How far above the floor, in ln loss, a run at each ln lr ends (particles, n): on the cliff at most."""
    slopes = _along(laws.coordinates, line, log_lrs, *_believed(laws, line))
    excess = np.minimum(slopes.excess, CLIFF_HEIGHT)
    variance, _ = laws.noise.variance(slopes.ridge, excess)
    noisy: Floats = excess + np.sqrt(variance) * rng.standard_normal(variance.shape)
    return noisy


def _by_runs_alone(laws: Laws, line: Line, losses: Mapping[float, float | None]) -> tuple[Floats, Floats]:
    """Particles whose lr optimum is the runs' own: drawn from a flat prior by the likelihood of the losses.

    Gaussian in ln loss with the laws' noise, the floor integrated out over a flat prior.
    """
    optimum, shape = (part[..., :SHAPES] for part in (_believed(laws, line)[0].T, _believed(laws, line)[1]))
    places = math.log(line.lr) + GRID
    optimum = np.repeat(optimum.T, len(places), 0)
    optimum[:, laws.coordinates.index("lr")] = np.tile(places, SHAPES)
    shape = np.repeat(shape, len(places), 1)
    lrs = sorted(losses)
    gone = np.array([losses[lr] is None for lr in lrs])
    slopes = _along(laws.coordinates, line, np.log(lrs), optimum, shape)
    variance = laws.noise.variance(slopes.ridge, slopes.excess)[0][:, ~gone]
    left = np.log([loss for lr in lrs if (loss := losses[lr]) is not None]) - slopes.excess[:, ~gone]
    weight = 1 / variance
    left = left - (weight * left).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    likelihood = -(np.log(variance) + weight * left**2).sum(1) / 2 - np.log(weight.sum(1)) / 2
    short = (priors.CLIFF_DISTANCE[0] - slopes.ridge[:, gone]) / priors.CLIFF_DISTANCE[1]
    likelihood -= (np.maximum(short, 0.0) ** 2).sum(1) / 2
    share = np.exp(likelihood - likelihood.max())
    drawn = np.random.default_rng(SEED).choice(len(share), PARTICLES, p=share / share.sum())
    return optimum[drawn], shape[:, drawn]


def _regret(laws: Laws, line: Line, optimum: Floats, shape: Floats) -> tuple[float, float]:
    """Expected relative loss at the recommended lr over that at the best one, and the best one."""
    log_lrs = np.append(math.log(line.lr) + GRID, math.log(line.lr))
    lost = np.log1p(_along(laws.coordinates, line, log_lrs, optimum, shape).excess).mean(0)
    return float(np.expm1(lost[-1] - lost.min())), math.exp(float(log_lrs[np.argmin(lost)]))


def _span(values: Floats) -> Span:
    low, middle, high = (float(value) for value in np.quantile(values, [0.025, 0.5, 0.975]))
    return Span(middle, low, high)


def _lrs(span: Span) -> str:
    return f"{span.middle:.3g} ({span.low:.3g} to {span.high:.3g})"


def _short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
