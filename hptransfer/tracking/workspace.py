"""The dashboard of a W&B project by code, through wandb-workspaces (the extra `workspace`)."""

import warnings
from importlib import import_module
from typing import Any

from hptransfer.errors import UserError
from hptransfer.tracking.project import reaching_wandb
from hptransfer.tracking.session import AXES, quiet_wandb

SCATTERS = {
    "U-curves": [
        ("Loss against lr, coloured by width", "lr", "loss", "width"),
        ("Loss against lr, coloured by depth", "lr", "loss", "depth"),
        ("Loss against lr as applied to hidden matrices", "lr_hidden", "loss", "width"),
        ("Loss against weight decay", "weight_decay", "loss", "width"),
        ("Loss against batch", "batch_tokens", "loss", "width"),
    ],
    "Optimum drift": [
        ("lr against width, coloured by loss", "width", "lr", "loss"),
        ("lr against depth, coloured by loss", "depth", "lr", "loss"),
        ("lr against params, coloured by loss", "params", "lr", "loss"),
        ("lr against tokens, coloured by loss", "tokens", "lr", "loss"),
        ("Loss against FLOPs, coloured by params", "flops", "loss", "params"),
    ],
}
"""Section -> (title, x, y, z): one point a run."""

RESULTS = ("loss", "flops")
"""Of the quantities above: what only the end of a run knows; the others stand in its config."""

CURVES = {
    "Training": [
        *((f"Training loss against {axis}", axis, "^train/loss$") for axis in AXES),
        *((f"Held-out loss against {axis}", axis, "^loss$") for axis in AXES),
        ("lr", "step", "^train/lr$"),
    ],
    "Stability": [
        ("Gradient norm", "step", "^train/grad_norm$"),
        ("All that is watched while training", "tokens", "^(?!train/(loss|lr|grad_norm)$).*/"),
    ],
}
"""Section -> (title, x, metrics as a regular expression): one line a run."""


def build_workspace(project: str) -> Any:
    """The workspace of `entity/project`; building it needs neither network nor login."""
    entity, _, name = project.rpartition("/")
    if not entity or not name or "/" in entity:
        raise UserError(f"W&B project {project!r}: expected entity/project")
    spaces, reports = _modules()
    sections = {
        **{title: [_scatter(reports, *panel) for panel in panels] for title, panels in SCATTERS.items()},
        **{title: [_curves(reports, *panel) for panel in panels] for title, panels in CURVES.items()},
        "All hyperparameters": [_parallel(reports)],
    }
    return spaces.Workspace(
        entity=entity,
        project=name,
        name="Hyperparameter transfer",
        sections=[spaces.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=spaces.WorkspaceSettings(max_runs=100),
    )


def save_workspace(project: str) -> str:
    """Saves the workspace as a new view of `entity/project`; its address."""
    workspace = build_workspace(project)
    with reaching_wandb(project):
        quiet_wandb("online")
        return str(workspace.save().url)


def _scatter(reports: Any, title: str, x: str, y: str, z: str) -> Any:
    axes = {axis: _quantity(reports, name) for axis, name in (("x", x), ("y", y), ("z", z))}
    return reports.ScatterPlot(title=title, **axes, log_x=True, log_y=y != "loss", log_z=z != "loss")


def _curves(reports: Any, title: str, x: str, metrics: str) -> Any:
    return reports.LinePlot(title=title, x=x, metric_regex=metrics)


def _parallel(reports: Any) -> Any:
    """Every hyperparameter that moves with size, and the loss at the right end."""
    return reports.ParallelCoordinatesPlot(
        columns=[
            reports.ParallelCoordinatesPlotColumn(metric=_quantity(reports, name), log=name != "loss")
            for name in ("width", "depth", "lr", "weight_decay", "batch_tokens", "tokens", "loss")
        ]
    )


def _quantity(reports: Any, name: str) -> Any:
    return reports.SummaryMetric(name) if name in RESULTS else reports.Config(name)


def _modules() -> tuple[Any, Any]:
    """wandb_workspaces' workspaces and reports (whose import alone warns of deprecated pydantic)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return import_module("wandb_workspaces.workspaces"), import_module("wandb_workspaces.reports.v2")
    except ImportError as problem:
        raise UserError(f"W&B workspaces: {problem}: pip install 'hptransfer[workspace]'") from None
