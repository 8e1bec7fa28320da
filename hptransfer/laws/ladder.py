"""Which small runs to buy: the proxy ladder that narrows the target's interval most within a budget.

Candidates are ladders of consecutive halvings of the target's width and depth at its tokens per parameter, each rung
with the same number of lrs (in octaves round the config's lr), or of random (lr, batch) pairs where the batch is swept
too. Each affordable candidate is tried on made-up worlds (synthetic.py) whose truth is what the priors expect: swept,
fitted and asked for the target. The one with the narrowest interval of the target's lr is proposed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws import priors
from hptransfer.laws.fitting import fit
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World
from hptransfer.rows import Row
from hptransfer.tables import duration

if TYPE_CHECKING:
    from hptransfer.config import RunConfig

RUNGS = (2, 3, 4)
LRS = (5, 7, 9)
PAIRS = (8, 16, 24)
TRIES = 2
"""Made-up worlds per candidate."""
SMALLEST_WIDTH = 16
LEAST_STEPS = 100
"""Of a run that is to say something: five times the 20 steps over which AdamW's default beta2 = 0.95 forgets."""
OCTAVES = 3
"""Of batch either side of the config's."""


@dataclass(frozen=True)
class Rung:
    """A size of the ladder: non-embedding parameters; tokens, FLOPs and optimizer steps of one run."""

    model: Mapping[str, int]
    """Width and depth, and the number of key heads where it grows with the width."""
    params: float
    tokens: float
    flops: float
    steps: int

    @property
    def shape(self) -> str:
        """`width 32, depth 2`."""
        return ", ".join(f"{name} {size}" for name, size in self.model.items())


@dataclass(frozen=True)
class Ladder:
    """A proposal."""

    target: Rung
    rungs: tuple[Rung, ...]
    """Smallest first."""
    runs_per_rung: int
    sweep_batch: bool
    interval: float
    """Expected ratio of the ends of the 95 % interval of the target's lr."""

    @property
    def flops(self) -> float:
        """Of all its runs."""
        return self.runs_per_rung * sum(rung.flops for rung in self.rungs)

    @property
    def batch_growth(self) -> float:
        """By which the best batch grows from the largest rung to the target, by the prior's power of tokens."""
        growth: float = (self.target.tokens / self.rungs[-1].tokens) ** priors.BATCH["tokens"][0]
        return growth

    def to_text(self, seconds_per_flop: float | None = None) -> str:
        """The rungs, the cost, the interval to expect, and what is swept jointly."""
        swept = "random (lr, batch) pairs" if self.sweep_batch else "lrs, an octave apart"
        lines = [
            f"{rung.shape}: {rung.params:.3g} parameters, {rung.tokens:.3g} tokens in {rung.steps} steps, "
            f"{self.runs_per_rung} {swept}, {self.runs_per_rung * rung.flops:.3g} FLOPs"
            for rung in self.rungs
        ]
        share = self.flops / self.target.flops
        lines.append(f"in all {self.flops:.3g} FLOPs, {share * 100:.2g} % of one run of the target")
        if seconds_per_flop:
            lines.append(
                f"about {duration(self.flops * seconds_per_flop)} on one worker as fast as for the runs so far"
            )
        else:
            lines.append("no estimate of the time: there is no ended run in --runs to take the speed from")
        half = math.sqrt(self.interval)
        lines.append(f"expected 95 % interval of the target's lr: within a factor of {half:.2f} either way")
        if not self.sweep_batch:
            lines.append(
                "swept: lr; batch and weight decay stay as in the config. The best batch grows about "
                f"{self.batch_growth:.2g} times from the largest rung to the target: --batch sweeps both jointly"
            )
        return "\n".join(lines)

    def to_sweep(self, config: str, lr: float, batch_tokens: int, tokens_per_param: float) -> dict[str, Any]:
        """A W&B sweep file that runs the ladder from the target's config."""
        shapes = [dict(rung.model) for rung in self.rungs]
        parameters: dict[str, Any] = {
            "model": {"values": shapes},
            "train.tokens_per_param": {"value": round(tokens_per_param, 6)},
        }
        octaves = np.arange(self.runs_per_rung) - (self.runs_per_rung - 1) / 2
        if self.sweep_batch:
            parameters["optimizer.lr"] = {"distribution": "log_uniform_values", "min": lr / 8, "max": lr * 8}
            powers = [float(batch_tokens) * 2.0**i for i in range(-OCTAVES, OCTAVES + 1)]
            parameters["train.batch_tokens"] = {"values": [int(power) for power in powers if power.is_integer()]}
        else:
            parameters["optimizer.lr"] = {"values": [float(f"{lr * 2.0**step:.4g}") for step in octaves]}
            parameters["train.batch_tokens"] = {"value": batch_tokens}
        sweep: dict[str, Any] = {
            "name": "ladder",
            "method": "random" if self.sweep_batch else "grid",
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": parameters,
        }
        if self.sweep_batch:
            sweep["run_cap"] = self.runs_per_rung * len(self.rungs)
        return {**sweep, "command": ["hptransfer", "train", config, "${args}"]}


