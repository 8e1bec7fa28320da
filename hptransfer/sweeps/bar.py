"""The live display of a sweep: FLOPs done, runs by state, time left. Silent where nobody watches."""

from collections.abc import Sequence

from tqdm import tqdm

from hptransfer.sweeps.status import progress
from hptransfer.sweeps.trials import Run

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"


class Bar:
    """A progress bar over FLOPs, since runs differ in size. `show` is False, or True for where stderr is a terminal."""

    def __init__(self, name: str, runs: Sequence[Run], show: bool) -> None:
        self.runs = runs
        now = progress(runs)
        self._bar = tqdm(
            desc=name,
            total=now.flops,
            initial=now.flops_done,
            bar_format=FORMAT,
            disable=None if show else True,
            dynamic_ncols=True,
        )
        self._bar.set_postfix_str(str(now))

    def refresh(self) -> None:
        """Looks at the records and shows what they say."""
        if not self._bar.disable:
            now = progress(self.runs)
            self._bar.set_postfix_str(str(now), refresh=False)
            self._bar.update(max(0.0, now.flops_done - self._bar.n))
            self._bar.refresh()

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if not self._bar.disable:
            self._bar.write(line)

    def close(self) -> None:
        """Shows the last state and lets the terminal go."""
        self.refresh()
        self._bar.close()
