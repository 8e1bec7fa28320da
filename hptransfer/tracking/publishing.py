"""What a whole sweep shows, in one W&B run: native charts, figures, table of runs, tuned config, report."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hptransfer.errors import UserError
from hptransfer.figures.cells import Cell, cells_of
from hptransfer.figures.judged import judge
from hptransfer.records import finite
from hptransfer.rows import Row
from hptransfer.sections import Tracking
from hptransfer.tracking.project import PATIENCE, reaching_wandb
from hptransfer.tracking.session import Mode, ending, init

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hptransfer.laws import Laws

DPI = 150

EVIDENCE = Tracking(name="evidence", job_type="report")


def publish(
    rows: Sequence[Row],
    folder: Path,
    tracking: Tracking = EVIDENCE,
    *,
    laws: "Laws | None" = None,
    tuned: Path | None = None,
    report: Path | None = None,
    mode: Mode = "online",
) -> str:
    """Publishes a sweep's evidence; its address, or offline its folder. `folder` takes W&B's own files.

    `tuned`, the target's config, becomes an artifact; `report`, one HTML file, a panel.
    """
    for path in (tuned, report):
        if path and not path.is_file():
            raise UserError(f"{path}: no such file")
    with reaching_wandb(f"evidence of {len(rows)} runs"), _staging(folder):
        run = init(tracking, folder, mode, PATIENCE)
        where = run.url or str(Path(run.settings.sync_file).parent)
        with ending(run):
            run.log({**_charts(rows, laws), **_images(rows, laws), **_html(report)})
            run.summary.update({"runs": len(rows)})
            if tuned:
                _attach(run, tuned)
    return where


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """Lets wandb copy artifacts into `folder` before it sends them, not into the user's home."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(folder / "wandb" / "data")
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before


def _charts(rows: Sequence[Row], laws: "Laws | None") -> dict[str, Any]:
    """The table of runs; loss against lr, a line for each cell of a recipe; each cell's best lr against size."""
    cells = cells_of(rows)
    charts: dict[str, Any] = {"runs": _table(rows)}
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        valleys = {cell.label: _valley(cell) for cell in cells if cell.recipe == recipe}
        charts[f"U-curves {recipe}".strip()] = _lines(valleys, f"Loss against lr {recipe}".strip(), "log2 lr")
    best = {"measured": [_point(cell.params, cell.optimum.lr) for cell in cells if cell.optimum]}
    if laws:
        best["law"] = [_point(one.cell.params, one.prediction.lr.value) for one in judge(cells, laws)]
    charts["optimum"] = _lines(best, "log2 of the best lr against size", "log2 params")
    return charts


def _lines(lines: Mapping[str, Sequence[tuple[float, float]]], title: str, xname: str) -> Any:
    """A native chart of (x, y) by line."""
    import wandb

    return wandb.plot.line_series(
        xs=[[x for x, _ in line] for line in lines.values()],
        ys=[[y for _, y in line] for line in lines.values()],
        keys=list(lines),
        title=title,
        xname=xname,
    )


def _point(params: float, lr: float) -> tuple[float, float]:
    return math.log2(params), math.log2(lr)


def _valley(cell: Cell) -> list[tuple[float, float]]:
    return [(math.log2(setting.lr), setting.loss) for setting in cell.curve if math.isfinite(setting.loss)]


def _table(rows: Sequence[Row]) -> Any:
    """Every run with all that a row knows."""
    import wandb

    known = [{**finite(vars(row)), **row.recipe} for row in rows]
    names = dict.fromkeys(name for row in known for name in row)
    columns: list[str | int] = [name for name in names if name != "recipe"]
    data = [[row.get(str(name)) for name in columns] for row in known]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _images(rows: Sequence[Row], laws: "Laws | None") -> dict[str, Any]:
    """The report's figures."""
    from hptransfer import figures

    drawn = {"figures/U-curves": figures.u_curves(rows), "figures/optimum": figures.optimum_against_size(rows, laws)}
    if laws:
        drawn["figures/predicted against measured"] = figures.predicted_against_measured(rows, laws)
    return {name: _image(figure) for name, figure in drawn.items() if figure is not None}


def _image(figure: "Figure") -> Any:
    import wandb
    from PIL import Image

    pixels = BytesIO()
    figure.savefig(pixels, format="png", dpi=DPI)
    return wandb.Image(Image.open(pixels))


def _html(report: Path | None) -> dict[str, Any]:
    import wandb

    return {"report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)} if report else {}


def _attach(run: Any, tuned: Path) -> None:
    import wandb

    artifact = wandb.Artifact(tuned.stem, type="config", description="The target's config, tuned on this sweep")
    artifact.add_file(str(tuned))
    run.log_artifact(artifact)
