"""The AdamW timescale: which part of a run its weights remember.

Under decoupled weight decay the weights are an average of their updates, in which each fades by exp(-lr * weight_decay)
a step (Wang & Aitchison, arXiv:2405.13698): by exp(-w) over a run of D / B steps, where w = lr * weight_decay * D / B.
What is left of the mean update at the end, at a constant lr, is

    timescale = integral of exp(-w s) over s from 0 to 1 = (1 - exp(-w)) / w.

Where the run is many times as long as the memory this is 1 / w = B / (lr * weight_decay * D), the tau of Power Lines
(arXiv:2505.13738). Without weight decay it is 1: nothing remembers longer than the run. So runs without weight decay
have a place like any others, and bound the optimum from that side.
"""

import numpy as np

from hptransfer.laws.valley import Floats
from hptransfer.rows import Row

LEAST = 1e-12
"""Fading below which there is none: the timescale is 1 to as many digits."""


def fading(row: Row) -> float | None:
    """w = lr * weight_decay * D / B, with the lr and weight decay of hidden matrices where they are known."""
    lr, weight_decay = row.lr, row.weight_decay
    if row.lr_hidden is not None and row.weight_decay_hidden is not None:
        lr, weight_decay = row.lr_hidden, row.weight_decay_hidden
    return None if weight_decay is None else lr * weight_decay * row.tokens / row.batch_tokens


def timescale(fades: Floats | float) -> Floats:
    """(1 - exp(-w)) / w, in (0, 1]."""
    w = np.maximum(fades, LEAST)
    return np.asarray(-np.expm1(-w) / w)


def fading_of(memory: float) -> float:
    """The inverse: w at a timescale; 0 where it is 1 or, as an extrapolated law may have it, more."""
    if memory >= 1:
        return 0.0
    low, high = 0.0, 1 / memory  # the timescale lies below 1 / w
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if timescale(middle) > memory else (low, middle)
    return high
