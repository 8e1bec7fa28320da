"""train(config) -> run record: one run, resumable at any moment, bit for bit."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from hptransfer import records, tracking
from hptransfer.config import RunConfig, to_yaml
from hptransfer.data import Data, Progress, open_data
from hptransfer.diagnostics import Diagnostics
from hptransfer.divergence import Watch
from hptransfer.errors import UserError
from hptransfer.files import make_folder, replacing, write_atomic
from hptransfer.interrupts import held
from hptransfer.losses import losses
from hptransfer.plan import Plan
from hptransfer.records import Metrics, Record
from hptransfer.scaling import build, build_optimizer, resolve
from hptransfer.schedules import factor, progress, stable_steps
from hptransfer.sections import WSD
from hptransfer.tables import amount

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Of the weights; bfloat16 is autocast over float32 weights."""


@dataclass(frozen=True)
class Step:
    """One finished optimizer step, as `on_step` sees it."""

    step: int
    """Steps done."""
    steps: int
    tokens: int
    loss: float
    lr: float


OnStep = Callable[[Step], bool | None]
"""Called after each step; an answer of False stops the run."""


class Busy(UserError):
    """Another process is training this run."""


def train(
    config: RunConfig, runs: Path | str = "runs", on_step: OnStep | None = None, on_data: Progress | None = None
) -> Record:
    """Trains the run, or continues it, or returns its record where it has ended before (the tracker is told).

    UserError for what the user can mend; Busy where another process is at it. A run that fails leaves failure.json.
    """
    plan = resolve(config)
    data = open_data(plan.config.data, Path(runs), on_data)
    record = Record(make_folder(Path(runs) / records.identity(plan.config, data.fingerprint)))
    with locked(record.path):
        if record.result is not None:
            tracking.replay(record, plan.config.tracking)
        else:
            _train_recording_failure(plan, data, record, on_step)
    return record


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for this process alone; Busy where another one has it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{folder}: another process is training this run") from None
    except OSError as problem:
        raise UserError(f"{folder}: cannot write: {problem.strerror or problem}") from problem
    try:
        yield
    finally:
        lock.release()


def run_folder(config: RunConfig, runs: Path | str = "runs") -> Path:
    """Where the record of this run is or would be."""
    plan = resolve(config)
    return Path(runs) / records.identity(plan.config, open_data(plan.config.data, Path(runs)).fingerprint)


def _train_recording_failure(plan: Plan, data: Data, record: Record, on_step: OnStep | None) -> None:
    """Trains; an error is recorded beside the run before it goes on its way."""
    failure = record.path / "failure.json"
    try:
        Trainer(plan, data, record).run(on_step)
        failure.unlink(missing_ok=True)
    except Exception as problem:
        attempts = (record.failure or {}).get("attempts", 0) + 1
        message = str(problem) if isinstance(problem, UserError) else f"{type(problem).__name__}: {problem}"
        with suppress(UserError):  # a disk that is full takes no failure.json either
            records.write_json(failure, {"message": message, "attempts": attempts})
        if _out_of_memory(problem):
            need = amount(plan.memory, "B")
            raise UserError(
                f"{record.path}: out of memory: the run takes about {need}; less with a smaller train.micro_batch"
            ) from problem
        raise


