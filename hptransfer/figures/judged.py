"""Laws held against runs: what they say at each cell, beside what was measured there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hptransfer.figures.cells import SAME_BUDGET, Cell, loss_of
from hptransfer.rows import Row

if TYPE_CHECKING:
    from hptransfer.laws import Laws, Prediction
    from hptransfer.laws.evidence import Cell as FittedOn


@dataclass(frozen=True)
class Judged:
    """A cell of the laws' own recipe and what they say there."""

    cell: Cell
    prediction: "Prediction"
    held_out: bool
    """The cell is not among those that the laws were fitted to."""
    used: Row | None
    """The finished run whose lr is nearest to the recommended one."""

    @property
    def regret(self) -> float:
        """Loss of the nearest run over the best of the cell, minus 1; nan without one."""
        best = self.cell.optimum
        return self.used.loss / best.best.loss - 1 if self.used and best else math.nan


def judge(cells: Sequence[Cell], laws: "Laws") -> list[Judged]:
    """The laws' word at every cell that they speak of: those of their recipe."""
    return [_judged(cell, laws) for cell in cells if not differences(cell.rows[0], laws)]


def differences(row: Row, laws: "Laws") -> list[str]:
    """One line for each part of the laws' recipe that is not the run's; what they were pooled over is no part of it."""
    return laws.differences({key: value for key, value in row.recipe.items() if key in laws.recipe})


def _judged(cell: Cell, laws: "Laws") -> Judged:
    first = cell.optimum.best if cell.optimum else cell.rows[0]
    prediction = laws.predict(
        params=cell.params,
        tokens=cell.tokens,
        width=cell.width,
        depth=cell.depth,
        batch_tokens=None if "batch_tokens" in laws.coordinates else first.batch_tokens,
    )
    finite = [row for row in cell.rows if math.isfinite(loss_of(row))]
    used = min(finite, key=lambda row: (abs(math.log(row.lr / prediction.lr.value)), row.loss), default=None)
    return Judged(cell, prediction, not any(_same(cell, one.cell) for one in laws.cells), used)


def _same(cell: Cell, other: "FittedOn") -> bool:
    """The same shape and, but for rounding, the same budget."""
    return (
        (cell.width, cell.depth) == (other.width, other.depth)
        and math.isclose(cell.params, other.params, rel_tol=1e-5)
        and abs(math.log(cell.tokens / other.tokens)) <= SAME_BUDGET
    )
