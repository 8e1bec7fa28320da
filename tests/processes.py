"""Other processes, as tests see them: waited for, looked up."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What the condition gives, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


class Process(NamedTuple):
    pid: int
    parent: int
    group: int


def living() -> list[Process]:
    """Every process that has not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group, *_ = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            found.append(Process(int(entry.parent.name), int(parent), int(group)))
    return found


def children(pid: int) -> list[int]:
    return [process.pid for process in living() if process.parent == pid]
