"""Every run of every cell in one robust fit.

    ln loss       = floor(cell) + excess(x - optimum(cell)) + noise
    optimum(cell) = features(cell) . coefficients + offset(cell),    offset ~ Student-t(0, spread)
    floor(cell)   = floor features(cell) . coefficients + offset

The offsets are what a power law in size and tokens does not explain of one cell; they make a bad cell lose its say
instead of bending the law, and their spread is part of every interval. A run's noise grows with its excess, is
larger on the high side of the lr, is heavy-tailed, and a share of the runs has fallen off a cliff: those inform nothing
but that share. Two kinds of runs count on one side only: a diverged run says that its lr lies above the ridge, a
stopped one that it would not have ended below the best of its cell (its residual counts while the model has it there).

Fitted by expectation maximisation: Gauss-Newton (Levenberg) steps for coefficients and offsets, whose posterior
covariance enters the updates of weights, noise and spreads. Cells meet only in the coefficients, so each is
eliminated by its Schur complement: the cost is linear in the number of runs and of cells.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hptransfer.laws import priors
from hptransfer.laws.valley import Booleans, Floats, evaluate, shape_names

STEPS = 200
TOLERANCE = 1e-4
STUDENT = 6.0
"""Degrees of freedom of the noise, by likelihood on the dense Step Law cells (benchmarks/laws_choices.py)."""
STUDENT_CELL = 4.0
STUDENT_PRIOR = 4.0
"""A power-law exponent far outside its prior makes the prior give way."""
CLIFF_HEIGHT = 1.5
"""A run that fell off the cliff ends anywhere up to this far (in ln loss) above the valley."""


@dataclass(frozen=True)
class Problem:
    """n runs sorted by cell; C cells. Coefficients: optima (coordinate by coordinate), shape, floor."""

    coordinates: tuple[str, ...]
    x: Floats  # (n, d) natural logarithms of the coordinates
    y: Floats  # (n,) ln loss; 0 where diverged, the best of the cell where stopped
    cell: npt.NDArray[np.int64]  # (n,)
    diverged: Booleans  # (n,)
    stopped: Booleans  # (n,)
    features: Floats  # (C, m)
    floor_features: Floats  # (C, q)
    mean: Floats  # (p,) prior
    sd: Floats  # (p,)
    heavy: Booleans  # (p,) Student-t prior instead of a Gaussian one

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.features)

    @property
    def finished(self) -> Booleans:
        """Runs whose loss is known."""
        return ~(self.diverged | self.stopped)

    def split(self, coefficients: Floats) -> tuple[Floats, Floats, Floats]:
        """Coefficients (..., p) as optima (..., d, m), shape (..., s), floor (..., q)."""
        d, m, s = len(self.coordinates), self.features.shape[1], len(shape_names(self.coordinates))
        optima = coefficients[..., : d * m].reshape(*coefficients.shape[:-1], d, m)
        return optima, coefficients[..., d * m : d * m + s], coefficients[..., d * m + s :]


@dataclass(frozen=True)
class Noise:
    """sd^2 = (near * exp(side * tanh(2 ridge distance)))^2 + (far * excess)^2; `cliff`: the share of runs beyond it."""

    near: float
    far: float
    side: float
    cliff: float

    def variance(self, ridge: Floats, excess: Floats) -> tuple[Floats, Floats]:
        """Each run's variance, and the part of it that is there at the floor."""
        near = np.exp(2 * (np.log(self.near) + self.side * np.tanh(2 * ridge)))
        return near + (self.far * excess) ** 2, near


@dataclass(frozen=True)
class Pooled:
    """The fit. `information` (C, p, p) and `score` (C, p) are each cell's own, its offsets eliminated."""

    problem: Problem
    coefficients: Floats  # (p,)
    covariance: Floats  # (p, p)
    offsets: Floats  # (C, 1 + d) floor, then coordinates
    offsets_sd: Floats  # (C, 1 + d) posterior, coefficients included
    spread: Floats  # (1 + d,)
    noise: Noise
    information: Floats
    score: Floats
    prior_precision: Floats  # (p,)
    log_likelihood: float

    @property
    def optima(self) -> Floats:
        """Each cell's own optimum (C, d), natural logarithms."""
        return self.problem.features @ self.problem.split(self.coefficients)[0].T + self.offsets[:, 1:]

    @property
    def floors(self) -> Floats:
        """Each cell's own ln loss at its optimum (C,)."""
        floors: Floats = self.problem.floor_features @ self.problem.split(self.coefficients)[2] + self.offsets[:, 0]
        return floors


