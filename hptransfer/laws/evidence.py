"""From rows to a problem: recipes compared, cells formed, coordinates chosen, what cannot be used named."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.errors import UserError
from hptransfer.laws import priors
from hptransfer.laws.pooled import Problem
from hptransfer.laws.timescale import fading, timescale
from hptransfer.laws.valley import Booleans, Floats, shape_names
from hptransfer.rows import Row

SAME_BUDGET = 0.01
"""Token budgets of one shape that differ by less than this in ln are one budget: rounding to whole steps."""
NAMED = 3
"""Runs that a warning names."""
FLOOR_FEATURES = tuple(priors.FLOOR)


@dataclass(frozen=True)
class Cell:
    """All runs that share one shape and one token budget."""

    params: float
    tokens: float
    width: float | None
    depth: float | None
    batch_tokens: float
    """Of the best run, as is the weight decay."""
    weight_decay: float | None
    runs: int
    diverged: int
    lowest_lr: float
    highest_lr: float
    lowest_batch: float
    highest_batch: float
    best_loss: float


@dataclass(frozen=True)
class Features:
    """What an optimum depends on: 1, ln(value / reference) by name, and the bend ln(params / reference)^2 / 2."""

    names: tuple[str, ...]
    reference: Mapping[str, float]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `matrix`."""
        return ("level", *self.names, "params bend")

    def matrix(self, points: Sequence[Mapping[str, float]]) -> Floats:
        """(points, columns)."""
        logs = np.array([[self._log(point, name) for name in self.names] for point in points])
        bend = np.array([[self._log(point, "params") ** 2 / 2] for point in points])
        return np.concatenate([np.ones((len(points), 1)), logs.reshape(len(points), -1), bend], 1)

    def floor_matrix(self, points: Sequence[Mapping[str, float]]) -> Floats:
        """The columns FLOOR_FEATURES: second order in ln params and ln tokens."""
        n = np.array([self._log(point, "params") for point in points])
        t = np.array([self._log(point, "tokens") for point in points])
        return np.stack([np.ones_like(n), n, t, n * n, t * t, n * t], 1)

    def _log(self, point: Mapping[str, float], name: str) -> float:
        return math.log(point[name] / self.reference[name])


@dataclass(frozen=True)
class Evidence:
    """Rows in the order of the problem's runs, and all that is known of where they come from."""

    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]
    features: Features
    problem: Problem | None
    recipe: Mapping[str, str | float]
    hash: str
    warnings: tuple[str, ...]


def gather(rows: Sequence[Row], pool: bool = False) -> Evidence:
    """The evidence in `rows`; UserError where they do not belong together or hold nothing to fit."""
    for row in rows:
        _check(row)
    rows, cut_short = _whole(rows)
    recipe, warnings = _recipe(rows, pool)
    warnings += cut_short
    coordinates, used = _coordinates([row for row in rows if row.status != "stopped"], warnings)
    used = _by_their_lr(used, warnings)
    if not any(_finite(row) for row in used):
        raise UserError(f"none of the {len(used)} usable runs finished with a finite loss: there is nothing to fit")
    groups = _with_stopped(used, [row for row in rows if row.status == "stopped"], coordinates, warnings)
    ordered = [row for group in groups for row in group]
    cells = tuple(_cell(group) for group in groups)
    features = _features(cells, str(recipe.get("parametrization", "")), "batch_tokens" in coordinates)
    problem = _problem(coordinates, groups, cells, features, str(recipe.get("parametrization", "")))
    return Evidence(tuple(ordered), cells, features, problem, recipe, data_hash(rows), tuple(warnings))


def point(cell: Cell) -> dict[str, float]:
    """The cell's place in feature space; width and depth where known."""
    known = {name: getattr(cell, name) for name in ("params", "tokens", "width", "depth", "batch_tokens")}
    return {name: float(value) for name, value in known.items() if value is not None}


def coordinate(row: Row, name: str) -> float:
    """A run's lr, batch or timescale."""
    if name == "timescale":
        fades = fading(row)
        assert fades is not None
        return float(timescale(fades))
    return float(getattr(row, name))


def _check(row: Row) -> None:
    for name in ("params", "tokens", "lr", "batch_tokens"):
        value = getattr(row, name)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{row.source or 'a row'}: {name}: expected a positive number, got {value!r}")
    if _finite(row) and not row.loss > 0:
        raise UserError(
            f"{row.source or 'a row'}: loss: expected a positive number of nats per token, got {row.loss!r}"
        )


def _finite(row: Row) -> bool:
    return row.status == "finished" and math.isfinite(row.loss)


