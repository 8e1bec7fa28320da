"""wandb-core, the process that wandb starts beside ours: wandb waits for its end without a limit, here there is one."""

import atexit
import signal
import sys
from contextlib import suppress
from subprocess import Popen, TimeoutExpired
from threading import Event, Thread
from types import FrameType
from typing import Any

LEAVE = 30.0
"""Seconds that wandb-core gets to end: more than a run gets to reach its server (tracker.PATIENCE). What it has not
sent by then stands in the run record, and `hptransfer wandb sync` sends it."""


class Guard:
    """Watches one wandb-core: from `leave` on it has LEAVE seconds, then it is killed.

    The thread is there from the beginning, since Python 3.12 starts none at exit.
    """

    def __init__(self, process: "Popen[Any]") -> None:
        self.process = process
        self._leaving = Event()
        Thread(target=self._watch, name="wandb-core's end", daemon=True).start()

    def leave(self) -> None:
        """The time runs."""
        self._leaving.set()

    def at_exit(self) -> None:
        """Runs before wandb's own hook, which waits for the process: Ctrl-C ends that wait, without a traceback."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._kill)
        self.leave()

    def _watch(self) -> None:
        self._leaving.wait()
        try:
            self.process.wait(LEAVE)
        except TimeoutExpired:
            self.process.kill()

    def _kill(self, number: int, frame: FrameType | None) -> None:
        self.process.kill()


_guard: Guard | None = None


def guard() -> None:
    """Sets a limit to the end of the wandb-core that wandb has started, if it has."""
    global _guard
    process = _running()
    if process is None or (_guard and _guard.process is process):
        return
    if _guard:
        atexit.unregister(_guard.at_exit)
    _guard = Guard(process)
    atexit.register(_guard.at_exit)


def teardown() -> None:
    """wandb.teardown(), at most LEAVE seconds long."""
    if _guard:
        _guard.leave()
    if wandb := sys.modules.get("wandb"):
        with suppress(SystemExit):  # wandb's answer to an exit code other than 0
            wandb.teardown()


def _running() -> "Popen[Any] | None":
    """The process; there is no public way to it (see wandb/sdk/lib/service), but a test that holds this one."""
    process: Any = sys.modules["wandb"].setup()
    for name in ("_connection", "_proc", "_process"):
        process = getattr(process, name, None)
    return process if isinstance(process, Popen) else None