@dataclass(frozen=True)
class _Linear:
    """Residuals and their negative derivatives at a point: in coefficients (n, p), in the cell's offsets (n, 1 + d)."""

    residual: Floats
    active: Booleans
    """Whether a run counts here: finished, or on the side on which it says something."""
    excess: Floats
    ridge: Floats
    in_coefficients: Floats
    in_offsets: Floats


@dataclass
class _State:
    """What the iteration carries along."""

    coefficients: Floats
    offsets: Floats
    spread: Floats
    noise: Noise
    cell_weight: Floats
    prior_weight: Floats
    variance: Floats
    damping: float = 1e-3


def fit_pooled(problem: Problem, start: Pooled | None = None) -> Pooled:
    """The maximum of the posterior with its covariance; `start` (a fit with the same coefficients) saves steps."""
    state = _initial(problem, start)
    for step in range(STEPS):
        linear = _linearize(problem, state.coefficients, state.offsets)
        weights, regular = _run_weights(problem, state, linear)
        moved, system = _move(problem, state, linear, weights)
        _update(problem, state, linear, regular, system)
        if moved < TOLERANCE and step >= 8:
            break
    return _result(problem, state)


def _initial(problem: Problem, start: Pooled | None) -> _State:
    d = len(problem.coordinates)
    noise = Noise(
        math.exp(max(priors.NOISE_NEAR[0], math.log(0.01))),
        math.exp(max(priors.NOISE_FAR[0], math.log(0.3))),
        0.0,
        0.05,
    )
    spread = np.array([priors.SPREAD["floor"], *(priors.SPREAD[name] for name in problem.coordinates)])
    return _State(
        problem.mean.copy() if start is None else start.coefficients.copy(),
        np.zeros((problem.cells, 1 + d)),
        spread if start is None else start.spread.copy(),
        noise if start is None else start.noise,
        np.ones((problem.cells, 1 + d)),
        np.ones(len(problem.mean)),
        np.zeros(len(problem.y)),
    )


def _linearize(problem: Problem, coefficients: Floats, offsets: Floats) -> _Linear:
    optima, shape, floor = problem.split(coefficients)
    cell, features = problem.cell, problem.features[problem.cell]
    centre = problem.features @ optima.T + offsets[:, 1:]
    slopes = evaluate(problem.coordinates, shape, problem.x - centre[cell])
    diverged = problem.diverged
    level = (problem.floor_features @ floor + offsets[:, 0])[cell]
    residual = np.where(diverged, priors.CLIFF_DISTANCE[0] - slopes.ridge, problem.y - level - slopes.excess)
    at = np.where(diverged[:, None], slopes.ridge_at, slopes.excess_at)
    in_shape = np.where(diverged[:, None], slopes.ridge_shape, slopes.excess_shape)
    in_level = np.where(diverged, 0.0, 1.0)[:, None]
    in_optima = -(at[:, :, None] * features[:, None, :]).reshape(len(at), -1)
    return _Linear(
        residual,
        problem.finished | (residual > 0),
        slopes.excess,
        slopes.ridge,
        np.concatenate([in_optima, in_shape, in_level * problem.floor_features[cell]], 1),
        np.concatenate([in_level, -at], 1),
    )


def _log_density(residual_squared: Floats, variance: Floats) -> Floats:
    """Student-t."""
    constant = math.lgamma((STUDENT + 1) / 2) - math.lgamma(STUDENT / 2) - math.log(STUDENT * math.pi) / 2
    density: Floats = (
        constant - np.log(variance) / 2 - (STUDENT + 1) / 2 * np.log1p(residual_squared / variance / STUDENT)
    )
    return density


def _run_weights(problem: Problem, state: _State, linear: _Linear) -> tuple[Floats, Floats]:
    """Least-squares weights (n,) where a run counts, and the probability that it has not fallen off the cliff."""
    variance, _ = state.noise.variance(linear.ridge, linear.excess)
    squared = linear.residual**2 + state.variance
    on_cliff = np.where((linear.residual > 0) & problem.finished, state.noise.cliff / CLIFF_HEIGHT, 0.0)
    density = (1 - state.noise.cliff) * np.exp(_log_density(squared, variance))
    regular = density / (density + on_cliff + 1e-300)
    regular[~problem.finished] = 1.0
    weights = regular * (STUDENT + 1) / (STUDENT + squared / variance) / variance
    return np.where(problem.diverged, 1 / priors.CLIFF_DISTANCE[1] ** 2, weights), regular


