"""check(config): a few steps at several sizes, the slopes over size, and what they say of the parametrization."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hptransfer.config import RunConfig
from hptransfer.coordcheck.diagnosis import diagnose
from hptransfer.coordcheck.measuring import Measurement
from hptransfer.coordcheck.promises import (
    Axis,
    Quantity,
    Terms,
    Verdict,
    claims,
    fit_slope,
    judge,
    residual_exponent,
    scales_eps,
)
from hptransfer.coordcheck.running import Job, OnRun, run_all
from hptransfer.coordcheck.sizes import DEPTHS, at_size, default_widths, refuse
from hptransfer.data import Progress, open_data
from hptransfer.observing import pattern
from hptransfer.plan import Plan, TensorPlan
from hptransfer.scaling import resolve
from hptransfer.sections import OptimizerConfig, Parametrization

GRADIENTS = 3
"""Steps whose gradients are judged: later ones tell how far each size has come. A ResNet at its best lr
(configs/resnet.yaml) has slopes of -1.0 over its first three steps and of -0.4 over ten, with -1 promised."""

Key = tuple[Axis, int, int]
"""(axis, size, seed) of a run."""
Values = dict[tuple[str, str, int], npt.NDArray[np.float64]]
"""(quantity, name, step) -> rms (seeds, sizes)."""


@dataclass(frozen=True)
class Subject:
    """What is checked at one size, as far as promises depend on it."""

    size: int
    parametrization: Parametrization
    optimizer: OptimizerConfig
    tensors: tuple[TensorPlan, ...]
    head_dim: float = 1.0
    group: float = 1.0
    """Query heads per key head."""


@dataclass(frozen=True)
class Ladder:
    """The measurements and verdicts over one axis."""

    axis: Axis
    sizes: tuple[int, ...]
    claimed: bool
    values: Values = field(repr=False)
    verdicts: tuple[Verdict, ...]
    diagnoses: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many slopes break a promise that is claimed."""
        return sum(verdict.outcome == "FAIL" for verdict in self.verdicts)

    @property
    def outcome(self) -> str:
        """In a word or two."""
        if not self.claimed:
            return "not claimed"
        return "FAIL" if self.failed else "PASS"


