"""Reads the evidence, draws it, and fills the template."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hptransfer import figures
from hptransfer.errors import UserError
from hptransfer.figures.cells import anchor, cells_of
from hptransfer.figures.curves import Curve, coarser, read_curve
from hptransfer.figures.judged import Judged, judge
from hptransfer.files import write_atomic
from hptransfer.records import finite
from hptransfer.report.content import cell_table, foremost, headline, law_section, law_table, run_table, short_name
from hptransfer.report.facts import Flat, config_of, factor, result_of, thin_numbers
from hptransfer.report.findings import Finding, findings, law_findings
from hptransfer.rows import Row
from hptransfer.tracking import rows_from

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hptransfer.laws import Laws

POINTS = 150
"""Of one run's curve."""
FEWEST_POINTS = 8
ALL_NUMBERS = 120_000
"""Of all curves together: what keeps a page of a thousand runs under 2 MB."""
HERE = Path(__file__).parent


def write_report(
    paths: Sequence[str | Path],
    laws: "Laws | None",
    output: Path,
    warn: Callable[[str], None] | None = None,
    title: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """One HTML file on the runs below `paths` (run folders, folders of runs, CSV files) and, where given, their laws.

    It opens offline and holds all that it shows. `warn` hears what was left out, which the page says too; `columns`
    maps our names to those of CSV files.
    UserError where there is no ended run, or the file cannot be written.
    """
    heard: list[str] = []

    def say(text: str) -> None:
        heard.append(text)
        if warn:
            warn(text)

    rows = rows_from(paths, warn=say, columns=columns)
    page = render(rows, laws, heard, title or "Hyperparameter transfer report")
    write_atomic(Path(output), page.encode(errors="replace"))  # a file name need not be UTF-8
    return Path(output)


def render(rows: Sequence[Row], laws: "Laws | None", heard: Sequence[str], title: str) -> str:
    """The page as text; the same rows and laws give the same bytes."""
    cells = cells_of(rows)
    judged = judge(cells, laws) if laws else []
    configs, unread = _configs(rows)
    curves = {row.source: read_curve(row, POINTS) for row in rows}
    notes = [
        *(law_findings(rows, laws, foremost(judged)) if laws else []),
        *findings(rows, cells, configs),
        *(Finding(f"{text}.") for text in (*heard, *unread)),
    ]
    return _template().render(
        title=title,
        version=version("hptransfer"),
        headline=headline(cells, judged),
        statuses=Counter(row.status for row in rows),
        runs=len(rows),
        findings=sorted(notes, key=lambda finding: not finding.grave),
        cells=cell_table(cells),
        judged=law_table(judged),
        figures=_figures(rows, laws, foremost(judged), curves),
        law=law_section(laws) if laws else None,
        table=run_table(cells),
        data=finite(_data(rows, configs, curves)),
        style=_file("style.css"),
        script=_file("script.js"),
        script_hash=base64.b64encode(hashlib.sha256(_file("script.js").encode()).digest()).decode(),
    )


def _figures(
    rows: Sequence[Row], laws: "Laws | None", at: Judged | None, curves: Mapping[str, Curve]
) -> dict[str, str]:
    """Those that the evidence allows, as SVG."""
    drawn = {
        "u_curves": figures.u_curves(rows),
        "optimum": figures.optimum_against_size(rows, laws),
        "predicted": figures.predicted_against_measured(rows, laws) if laws else None,
        "training": figures.training_curves(rows, curves),
        "stability": figures.stability(rows, curves),
        "flatness": figures.stability_against_size(rows, curves),
        **(_figures_of_fit(rows, laws) if laws else {}),
        "rivals": _rivals(at),
    }
    return {name: figures.to_svg(figure, name) for name, figure in drawn.items() if figure is not None}


def _figures_of_fit(rows: Sequence[Row], laws: "Laws") -> dict[str, "Figure | None"]:
    """The fit against the runs of its own cells; nothing where they are not here, or no cell has two lrs."""
    from hptransfer.laws.figures import left_out, optima, residuals, valley_contours

    sizes = {(one.cell.params, one.cell.width, one.cell.depth) for one in laws.cells}
    ours = [row for row in rows if (row.params, row.width, row.depth) in sizes and not laws.differences(row.recipe)]
    swept = {(row.params, row.tokens): {other.lr for other in ours if other.params == row.params} for row in ours}
    if not any(len(lrs) > 1 for lrs in swept.values()) or not any(math.isfinite(row.loss) for row in ours):
        return {}
    return {
        "valleys": valley_contours(ours, laws),
        "optima": optima(laws),
        "left_out": left_out(laws),
        "residuals": residuals(ours, laws),
    }


def _rivals(at: Judged | None) -> "Figure | None":
    """Published laws at the cell of the headline."""
    from hptransfer.laws.figures import against_rivals

    return against_rivals(at.prediction) if at else None


def _configs(rows: Sequence[Row]) -> tuple[list[Flat], list[str]]:
    """Each run's config; one that cannot be read is empty, and the reason is told."""
    configs: list[Flat] = []
    problems: list[str] = []
    for row in rows:
        try:
            configs.append(config_of(row))
        except UserError as problem:
            configs.append({})
            problems.append(str(problem))
    return configs, problems


def _data(rows: Sequence[Row], configs: Sequence[Flat], curves: Mapping[str, Curve]) -> dict[str, Any]:
    """What the script shows of a run when it is asked for."""
    config, result = factor(configs), factor([result_of(row) for row in rows])
    quantities = sum(1 + len(curve.values) for curve in curves.values())
    points = min(POINTS, max(ALL_NUMBERS // quantities, FEWEST_POINTS))
    runs = {
        anchor(row): {
            "source": row.source,
            "config": config.own[i],
            "result": result.own[i],
            "curve": thin_numbers(coarser(curves[row.source], points)),
        }
        for i, row in enumerate(rows)
    }
    return {
        "config": {"common": config.common, "keys": config.keys},
        "result": {"common": result.common, "keys": result.keys},
        "runs": runs,
    }


def _template() -> Template:
    loader = FileSystemLoader(HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    environment.filters.update(anchor=anchor, short_name=short_name)
    return environment.get_template("template.html")


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