@dataclass(frozen=True)
class _System:
    """The normal equations at a point, cells eliminated."""

    information: Floats  # (C, p, p)
    score: Floats  # (C, p)
    elimination: Floats  # (C, 1 + d, p) offsets per coefficient
    inner: Floats  # (C, 1 + d, 1 + d) inverse of the offsets' own information
    gradient_inner: Floats  # (C, 1 + d)


def _system(problem: Problem, state: _State, linear: _Linear, weights: Floats, damping: float | None = None) -> _System:
    """Per cell: A - B D^-1 B', g - B D^-1 h with A, B, D the blocks of J' W J in coefficients and offsets.

    Without damping, as a posterior has it: there a stopped run pulls, but informs of nothing. A Gaussian would be
    narrowed on both sides of the bound that it sets.
    """
    weights = weights * linear.active
    informing = np.where(problem.stopped & (damping is None), 0.0, weights)
    starts = np.searchsorted(problem.cell, np.arange(problem.cells + 1))
    p, o = linear.in_coefficients.shape[1], linear.in_offsets.shape[1]
    jacobian = np.concatenate([linear.in_coefficients, linear.in_offsets], 1)
    informed = np.split(jacobian * np.sqrt(informing)[:, None], starts[1:-1])
    products = np.stack([part.T @ part for part in informed])
    pull = np.add.reduceat(jacobian * (weights * linear.residual)[:, None], starts[:-1], 0)
    penalty = state.cell_weight / state.spread**2
    inner = products[:, p:, p:].copy()
    diagonal = np.arange(o)
    inner[:, diagonal, diagonal] = inner[:, diagonal, diagonal] * (1 + (damping or 0.0)) + penalty
    gradient = pull[:, p:] - penalty * state.offsets
    inverse = np.linalg.inv(inner)
    across = products[:, :p, p:]
    elimination = inverse @ across.transpose(0, 2, 1)
    information = products[:, :p, :p] - across @ elimination
    score = pull[:, :p] - np.einsum("cko,ck->co", elimination, gradient)
    return _System(information, score, elimination, inverse, gradient)


def _objective(
    problem: Problem, state: _State, weights: Floats, precision: Floats, linear: _Linear, c: Floats, o: Floats
) -> float:
    loss = np.sum(np.where(linear.active, weights * linear.residual**2, 0.0))
    offsets = np.sum(state.cell_weight / state.spread**2 * o**2)
    return float(loss + offsets + np.sum(precision * (c - problem.mean) ** 2)) / 2


def _move(problem: Problem, state: _State, linear: _Linear, weights: Floats) -> tuple[float, _System]:
    """One Levenberg step that does not raise the objective; its size in prior sd, and the undamped system."""
    precision = state.prior_weight / problem.sd**2
    before = _objective(problem, state, weights, precision, linear, state.coefficients, state.offsets)
    while True:
        system = _system(problem, state, linear, weights, state.damping)
        information = system.information.sum(0) + np.diag(precision)
        gradient = system.score.sum(0) - precision * (state.coefficients - problem.mean)
        step = np.linalg.solve(information + state.damping * np.diag(np.diag(information)), gradient)
        inner = np.einsum("cko,co->ck", system.inner, system.gradient_inner) - system.elimination @ step
        coefficients, offsets = state.coefficients + step, state.offsets + inner
        after = _linearize(problem, coefficients, offsets)
        if _objective(problem, state, weights, precision, after, coefficients, offsets) <= before + 1e-9:
            break
        if state.damping > 1e8:
            coefficients, offsets, step = state.coefficients, state.offsets, np.zeros_like(step)
            break
        state.damping *= 5
    state.damping = max(state.damping / 5, 1e-8)
    state.coefficients, state.offsets = coefficients, offsets
    return float(np.max(np.abs(step) / np.minimum(problem.sd, 1.0))), _system(problem, state, linear, weights)


