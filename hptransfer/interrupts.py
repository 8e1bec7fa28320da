"""Ctrl-C and SIGTERM, held back until the work is at a place where it can be left."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Inside the block a first SIGINT or SIGTERM waits for a call of what is yielded, which raises KeyboardInterrupt.

    A second one raises at once. Outside of the main thread, which alone gets signals, nothing is held back.
    """
    asked: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise KeyboardInterrupt

    def release() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield release
        return
    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield release
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
