"""Coordinate check: does what happens inside the model keep its size as the model grows? With a verdict.

After Tensor Programs V (arXiv:2203.03466, app. D.1, and `mup.coord_check`), which looks at activations over width;
over depth after CompleteP (arXiv:2505.01618, figure 4).
"""

from hptransfer.coordcheck.checking import Check, check
from hptransfer.coordcheck.text import to_text

__all__ = ["Check", "check", "to_text"]
