"""Sweeps of made-up models whose optima are known: what intervals and regrets are checked against."""

import math
from dataclasses import dataclass

import numpy as np

from hptransfer.laws.valley import Floats, evaluate
from hptransfer.rows import Row

BASE_PARAMS = 1e6
BASE_TOKENS = 2e7


@dataclass(frozen=True)
class World:
    """One made-up truth. Exponents are of the optimum in params and tokens; spreads and noise as in pooled.py."""

    lr: float = 4e-3
    batch_tokens: float = 2e4
    lr_exponents: tuple[float, float] = (-0.5, 0.1)
    batch_exponents: tuple[float, float] = (0.0, 0.5)
    bend: float = 0.0
    """Of ln lr per (ln params)^2 / 2."""
    shape: tuple[float, ...] = (math.log(0.03), 0.8, math.log(0.003), 3.0, math.log(0.02), 0.1, -0.4, 0.2, 0.2)
    """Of the valley over lr and batch, in the order of `valley.shape_names`."""
    noise: float = 0.002
    far_noise: float = 0.08
    spread: float = 0.05
    cliff: float = math.inf
    """Runs diverge between this and twice this far above the ridge, in ln lr."""
    parametrization: str = "sp"

    @staticmethod
    def draw(rng: np.random.Generator, parametrization: str = "sp") -> "World":
        """A world such as published ones: exponents, curvatures, asymmetry, noise and scatter all vary."""
        drift = (0.0, 0.05) if parametrization != "sp" else (-0.5, 0.2)
        return World(
            lr_exponents=(rng.normal(*drift), rng.normal(0.0, 0.2)),
            batch_exponents=(rng.normal(0.0, 0.1), rng.normal(0.5, 0.12)),
            bend=rng.normal(0.0, 0.02),
            shape=(
                rng.normal(math.log(0.03), 0.6),
                rng.uniform(0.0, 1.2),
                rng.normal(math.log(0.005), 1.0),
                rng.uniform(2.0, 4.0),
                rng.normal(math.log(0.02), 0.6),
                rng.normal(0.0, 0.1),
                rng.uniform(-0.6, -0.1),
                rng.normal(0.1, 0.1),
                rng.normal(0.1, 0.1),
            ),
            noise=math.exp(rng.uniform(math.log(7e-4), math.log(1e-2))),
            spread=math.exp(rng.uniform(math.log(0.02), math.log(0.2))),
            cliff=rng.uniform(0.8, 1.6),
            parametrization=parametrization,
        )

    def law(self, params: float, tokens: float) -> Floats:
        """ln lr and ln batch that the law gives."""
        n, d = math.log(params / BASE_PARAMS), math.log(tokens / BASE_TOKENS)
        lr = math.log(self.lr) + self.lr_exponents[0] * n + self.lr_exponents[1] * d + self.bend * n * n / 2
        batch = math.log(self.batch_tokens) + self.batch_exponents[0] * n + self.batch_exponents[1] * d
        return np.array([lr, batch])

    def optimum(self, rng: np.random.Generator, params: float, tokens: float) -> Floats:
        """ln lr and ln batch of one cell: the law and the cell's own offset."""
        return self.law(params, tokens) + rng.normal(0.0, [self.spread, 1.3 * self.spread])

    def excess(self, away: Floats) -> Floats:
        """Relative loss at ln distances (..., 2) from a cell's optimum."""
        return evaluate(("lr", "batch_tokens"), np.array(self.shape), away).excess

    def floor(self, params: float, tokens: float) -> float:
        """Loss at the optimum, nats per token."""
        return (
            1.2
            + 0.8 * math.exp(-0.3 * math.log(params / BASE_PARAMS))
            + 0.8 * math.exp(-0.3 * math.log(tokens / BASE_TOKENS))
        )

    def run(self, rng: np.random.Generator, params: float, tokens: float, optimum: Floats, x: Floats) -> Row:
        """One run at ln lr, ln batch."""
        away = x - optimum
        slopes = evaluate(("lr", "batch_tokens"), np.array(self.shape), away)
        excess = float(slopes.excess)
        diverged = float(slopes.ridge) > self.cliff * rng.uniform(1.0, 2.0)
        noisy = self.noise * rng.standard_t(6) + self.far_noise * excess * rng.standard_normal()
        width = 64 * (params / BASE_PARAMS) ** (1 / 3)
        return Row(
            params=params,
            tokens=tokens,
            lr=float(np.exp(x[0])),
            batch_tokens=float(np.exp(x[1])),
            loss=math.nan if diverged else self.floor(params, tokens) * math.exp(excess + noisy),
            status="diverged" if diverged else "finished",
            width=width,
            depth=width / 16,
            recipe={"parametrization": self.parametrization},
        )

    def scattered(self, rng: np.random.Generator, params: float, tokens: float, runs: int) -> list[Row]:
        """Random lrs and batches round the cell's optimum, off-centre."""
        optimum = self.optimum(rng, params, tokens)
        centre = optimum + rng.normal(0.0, 0.3, 2)
        return [
            self.run(rng, params, tokens, optimum, centre + rng.uniform([-2.0, -2.0], [1.6, 2.0])) for _ in range(runs)
        ]

    def line(self, rng: np.random.Generator, params: float, tokens: float, lrs: int, octaves: float = 1.0) -> list[Row]:
        """A grid of lrs at one batch, the world's own; every cell sweeps the same lrs."""
        optimum = self.optimum(rng, params, tokens)
        optimum[1] = math.log(self.batch_tokens)
        steps = (np.arange(lrs) - (lrs - 1) / 2) * octaves * math.log(2)
        return [
            self.run(rng, params, tokens, optimum, np.array([math.log(self.lr) + step, optimum[1]])) for step in steps
        ]
