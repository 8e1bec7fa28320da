"""Sweeps: search spaces, samplers, executors, and the loop that wastes nothing."""

from hptransfer.sweeps.config import Sweep, SweepConfig, load_sweep
from hptransfer.sweeps.result import SweepResult
from hptransfer.sweeps.running import sweep
from hptransfer.sweeps.trials import Trial, expand

__all__ = ["Sweep", "SweepConfig", "SweepResult", "Trial", "expand", "load_sweep", "sweep"]
