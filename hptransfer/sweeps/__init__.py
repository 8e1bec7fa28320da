"""Sweeps: search spaces, samplers, executors, and the loop that wastes nothing."""

from hptransfer.sweeps.config import Sweep, SweepConfig, load_sweep
from hptransfer.sweeps.result import SweepResult
from hptransfer.sweeps.running import status, sweep
from hptransfer.sweeps.samplers import sampler_of
from hptransfer.sweeps.trials import Trial, expand

__all__ = ["Sweep", "SweepConfig", "SweepResult", "Trial", "expand", "load_sweep", "sampler_of", "status", "sweep"]
