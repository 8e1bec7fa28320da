"""A run record from somebody else's training loop: the same folder that `train` leaves, for `fit` and `report`."""

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hptransfer.config import RunConfig, to_yaml
from hptransfer.divergence import Watch
from hptransfer.errors import UserError, did_you_mean
from hptransfer.files import make_folder, write_atomic
from hptransfer.records import Metrics, Record, recipe, to_json, write_json
from hptransfer.rows import NUMBERS, RECIPE, REQUIRED, STATUSES, row_of

MEASURED = ("loss", "tokens_seen", "flops", "seconds")
FACTS = (*(name for name in NUMBERS if name not in MEASURED), "params_total", "params_active", "steps", *RECIPE)


class RunRecorder:
    """Records one run; a context manager. In a distributed run, on one process alone.

    `run` is a run config, or the facts of the run: at least params (non-embedding), tokens (the budget), lr (peak, base
    units) and batch_tokens; what else a record knows (width, depth, seed, weight_decay, parametrization, ...) as known.
    The folder is named by a hash of them; a run that has ended is never written over.

        with RunRecorder(facts, runs="runs") as run:
            for step in range(1, steps + 1):
                if not run.log(step=step, loss=loss):   # loss in nats per token
                    break
            run.finish(loss=validation_loss)
    """

    def __init__(self, run: RunConfig | Mapping[str, Any], runs: Path | str = "runs") -> None:
        self.config, self.facts, self.flops_per_token = _described(run)
        digest = hashlib.sha256(to_json({"facts": self.facts, "config": self.config}, sort_keys=True).encode())
        self.record = Record(Path(runs) / f"recorded-{digest.hexdigest()[:16]}")
        self.watch = Watch(max(1, round(self.facts["tokens"] / self.facts["batch_tokens"])))
        self.step = 0
        self.diverged = False

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.record.path

    def __enter__(self) -> Self:
        make_folder(self.path)
        if self.record.result is not None:
            raise UserError(f"{self.path}: this run has ended; change a fact (seed, say), or delete the folder")
        write_atomic(self.path / "config.yaml", to_yaml(self.config))
        self.metrics = Metrics(self.path / "metrics.jsonl", 0)
        self.started = time.monotonic()
        return self

    def log(self, *, step: int, loss: float, **values: float) -> bool:
        """One step, counted from 1, with its training loss in nats per token; False where the run has diverged."""
        if step <= self.step:
            raise UserError(f"RunRecorder.log: step = {step} after step {self.step}; steps are counted from 1 and grow")
        self.step = step
        self.diverged = self.diverged or self.watch.diverged(float(loss))
        self.metrics.write({"step": step, "tokens": self._tokens_seen, "loss": float(loss), **values})
        return not self.diverged

    def finish(self, *, loss: float, status: str | None = None) -> Record:
        """Writes the result with the held-out loss in nats per token.

        The status is diverged where the loss is not finite or has gone astray, cut_short where steps are left, else
        finished; `status` overrules. A fit leaves a run out that was cut short; a run that you stopped because it was
        losing is evidence: say status="stopped".
        """
        if status is not None and status not in STATUSES:
            allowed = f"{', '.join(STATUSES)}{did_you_mean(status, list(STATUSES))}"
            raise UserError(f"RunRecorder.finish: status = {status!r}; allowed: {allowed}")
        result = {
            **self.facts,
            "status": status or self._status(float(loss)),
            "loss": float(loss),
            "tokens_seen": self._tokens_seen,
            "flops": self.flops_per_token and self.flops_per_token * self._tokens_seen,
            "seconds": time.monotonic() - self.started,
        }
        row_of(result, "RunRecorder.finish")
        self.metrics.sync()
        write_json(self.path / "result.json", result)
        (self.path / "failure.json").unlink(missing_ok=True)
        return self.record

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.metrics.close()
        if isinstance(problem, Exception):
            write_json(self.path / "failure.json", {"message": f"{type(problem).__name__}: {problem}", "attempts": 1})
        elif problem is None and self.record.result is None:
            raise UserError(f"{self.path}: the run has no result: call finish(loss=...) before the end of the block")

    @property
    def _tokens_seen(self) -> float:
        return float(self.step * self.facts["batch_tokens"])

    def _status(self, loss: float) -> str:
        if self.diverged or not math.isfinite(loss):
            return "diverged"
        if self.step < self.watch.steps:
            return "cut_short"
        return "diverged" if self.watch.unrecovered else "finished"


def _described(run: RunConfig | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], float | None]:
    """(what stands in config.yaml, facts, FLOPs per token where known)."""
    if isinstance(run, RunConfig):
        from hptransfer.scaling import resolve

        plan = resolve(run)
        return plan.config.to_dict(), {**plan.facts, **recipe(plan.config)}, plan.flops_per_token
    facts = {key: value for key, value in run.items() if value is not None}
    for key in facts:
        if key not in FACTS:
            near = did_you_mean(key, list(FACTS)) or f"; known: {', '.join(FACTS)}"
            raise UserError(f"RunRecorder: unknown fact {key!r}{near}")
    if missing := [key for key in REQUIRED if key not in facts and key != "loss"]:
        raise UserError(f"RunRecorder: {', '.join(missing)} missing; needed: {', '.join(REQUIRED[:-1])}")
    row_of({**facts, "loss": 0.0}, "RunRecorder")
    return facts, facts, None