def _whole(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Without the runs that were cut short, and a warning that names them."""
    cut = [row.source or "a row" for row in rows if row.status == "cut_short"]
    more = f" and {len(cut) - NAMED} more" if len(cut) > NAMED else ""
    named = [f"{len(cut)} runs were cut short and are left out: {', '.join(cut[:NAMED])}{more}"] if cut else []
    return [row for row in rows if row.status != "cut_short"], named


def _recipe(rows: Sequence[Row], pool: bool) -> tuple[dict[str, str | float], list[str]]:
    """What all rows share. Where they differ: UserError, or a warning when they are to be pooled."""
    keys = sorted({key for row in rows for key in row.recipe})
    counts = {key: Counter(row.recipe.get(key, "not given") for row in rows) for key in keys}
    differing = [
        f"{key}: " + ", ".join(f"{value} ({count} runs)" for value, count in counts[key].most_common())
        for key in keys
        if len(counts[key]) > 1
    ]
    if differing and not pool:
        raise UserError(
            "runs of different recipes are not one law (--pool fits them as one)\n  " + "\n  ".join(differing)
        )
    shared = {key: next(iter(counts[key])) for key in keys if len(counts[key]) == 1}
    warnings = [f"pooled over different recipes: {line}" for line in differing]
    if "parametrization" not in keys:
        warnings.append("the runs do not say their parametrization: their lr is taken for that of sp")
    return shared, warnings


def _coordinates(rows: list[Row], warnings: list[str]) -> tuple[tuple[str, ...], list[Row]]:
    """The hyperparameters that vary inside a cell (or, with one run per cell, from run to run at all)."""
    swept = tuple(name for name in ("lr", "batch_tokens", "weight_decay") if _varies(rows, name))
    if "weight_decay" in swept:
        known = [row for row in rows if row.weight_decay is not None]
        if len(known) < len(rows):
            warnings.append(f"{len(rows) - len(known)} runs are left out: weight_decay was swept, theirs is not given")
        rows = known
    if "weight_decay" in swept and any(row.lr_hidden is None or row.weight_decay_hidden is None for row in rows):
        warnings.append(
            "the timescale comes from lr and weight_decay as given: lr_hidden or weight_decay_hidden is missing"
        )
    names = {"weight_decay": "timescale"}
    return tuple(names.get(name, name) for name in swept), rows


def _by_their_lr(rows: list[Row], warnings: list[str]) -> list[Row]:
    """Without the diverged runs whose lr is not to blame: more runs at the same point have finished."""

    def place(row: Row) -> tuple[object, ...]:
        return row.params, row.width, row.depth, row.tokens, row.lr, row.batch_tokens, row.weight_decay

    finished, gone = (Counter(place(row) for row in rows if _finite(row) is good) for good in (True, False))
    kept = [row for row in rows if _finite(row) or finished[place(row)] <= gone[place(row)]]
    if left := len(rows) - len(kept):
        warnings.append(f"{left} diverged runs are left out: more runs with the same lr, batch and decay have finished")
    return kept


def _with_stopped(
    used: Sequence[Row], stopped: Sequence[Row], coordinates: Sequence[str], warnings: list[str]
) -> list[list[Row]]:
    """The cells with their stopped runs, where a run of the cell has finished: else there is no best to be above."""
    placed = [row for row in stopped if row.weight_decay is not None or "timescale" not in coordinates]
    groups = [
        group if any(map(_finite, group)) else [row for row in group if row.status != "stopped"]
        for group in _cells([*used, *placed])
    ]
    groups = [group for group in groups if group]
    count = sum(row.status == "stopped" for group in groups for row in group)
    if count:
        warnings.append(f"{count} stopped runs count only as such that would not have been the best of their cells")
    if left := len(stopped) - count:
        warnings.append(f"{left} stopped runs are left out: nothing like them has finished")
    return groups


def _varies(rows: Sequence[Row], name: str) -> bool:
    groups = [[getattr(row, name) for row in group if getattr(row, name) is not None] for group in _cells(rows)]
    if all(len(group) <= 1 for group in groups) and len(groups) >= 4:
        return len({value for group in groups for value in group}) >= 4
    return any(len(set(group)) > 1 for group in groups)


def _cells(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by shape, then by token budget; budgets that differ by rounding only are one."""
    shapes: dict[tuple[float, float, float], list[Row]] = {}
    for row in rows:
        shapes.setdefault((float(f"{row.params:.6g}"), row.width or 0.0, row.depth or 0.0), []).append(row)
    cells: list[list[Row]] = []
    for _, members in sorted(shapes.items()):
        last = 0.0
        for row in sorted(members, key=lambda row: row.tokens):
            if not last or math.log(row.tokens / last) > SAME_BUDGET:
                cells.append([])
            cells[-1].append(row)
            last = row.tokens
    return cells


def _cell(group: Sequence[Row]) -> Cell:
    rows = [row for row in group if row.status != "stopped"]
    finite = [row for row in rows if _finite(row)]
    lrs = [row.lr for row in finite] or [row.lr for row in rows]
    best = min(finite, key=lambda row: row.loss, default=rows[0])
    return Cell(
        rows[0].params,
        float(np.median([row.tokens for row in rows])),
        rows[0].width,
        rows[0].depth,
        best.batch_tokens,
        best.weight_decay,
        len(rows),
        len(rows) - len(finite),
        min(lrs),
        max(lrs),
        min(row.batch_tokens for row in rows),
        max(row.batch_tokens for row in rows),
        best.loss if finite else math.nan,
    )


def _features(cells: Sequence[Cell], parametrization: str, batch_swept: bool) -> Features:
    """Width and depth where the parametrization claims transfer over them and all runs give them; else parameters."""
    shaped = parametrization in priors.WIDTH_RULE and all(cell.width and cell.depth for cell in cells)
    names = (("width", "depth") if shaped else ("params",)) + ("tokens",) + (() if batch_swept else ("batch_tokens",))
    points = [point(cell) for cell in cells]
    reference = {
        name: math.exp(float(np.mean([math.log(one[name]) for one in points]))) for name in {*names, "params", "tokens"}
    }
    return Features(names, dict(sorted(reference.items())))


def _problem(
    coordinates: tuple[str, ...],
    groups: Sequence[Sequence[Row]],
    cells: Sequence[Cell],
    features: Features,
    parametrization: str,
) -> Problem | None:
    if not coordinates:
        return None
    rows = [row for group in groups for row in group]
    cell = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    x = np.log([[coordinate(row, name) for name in coordinates] for row in rows])
    stopped = np.array([row.status == "stopped" for row in rows])
    diverged = np.array([not _finite(row) for row in rows]) & ~stopped
    y = np.array([math.log(row.loss) if _finite(row) else 0.0 for row in rows])
    points = [point(one) for one in cells]
    matrix, floor = features.matrix(points), features.floor_matrix(points)
    best = [_best(y, diverged | stopped, cell == c) for c in range(len(cells))]
    y = np.where(stopped, y[best][cell], y)
    if "lr" in coordinates:
        late = stopped & (x[:, coordinates.index("lr")] > x[best, coordinates.index("lr")][cell])
        x[late, coordinates.index("lr")] += math.log(priors.EARLY_FAVOURS_LOW)
    mean: list[float] = []
    sd: list[float] = []
    for j, name in enumerate(coordinates):
        known = priors.exponents(name, parametrization)
        slopes = np.array([*(known[feature][0] for feature in features.names), priors.CURVATURE[0]])
        level = float(np.median(x[best, j] - matrix[:, 1:] @ slopes))
        mean += [level, *slopes]
        sd += [priors.INTERCEPT_SD, *(known[feature][1] for feature in features.names), priors.CURVATURE[1]]
    shape = [priors.SHAPE[name] for name in shape_names(coordinates)]
    floor_prior = [priors.FLOOR[name] for name in FLOOR_FEATURES]
    lowest = np.array([y[i] for i in best])[~diverged[best]]
    level = float(np.median(lowest)) if len(lowest) else 0.0
    optima = len(mean)
    mean += [value for value, _ in shape] + [level, *(value for value, _ in floor_prior[1:])]
    sd += [value for _, value in shape] + [value for _, value in floor_prior]
    heavy = np.zeros(len(mean), bool)
    heavy[:optima].reshape(len(coordinates), -1)[:, 1:-1] = True
    return Problem(coordinates, x, y, cell, diverged, stopped, matrix, floor, np.array(mean), np.array(sd), heavy)


def _best(
    y: Floats,
    diverged: Booleans,
    inside: Booleans,
) -> int:
    """The index of the cell's best run; any run where all diverged."""
    return int(np.argmin(np.where(inside, np.where(diverged, 1e3, y), 1e6)))


def data_hash(rows: Sequence[Row]) -> str:
    """Of the numbers that are fitted, whatever their order."""
    lines = sorted(
        f"{row.params!r},{row.tokens!r},{row.lr!r},{row.batch_tokens!r},{row.weight_decay!r},{row.loss!r},{row.status}"
        for row in rows
        if row.status != "cut_short"
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
