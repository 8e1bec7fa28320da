"""Reading W&B's transaction log (`run-<id>.wandb`): all that an offline run consists of.

The format is LevelDB's log in 32 KiB blocks, after a header of 7 bytes: records of <checksum (4), length (2), type (1)>
and payload; a payload is a protocol buffer, wandb.proto.wandb_internal_pb2.Record.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK = 32768
FRAME = 7
FULL, LAST = 1, 4
"""Record types that end a payload; 2 and 3 are a payload's first and middle parts."""


def payloads(path: Path) -> Iterator[bytes]:
    """The payloads as far as the file goes."""
    data, at, payload = path.read_bytes(), FRAME, b""
    while at + FRAME <= len(data):
        if BLOCK - at % BLOCK < FRAME:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        payload += data[at + FRAME : at + FRAME + length]
        at += FRAME + length
        if kind in (FULL, LAST):
            if at <= len(data):
                yield payload
            payload = b""


def records(path: Path) -> Iterator[Any]:
    """The records (wandb_internal_pb2.Record)."""
    return map(_record, payloads(path))


def ends_well(path: Path) -> bool:
    """Whether the log goes on to the run's end (on a full disk it is cut off without an error)."""
    *_, last = [None, *payloads(path)] if path.exists() else [None]
    return last is not None and bool(_record(last).HasField("exit"))


def _record(payload: bytes) -> Any:
    return import_module("wandb.proto.wandb_internal_pb2").Record.FromString(payload)
