"""A check as one self-contained HTML page: the verdict, the curves of every module, the slopes."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hptransfer.coordcheck.checking import Check, Ladder
from hptransfer.coordcheck.promises import Verdict
from hptransfer.coordcheck.text import about, conclusions, gradient_rows, module_rows, slope_text
from hptransfer.figures.style import INK, MARK, drawing, octaves, panels, some, to_svg
from hptransfer.figures.style import ladder as colours_of
from hptransfer.files import write_atomic

STEPS_SHOWN = 6
OCTAVES_SHOWN = 4
"""On a panel's y axis at least, so that what is flat looks flat."""
HERE = Path(__file__).parent
STYLE = HERE.parent / "report" / "style.css"
FIGURES = {
    "activation": ("init", "Outputs", "Root-mean-square (log2) of what comes out of each module, on a fixed batch."),
    "change": ("change", "Changes", "Root-mean-square (log2) of the change of that since initialisation."),
    "gradient": ("gradient", "Gradients", "Root-mean-square (log2) of the gradient of each role's tensors."),
}
"""What is drawn -> the quantity whose verdict stands above it, title, caption."""


def write_page(check: Check, path: Path) -> Path:
    """Writes the page; UserError where it cannot be written."""
    write_atomic(path, render(check))
    return path


def render(check: Check) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html").render(
        title=f"Coordinate check: {check.parametrization}",
        version=version("hptransfer"),
        style=STYLE.read_text(encoding="utf-8"),
        about=about(check),
        passed=check.passed,
        conclusions=list(conclusions(check)),
        ladders=[_section(ladder) for ladder in check.ladders],
    )


def _section(ladder: Ladder) -> dict[str, Any]:
    drawn = [
        {"title": title, "caption": caption, "svg": to_svg(_figure(ladder, what), f"{ladder.axis}-{what}")}
        for what, (_, title, caption) in FIGURES.items()
    ]
    sources = {verdict.source: None for verdict in ladder.verdicts}
    tables = [module_rows(ladder), gradient_rows(ladder)]
    return {"axis": ladder.axis, "outcome": ladder.outcome, "figures": drawn, "tables": tables, "sources": sources}


def _figure(ladder: Ladder, what: str) -> Figure:
    """One panel per module: rms against size, one line per step from dark (first) to light (last)."""
    steps: dict[str, list[int]] = {}
    for quantity, name, step in ladder.values:
        if quantity == what:
            steps.setdefault(name, []).append(step)
    verdicts = {(verdict.quantity, verdict.name): verdict for verdict in ladder.verdicts}
    # panels are alike: no need to solve for their places, which takes seconds
    with drawing(), mpl.rc_context({"figure.constrained_layout.use": False}):
        figure, axes = panels(len(steps), columns=3, height=2.4)
        for axis, (name, of) in zip(axes, steps.items(), strict=True):
            _panel(axis, ladder, what, name, some(of, STEPS_SHOWN))
            _title(axis, name, verdicts[FIGURES[what][0], name])  # type: ignore[index]
        inches = figure.get_figheight()
        figure.subplots_adjust(0.05, 0.85 / inches, 0.99, 1 - 0.5 / inches, wspace=0.2, hspace=0.75)
        first = next(iter(steps.values()))
        handles = max((axis.get_lines() for axis in axes), key=len)
        figure.legend(handles, [f"step {s}" for s in some(first, STEPS_SHOWN)], loc="lower center", ncols=6)
    return figure


def _panel(axis: Axes, ladder: Ladder, what: str, name: str, steps: Sequence[int]) -> None:
    """Mean over seeds of log2 rms against log2 size, with a band from the lowest to the highest seed."""
    x = np.log2(ladder.sizes)
    with np.errstate(divide="ignore"):
        logs = np.log2(np.stack([ladder.values[what, name, step] for step in steps]))
    logs[~np.isfinite(logs)] = np.nan
    if np.isnan(logs).all():
        return
    for log, colour in zip(logs, colours_of(len(steps)), strict=True):
        axis.plot(x, log.mean(axis=0), color=colour, marker="o", markersize=2.5)
        axis.fill_between(x, log.min(axis=0), log.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    octaves(axis.xaxis, list(x))
    low, high = float(np.nanmin(logs)), float(np.nanmax(logs))
    room = max(0.15, (OCTAVES_SHOWN - (high - low)) / 2)
    axis.set_ylim(low - room, high + room)
    octaves(axis.yaxis, [low - room, high + room])
    axis.set_xlabel(ladder.axis)


def _title(axis: Axes, name: str, verdict: Verdict) -> None:
    colour = MARK if verdict.outcome == "FAIL" else INK
    axis.set_title(f"{name}\n{slope_text(verdict)}  {verdict.outcome}", color=colour, fontsize=8, loc="left")
