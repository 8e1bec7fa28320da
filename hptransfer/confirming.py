"""confirm: a last rung before the big run. Proposed from the tuned config, run as a sweep, judged by laws/rung.py."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import RunConfig, to_yaml
from hptransfer.errors import UserError
from hptransfer.files import write_atomic
from hptransfer.laws import Laws, Prediction, fit
from hptransfer.laws.evidence import data_hash
from hptransfer.laws.ladder import LEAST_STEPS, Rung, halvings
from hptransfer.laws.rung import Foreseen, Line, foresee, spaced
from hptransfer.recommendation import interval
from hptransfer.rows import Row
from hptransfer.sweeps import sweep
from hptransfer.tables import amount, duration, table
from hptransfer.target import predict_for, rounded, size_of_config

RUNS = 3
SAME_LR = 0.01
"""Between the config's lr and the laws', in ln: what rounding to three digits does."""


@dataclass(frozen=True)
class Proposal:
    """Three runs of one shape and budget with the target's batch; the tuned lr carried there by the laws, one below it
    and one above."""

    laws: Laws
    target: Rung
    rung: Rung
    line: Line
    runs: tuple[Foreseen, ...]
    weight_decay: float
    warnings: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Of the three runs."""
        return RUNS * self.rung.flops

    def to_text(self, seconds_per_flop: float | None = None, losses: Mapping[float, float | None] | None = None) -> str:
        """The runs with what they cost and what the laws foresee; measured losses beside it where there are any."""
        rung, target = self.rung, self.target
        head = (
            f"{rung.shape}: {amount(rung.params)} parameters (the target: {amount(target.params)}), "
            f"{amount(rung.tokens)} tokens (the target: {amount(target.tokens)}) in {rung.steps} steps"
        )
        cost = f"in all {amount(self.flops, 'FLOP')}, {self.flops / target.flops:.2%} of a run of the target"
        if seconds_per_flop:
            cost += f"; about {duration(self.flops * seconds_per_flop)} on one worker as fast as for the runs so far"
        names = dict(zip((run.lr for run in self.runs), ("below", "recommended", "above"), strict=True))
        lines = [
            {
                "lr": run.lr,
                "": names[run.lr],
                "FLOPs": f"{rung.flops:.3g}",
                "foreseen loss": run.loss and run.loss.middle,
                "95 % from": run.loss and run.loss.low,
                "to": run.loss and run.loss.high,
                "over recommended, 95 %": ""
                if run.lr == self.line.lr
                else f"{run.over.low:+.2%} to {run.over.high:+.2%}",
                **({} if losses is None else {"measured": losses[run.lr] or "diverged"}),
            }
            for run in self.runs
        ]
        return "\n".join([head, table(lines), cost])

    def to_sweep(self, config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """The rung as a sweep file over the tuned config."""
        parameters = {
            "model": {"value": dict(self.rung.model)},
            "train.tokens": {"value": int(self.rung.tokens)},
            "optimizer.weight_decay": {"value": self.weight_decay},
            "optimizer.lr": {"values": [run.lr for run in self.runs]},
        }
        return {
            "name": "confirm",
            "method": "grid",
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": parameters,
            "command": ["hptransfer", "train", config, *overrides, "--tracking.job_type=confirm", "${args}"],
        }


def propose(laws: Laws, tuned: RunConfig, budget: float) -> Proposal:
    """The rung at the largest shape, the target's own if it can be, that `budget` (of the target's FLOPs) pays for.

    It is as long as the shortest of the laws' runs, and LEAST_STEPS steps, at least: the beginning of a run follows
    no power law, and its best lr is not that of the end. UserError where no such rung that is larger or longer than
    all of the laws' runs is paid for, and where the laws don't hold for the config.
    """
    recommended = predict_for(laws, size_of_config(tuned), tuned.batch_tokens)
    target, smaller = halvings(tuned)
    rungs = [(rung, _least_steps(laws, rung.params, tuned.batch_tokens)) for rung in (target, *smaller)]
    for rung, least in rungs:
        steps = min(int(budget * target.flops / RUNS / (rung.flops / rung.steps) * (1 + 1e-9)), target.steps)
        if steps >= least:
            return _at(laws, tuned, recommended, target, rung, steps)
    needed = [RUNS * least * rung.flops / rung.steps / target.flops for rung, least in rungs if least <= target.steps]
    enough = f"; {math.ceil(min(needed) * 1000) / 10:g}% would do" if needed else ""
    raise UserError(
        f"--budget {budget * 100:g}%: does not pay for three runs that are larger or longer than those of the laws, "
        f"with at least {LEAST_STEPS} steps and the tokens of their shortest{enough}"
    )


def _least_steps(laws: Laws, params: float, batch_tokens: int) -> int:
    """With which a run of this size is larger or longer than any that the laws were fitted to, and long enough."""
    least = max(LEAST_STEPS, math.ceil(laws.smallest("tokens") * 0.99 / batch_tokens))
    larger = params > laws.largest("params") * 1.001
    return least if larger else max(least, math.floor(laws.largest("tokens") * 1.001 / batch_tokens) + 1)


def _at(laws: Laws, tuned: RunConfig, there: Prediction, target: Rung, rung: Rung, steps: int) -> Proposal:
    """The proposal at a shape: lr and weight decay of the config move as the laws say they do from target to rung."""
    from hptransfer.scaling import resolve

    batch = tuned.batch_tokens
    small = tuned.updated(model=dict(rung.model), train={"tokens": steps * batch, "tokens_per_param": None})
    here = predict_for(laws, size_of_config(small), batch)
    lr = rounded(tuned.optimizer.lr * here.lr.value / there.lr.value)
    decay = tuned.optimizer.weight_decay
    if here.weight_decay and there.weight_decay and there.weight_decay.value:
        decay = rounded(decay * here.weight_decay.value / there.weight_decay.value)
    plan = resolve(small.updated(optimizer={"lr": lr, "weight_decay": decay}))
    known = {"width": small.model.width, "depth": small.model.depth}
    at = {**known, "params": plan.params, "tokens": plan.tokens, "batch_tokens": batch}
    fading = plan.hidden.lr * plan.hidden.weight_decay * plan.tokens / batch
    line = Line({name: float(value) for name, value in at.items()}, lr, fading)
    runs = foresee(laws, line, spaced(laws, line))
    priced = Rung(rung.model, float(plan.params), float(plan.tokens), float(plan.flops), plan.steps)
    other = f"the config's lr {tuned.optimizer.lr:g} is not what these laws recommend for it, {there.lr.value:.3g}"
    warnings = (other,) if abs(math.log(tuned.optimizer.lr / there.lr.value)) > SAME_LR else ()
    return Proposal(laws, target, priced, line, tuple(runs), decay, warnings)


def train_rung(proposal: Proposal, config: str, runs: Path, overrides: Sequence[str] = (), **how: Any) -> list[Row]:
    """The rows of the three runs, trained as a sweep (`how`: as `sweep` takes it) where they have no result yet.

    UserError where one has not ended.
    """
    file = runs / f"confirm_{Path(config).stem}.yaml"
    write_atomic(file, to_yaml(proposal.to_sweep(config, overrides)))
    done = sweep(file, runs=runs, **how)
    if len(done.rows) < len(proposal.runs):
        raise UserError(f"{done.to_text()}\nconfirm: some runs have no result, see above; the same command continues")
    return done.rows


def losses_of(rows: Sequence[Row]) -> dict[float, float | None]:
    """Loss by lr; None where the run diverged."""
    return {row.lr: row.loss if row.status == "finished" else None for row in rows}


def refit(laws: Laws, evidence: Sequence[Row], rows: Sequence[Row]) -> Laws:
    """The laws of their own runs and the rung's; UserError where `evidence` is not what they were fitted to.

    Rows of the rung that `evidence` holds already count once.
    """
    new = {row.source for row in rows}
    old = [row for row in evidence if row.source not in new]
    if data_hash(old) != laws.data.get("hash"):
        raise UserError(
            f"the {len(old)} runs given as --evidence are not the {laws.data.get('runs')} that the laws were fitted to"
        )
    return fit([*old, *rows], resamples=int(laws.settings["resamples"]), seed=int(laws.settings["seed"]))


def moved(before: Laws, after: Laws, tuned: RunConfig) -> str:
    """How the recommendation for the target has moved."""
    size = size_of_config(tuned)
    old, new = (predict_for(laws, size, tuned.batch_tokens) for laws in (before, after))
    pairs = {"lr": (old.lr, new.lr), "weight_decay": (old.weight_decay, new.weight_decay), "loss": (old.loss, new.loss)}
    return table(
        [
            {
                "for the target": name,
                "before": one.value,
                "95 %": interval(one),
                "with the rung": other.value,
                "95 % ": interval(other),
                "ratio": other.value / one.value,
            }
            for name, (one, other) in pairs.items()
            if one is not None and other is not None
        ]
    )
