"""Many short training runs, on as many processes as there are cores."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hptransfer.coordcheck.measuring import Measurement, measure
from hptransfer.data import open_data
from hptransfer.errors import UserError
from hptransfer.plan import Plan

STEP_TOKENS = 512
"""Tokens of a step: with three seeds the standard errors of slopes are well below the verdicts' margin."""
STEP_IMAGES = 128
"""Images of a step, each of them many patches or pixels."""

OnRun = Callable[[int, int], None]
"""Told of every finished run: how many are done, how many there are in all."""


@dataclass(frozen=True)
class Job:
    """One training run of a few steps, as it travels to a process."""

    plan: Plan
    runs: Path
    steps: int


def _run(job: Job) -> list[Measurement]:
    data = job.plan.config.data
    tokens = STEP_IMAGES if data.source == "images" else STEP_TOKENS
    return measure(job.plan, open_data(data, job.runs), job.steps, tokens)


def run_all(jobs: Sequence[Job], workers: int, on_run: OnRun | None) -> list[list[Measurement]]:
    """In the order of the jobs; the largest models start first, since a long run started last would end alone."""
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].plan.params_total)
    found: dict[int, list[Measurement]] = {}
    with _mapping(min(workers, len(jobs))) as mapped:
        for i, result in zip(order, mapped(_run, [jobs[i] for i in order]), strict=True):
            found[i] = result
            if on_run is not None:
                on_run(len(found), len(jobs))
    return [found[i] for i in range(len(jobs))]


def _settle() -> None:
    """In a new process: one core is its own, and Ctrl-C is its parent's business."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` over processes; plain `map` for one."""
    if workers == 1:
        yield map
        return
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_settle)
    try:
        yield executor.map
    except BrokenProcessPool:
        raise UserError("check: a process died (out of memory?): smaller sizes, or --workers 1") from None
    finally:
        executor.shutdown(cancel_futures=True)
