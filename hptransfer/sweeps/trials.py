"""From a sweep file to trials: every one of them a valid run config before the first one starts."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.config import RunConfig, load_config
from hptransfer.data import Progress, open_data
from hptransfer.errors import UserError
from hptransfer.records import Record, identity, to_json
from hptransfer.sweeps.config import Sweep
from hptransfer.sweeps.samplers import Sampler
from hptransfer.sweeps.space import Overrides


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: the parameters' values, and the whole config that they make of the base config."""

    overrides: Overrides
    config: RunConfig
    branch: Path | None = None
    """Folder of the run from whose stable phase it goes on."""


def expand(sweep: Sweep, sampler: Sampler) -> list[Trial]:
    """Every trial of a sweep whose points are known beforehand; UserError for the first one that is not valid."""
    trials = [trial_at(sweep, point) for point in sampler.propose([], None)]
    if not trials:
        raise UserError(f"{sweep.path}: parameters: there is nothing to run")
    return trials


def trial_at(sweep: Sweep, overrides: Overrides) -> Trial:
    """The trial at a point: its config is read as `train` reads the command that W&B's agent would type."""
    with _blaming(sweep, overrides):
        config = load_config(sweep.base, sweep.command_overrides(_typed(overrides)))
    return Trial(overrides, config.updated(tracking=_tracking(sweep, config)))


def _typed(overrides: Overrides) -> list[str]:
    """The overrides as a command line has them."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]


@contextmanager
def _blaming(sweep: Sweep, overrides: Overrides) -> Iterator[None]:
    """Names the sweep file and the parameter, or the trial, in the lines of a UserError."""
    typed = _typed(overrides)

    def blamed(line: str) -> str:
        origin, _, problem = line.partition(": ")
        origin = origin.removeprefix("override ")
        for text in typed:
            if origin in (text, text.partition("=")[0]) or line.startswith(f"override {text}: "):
                return f"{sweep.path}: parameters.{text}: {line.removeprefix('override ').removeprefix(text + ': ')}"
        if line.startswith("override "):
            return f"{sweep.path}: command: {origin}: {problem}"
        return f"{line} (in the trial {', '.join(typed)} of {sweep.path})"

    try:
        yield
    except UserError as problem:
        raise UserError("\n".join(map(blamed, str(problem).splitlines()))) from None


def _tracking(sweep: Sweep, config: RunConfig) -> dict[str, Any]:
    """Where the tracker files the trials: together, under the sweep's name."""
    tracking = config.tracking
    return {
        "group": tracking.group or sweep.name,
        "project": sweep.config.project or tracking.project,
        "entity": sweep.config.entity or tracking.entity,
        "job_type": tracking.job_type or "proxy",
    }


@dataclass(frozen=True)
class Run:
    """A trial with its place and its cost."""

    trial: Trial
    record: Record
    params: int
    tokens: int
    flops: float
    memory: int
    """Estimated bytes at peak."""


def resolve_runs(sweep: Sweep, trials: Iterable[Trial], runs: Path, on_data: Progress | None = None) -> list[Run]:
    """The trials as runs; those that come to the same run are one. Opens the data (its content is in a run's name)."""
    from hptransfer.scaling import resolve

    fingerprints: dict[str, str] = {}
    resolved: dict[Path, Run] = {}
    for trial in trials:
        with _blaming(sweep, trial.overrides):
            plan = resolve(trial.config)
        section = plan.config.data
        key = to_json(section.model_dump())
        if key not in fingerprints:
            fingerprints[key] = open_data(section, runs, on_data).fingerprint
        folder = runs / identity(plan.config, fingerprints[key])
        resolved.setdefault(folder, Run(trial, Record(folder), plan.params, plan.tokens, plan.flops, plan.memory))
    return list(resolved.values())
