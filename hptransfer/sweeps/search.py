"""The runs of a sweep: all known beforehand, or proposed one after the other from what was found."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hptransfer.data import Progress
from hptransfer.errors import UserError
from hptransfer.files import make_folder
from hptransfer.records import read_json, write_json
from hptransfer.sweeps.config import Sweep
from hptransfer.sweeps.samplers import Sampler, Tried
from hptransfer.sweeps.space import Overrides, Parameter
from hptransfer.sweeps.trials import Run, Trial, expand, resolve_runs, trial_at

POINTS = "points.json"
"""In the folder of a run that was proposed: by sweep, the parameters' values. A search is rebuilt from these."""


@dataclass
class Search:
    """A sweep's runs, growing as its sampler proposes."""

    file: Sweep
    folder: Path
    """Of the runs."""
    sampler: Sampler
    on_data: Progress | None = None
    """Told of the building of a corpus."""
    runs: list[Run] = field(default_factory=list)
    exhausted: bool = False
    """Whether the sampler has nothing more to propose."""

    def __post_init__(self) -> None:
        if self.adaptive:
            check_corners(self.file)
            self.look()
        else:
            self.runs = self._resolve(expand(self.file, self.sampler))

    @property
    def adaptive(self) -> bool:
        """Whether later points depend on what earlier ones found."""
        return self.file.config.method == "bayes"

    @property
    def left(self) -> int:
        """Runs still to be proposed."""
        open_ended = self.adaptive and not self.exhausted
        return max(0, (self.file.config.run_cap or 0) - len(self.runs)) if open_ended else 0

    def more(self, n: int) -> list[Run]:
        """At most n runs that were not there before."""
        if not self.left or n <= 0:
            return []
        self.look()
        points = self.sampler.propose([self._tried(run) for run in self.runs], min(n, self.left))
        known = {run.record.path for run in self.runs}
        runs = self._resolve([trial_at(self.file, point) for point in points])
        fresh = [run for run in runs if run.record.path not in known]
        self.exhausted = not fresh
        for run in fresh:
            remember(self.file.name, run)
        self.runs += fresh
        return fresh

    def look(self) -> None:
        """Takes in what other processes have proposed, or this one before it was killed."""
        known = {run.record.path for run in self.runs}
        for path in sorted(self.folder.glob(f"*/{POINTS}")):
            point = (read_json(path) or {}).get(self.file.name)
            if point is not None and path.parent not in known:
                self.runs += [run for run in self._taken_up(point) if run.record.path == path.parent]

    def _taken_up(self, point: Overrides) -> list[Run]:
        """The run at a point; none where the sweep file has since changed so that there is no such run."""
        try:
            return self._resolve([trial_at(self.file, point)])
        except UserError:
            return []

    def _resolve(self, trials: list[Trial]) -> list[Run]:
        return resolve_runs(self.file, trials, self.folder, self.on_data)

    def _tried(self, run: Run) -> Tried:
        result = run.record.result
        if result is not None:
            return Tried(run.trial.overrides, math.inf if result["loss"] is None else result["loss"])
        return Tried(run.trial.overrides, None if run.record.failure is None else math.inf)


def remember(name: str, run: Run) -> None:
    """Writes a proposed point into its run's folder before the run begins."""
    path = make_folder(run.record.path) / POINTS
    write_json(path, {**(read_json(path) or {}), name: dict(run.trial.overrides)})


def check_corners(file: Sweep) -> None:
    """UserError unless the ends of every range, and every listed value, make a valid run config."""
    for point in corners(file):
        trial_at(file, point)


def corners(file: Sweep) -> Iterator[Overrides]:
    """Points at which every listed value and both ends of every range are seen (of a bell, its 0.1 % tails)."""
    ends = {key: p.values or [p.quantile(u) for u in _ends(p)] for key, p in file.config.space.items()}
    for number in range(max(map(len, ends.values()))):
        yield {key: values[min(number, len(values) - 1)] for key, values in ends.items()}


def _ends(parameter: Parameter) -> tuple[float, float]:
    return (0.001, 0.999) if parameter.min is None else (0.0, math.nextafter(1.0, 0.0))