def propose(
    target: Rung,
    halvings: Sequence[Rung],
    budget: float,
    *,
    sweep_batch: bool = False,
    parametrization: str = "completep",
) -> Ladder:
    """The best ladder out of `halvings` (largest first) whose runs cost at most `budget` times a run of the target.

    UserError where no ladder of two rungs is affordable, with the budget that would do, and where the rungs train for
    fewer than LEAST_STEPS steps.
    """
    halvings = _long_enough(halvings)
    counts = PAIRS if sweep_batch else LRS
    candidates = [
        (tuple(reversed(halvings[first : first + size])), runs)
        for size in RUNGS
        for first in range(len(halvings) - size + 1)
        for runs in counts
    ]
    if not candidates:
        raise UserError("the target is too small for a ladder: width and depth must be halved at least twice")
    costs = [runs * sum(rung.flops for rung in rungs) / target.flops for rungs, runs in candidates]
    affordable = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost <= budget]
    if not affordable:
        raise UserError(f"--budget {budget:.3%}: the cheapest ladder costs {min(costs):.3%} of a run of the target")
    # of one number of rungs and runs, the highest rungs that fit come first, and they alone are worth trying
    worthwhile = {(len(rungs), runs): (rungs, runs) for rungs, runs in reversed(affordable)}.values()
    tried = [
        Ladder(target, rungs, runs, sweep_batch, expected_interval(target, rungs, runs, sweep_batch, parametrization))
        for rungs, runs in worthwhile
    ]
    return min(tried, key=lambda ladder: ladder.interval)


def _long_enough(halvings: Sequence[Rung]) -> list[Rung]:
    """The rungs of LEAST_STEPS steps; UserError where a ladder falls short for want of them."""
    found = [rung for rung in halvings if rung.steps >= LEAST_STEPS]
    if len(found) < min(RUNGS) <= len(halvings):
        short = next(rung for rung in halvings if rung.steps < LEAST_STEPS)
        raise UserError(
            f"train.tokens: at the target's {short.tokens / short.params:.2g} tokens per parameter a run of "
            f"{short.shape} has {short.steps} steps; a ladder needs two sizes of at least {LEAST_STEPS}: "
            "give the target more tokens or a smaller train.batch_tokens"
        )
    return found


def expected_interval(target: Rung, rungs: Sequence[Rung], runs: int, sweep_batch: bool, parametrization: str) -> float:
    """Median ratio of the ends of the 95 % interval of the target's lr over a few made-up worlds."""
    scale = rungs[0].params / BASE_PARAMS, rungs[0].tokens / BASE_TOKENS
    found = []
    for seed in range(TRIES):
        rng = np.random.default_rng(seed)
        drift = (0.0, 0.0) if parametrization != "sp" else (-0.5, 0.0)
        world = World(lr_exponents=drift, noise=0.003, cliff=1.5, parametrization=parametrization)
        rows: list[Row] = []
        for rung in rungs:
            sweep = world.scattered if sweep_batch else world.line
            rows += sweep(rng, rung.params / scale[0], rung.tokens / scale[1], runs)
        at = fit(rows, resamples=0, validate=False).predict(
            params=target.params / scale[0], tokens=target.tokens / scale[1]
        )
        assert at.lr.low is not None
        assert at.lr.high is not None
        found.append(at.lr.high / at.lr.low)
    return float(np.median(found))


def halvings(config: "RunConfig") -> tuple[Rung, list[Rung]]:
    """The target, and its halvings in width and depth that make a valid model, largest first (on the meta device)."""
    from hptransfer.scaling import resolve

    # at a fixed head size there are more heads in a wider model, and with them more key heads
    given = config.model.model_dump()
    more_key_heads = bool(given.get("head_dim") and given.get("kv_heads"))
    grown = ("width", "depth", *(("kv_heads",) if more_key_heads else ()))

    def rung(one: "RunConfig", tokens_per_param: float | None = None) -> Rung:
        plan = resolve(one)
        model = {name: int(getattr(one.model, name)) for name in grown}
        tokens = plan.tokens if tokens_per_param is None else tokens_per_param * plan.params
        steps = max(1, round(tokens / plan.batch_tokens))
        return Rung(model, float(plan.params), float(tokens), plan.flops / plan.steps * steps, steps)

    target = rung(config)
    found = []
    for power in range(1, 12):
        model = {name: max(2 if name == "depth" else 1, size >> power) for name, size in target.model.items()}
        if model["width"] < SMALLEST_WIDTH:
            break
        try:
            smaller = config.updated(model=model, train={"tokens": int(target.tokens), "tokens_per_param": None})
            found.append(rung(smaller, target.tokens / target.params))
        except (UserError, ValueError):
            continue  # heads that do not divide the width, say
    return target, found
