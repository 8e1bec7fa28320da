"""One run in W&B: how it is opened, what its rows and its summary are called, how it is closed. Errors are raised."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hptransfer.config import RunConfig
from hptransfer.records import Record, finite
from hptransfer.sections import Tracking
from hptransfer.tracking import core_process
from hptransfer.tracking.log_file import ends_well

if TYPE_CHECKING:
    import wandb

Mode = Literal["disabled", "offline", "online"]

AXES = ("step", "tokens", "flops")
"""Logged under these names, so that any chart can be drawn against any of them."""

FACTS = (
    "params",
    "params_total",
    "params_active",
    "tokens",
    "batch_tokens",
    "lr",
    "weight_decay",
    "lr_hidden",
    "weight_decay_hidden",
    "width",
    "depth",
    "seed",
)
"""Of a result: what the plan knew."""

START = 10.0
"""Seconds that a server gets to accept a run."""

FLUSH = 3.0
"""Seconds that an offline run gets to reach the disk."""


def mode_of(tracking: Tracking, environment: Mapping[str, str] = os.environ) -> Mode:
    """What the config says, or online where W&B's agent has started this process; WANDB_MODE overrules either."""
    mode = tracking.wandb
    if mode == "disabled" and "WANDB_SWEEP_ID" in environment:
        mode = "online"
    asked: dict[str, Mode] = {"disabled": "disabled", "offline": "offline", "dryrun": "offline", "online": "online"}
    return mode if mode == "disabled" else asked.get(environment.get("WANDB_MODE", ""), mode)


@dataclass(frozen=True)
class LocalRun:
    """A run of ours as W&B is to show it."""

    config: RunConfig
    name: str
    """The run's identity, and its id in W&B."""
    folder: Path
    """The run record; W&B's own files go below it."""
    facts: Mapping[str, Any]
    """Numbers that the config in W&B shows beside the user's keys."""

    def open(self, mode: Mode, patience: float) -> "wandb.Run":
        """The run in W&B; what the server has of it already ends before its `starting_step`."""
        if mode == "offline":
            _remove_offline(self.folder, self.name)
        own = self.config.model_dump(mode="json", exclude={"tracking"}, exclude_none=True)
        known = {**self.facts, "run": self.name, **own}
        tracking = self.config.tracking.model_copy(update={"name": self.config.tracking.name or _title(self.config)})
        run = init(tracking, self.folder, mode, patience, id=self.name, resume="allow", config=known)
        for axis in AXES:
            run.define_metric(axis, hidden=True, summary="none")
        run.define_metric("*", step_metric="step")
        return run


def ended_run(record: Record, tracking: Tracking | None = None) -> LocalRun:
    """A run from its record; `tracking` in place of the one that it was made with."""
    config, result = record.config, record.result or {}
    if tracking:
        config = config.model_copy(update={"tracking": tracking})
    return LocalRun(config, record.path.name, record.path, {name: result[name] for name in FACTS if name in result})


def init(tracking: Tracking, folder: Path, mode: Mode, patience: float, **more: Any) -> "wandb.Run":
    """wandb.init as we always want it; in a sweep the agent's own project, entity and id hold.

    `patience`: seconds that the server gets at the end to take what it has not taken before.
    """
    place: dict[str, Any] = {"project": tracking.project, "entity": tracking.entity}
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if sweep:
        place.clear()
        more.pop("id", None)
    run: wandb.Run = quiet_wandb(mode).init(
        **place,
        **more,
        mode=mode,
        dir=str(folder),
        name=tracking.name,
        group=tracking.group or sweep,
        job_type=tracking.job_type or "train",
        tags=tracking.tags,
        reinit="create_new",
        settings=_settings(patience),
    )
    return run


def quiet_wandb(mode: Mode = "online") -> Any:
    """The wandb module, silent; ConnectionError where it is to be online and nobody is logged in (nothing is asked)."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it delays the exit where the server does not answer
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True, mode=mode))
    core_process.guard()
    if mode == "online" and wandb.run is None and not wandb.login(prompt=False, verify=False):
        raise ConnectionError("no API key: `wandb login` or WANDB_API_KEY")
    return wandb


def forget_broken(problem: Exception) -> None:
    """Lets go of wandb's own process where that has died, so that neither the next run nor the exit trips over it."""
    if isinstance(problem, ConnectionError) or type(problem).__name__ == "MailboxClosedError":
        with suppress(Exception):
            core_process.teardown()


def log_row(run: "wandb.Run", metrics: Mapping[str, float]) -> None:
    """One row of the history, unless the server has it from before."""
    step = int(metrics["step"])
    if step >= run.starting_step:
        run.log({_key(name): value for name, value in finite(metrics).items()}, step=step)


@contextmanager
def ending(run: "wandb.Run") -> Iterator[None]:
    """Ends the run with the block: as failed where that raises. OSError where an offline run did not reach the disk."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            run.finish(exit_code=1)
        raise
    path = Path(run.settings.sync_file)
    run.finish()
    if run.offline and not _reaches_disk(path):
        raise OSError(f"{path} is incomplete; is the disk full?")


def summarize(run: "wandb.Run", result: Mapping[str, Any]) -> None:
    """The result of a run as its summary."""
    run.summary.update(finite(result))


def _reaches_disk(path: Path) -> bool:
    """Waits for what wandb writes behind our back after `finish`, usually a few milliseconds."""
    end = time.monotonic() + FLUSH
    while not (done := ends_well(path)) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def _key(name: str) -> str:
    """The name in W&B: the axes bare, the held-out loss `loss` as everywhere, the rest below `train/`."""
    if name in AXES or "/" in name:
        return name
    return "loss" if name == "validation_loss" else f"train/{name}"


def _title(config: RunConfig) -> str:
    return f"w{config.model.width} d{config.model.depth} lr={config.optimizer.lr:.3g}"


def _settings(patience: float) -> "wandb.Settings":
    """No process that watches the machine, no capture of the console, nothing about code and machine."""
    import wandb

    return wandb.Settings(
        silent=True,
        symlink=False,
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=START,
        finish_timeout=patience,
        finish_timeout_raises=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def _remove_offline(folder: Path, run_id: str) -> None:
    """An offline run can't be continued: it is written anew from the record, which has all that the old one had."""
    for path in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(path, ignore_errors=True)