def _out_of_memory(problem: Exception) -> bool:
    """Accelerators have an exception for it; the CPU's allocator says it in words."""
    return isinstance(problem, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(problem)


class Trainer:
    """The state of one run and the loop over it."""

    def __init__(self, plan: Plan, data: Data, record: Record) -> None:
        self.plan, self.data, self.record = plan, data, record
        settings = plan.config.train
        torch.set_num_threads(settings.threads)
        self.device = pick_device(settings.device)
        self.model = build(plan).to(self.device, DTYPES[settings.precision])
        self.forward: nn.Module | Callable[[Tensor], Tensor] = self.model
        if settings.compile:
            self.forward = torch.compile(self.model)
        self.optimizer = build_optimizer(self.model, plan)
        self.diagnostics = Diagnostics(self.model, plan)
        self.flops_per_token = plan.flops_per_token
        self.watch = Watch(plan.steps)
        self.step = 0
        self.seconds = 0.0
        self.status = "finished"
        self.between_steps = True
        self.warned = False

    @property
    def checkpoint_path(self) -> Path:
        """What a killed run continues from."""
        return self.record.path / "checkpoint.pt"

    def run(self, on_step: OnStep | None) -> None:
        """From wherever the run stands to its result."""
        write_atomic(self.record.path / "config.yaml", to_yaml(self.plan.config.to_dict()))
        self.metrics = Metrics(self.record.path / "metrics.jsonl", self._restore())
        self.tracker = tracking.open_tracker(
            self.plan.config, run_id=self.record.path.name, folder=self.record.path, facts=self.plan.facts
        )
        try:
            with held() as release:
                self._loop(on_step, release)
                self._finish()
                release()
        except KeyboardInterrupt:
            if self.between_steps and self.record.result is None:
                self._save(self.checkpoint_path)
            raise
        finally:
            self.metrics.close()

    def _loop(self, on_step: OnStep | None, release: Callable[[], None]) -> None:
        self.started = saved = time.monotonic()
        stable_end = self._stable_end()
        while self.step < self.plan.steps and self.status == "finished":
            if self.step == stable_end:
                self._save_if_possible(self.record.path / records.STABLE)
            self.between_steps = False
            loss, lr = self._train_step()
            self.between_steps = True
            release()
            if self.status == "finished" and on_step is not None:
                tokens = self.step * self.plan.batch_tokens
                if on_step(Step(self.step, self.plan.steps, tokens, loss, lr)) is False:
                    self.status = "stopped"
            if time.monotonic() - saved >= self.plan.config.train.checkpoint_seconds:
                self._save_if_possible(self.checkpoint_path)
                saved = time.monotonic()
        if self.status == "finished" and self.watch.unrecovered:
            self.status = "diverged"

    def _stable_end(self) -> int | None:
        """The step before which the stable phase is kept."""
        schedule = self.plan.config.schedule
        if self.plan.config.train.keep_stable and isinstance(schedule, WSD):
            return stable_steps(schedule, self.plan.steps)
        return None

    def _train_step(self) -> tuple[float, float]:
        """One optimizer step; (mean loss of the batch, lr at the base shape)."""
        config = self.plan.config
        scale = factor(config.schedule, progress(self.step, self.plan.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        inputs, targets = self._batch(*self.data.batch(config.train.seed, self.step, self.plan.sequences))
        watched = self._watched_step(inputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss = auxiliary = 0.0
        for rows in self._micro_batches(len(inputs)):
            share = len(inputs[rows]) / len(inputs)
            cross_entropy, extra = (part * share for part in self._losses(inputs[rows], targets[rows]))
            torch.autograd.backward(cross_entropy + extra)
            loss += cross_entropy.item()
            auxiliary += extra.item()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.train.grad_clip or math.inf))
        diverged = self.watch.diverged(loss) or not math.isfinite(norm)
        if diverged:
            self.status = "diverged"
        elif watched:
            with self.diagnostics.update_sizes() as sizes:
                self.optimizer.step()
            watched |= sizes
        else:
            self.optimizer.step()
        self.step += 1
        lr = config.optimizer.lr * scale
        extra_loss = {"auxiliary_loss": auxiliary} if auxiliary else {}
        self._log(watched, loss=loss, **extra_loss, lr=lr, grad_norm=norm)
        return loss, lr

    def _watched_step(self, inputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The diagnostics of this step's weights, where it is one of those that are watched."""
        every = self.plan.config.train.watch_every
        if every == 0 or (self.step + 1) % every:
            return {}
        rows = slice(self.plan.micro_batch)
        return self.diagnostics.before_step(inputs[rows], targets[rows], self._objective)

    def _objective(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises."""
        cross_entropy, auxiliary = self._losses(inputs, targets)
        return cross_entropy + auxiliary

    def _losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats per target, and the auxiliary loss."""
        return losses(self._output(inputs), targets)

    def _output(self, inputs: Tensor) -> Any:
        """What the model's forward gives, in the run's precision."""
        bf16 = self.plan.config.train.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.forward(inputs)

    def _log(self, watched: dict[str, float], **values: float) -> None:
        """One line of metrics.jsonl (no clock values in it: a resumed run has to write the same), and the tracker's."""
        config = self.plan.config.train
        last = self.step == self.plan.steps or self.status != "finished"
        if config.eval_every and self.step % config.eval_every == 0 and not last:
            values["validation_loss"], _ = self.validate()
        elif self.step % config.log_every and not last and not watched:
            return
        tokens = self.step * self.plan.batch_tokens
        line = {"step": self.step, "tokens": tokens, "flops": tokens * self.flops_per_token, **values, **watched}
        self.metrics.write(line)
        self.tracker.log(line)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Loss in nats per token, and the share of targets with the highest logit, on the fixed held-out set: at most
        train.eval_tokens of it, the same for every run."""
        inputs, targets = self._batch(*self.data.validation(self._validation_sequences()))
        loss, right = 0.0, 0
        for rows in self._micro_batches(len(inputs)):
            output = self._output(inputs[rows])
            loss += (losses(output, targets[rows])[0] * len(inputs[rows])).item()
            logits = output[0] if isinstance(output, tuple) else output
            right += int((logits.argmax(-1) == targets[rows]).sum())
        return loss / len(inputs), right / targets.numel()

    def _validation_sequences(self) -> int:
        config = self.plan.config
        return max(1, min(config.train.eval_tokens // config.data.seq_len, self.data.validation_sequences))

    def _micro_batches(self, sequences: int) -> list[slice]:
        size = self.plan.micro_batch
        return [slice(start, start + size) for start in range(0, sequences, size)]

    def _batch(self, *arrays: "np.typing.NDArray[np.generic]") -> tuple[Tensor, ...]:
        """On the run's device; images, other than ids, in the precision of the weights."""
        dtype = DTYPES[self.plan.config.train.precision]
        tensors = (torch.from_numpy(array) for array in arrays)
        return tuple(x.to(self.device, dtype if x.is_floating_point() else None) for x in tensors)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def _finish(self) -> None:
        """Measures the held-out loss and writes the result; only then does the checkpoint go."""
        tokens_seen = self.step * self.plan.batch_tokens
        loss, accuracy = self.validate()
        if not math.isfinite(loss):
            self.status = "diverged"
        result = {
            "status": self.status,
            "loss": loss,
            "accuracy": accuracy,
            **self.plan.facts,
            "tokens_seen": tokens_seen,
            "epochs": tokens_seen / self.data.train_tokens,
            "eval_tokens": self._validation_sequences() * self.plan.config.data.seq_len,
            "flops": tokens_seen * self.flops_per_token,
            "seconds": self._elapsed(),
            **dict.fromkeys(("base_width", "base_depth")),  # sp has no base: null
            **records.recipe(self.plan.config, self.data.fingerprint),
            "torch": torch.__version__,
            "device": str(self.device),
            **({"branched_from": branch["run"]} if (branch := self.record.branch) else {}),
        }
        if self.plan.config.train.save_weights:
            _save(self.record.path / "weights.pt", self.model.state_dict())
        self.metrics.sync()
        records.write_json(self.record.path / "result.json", result)
        self.checkpoint_path.unlink(missing_ok=True)
        self.tracker.finish(records.finite(result))

    def _save_if_possible(self, path: Path) -> None:
        """A checkpoint; where the disk takes none, the last one stays, and the run goes on to the next try."""
        try:
            self._save(path)
        except UserError as problem:
            if not self.warned:
                logger.warning("%s; training goes on and tries again at the next checkpoint", problem)
            self.warned = True

    def _save(self, path: Path) -> None:
        """A checkpoint: everything that the rest of the run depends on, and how far metrics.jsonl belongs to it."""
        state = {
            "step": self.step,
            "status": self.status,
            "seconds": self._elapsed(),
            "metrics_end": self.metrics.sync(),
            "watch": self.watch.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        _save(path, state)

    def _restore(self) -> int:
        """Takes up a checkpoint where there is one; the length of metrics.jsonl that belongs to it."""
        if not self.checkpoint_path.exists():
            return 0
        try:
            state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.status, self.seconds = state["step"], state["status"], state["seconds"]
            self.watch = Watch(**{**state["watch"], "steps": self.plan.steps})  # a branch is longer than its source
            return int(state["metrics_end"])
        except Exception as problem:
            reason = (str(problem) or type(problem).__name__).splitlines()[0]
            raise UserError(
                f"{self.checkpoint_path}: damaged ({reason}); delete it to start this run anew"
            ) from problem


def _save(path: Path, state: object) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as problem:
            if isinstance(problem.__context__, OSError):  # a full disk: torch's writer complains of what followed
                raise problem.__context__ from None
            raise


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` is the accelerator that torch finds, else the CPU."""
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(
            f"train.device: {name!r} cannot be used here ({reason}); allowed: auto, cpu, cuda, mps"
        ) from None
    return device
