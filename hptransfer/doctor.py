"""What this machine has, and what that means for runs and sweeps."""

import netrc
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

from hptransfer.tables import amount

EXTRAS = {
    "optuna": "method: bayes, --design qmc and early stopping",
    "submitit": "--executor slurm",
    "ray": "--executor ray",
    "transformers": "Hugging Face models",
    "wandb_workspaces": "hptransfer wandb workspace",
}
"""Packages that are not needed until their feature is."""

WANDB_HOST = "https://api.wandb.ai"
LOW_DISK = 2e9


def examine(runs: Path, environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """One row a finding: what was looked at, what is there, what it means."""
    rows = [*_processor(), *_accelerator(), _disk(runs), _wandb(environment), *_extras()]
    return [{"": name, "found": found, "which means": meaning} for name, found, meaning in rows]


def _processor() -> list[tuple[str, str, str]]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        ("python", platform.python_version(), f"torch {torch.__version__}, hptransfer {_version('hptransfer')}"),
        ("cores", str(cores), f"a sweep runs {cores} trials at a time, one thread each"),
    ]


def _accelerator() -> list[tuple[str, str, str]]:
    import torch

    device = torch.accelerator.current_accelerator()
    if device is None:
        return [("accelerator", "none", "runs train on the CPU; bfloat16 pays from width 256 up, if at all")]
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
    return [("accelerator", name, f"device: auto takes it; precision: bfloat16 {'works' if bf16 else 'does not work'}")]


def _disk(runs: Path) -> tuple[str, str, str]:
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    meaning = f"enough for {runs}" if free > LOW_DISK else "little: weights and checkpoints may not fit"
    return "disk", f"{amount(free, 'B')} free", meaning if writable else f"{folder} is not writable: give --runs DIR"


def _wandb(environment: Mapping[str, str]) -> tuple[str, str, str]:
    host = urlparse(environment.get("WANDB_BASE_URL", WANDB_HOST)).hostname or ""
    try:
        stored = netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        stored = False
    if environment.get("WANDB_API_KEY") or stored:
        return "wandb", "logged in", "tracking.wandb: online works (offline and disabled always do)"
    return "wandb", "not logged in", "tracking.wandb: offline or disabled; `wandb login` for online"


def _extras() -> list[tuple[str, str, str]]:
    return [
        (name, _version(name.replace("_", "-")) if find_spec(name) else "not installed", f"for {feature}")
        for name, feature in EXTRAS.items()
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
