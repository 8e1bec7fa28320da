"""What a careful reader has to know before believing a sweep."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.figures.cells import Cell, recipe_value
from hptransfer.figures.judged import Judged, differences
from hptransfer.report.facts import Flat
from hptransfer.rows import RECIPE, Row
from hptransfer.seeds import seed_noise

if TYPE_CHECKING:
    from hptransfer.laws import Laws

FEW_LRS = 4
"""Three points always lie on a parabola: only a fourth could contradict it."""


@dataclass(frozen=True)
class Finding:
    """One sentence or two, and the runs that it speaks of."""

    text: str
    runs: tuple[Row, ...] = ()
    grave: bool = True


def findings(rows: Sequence[Row], cells: Sequence[Cell], configs: Sequence[Flat]) -> list[Finding]:
    """From the runs alone."""
    return [
        *_edges(cells),
        *_lost(rows, cells),
        *_few(cells),
        *_recipes(rows),
        *_twins(rows, configs),
        *_seeds(rows),
    ]


def law_findings(rows: Sequence[Row], laws: "Laws", at: Judged | None) -> list[Finding]:
    """What the laws warn of, at the cell of the headline where there is one."""
    if at is not None:
        return [Finding(f"Law: {warning}.") for warning in at.prediction.warnings]
    why = "; ".join(differences(rows[0], laws))
    return [Finding(f"The law is of another recipe than every run here: {why}.")]


def _edges(cells: Sequence[Cell]) -> list[Finding]:
    found = []
    for end, advice in (("highest", "higher"), ("lowest", "lower")):
        at = [cell for cell in cells if cell.optimum and cell.optimum.edge == end]
        if at:
            found.append(
                Finding(
                    f"The best lr is the {end} one tried in {_cells(at, cells)}: the optimum may lie beyond it. "
                    f"Sweep {advice} learning rates.",
                    tuple(cell.optimum.best for cell in at if cell.optimum),
                )
            )
    return found


def _lost(rows: Sequence[Row], cells: Sequence[Cell]) -> list[Finding]:
    found = []
    diverged = tuple(row for row in rows if row.status == "diverged")
    if empty := [cell for cell in cells if cell.optimum is None]:
        found.append(Finding(f"No run finished in {_cells(empty, cells)}.", tuple(cell.rows[0] for cell in empty)))
    if diverged:
        found.append(
            Finding(f"{len(diverged)} of {len(rows)} runs diverged; crosses mark them in the figure.", diverged)
        )
    if stopped := tuple(row for row in rows if row.status == "stopped"):
        found.append(
            Finding(
                f"{len(stopped)} of {len(rows)} runs were stopped early: "
                "where they would have ended is not known. To a fit they say only that they were losing.",
                stopped,
            )
        )
    if cut := tuple(row for row in rows if row.status == "cut_short"):
        found.append(Finding(f"{len(cut)} of {len(rows)} runs were cut short; a fit leaves them out.", cut))
    return found


def _few(cells: Sequence[Cell]) -> list[Finding]:
    few = [cell for cell in cells if 1 < len(cell.curve) < FEW_LRS]
    single = [cell for cell in cells if len(cell.curve) == 1]
    found = []
    if few:
        found.append(
            Finding(
                f"Fewer than {FEW_LRS} learning rates in {_cells(few, cells)}: the optimum there is a rough bracket.",
                tuple(cell.rows[0] for cell in few),
            )
        )
    if single:
        found.append(Finding(f"A single learning rate in {_cells(single, cells)}: no optimum is claimed there."))
    return found


def _recipes(rows: Sequence[Row]) -> list[Finding]:
    counts = {key: Counter(recipe_value(row, key) or "not given" for row in rows) for key in RECIPE}
    differing = [
        f"{key}: " + ", ".join(f"{value} ({count})" for value, count in counts[key].most_common())
        for key in RECIPE
        if len(counts[key]) > 1
    ]
    if not differing:
        return []
    text = "Runs of different recipes stand side by side and are never pooled here. They differ in "
    return [Finding(text + "; ".join(differing) + ".", grave=False)]


def _twins(rows: Sequence[Row], configs: Sequence[Flat]) -> list[Finding]:
    """Runs that the sweep's axes cannot tell apart, with the config keys that do."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, row in enumerate(rows):
        recipe = tuple(recipe_value(row, key) for key in RECIPE)
        axes = (row.params, row.width, row.depth, row.tokens, row.lr, row.batch_tokens, row.weight_decay, row.seed)
        groups.setdefault((*axes, recipe), []).append(i)
    twins = [group for group in groups.values() if len(group) > 1]
    if not twins:
        return []
    keys = sorted(
        {
            key
            for group in twins
            for key in {key for i in group for key in configs[i]}
            if len({repr(configs[i].get(key)) for i in group}) > 1
        }
    )
    why = f"they differ in {', '.join(keys)}" if keys else "nothing recorded tells them apart"
    runs = tuple(rows[i] for group in twins for i in group)
    text = (
        f"{len(runs)} runs share shape, budget, lr, batch, weight decay and seed with another run: {why}. "
        "The best of each such group stands for it."
    )
    return [Finding(text, runs)]


def _seeds(rows: Sequence[Row]) -> list[Finding]:
    if noise := seed_noise(rows):
        return [Finding(f"{str(noise).capitalize()}. Smaller differences between runs mean nothing.", grave=False)]
    if len({row.seed for row in rows}) > 1:
        return []
    return [Finding("One seed throughout: how far a loss moves with the seed was not measured.", grave=False)]


def _cells(some: Sequence[Cell], every: Sequence[Cell]) -> str:
    """Names of a few cells, number of many."""
    if len(some) == len(every) > 1:
        return f"all {len(every)} cells"
    if len(some) > 4:
        return f"{len(some)} of {len(every)} cells"
    return "; ".join(f"{cell.label} ({cell.recipe})" if cell.recipe else cell.label for cell in some)
