"""The live display of a sweep: FLOPs done, runs by state, time left. Silent where nobody watches."""

import sys
import time

from tqdm import tqdm

from hptransfer.sweeps.progress import Progress, expected_flops, progress
from hptransfer.sweeps.search import Search

REFRESH = 0.5
"""Seconds between two looks at the records."""

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Bar:
    """A progress bar over FLOPs, since runs differ in size. `show` is False, or True for where stderr is a terminal."""

    def __init__(self, search: Search, show: bool) -> None:
        self.search, self.looked = search, time.monotonic()
        now = progress(search.runs)
        self._bar = tqdm(
            desc=self._counts(now),
            total=expected_flops(search, now),
            initial=now.flops_done,
            bar_format=FORMAT,
            disable=None if show else True,
            dynamic_ncols=True,
        )

    def refresh(self) -> None:
        """Looks at the records, if the last look is a while ago, and shows what they say."""
        if not self._bar.disable and time.monotonic() - self.looked >= REFRESH:
            self.looked = time.monotonic()
            now = progress(self.search.runs)
            self._bar.total = expected_flops(self.search, now)
            self._bar.set_description_str(self._counts(now), refresh=False)
            self._bar.update(max(0.0, now.flops_done - self._bar.n))
            self._bar.refresh()

    def _counts(self, now: Progress) -> str:
        return f"{self.search.file.name}: {now}"

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Shows the last state and lets the terminal go."""
        self.looked = -REFRESH
        self.refresh()
        self._bar.close()
