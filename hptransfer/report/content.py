"""What the page says, as plain values for the template."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hptransfer.figures.cells import Cell, anchor, loss_of
from hptransfer.figures.judged import Judged
from hptransfer.rows import Row
from hptransfer.tables import amount, duration

if TYPE_CHECKING:
    from hptransfer.laws import Estimate, Laws

NONE = "–"


@dataclass(frozen=True)
class Column:
    """One column of the table of runs."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    text: bool = False
    """Sorted as words and set to the left."""


COLUMNS = (
    Column("run", "run", text=True),
    Column("status", "status", text=True),
    Column("recipe", "recipe", text=True),
    Column("width", "width", lambda value: f"{value:g}"),
    Column("depth", "depth", lambda value: f"{value:g}"),
    Column("params", "params", amount),
    Column("tokens", "tokens", amount),
    Column("batch_tokens", "batch tokens", amount),
    Column("lr", "lr", lambda value: f"{value:.3g}"),
    Column("weight_decay", "weight decay", lambda value: f"{value:.3g}"),
    Column("seed", "seed"),
    Column("loss", "loss", lambda value: f"{value:.4f}"),
    Column("above_best", "above best", lambda value: f"{value:+.2%}"),
    Column("seconds", "time", duration),
)


def run_table(cells: Sequence[Cell]) -> dict[str, Any]:
    """The columns in which runs differ, a line for each run by cell and lr; what they all share, once."""
    lines = [(cell, row) for cell in cells for row in sorted(cell.rows, key=lambda row: row.lr)]
    values = [_values(row, cell) for cell, row in lines]
    always = {"run", "status", "lr", "loss"}
    shown = [c for c in COLUMNS if c.key in always or len({line[c.key] for line in values}) > 1]
    shared = [c for c in COLUMNS if c not in shown and values[0][c.key] not in (None, "")]
    return {
        "columns": shown,
        "lines": [
            {"anchor": anchor(row), "status": row.status, "cells": [_cell(line[c.key], c) for c in shown]}
            for (_, row), line in zip(lines, values, strict=True)
        ],
        "shared": [(column.title, column.show(values[0][column.key])) for column in shared],
    }


def _values(row: Row, cell: Cell) -> dict[str, Any]:
    loss = row.loss if math.isfinite(row.loss) else None
    above = row.loss / cell.optimum.best.loss - 1 if cell.optimum and math.isfinite(loss_of(row)) else None
    plain = {column.key: getattr(row, column.key, None) for column in COLUMNS}
    return {**plain, "run": short_name(row), "recipe": cell.recipe, "loss": loss, "above_best": above}


def _cell(value: Any, column: Column) -> dict[str, Any]:
    text = NONE if value is None else column.show(value)
    return {"column": column, "value": "" if value is None else value, "text": text}


def short_name(row: Row) -> str:
    """The last part of the source: the run folder's name, or file.csv:line."""
    return row.source.rstrip("/").rsplit("/", 1)[-1] or row.source


