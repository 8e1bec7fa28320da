"""Coordinate check: does what happens inside the model keep its size as the model grows? With a verdict.

Over width after Tensor Programs V (arXiv:2203.03466; `mup.coord_check`), over depth after CompleteP (arXiv:2505.01618).
"""

from hptransfer.coordcheck.checking import Check, check
from hptransfer.coordcheck.foreign import check_model
from hptransfer.coordcheck.text import to_text

__all__ = ["Check", "check", "check_model", "to_text"]