@dataclass(frozen=True)
class Check:
    """What a check has found."""

    parametrization: str
    lr: float
    """Peak, at the base shape."""
    steps: int
    seeds: int
    ladders: tuple[Ladder, ...]

    @property
    def passed(self) -> bool:
        """No FAIL anywhere."""
        return not any(ladder.failed for ladder in self.ladders)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `check --json`."""
        return {
            "passed": self.passed,
            "parametrization": self.parametrization,
            "steps": self.steps,
            "seeds": self.seeds,
            "ladders": [
                {
                    "axis": ladder.axis,
                    "sizes": list(ladder.sizes),
                    "verdict": ladder.outcome,
                    "diagnoses": list(ladder.diagnoses),
                    "slopes": [verdict.to_dict() for verdict in ladder.verdicts],
                }
                for ladder in self.ladders
            ],
        }


def check(
    config: RunConfig,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    steps: int = 10,
    seeds: int = 3,
    runs: Path | str = "runs",
    workers: int | None = None,
    plan_of: Callable[[RunConfig], Plan] = resolve,
    on_run: OnRun | None = None,
    on_data: Progress | None = None,
) -> Check:
    """The coordinate check of a config, over width at its depth and over depth at its width.

    An empty sequence leaves an axis out; None takes the default sizes. `plan_of` is what is checked: it makes the
    plan of a config. `on_run(done, in all)` is told of every finished run. In `workers` processes (default: one per
    core), on the CPU in float32 (float64 where the config says so). The lr is the config's peak lr throughout: no
    schedule, no warm-up, and no clipping, which would hide growth. UserError where a size cannot be built.
    """
    config = resolve(config).config
    sizes: dict[Axis, tuple[int, ...]] = {
        "width": default_widths(config) if widths is None else tuple(sorted(set(widths))),
        "depth": DEPTHS if depths is None else tuple(sorted(set(depths))),
    }
    refuse(sizes, steps, seeds)
    plans = {
        (axis, size, seed): plan_of(at_size(config, axis, size, seed))
        for axis in sizes
        for size in sizes[axis]
        for seed in range(config.train.seed, config.train.seed + seeds)
    }
    open_data(config.data, Path(runs), on_data)
    jobs = [Job(plan, Path(runs), steps) for plan in plans.values()]
    measured = dict(zip(plans, run_all(jobs, workers or os.cpu_count() or 1, on_run), strict=True))
    ladders = (
        ladder_of(axis, [_subject(axis, plans[axis, size, config.train.seed]) for size in sizes[axis]], measured)
        for axis in sizes
        if sizes[axis]
    )
    return Check(config.parametrization.name, config.optimizer.lr, steps, seeds, tuple(ladders))


# --- From measurements to verdicts ---


def _collect(measured: Mapping[Key, list[Measurement]], axis: Axis, sizes: Sequence[int]) -> Values:
    """What was measured in every run of the axis: a module that is not there at every size has no slope."""
    keys = [key for key in measured if key[0] == axis]
    rows: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for key in keys:
        for one in measured[key]:
            rows[one.quantity, one.name, one.step].append(one.rms)
    return {what: np.array(row).reshape(len(sizes), -1).T for what, row in rows.items() if len(row) == len(keys)}


def _subject(axis: Axis, plan: Plan) -> Subject:
    config, shape = plan.config, plan.config.shape
    heads = (shape.head_dim, shape.heads / shape.kv_heads) if hasattr(shape, "heads") else ()
    return Subject(getattr(config.model, axis), config.parametrization, config.optimizer, plan.tensors, *heads)


def ladder_of(axis: Axis, subjects: Sequence[Subject], measured: Mapping[Key, list[Measurement]]) -> Ladder:
    """The verdicts: on activations as initialised, on changes by their geometric mean over the steps, on gradients by
    that over the first GRADIENTS."""
    name, sizes = subjects[0].parametrization.name, tuple(subject.size for subject in subjects)
    values, terms = _collect(measured, axis, sizes), _terms(axis, sizes, subjects)
    # the first tensor of a module says what it is: a bias comes after its weight
    roles = {pattern(tensor.name.rpartition(".")[0]): tensor.role for tensor in reversed(subjects[0].tensors)}
    what: dict[tuple[Quantity, str], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for (quantity, module, step), rms in values.items():
        if quantity != "activation":
            what[quantity, module].append(rms)  # type: ignore[index]
        elif step == 0:
            what["init", module].append(rms)
    verdicts = tuple(
        judge(axis, quantity, module, sizes, _typical(quantity, rms), terms, roles.get(module, ""))
        for (quantity, module), rms in what.items()
    )
    return Ladder(axis, sizes, claims(name, axis), values, verdicts, tuple(diagnose(verdicts, terms)))


def _typical(quantity: Quantity, steps: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Geometric mean over the steps at which no run has 0 (a gradient behind a readout that starts at zero, say),
    of gradients over the first of them; else 0."""
    kept = [rms for rms in steps if (rms != 0).all()] or [np.zeros_like(steps[0])]
    judged = kept[:GRADIENTS] if quantity == "gradient" else kept
    with np.errstate(all="ignore"):
        return np.asarray(np.exp(np.mean(np.log(np.stack(judged)), axis=0)))


def _terms(axis: Axis, sizes: Sequence[int], subjects: Sequence[Subject]) -> Terms:
    """What the promises depend on."""
    parametrization, eps = subjects[0].parametrization, {}
    if scales_eps(parametrization.name) and parametrization.scale_eps:
        by_role = [{tensor.role: tensor.eps for tensor in of.tensors if tensor.optimizer == "adamw"} for of in subjects]
        eps = {role: _exponent(sizes, [of[role] for of in by_role]) for role in by_role[0]}
    return Terms(
        scheme=parametrization.name,
        alpha=residual_exponent(parametrization.name, parametrization.depth_exponent) or 1.0,
        head=_exponent(sizes, [subject.head_dim for subject in subjects]),
        group=_exponent(sizes, [subject.group for subject in subjects]),
        before=_exponent(sizes, [1 - 1 / size for size in sizes]) if axis == "depth" else 0.0,
        normalised=subjects[0].optimizer.name != "sgd",
        eps=eps,
    )


def _exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """d ln value / d ln size."""
    return fit_slope(sizes, np.log(np.array([values], dtype=np.float64))).value
