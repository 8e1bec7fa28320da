"""W&B: runs, sweeps and dashboards. Never in the way of a run, never part of its identity."""

from hptransfer.tracking.project import rows_from, rows_from_wandb, sync
from hptransfer.tracking.tracker import Tracker, open_tracker, replay

__all__ = ["Tracker", "open_tracker", "replay", "rows_from", "rows_from_wandb", "sync"]
