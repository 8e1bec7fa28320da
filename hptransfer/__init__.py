"""Tune small, train big, with evidence: hyperparameter transfer across width, depth and tokens."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hptransfer.config import load_config
    from hptransfer.coordcheck import check, check_model
    from hptransfer.errors import UserError
    from hptransfer.exporting import export, initialise, param_groups
    from hptransfer.foreign import parametrize
    from hptransfer.laws import Laws, fit
    from hptransfer.recorder import RunRecorder
    from hptransfer.records import read_rows
    from hptransfer.scaling import resolve
    from hptransfer.sweeps import sweep
    from hptransfer.target import transfer
    from hptransfer.training import train

_HOMES = {
    "Laws": "laws",
    "RunRecorder": "recorder",
    "UserError": "errors",
    "check": "coordcheck",
    "check_model": "coordcheck",
    "export": "exporting",
    "fit": "laws",
    "initialise": "exporting",
    "load_config": "config",
    "param_groups": "exporting",
    "parametrize": "foreign",
    "read_rows": "records",
    "resolve": "scaling",
    "sweep": "sweeps",
    "train": "training",
    "transfer": "target",
}

__all__ = [
    "Laws",
    "RunRecorder",
    "UserError",
    "check",
    "check_model",
    "export",
    "fit",
    "initialise",
    "load_config",
    "param_groups",
    "parametrize",
    "read_rows",
    "resolve",
    "sweep",
    "train",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """The public functions, each imported from its room when it is first asked for: most of them don't need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hptransfer.{_HOMES[name]}"), name)
