"""Deepening: the runs of a sweep go on from the end of their stable phase to a longer horizon.

What a WSD run does before its lr falls does not depend on how long it will be, as long as warm-up has as many steps:
a longer run begins with the very same steps (Iterative Deepening Hyperband's point, for schedules). Its folder gets the
checkpoint and the metrics that it would have had by then, and is trained like any other.
"""

import shutil
from collections.abc import Sequence

from hptransfer.errors import UserError
from hptransfer.files import make_folder, replacing, write_atomic
from hptransfer.records import STABLE, Record, write_json
from hptransfer.sweeps.config import Sweep
from hptransfer.sweeps.search import Search
from hptransfer.sweeps.trials import Run, Trial, resolve_runs


def deepened(search: Search, factor: int, best: int | None = None) -> Search:
    """The search with the longer runs in place of its own finished ones, or of the `best` of each size and budget."""
    if factor < 2 or factor & (factor - 1):
        raise UserError(
            f"--deepen {factor}: expected 2, 4, 8 ...: only with a power of two warm-up's lrs are the same to the bit"
        )
    ended = [run for run in search.runs if (run.record.result or {}).get("status") == "finished"]
    if not ended:
        raise UserError(f"{search.file.path}: no finished run to go on from; run the sweep itself first")
    trials = [_longer(search.file, run, factor) for run in _best(ended, best)]
    search.runs, search.exhausted = resolve_runs(search.file, trials, search.folder), True
    return search


def prepare(runs: Sequence[Run]) -> None:
    """Gives each run that has not begun what it goes on from; UserError before any is touched where that is missing."""
    begins = [run for run in runs if run.trial.branch and not (run.record.path / "checkpoint.pt").exists()]
    for run in begins:
        if run.trial.branch and not (run.trial.branch / STABLE).exists():
            raise UserError(
                f"{run.trial.branch}: no {STABLE} to go on from; train.keep_stable: true has to be set before the run"
            )
    for run in begins:
        assert run.trial.branch
        _branch(Record(run.trial.branch), run.record)


def _best(runs: Sequence[Run], count: int | None) -> list[Run]:
    """The runs of lowest loss of each size and budget; all of them where no count is given."""
    cells: dict[tuple[int, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: float((run.record.result or {})["loss"])):
        cells.setdefault((run.params, run.tokens), []).append(run)
    return [run for cell in cells.values() for run in cell[:count]]


def _longer(file: Sweep, run: Run, factor: int) -> Trial:
    """The trial `factor` times as long with as many steps of warm-up."""
    from hptransfer.scaling import resolve

    config = run.trial.config
    if config.schedule.name != "wsd":
        raise UserError(f"{file.path}: --deepen: schedule {config.schedule.name} has no stable phase; it needs wsd")
    plan = resolve(config)
    tokens, warmup = factor * plan.steps * plan.batch_tokens, config.schedule.warmup / factor
    longer = config.updated(train={"tokens": tokens, "tokens_per_param": None}, schedule={"warmup": warmup})
    if resolve(longer).tensors != plan.tensors:
        name = config.parametrization.name
        raise UserError(f"{file.path}: --deepen: under {name} the numbers of a run depend on its length")
    overrides = {**run.trial.overrides, "train.tokens": tokens, "schedule.warmup": warmup}
    return Trial(overrides, longer, run.record.path)


def _branch(source: Record, target: Record) -> None:
    """The checkpoint comes last: without it a run begins anew, and comes to the same result."""
    import torch

    from hptransfer.training import Busy, locked

    try:
        with locked(make_folder(target.path)):
            state = torch.load(source.path / STABLE, map_location="cpu", weights_only=True)
            metrics = (source.path / "metrics.jsonl").read_bytes()[: state["metrics_end"]]
            write_atomic(target.path / "metrics.jsonl", metrics)
            write_json(target.path / "branch.json", {"run": source.path.name, "step": state["step"]})
            with replacing(target.path / "checkpoint.pt") as temporary:
                shutil.copyfile(source.path / STABLE, temporary)
    except Busy:
        return