def _posterior(problem: Problem, state: _State, system: _System) -> tuple[Floats, Floats]:
    """Covariance of the coefficients (p, p) and variance of the offsets given all data (C, 1 + d)."""
    covariance = np.linalg.inv(system.information.sum(0) + np.diag(state.prior_weight / problem.sd**2))
    own = np.einsum("ckk->ck", system.inner)
    return covariance, own + np.einsum("ckp,pq,ckq->ck", system.elimination, covariance, system.elimination)


def _update(problem: Problem, state: _State, linear: _Linear, regular: Floats, system: _System) -> None:
    """The expectation step: variance of each fitted value, then the weights, the spreads and the noise."""
    covariance, offsets_variance = _posterior(problem, state, system)
    cell = problem.cell
    direct = linear.in_coefficients - np.einsum("nk,nkp->np", linear.in_offsets, system.elimination[cell])
    fitted = np.einsum("np,pq,nq->n", direct, covariance, direct)
    fitted = fitted + np.einsum("nk,nkl,nl->n", linear.in_offsets, system.inner[cell], linear.in_offsets)
    variance, _ = state.noise.variance(linear.ridge, linear.excess)
    state.variance = np.minimum(fitted, variance)

    squared = state.offsets**2 + offsets_variance
    state.cell_weight = (STUDENT_CELL + 1) / (STUDENT_CELL + squared / state.spread**2)
    prior = np.array([priors.SPREAD["floor"], *(priors.SPREAD[name] for name in problem.coordinates)])
    weighted = np.sum(state.cell_weight * squared, 0)
    state.spread = np.sqrt((priors.SPREAD_CELLS * prior**2 + weighted) / (priors.SPREAD_CELLS + problem.cells))

    deviation = ((state.coefficients - problem.mean) / problem.sd) ** 2
    student = (STUDENT_PRIOR + 1) / (STUDENT_PRIOR + deviation)
    state.prior_weight = np.where(problem.heavy, student, 1.0)
    state.noise = _noise(problem, state, linear, regular)


def _noise(problem: Problem, state: _State, linear: _Linear, regular: Floats) -> Noise:
    """Two Fisher-scoring steps on (ln near, ln far, side) with their priors; the cliff's share by its expectation."""
    finite = problem.finished
    squared = linear.residual**2 + state.variance
    prior = np.array([priors.NOISE_NEAR, priors.NOISE_FAR, priors.NOISE_SIDE])
    share = float(np.sum((1 - regular)[finite]) + priors.CLIFF[0]) / (float(finite.sum()) + priors.CLIFF[1])
    noise = state.noise
    variance, _ = noise.variance(linear.ridge, linear.excess)
    student = (STUDENT + 1) / (STUDENT + squared / variance)
    for _ in range(2):
        variance, near = noise.variance(linear.ridge, linear.excess)
        part = near / variance
        slopes = np.stack([part, 1 - part, part * np.tanh(2 * linear.ridge)], 1)
        surplus = np.where(finite, regular * (1 - student * squared / variance), 0.0)
        now = np.array([math.log(noise.near), math.log(noise.far), noise.side])
        gradient = surplus @ slopes + (now - prior[:, 0]) / prior[:, 1] ** 2
        counted = slopes * (regular * finite)[:, None]
        fisher = 2 * counted.T @ slopes + np.diag(prior[:, 1] ** -2.0)
        now = now - np.clip(np.linalg.solve(fisher, gradient), -0.5, 0.5)
        noise = Noise(math.exp(now[0]), math.exp(now[1]), float(now[2]), share)
    return noise


def _result(problem: Problem, state: _State) -> Pooled:
    linear = _linearize(problem, state.coefficients, state.offsets)
    weights, _ = _run_weights(problem, state, linear)
    system = _system(problem, state, linear, weights)
    covariance, offsets_variance = _posterior(problem, state, system)
    variance, _ = state.noise.variance(linear.ridge, linear.excess)
    cliff = np.where(linear.residual > 0, state.noise.cliff / CLIFF_HEIGHT, 0.0)
    density = (1 - state.noise.cliff) * np.exp(_log_density(linear.residual**2, variance)) + cliff
    return Pooled(
        problem,
        state.coefficients,
        covariance,
        state.offsets,
        np.sqrt(offsets_variance),
        state.spread,
        state.noise,
        system.information,
        system.score,
        state.prior_weight / problem.sd**2,
        float(np.sum(np.log(density[problem.finished] + 1e-300))),
    )
