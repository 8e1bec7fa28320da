"""From rows to cells: what each sweep says by itself, without a law."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hptransfer.rows import RECIPE, Row
from hptransfer.tables import amount

SAME_BUDGET = 0.01
"""Token budgets of one shape that differ by less than this in ln are one budget: rounding to whole steps."""

UNKNOWN = "recipe not given"


@dataclass(frozen=True)
class Setting:
    """All seeds of one lr, batch and weight decay in a cell."""

    lr: float
    loss: float
    """Mean over seeds; nan where one of them diverged."""
    sem: float
    """Standard error of that mean; 0 with a single seed."""
    best: Row
    """The run of lowest loss; any run where none is finite."""


@dataclass(frozen=True)
class Optimum:
    """Where a cell's valley is lowest over the lr."""

    lr: float
    """Vertex of the parabola in ln lr through the best setting and its neighbours; the best lr where there is none."""
    low: float
    """The best lr's neighbours, between which the floor of a single valley lies; 0 or inf at an edge of the sweep."""
    high: float
    floor: float
    """The parabola's lowest value."""
    best: Row

    @property
    def edge(self) -> str:
        """Which ends of the sweep the best lr stands on: '', 'lowest', 'highest' or 'only'."""
        ends = (self.low == 0, math.isinf(self.high))
        return {(True, True): "only", (True, False): "lowest", (False, True): "highest"}.get(ends, "")


@dataclass(frozen=True, eq=False)
class Cell:
    """All runs of one recipe that share one shape and one token budget."""

    label: str
    """Shape and budget for people; with the number of parameters where that alone tells it from another cell."""
    recipe: str
    """What tells this recipe from the others in the same rows; empty where there is one."""
    rows: tuple[Row, ...]
    curve: tuple[Setting, ...]
    """The best setting at each lr, by lr."""
    optimum: Optimum | None
    """None where no run finished."""

    @property
    def params(self) -> float:
        """Non-embedding."""
        return self.rows[0].params

    @property
    def tokens(self) -> float:
        """The budget asked for."""
        return self.rows[0].tokens

    @property
    def width(self) -> float | None:
        """Where known."""
        return self.rows[0].width

    @property
    def depth(self) -> float | None:
        """Where known."""
        return self.rows[0].depth


def anchor(row: Row) -> str:
    """The run's name within a page: letters and digits, whatever the source is called."""
    return f"run-{hashlib.sha256(row.source.encode(errors='surrogatepass')).hexdigest()[:10]}"


def cells_of(rows: Sequence[Row]) -> list[Cell]:
    """The cells by recipe, then by size."""
    recipes = recipe_labels(rows)
    groups: dict[tuple[str, float, float, float], list[Row]] = {}
    for row, recipe in zip(rows, recipes, strict=True):
        shape = (float(f"{row.params:.6g}"), row.width or 0.0, row.depth or 0.0)
        groups.setdefault((recipe, *shape), []).append(row)
    members = [(key[0], budget) for key, shape in sorted(groups.items()) for budget in _budgets(shape)]
    names = Counter((recipe, _label(budget[0])) for recipe, budget in members)
    return [_cell(recipe, budget, names[recipe, _label(budget[0])] == 1) for recipe, budget in members]


def recipe_labels(rows: Sequence[Row]) -> list[str]:
    """For each row the values of those recipe keys that are needed to tell the recipes apart; '' where there is one."""
    chosen: list[str] = []
    for key in RECIPE:
        if _count(rows, [*chosen, key]) > _count(rows, chosen):
            chosen.append(key)
    return (
        [", ".join(_described(row, key) for key in chosen if recipe_value(row, key)) or UNKNOWN for row in rows]
        if chosen
        else ["" for row in rows]
    )


def _described(row: Row, key: str) -> str:
    value = row.recipe[key]
    return f"{key} {value:g}" if isinstance(value, float) else value


