"""A W&B project: ended runs into it, and rows out of it. What can't be done is an error here, not a warning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError
from hptransfer.records import Record, find_records, read_rows
from hptransfer.rows import Row, row_of
from hptransfer.tracking.session import ended_run, ending, log_row, quiet_wandb, summarize

Say = Callable[[str], None]

OnRun = Callable[[int, int], None]
"""(runs done, of how many)"""

PREFIX = "wandb:"
"""Of the name of a W&B project or run where a path could stand too."""

PAGE = 200
"""Runs asked for at a time."""

PATIENCE = 600.0
"""Seconds that a server gets to take a run."""

TIMEOUT = 30
"""Seconds for an answer."""


def sync(paths: Sequence[Path | str], project: str | None = None, on_run: OnRun | None = None) -> int:
    """Brings the ended runs at or below `paths` into W&B: into `[entity/]project`, or where their configs say.

    What is there already is not sent twice. `on_run` is called after each; returns how many runs there are.
    """
    ended = [record for path in paths for record in find_records(Path(path)) if record.result is not None]
    if not ended:
        raise UserError(f"{', '.join(map(str, paths))}: no ended run in it")
    for number, record in enumerate(ended, start=1):
        with reaching_wandb(f"{record.path} (run {number} of {len(ended)})"):
            _send(record, place(project) if project else {})
        if on_run:
            on_run(number, len(ended))
    return len(ended)


def _send(record: Record, where: Mapping[str, str]) -> None:
    run = ended_run(record, record.config.tracking.model_copy(update=where)).open("online", PATIENCE)
    with ending(run):
        for row in record.metrics():
            log_row(run, row)
        summarize(run, record.result or {})


def place(project: str) -> dict[str, str]:
    """`entity/project` or `project` as keys of a tracking section."""
    entity, _, name = project.rpartition("/")
    if not name or "/" in entity:
        raise UserError(f"W&B project {project!r}: expected entity/project or project")
    return {"project": name, **({"entity": entity} if entity else {})}


@contextmanager
def reaching_wandb(what: str) -> Iterator[None]:
    """Turns what W&B, the network or a missing package refuse into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        reason = str(problem).partition("\n")[0] or type(problem).__name__
        raise UserError(f"W&B: {what}: {reason}") from problem


def rows_from(
    sources: Sequence[Path | str], warn: Say | None = None, columns: Mapping[str, str] | None = None
) -> list[Row]:
    """Rows from run folders, CSV files (`columns` maps our names to theirs) and, as `wandb:entity/project`, W&B."""
    projects = [str(source) for source in sources if str(source).startswith(PREFIX)]
    local = [source for source in sources if str(source) not in projects]
    rows = read_rows(local, warn, columns) if local else []
    return [*rows, *(row for name in projects for row in rows_from_wandb(name.removeprefix(PREFIX), warn))]


def rows_from_wandb(project: str, warn: Say | None = None) -> list[Row]:
    """Every ended run of ours in `entity/project` as a row, each once however often it was reported.

    `warn(line)` hears what was left out. A row's source is `wandb:entity/project/run`.
    """
    with reaching_wandb(project):
        known = [(f"{PREFIX}{project}/{run.id}", run.config, dict(run.summary)) for run in _runs(project)]
    ended = [entry for entry in known if "run" in entry[1] and "status" in entry[2]]
    if warn and len(ended) < len(known):
        warn(f"W&B: {project}: {len(known) - len(ended)} of {len(known)} runs have not ended or are not ours; left out")
    if not ended:
        raise UserError(f"W&B: {project}: no ended run of ours among {len(known)} runs")
    once: dict[str, Row] = {}
    for source, config, summary in ended:
        once.setdefault(config["run"], row_of(summary, source))
    return list(once.values())


def _runs(project: str) -> Any:
    return quiet_wandb("online").Api(timeout=TIMEOUT).runs(project, lazy=False, per_page=PAGE)
