"""Imported by the fork server before it forks: all that every worker would otherwise load at its first trial.

Resolving any config makes torch load what it needs for models on the meta device, a second's worth of modules.
"""

from contextlib import suppress

from hptransfer.config import RunConfig
from hptransfer.scaling import resolve
from hptransfer.training import train

__all__ = ["train"]

SMALL = {"model": {"width": 8, "depth": 1}, "parametrization": {"name": "sp"}, "train": {"tokens": 1_000_000}}

with suppress(Exception):  # a fork server must not die of what the first trial will say in a better place
    resolve(RunConfig.model_validate(SMALL))
