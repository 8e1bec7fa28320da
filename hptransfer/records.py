"""Run records: the folder that a training run leaves, and the rows in such folders and in CSVs."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hptransfer.config import RunConfig, load_config
from hptransfer.csvrows import csv_rows
from hptransfer.errors import UserError
from hptransfer.files import write_atomic, writing
from hptransfer.modelfile import content_hash, is_file
from hptransfer.rows import Row, row_of
from hptransfer.sections import ModelConfig

NUMERICS_VERSION = 1
"""Raised whenever a change of ours changes the numbers of a run."""

STABLE = "stable.pt"
"""A run's state at the end of its stable phase, where it was kept."""

PROMPT = 1.0
"""Seconds until a line of metrics.jsonl can be read by others: what they show of a run is that fresh."""

NOT_IDENTITY = {
    "data": {"path"},
    "train": {"device", "threads", "checkpoint_seconds", "save_weights", "keep_stable"},
}
"""Config keys that do not determine a run's result (the data's content does, its path does not); nor does tracking."""


@dataclass(frozen=True)
class Record:
    """A run folder on disk: config.yaml, metrics.jsonl, and result.json once it has ended (or failure.json)."""

    path: Path

    @property
    def config(self) -> RunConfig:
        """The resolved config."""
        return load_config(self.path / "config.yaml")

    @property
    def result(self) -> dict[str, Any] | None:
        """How the run ended; None where it has not."""
        return read_json(self.path / "result.json")

    @property
    def failure(self) -> dict[str, Any] | None:
        """Message and number of attempts of a run that failed."""
        return read_json(self.path / "failure.json")

    @property
    def branch(self) -> dict[str, Any] | None:
        """The run, and the step, from which this one went on; None where it began by itself."""
        return read_json(self.path / "branch.json")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; a half-written last line is passed over."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    return

    def row(self) -> Row | None:
        """The run as a row; None where it has not ended."""
        result = self.result
        return None if result is None else row_of(result, str(self.path))


class Metrics:
    """Writes metrics.jsonl from byte `end` on: what stands behind it belongs to no checkpoint and is cut away."""

    def __init__(self, path: Path, end: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < end:
            raise UserError(
                f"{path}: {size} bytes, but the checkpoint beside it goes on from byte {end}; "
                "delete the run's folder to start it anew"
            )
        self.path = path
        self.waiting = bytearray()
        """Lines that have not been handed to the system, whole but for the first."""
        self.passed_on = -math.inf
        """When that was last tried (time.monotonic)."""
        with writing(path):
            self.file = path.open("ab", buffering=0)
            self.file.truncate(end)
            self.file.seek(end)

    def write(self, line: Mapping[str, Any]) -> None:
        """One line; others can read it PROMPT seconds later. On a full disk it waits for a later one."""
        self.waiting += f"{to_json(line)}\n".encode()
        if time.monotonic() - self.passed_on >= PROMPT:
            with suppress(OSError):
                self._pass_on()

    def sync(self) -> int:
        """Puts every line on the disk; the length of the file in bytes."""
        with writing(self.path):
            self._pass_on()
            os.fsync(self.file.fileno())
            return self.file.tell()

    def close(self) -> None:
        """The last lines go to the disk."""
        try:
            self.sync()
        finally:
            self.file.close()

    def _pass_on(self) -> None:
        """A disk that fills up takes a part, and what is left waits."""
        self.passed_on = time.monotonic()
        while self.waiting:
            del self.waiting[: self.file.write(self.waiting)]


def identity(config: RunConfig, data_fingerprint: str) -> str:
    """The run's name: a hash of all that determines its result, and of nothing else (16 hexadecimal digits)."""
    plain = config.to_dict()
    del plain["tracking"]
    for section, keys in NOT_IDENTITY.items():
        plain[section] = {key: value for key, value in plain[section].items() if key not in keys}
    parts = {"config": plain, "data": data_fingerprint, "numerics": NUMERICS_VERSION}
    if is_file(config.model.name):  # the file's content counts, its path does not
        plain["model"]["name"] = config.model.name.rpartition(":")[2]
        parts["model"] = content_hash(config.model.name)
    return hashlib.sha256(to_json(parts, sort_keys=True).encode()).hexdigest()[:16]


def recipe(config: RunConfig, data_fingerprint: str = "") -> dict[str, str | float]:
    """What a law fitted to this run holds for (the recipe columns of a result); without a fingerprint any such data."""
    parametrization = config.parametrization
    values = {
        "parametrization": parametrization.name,
        "base_width": parametrization.base_width,
        "base_depth": parametrization.base_depth,
        "base_tokens": parametrization.base_tokens,
        "base_batch_tokens": parametrization.base_batch_tokens,
        "model": _model(config.model),
        "optimizer": config.optimizer.name,
        "schedule": config.schedule.name,
        "warmup": config.schedule.warmup,
        "seq_len": config.data.seq_len,
        "data": ":".join(filter(None, (config.data.source, data_fingerprint[:8]))),
        "precision": config.train.precision,
        "weight_decay_rule": parametrization.weight_decay_rule,
        "embedding_lr": parametrization.embedding_lr,
    }
    return {key: value for key, value in values.items() if value is not None}


def _model(model: ModelConfig) -> str:
    """A model's name; that of a user's file without its folder, with the beginning of its content's hash. Where there
    are experts, with the share of them that a token is sent to: it has to stay (Jiang et al., arXiv:2601.20205)."""
    name = f"{Path(model.name).name}:{content_hash(model.name)[:8]}" if is_file(model.name) else model.name
    experts, active = (getattr(model, key, None) for key in ("experts", "experts_per_token"))
    return f"{name}:{Fraction(active, experts)} of experts" if experts and active else name


def finite(value: Any) -> Any:
    """Plain data with null for every number that is not finite: what JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def to_json(value: Any, **options: Any) -> str:
    """Valid JSON, whatever the numbers: what is not finite is null."""
    return json.dumps(finite(value), allow_nan=False, **options)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON object, written whole or not at all."""
    write_atomic(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file; UserError where it is damaged."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot read: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def find_records(folder: Path) -> list[Record]:
    """Every run folder at or below `folder`, by name. W&B's own folders hold a config.yaml that is another's."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder")
    paths = sorted(path.relative_to(folder) for path in folder.rglob("config.yaml"))
    return [Record((folder / path).parent) for path in paths if "wandb" not in path.parts]


def read_rows(paths: Sequence[Path | str], warn: Any = None, columns: Mapping[str, str] | None = None) -> list[Row]:
    """All ended runs of run folders, folders of runs and CSV files, each once; `warn(text)` hears what was left out.

    `columns` maps a name of ours to a CSV's own: {"lr": "learning_rate"} (see csvrows.py).
    """
    say, theirs = warn or (lambda text: None), columns or {}
    rows = [
        row
        for path in map(Path, paths)
        for row in (csv_rows(path, say, theirs) if path.is_file() else _run_rows(path, say))
    ]
    if not rows:
        raise UserError(f"{', '.join(map(str, paths))}: no ended run in it")
    return list({row.source: row for row in rows}.values())


def _run_rows(folder: Path, say: Any) -> Iterable[Row]:
    records = find_records(folder)
    rows = [row for record in records if (row := record.row()) is not None]
    if len(rows) < len(records):
        say(f"{folder}: {len(records) - len(rows)} of {len(records)} runs have not ended and are left out")
    return rows
