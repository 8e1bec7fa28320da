"""Coverage where lr, batch and weight decay are swept one at a time round the best run, as published sweeps are.

    python benchmarks/laws_decay.py [--worlds 40] [--output FILE.md]

Made-up worlds: two sizes (130M, 300M) at 20 to 160 tokens per parameter, eight or nine runs each, lr and batch by
octaves, weight decay 0, 0.1, 0.2; some runs diverge. Predicted: a third size (520M) at both ends. `inside`: share of
true optima within their 95 % intervals, the weight decay at the true lr and batch and at the predicted ones.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hptransfer.laws import fit
from hptransfer.laws.timescale import fading_of, timescale
from hptransfer.laws.valley import Slopes, evaluate
from hptransfer.rows import Row

Floats = npt.NDArray[np.float64]
COORDINATES = ("lr", "batch_tokens", "timescale")
SIZES, TARGET = (1.3e8, 3e8), 5.2e8
RATIOS = (20.0, 40.0, 80.0, 160.0)
OCTAVES = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class World:
    """Exponents of the optima, the valley's shape in the order of `valley.shape_names`, scatter of cells and runs."""

    exponents: Floats  # lr: params, tokens; batch: params, tokens; timescale: tokens per parameter
    shape: Floats
    timescale: float
    spread: float
    noise: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "World":
        """As published sweeps vary."""
        lr = [rng.normal(math.log(0.02), 0.5), rng.uniform(0, 1), rng.normal(math.log(0.005), 0.7), rng.uniform(1.5, 3)]
        batch = [
            rng.normal(math.log(0.015), 0.5),
            rng.normal(0, 0.1),
            rng.uniform(-0.6, -0.2),
            *rng.normal(0.1, 0.1, 2),
        ]
        decay = [rng.normal(math.log(0.007), 0.5), rng.normal(0, 0.15), rng.normal(0, 0.2)]
        return World(
            rng.normal([-0.4, -0.05, 0.0, 0.5, -0.53], [0.2, 0.15, 0.1, 0.1, 0.08]),
            np.array([*lr, *batch, *decay]),
            1.2 * math.exp(0.3 * rng.standard_normal()),
            rng.uniform(0.04, 0.15),
            math.exp(rng.uniform(math.log(5e-4), math.log(2e-3))),
        )

    def optimum(self, rng: np.random.Generator, params: float, tokens: float) -> Floats:
        """ln lr, batch and timescale of one cell: the law, and its own offset."""
        n, d, e = math.log(params / 1.3e8), math.log(tokens / 5e9), self.exponents
        law = [
            math.log(0.009) + e[0] * n + e[1] * d,
            math.log(4e5) + e[2] * n + e[3] * d,
            math.log(self.timescale) + e[4] * math.log(tokens / params),
        ]
        return np.array(law) + rng.normal(0, self.spread * np.array([1.0, 1.3, 2.0]))

    def valley(self, away: Floats) -> Slopes:
        """At ln distances from a cell's optimum."""
        return evaluate(COORDINATES, self.shape, away)

    def run(self, rng: np.random.Generator, size: tuple[float, float], optimum: Floats, values: Sequence[float]) -> Row:
        """One run at lr, batch, weight decay."""
        lr, batch, decay = values
        params, tokens = size
        slopes = self.valley(place(tokens, *values) - optimum)
        excess = float(slopes.excess)
        floor = 1.6 + 0.6 * (params / 1e8) ** -0.3 + 0.9 * (tokens / 1e9) ** -0.3
        noise = self.noise * rng.standard_t(6) + 0.08 * excess * rng.standard_normal()
        gone = float(slopes.ridge) > rng.uniform(0.8, 1.6)
        loss = math.nan if gone else floor * math.exp(excess + noise)
        return Row(params, tokens, lr, batch, loss, "diverged" if gone else "finished", weight_decay=decay)

    def cell(self, rng: np.random.Generator, params: float, tokens: float) -> list[Row]:
        """One at a time round the best point of the grid."""
        optimum = self.optimum(rng, params, tokens)
        lr = 1e-3 * 2 ** round(math.log2(math.exp(optimum[0]) / 1e-3))
        batch = 131072.0 * 2 ** max(0, round(math.log2(math.exp(optimum[1]) / 131072)))
        decay = min((0.1, 0.2), key=lambda value: abs(place(tokens, lr, batch, value)[2] - optimum[2]))
        points = {(lr * f, batch, decay) for f in OCTAVES} | {(lr, batch * f, decay) for f in OCTAVES}
        points |= {(lr, batch, value) for value in (0.0, 0.1, 0.2)}
        return [self.run(rng, (params, tokens), optimum, values) for values in sorted(points)]


def place(tokens: float, lr: float, batch: float, decay: float) -> Floats:
    """ln lr, batch, timescale."""
    return np.log([lr, batch, float(timescale(lr * decay * tokens / batch))])


def judge(seed: int) -> list[tuple[list[bool], list[float], float]]:
    """Inside, widths in octaves, regret; at each end of the target's tokens."""
    rng = np.random.default_rng(seed)
    world = World.draw(rng)
    laws = fit([row for n in SIZES for ratio in RATIOS for row in world.cell(rng, n, ratio * n)], validate=False)
    found = []
    for ratio in (RATIOS[0], RATIOS[-1]):
        tokens = ratio * TARGET
        optimum = world.optimum(rng, TARGET, tokens)
        prediction = laws.predict(params=TARGET, tokens=tokens)
        lr, batch, decay = prediction.lr, prediction.batch_tokens, prediction.weight_decay
        assert decay is not None
        fades = fading_of(math.exp(optimum[2])) / tokens
        best = [math.exp(optimum[0]), math.exp(optimum[1]), fades * math.exp(optimum[1] - optimum[0])]
        pairs = [*zip((lr, batch, decay), best, strict=True), (decay, fades * batch.value / lr.value)]
        inside = [(one.low or 0.0) <= value <= (one.high or math.inf) for one, value in pairs]
        widths = [math.log2((one.high or math.inf) / max(one.low or 0.0, 1e-4)) for one in (lr, batch, decay)]
        away = place(tokens, lr.value, batch.value, decay.value) - optimum
        found.append((inside, widths, float(world.valley(away).excess)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    inside, widths, regret = zip(*(one for seed in range(args.worlds) for one in judge(seed)), strict=True)
    shares = [f"{share * 100:.0f}" for share in np.mean(inside, 0)]
    lines = [
        f"`python benchmarks/laws_decay.py --worlds {args.worlds}`",
        "",
        "| | lr | batch | weight decay, at the true lr and batch | at the predicted ones |",
        "|---|---|---|---|---|",
        f"| inside % | {' | '.join(shares)} |",
        f"| median width in octaves | {' | '.join(f'{width:.1f}' for width in np.median(widths, 0))} | |",
        "",
        f"Regret: mean {np.mean(regret) * 100:.2f} %, 90th percentile {np.quantile(regret, 0.9) * 100:.2f} %.",
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
