"""One process at a time runs a sweep: a lease in the runs folder that says host, process and since when.

A run has a lock of its own (training.py), which the system drops with its process. Not every shared file system passes
such locks from node to node; the lease needs nothing but files. Its holder touches it every HEARTBEAT seconds. Others
watch it for a change, on their own clock, so that no two clocks are ever compared.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout

from hptransfer.errors import UserError
from hptransfer.files import make_folder, writing
from hptransfer.records import read_json, write_json

logger = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds without a heartbeat after which a sweep on another machine counts as dead; the same for all who ask. On this
machine a process that is gone is seen at once."""

HEARTBEAT = 3.0


@contextmanager
def alone(name: str, runs: Path) -> Iterator[Callable[[], None]]:
    """The sweep of this name in this folder for this process; yields a check that raises UserError once it is lost.

    UserError where another process has it; that of one that has died is taken over, which a warning says.
    """
    path = make_folder(runs) / f".sweep-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.lock"
    lease = SoftFileLease(path, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, thread_local=False)
    started = path.with_suffix(".json")
    before = _holder(lease, started)
    with writing(path):
        try:
            lease.acquire(timeout=LEASE + 2 * HEARTBEAT, poll_interval=0.2, cancel_check=_beats(path, lease))
        except Timeout:
            raise UserError(
                f"{runs}: the sweep {name} is being run here ({_holder(lease, started)}); --share works beside it"
            ) from None
        if started.exists() and before:
            logger.warning("%s: taken over from a run of the sweep %s that has died (%s)", runs, name, before)

    def check() -> None:
        if lease.compromise is not None:
            now = _holder(lease, started)
            raise UserError(f"{runs}: the sweep {name} has been taken over by another process ({now}) while this slept")

    try:
        write_json(started, {"since": datetime.now().astimezone().isoformat(" ", "seconds"), "token": lease.token})
        yield check
    finally:
        if lease.compromise is None:
            started.unlink(missing_ok=True)
        lease.release()


def _holder(lease: SoftFileLease, started: Path) -> str:
    """Who has it, for people; '' where nobody has."""
    owner = lease.owner
    if owner is None:
        return ""
    known = read_json(started) or {}
    since = f", since {known['since']}" if known.get("token") == owner.token else ""
    return f"host {owner.hostname.partition('?')[0]}, process {owner.pid}{since}"


def _beats(path: Path, lease: SoftFileLease) -> Callable[[], bool]:
    """Whether the holder has been heard since the first question."""
    first: list[tuple[str | None, int]] = []

    def heard() -> bool:
        owner = lease.owner  # opened and read: what a network file system knows of the time is then fresh
        if owner is None:
            return False
        try:
            first.append((owner.token, path.stat().st_mtime_ns))
        except FileNotFoundError:
            return False
        return first[-1] != first[0]

    return heard
