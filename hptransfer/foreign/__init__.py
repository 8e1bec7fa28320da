"""Bring your own model: any torch.nn.Module factory, parametrized without a change to its code."""

from hptransfer.foreign.applying import parametrize
from hptransfer.foreign.result import Parametrized

__all__ = ["Parametrized", "parametrize"]