def recipe_value(row: Row, key: str) -> str:
    """One recipe value for people; '' where it is not known."""
    value = row.recipe.get(key, "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(rows: Sequence[Row], keys: Sequence[str]) -> int:
    return len({tuple(recipe_value(row, key) for key in keys) for row in rows})


def _budgets(rows: Sequence[Row]) -> list[list[Row]]:
    """Runs of one shape by token budget."""
    budgets: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.tokens):
        if not budgets or math.log(row.tokens / budgets[-1][-1].tokens) > SAME_BUDGET:
            budgets.append([])
        budgets[-1].append(row)
    return budgets


def _cell(recipe: str, rows: Sequence[Row], clear: bool) -> Cell:
    curve, label = _curve(rows), _label(rows[0])
    return Cell(
        label if clear else f"{label}, {amount(rows[0].params)} params", recipe, tuple(rows), curve, _optimum(curve)
    )


def _label(row: Row) -> str:
    known = [f"{name} {value:g}" for name, value in (("width", row.width), ("depth", row.depth)) if value]
    return f"{' × '.join(known) or f'{amount(row.params)} params'}, {amount(row.tokens)} tokens"


def _curve(rows: Sequence[Row]) -> tuple[Setting, ...]:
    """At each lr the setting of lowest loss; a run that did not end by itself does not say where it would have."""
    groups: dict[tuple[float, float, float], list[Row]] = {}
    for row in rows:
        if row.status in ("finished", "diverged"):
            groups.setdefault((row.lr, row.batch_tokens, row.weight_decay or 0.0), []).append(row)
    best: dict[float, Setting] = {}
    for setting in map(_setting, groups.values()):
        if setting.lr not in best or _rank(setting.loss) < _rank(best[setting.lr].loss):
            best[setting.lr] = setting
    return tuple(best[lr] for lr in sorted(best))


def _setting(rows: Sequence[Row]) -> Setting:
    """Runs of one seed that differ in what rows do not hold count as the best of them."""
    seeds: dict[int | None, float] = {}
    for row in rows:
        seeds[row.seed] = min((seeds.get(row.seed, math.nan), loss_of(row)), key=_rank)
    losses = list(seeds.values())
    mean = sum(losses) / len(losses)
    spread = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / max(len(losses) - 1, 1))
    return Setting(rows[0].lr, mean, spread / math.sqrt(len(losses)), min(rows, key=lambda row: _rank(loss_of(row))))


def loss_of(row: Row) -> float:
    """The loss of a run that finished; nan for every other."""
    return row.loss if row.status == "finished" else math.nan


def _rank(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _optimum(curve: Sequence[Setting]) -> Optimum | None:
    """A neighbour that diverged still bounds the interval, but lends the parabola no value."""
    at = min(range(len(curve)), key=lambda i: _rank(curve[i].loss), default=0)
    if not curve or not math.isfinite(curve[at].loss):
        return None
    here = curve[at]
    low = curve[at - 1].lr if at > 0 else 0.0
    high = curve[at + 1].lr if at + 1 < len(curve) else math.inf
    lr, floor = here.lr, here.loss
    if low > 0 and math.isfinite(high):
        lr, floor = _vertex(curve[at - 1], here, curve[at + 1])
    return Optimum(lr, low, high, floor, here.best)


def _vertex(left: Setting, here: Setting, right: Setting) -> tuple[float, float]:
    """(lr, loss) at the lowest point of the parabola in ln lr through three settings, the middle one lowest."""
    a, b = math.log(left.lr / here.lr), math.log(right.lr / here.lr)
    rise_a, rise_b = left.loss - here.loss, right.loss - here.loss
    curvature = (rise_b / b - rise_a / a) / (b - a)
    slope = rise_a / a - curvature * a
    if not curvature > 0:  # a flat bottom, or nan beside a diverged run
        return here.lr, here.loss
    return here.lr * math.exp(-slope / (2 * curvature)), here.loss - slope**2 / (4 * curvature)