def cell_table(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One line for each cell: what was measured."""
    return [_cell_line(cell) for cell in cells]


def _cell_line(cell: Cell) -> dict[str, Any]:
    best = cell.optimum
    finished = sum(math.isfinite(loss_of(row)) for row in cell.rows)
    return {
        "recipe": cell.recipe,
        "label": cell.label,
        "params": amount(cell.params),
        "runs": f"{finished} of {len(cell.rows)}",
        "best": _best(best.best) if best else None,
        "optimum": number(best.lr) if best and best.edge != "only" else NONE,
        "between": _between(cell),
        "edge": best.edge if best and best.edge in ("lowest", "highest") else "",
    }


def law_table(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One line for each cell of the laws' recipe: what they say there, and what the nearest run lost."""
    return [
        {
            "label": one.cell.label,
            "held_out": one.held_out,
            "lr": interval(one.prediction.lr),
            "loss": interval(one.prediction.loss, ".4f") if one.prediction.loss else NONE,
            "measured": f"{one.cell.optimum.best.loss:.4f}" if one.cell.optimum else NONE,
            "used": _best(one.used) if one.used else None,
            "regret": f"{one.regret:+.2%}" if math.isfinite(one.regret) else NONE,
            "in_range": one.prediction.in_range,
        }
        for one in judged
    ]


def _best(run: Row) -> dict[str, str]:
    return {"anchor": anchor(run), "lr": number(run.lr), "loss": f"{run.loss:.4f}"}


def _between(cell: Cell) -> str:
    best = cell.optimum
    if best is None or best.edge == "only":
        return NONE
    low = number(best.low) if best.low else "?"
    high = number(best.high) if math.isfinite(best.high) else "?"
    return f"{low} … {high}"


def number(value: float, form: str = ".3g") -> str:
    """A number for a table."""
    return f"{value:{form}}"


def interval(estimate: "Estimate", form: str = ".3g") -> str:
    """What to use, with its 95 % interval where there is one."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, form)
    return f"{number(estimate.value, form)} [{number(estimate.low, form)}, {number(estimate.high, form)}]"


def foremost(judged: Sequence[Judged]) -> Judged | None:
    """The cell that a reader came for: the largest held out of the fit, else the largest."""
    return max(judged, key=lambda one: (one.held_out, one.cell.params * one.cell.tokens), default=None)


def headline(cells: Sequence[Cell], judged: Sequence[Judged]) -> dict[str, Any]:
    """One recommendation: the laws' where they speak of a cell here, else the best run of the largest cell."""
    if (one := foremost(judged)) is not None:
        by = "The law recommends for a cell held out of its fit:" if one.held_out else "The law recommends for"
        return {"by": by, "size": _named(one.cell), "values": [*_predicted(one), *_measured(one.cell)]}
    swept = [cell for cell in cells if cell.optimum]
    if not swept:
        return {"by": "No run finished: there is nothing to recommend.", "size": "", "values": []}
    cell = max(swept, key=lambda cell: cell.params * cell.tokens)
    return {"by": "The best run of the largest cell:", "size": _named(cell), "values": _measured(cell)}


def _predicted(one: Judged) -> list[dict[str, str]]:
    said = one.prediction
    values = [_value("lr", number(said.lr.value), _span(said.lr))]
    values.append(_value("batch tokens", number(said.batch_tokens.value, ",.0f"), _span(said.batch_tokens, ",.0f")))
    if said.weight_decay:
        values.append(_value("weight decay", number(said.weight_decay.value), _span(said.weight_decay)))
    if said.loss:
        values.append(_value("predicted loss", number(said.loss.value, ".4f"), _span(said.loss, ".4f")))
    return values


def _measured(cell: Cell) -> list[dict[str, str]]:
    if cell.optimum is None:
        return []
    best = cell.optimum.best
    bracket = "a single lr" if cell.optimum.edge == "only" else f"floor between {_between(cell)}"
    return [
        _value("best lr measured", number(best.lr), bracket, best),
        _value("best loss measured", f"{best.loss:.4f}", "nats per token", best),
    ]


def _span(estimate: "Estimate", form: str = ".3g") -> str:
    if estimate.low is None or estimate.high is None:
        return "carried over from the runs"
    return f"95 %: {number(estimate.low, form)} … {number(estimate.high, form)}"


def _named(cell: Cell) -> str:
    return ", ".join(filter(None, (cell.label, f"{amount(cell.params)} params", cell.recipe)))


def _value(name: str, text: str, note: str, run: Row | None = None) -> dict[str, str]:
    return {"name": name, "text": text, "note": note, "anchor": anchor(run) if run else ""}


def law_section(laws: "Laws") -> dict[str, Any]:
    """The laws' own words, exponents and validation."""
    return {
        "summary": laws.summary(),
        "recipe": [(key, f"{value:g}" if isinstance(value, float) else value) for key, value in laws.recipe.items()],
        "data": dict(laws.data),
        "exponents": [
            {"name": name, "value": f"{value:+.3f}", "low": f"{low:+.3f}", "high": f"{high:+.3f}"}
            for name, (value, low, high) in laws.exponents.items()
        ],
        "validation": [
            {
                "by": one.by,
                "decades": _decades(one.decades),
                "miss": ", ".join(f"{name} ×{math.exp(miss):.2f}" for name, miss in one.miss.items()),
                "regret": f"{one.regret:.2%}",
                "inside": "yes" if one.inside else "no",
            }
            for one in laws.validation
        ],
        "validated": _decades(laws.validated) or "none",
    }


def _decades(reach: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in reach.items())
