"""A sweep file: the schema of W&B's sweep files, so that `wandb sweep` takes the same file unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hptransfer.errors import UserError
from hptransfer.loading import Source, parse_override, read_yaml, validate
from hptransfer.sections import Count, Section
from hptransfer.sweeps.space import Parameter, flatten

ARGS = ("${args}", "${args_no_hyphens}")
"""Where a command takes the trial's overrides; both forms are read by `train`."""

EXAMPLE = "command: [hptransfer, train, configs/proxy.yaml, '${args}']"

NOT_SUPPORTED = {
    "controller": "hptransfer is the controller",
    "job": "use command",
    "image_uri": "use command",
    "metrics": "use metric: {name: loss}",
    "scheduler": "use method: grid, random or bayes",
}
"""Keys that W&B knows and this tool does not, with what to use."""


class Metric(Section):
    """What a sweep is after."""

    name: Literal["loss"] = "loss"
    """Loss on the fixed held-out set, in nats per token."""
    goal: Literal["minimize"] = "minimize"


class Hyperband(Section):
    """Early stopping, at fixed fractions of a run."""

    type: Literal["hyperband"]
    min_iter: Count | None = None
    """First stop, in hundredths of the run; the next ones are eta, eta^2, ... times as far."""
    max_iter: Count | None = None
    """The whole run; with `s` stops at 1/eta, ..., 1/eta^s of it."""
    s: Count | None = None
    eta: float = Field(3.0, gt=1)
    """At every stop the best 1/eta go on."""
    strict: Literal[True] = True

    @model_validator(mode="after")
    def _placed(self) -> "Hyperband":
        if (self.min_iter is None) == (self.max_iter is None and self.s is None):
            raise ValueError("give min_iter, or max_iter and s")
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError("max_iter and s belong together")
        return self


class SweepConfig(Section):
    """A sweep."""

    method: Literal["grid", "random", "bayes"]
    parameters: dict[str, Parameter] = Field(min_length=1)
    """Dotted config keys: optimizer.lr, model.width, ..."""
    command: list[str] = Field([])
    """Names the base config and fixed overrides: [..., train, configs/x.yaml, --a.b=v, ${args}]."""
    metric: Metric = Metric()
    run_cap: Count | None = None
    """Most runs in all; needed unless the method is grid."""
    early_terminate: Hyperband | None = None
    name: str | None = None
    description: str | None = None
    program: str | None = None
    project: str | None = None
    """W&B project, and `entity` its owner."""
    entity: str | None = None
    apiVersion: str | None = None  # noqa: N815
    kind: Literal["sweep"] = "sweep"

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            problems = [f"{key}: not supported here; {use}" for key, use in NOT_SUPPORTED.items() if key in data]
            if problems:
                raise ValueError("\n".join(problems))
        return data

    @model_validator(mode="after")
    def _complete(self) -> "SweepConfig":
        problems = [*_command_problems(self.command)]
        if self.method != "grid" and self.run_cap is None:
            problems.append(f"run_cap: missing: method {self.method} draws until it is told how many runs are enough")
        if self.method == "grid":
            problems += [
                f"parameters.{key}: distribution {p.kind} has no list of values; grid takes value, values, "
                "int_uniform or q_uniform (or use method: random)"
                for key, p in self.space.items()
                if p.points is None or p.probabilities
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def space(self) -> dict[str, Parameter]:
        """The parameters by dotted key."""
        return flatten(self.parameters)


def _command_problems(command: Sequence[str]) -> list[str]:
    if not command:
        return [f"command: missing: it names the base config, e.g. {EXAMPLE}"]
    if "train" not in command:
        return [f"command: expected a `train` with the base config behind it, e.g. {EXAMPLE}"]
    arguments = command[command.index("train") + 1 :]
    places = [part for part in arguments if part in ARGS]
    macros = [part for part in arguments if part.startswith("${") and part not in ARGS]
    configs = [part for part in arguments if not _is_override(part) and part not in ARGS]
    if macros:
        return [f"command: {', '.join(macros)} is not supported here; supported: {', '.join(ARGS)}"]
    if len(places) != 1:
        return [f"command: expected one {' or '.join(ARGS)} behind `train`, got {len(places)}: {EXAMPLE}"]
    if len(configs) != 1:
        return [f"command: expected one base config behind `train`, got {configs or 'none'}: {EXAMPLE}"]
    return []


def _is_override(part: str) -> bool:
    return part.startswith("--") or "=" in part


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read."""

    path: Path
    config: SweepConfig

    @property
    def name(self) -> str:
        """As the file says, or the file's own name."""
        return self.config.name or self.path.stem

    @property
    def base(self) -> str:
        """Path of the base config, relative to the current folder."""
        return next(part for part in self._arguments if not _is_override(part) and part not in ARGS)

    def command_overrides(self, trial: Sequence[str]) -> list[str]:
        """The overrides of one run in the order of the command: fixed ones before and after the trial's own."""
        overrides: list[str] = []
        for part in self._arguments:
            if part in ARGS:
                overrides += trial
            elif _is_override(part):
                overrides.append(part)
        return overrides

    @property
    def _arguments(self) -> list[str]:
        command = self.config.command
        return command[command.index("train") + 1 :]


def load_sweep(path: Path | str) -> Sweep:
    """A sweep from its file; UserError with one line for every problem in it."""
    config = validate(SweepConfig, Source(str(path), read_yaml(path)))
    sweep = Sweep(Path(path), config)
    for override in sweep.command_overrides(()):
        try:
            parse_override(override)
        except UserError as problem:
            raise UserError(f"{path}: command: {problem}") from None
    return sweep
