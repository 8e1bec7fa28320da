"""What is believed before any run is seen: (mean, standard deviation) of every coefficient, with the reason.

Exponents belong to a parametrization. Published exponents of the lr describe the applied lr of standard-parametrized
models; where the lr is quoted in base units of a muP-type parametrization, no drift with width (and, where the scheme
has a depth rule, with depth) is the claim under test, and the prior. Exponents have heavy-tailed (Student-t) priors:
runs that contradict them win.
"""

import math
from collections.abc import Mapping

Normal = tuple[float, float]

SHAPE: Mapping[str, Normal] = {
    # twice the best lr costs about 0.6 % of the loss in the dense Step Law cells (arXiv:2503.04715), several % in
    # short runs of small models: curvatures of 0.03 in all, within a factor of 2.7 either side
    "lr curvature": (math.log(0.015), 1.0),
    "lr asymmetry": (0.5, 0.5),
    "lr wall": (math.log(0.015), 1.0),
    "lr steepness": (1.5, 0.6),
    "batch_tokens curvature": (math.log(0.02), 1.0),
    "batch_tokens asymmetry": (0.0, 0.1),
    # the best lr grows as batch^0.5 by the square-root rule (Malladi et al., arXiv:2205.10287); the wall holds it back
    "batch_tokens tilt": (-0.5, 0.2),
    "batch_tokens bend": (0.1, 0.2),
    "batch_tokens taper": (0.0, 0.2),
    "timescale curvature": (math.log(0.01), 1.0),
    "timescale asymmetry": (0.0, 0.2),
    "timescale tilt": (0.0, 0.3),
}

BATCH: Mapping[str, Normal] = {
    # exponents of D: 0.571 (Step Law), 0.383 (Power Lines, arXiv:2505.13738), 0.47 (Zhang et al., arXiv:2410.21676)
    "params": (0.0, 0.2),
    "width": (0.0, 0.3),
    "depth": (0.0, 0.3),
    "tokens": (0.5, 0.15),
}
TIMESCALE: Mapping[str, Normal] = {
    # tau = 1.084 (D/N)^-0.527 (Power Lines), 0.93 (D/N)^-0.61 on Marin's AdamW sweeps
    "params": (0.5, 0.2),
    "width": (1.0, 0.4),
    "depth": (0.5, 0.3),
    "tokens": (-0.5, 0.2),
    "batch_tokens": (0.0, 0.2),
}

LR_STANDARD: Mapping[str, Normal] = {
    # exponents of N: -0.713 (Step Law), -0.36 (Porian et al., arXiv:2406.19146), -0.23 (Bjorck et al.,
    # arXiv:2409.19913), 1/width = -0.5 where N grows as width^2. Of D at fixed batch the sources disagree on the
    # sign: -0.32 ... 0.31
    "params": (-0.5, 0.25),
    "tokens": (0.0, 0.35),
    "batch_tokens": (0.4, 0.2),
}
LR_TRANSFER: Mapping[str, Normal] = {
    # where muP holds, the optimum stays within the grid spacing over several doublings of width (Yang et al.,
    # arXiv:2203.03466, figure 1)
    "params": (0.0, 0.1),
    "width": (0.0, 0.1),
    "depth": (0.0, 0.1),
    "tokens": (0.0, 0.3),
    "batch_tokens": (0.4, 0.2),
}
NO_DEPTH_RULE: Normal = (-0.2, 0.4)
"""Depth exponent where only width transfers: between 0 and the 1/sqrt(depth) of Depth-muP (arXiv:2310.02244)."""
DEPTH_RULE = frozenset({"depth_mup", "completep", "completedp"})
WIDTH_RULE = DEPTH_RULE | {"mup", "umup", "spectral"}
"""Parametrizations whose base-unit lr is meant not to move with width (and depth, for the first set)."""

CURVATURE: Normal = (0.0, 0.03)
"""Bend of ln optimum per (ln params)^2 / 2: a law need not be straight (arXiv:2606.29158 finds upward curves in N)."""
INTERCEPT_SD = 3.0

FLOOR: Mapping[str, Normal] = {
    # ln loss over ln params and ln tokens from their mean, to second order; only interpolates between the cells
    "level": (0.0, 1.0),
    "params": (-0.08, 0.08),
    "tokens": (-0.08, 0.08),
    "params^2": (0.005, 0.02),
    "tokens^2": (0.005, 0.02),
    "params*tokens": (0.0, 0.02),
}

NOISE_NEAR: Normal = (math.log(0.002), 1.0)
"""Runs at the floor differ by 0.1 % (long runs) to 2 % (hundreds of steps) of their loss."""
NOISE_FAR: Normal = (math.log(0.12), 0.6)
NOISE_SIDE: Normal = (0.3, 0.4)
CLIFF: Normal = (1.0, 20.0)
"""One run in twenty fell off the cliff, with the weight of twenty runs."""
CLIFF_DISTANCE: Normal = (1.0, 0.5)
"""In ln lr above the ridge: the cliff sits at 2 to 4 times the best lr (dense Step Law cells)."""

EARLY_FAVOURS_LOW = 2.0
"""Before the lr decays, the best lr is down to half of what it is at the end (OLMo-core's ladder halves its law's lr
for a schedule that decays late). So a run that was stopped above the best lr speaks for twice its lr; one below it,
which the ranks favoured, for its own."""

SPREAD: Mapping[str, float] = {"floor": 0.003, "lr": 0.1, "batch_tokens": 0.15, "timescale": 0.3}
"""How far a cell's own optimum (in ln) and floor (in ln loss) lie from the power law."""
SPREAD_CELLS = 2.0
"""The weight of that belief, in cells."""


def lr_exponents(parametrization: str) -> Mapping[str, Normal]:
    """Prior exponents of the optimal lr by feature."""
    if parametrization not in WIDTH_RULE:
        return LR_STANDARD
    return LR_TRANSFER if parametrization in DEPTH_RULE else {**LR_TRANSFER, "depth": NO_DEPTH_RULE}


def exponents(coordinate: str, parametrization: str) -> Mapping[str, Normal]:
    """Prior exponents of a coordinate's optimum by feature."""
    return {"batch_tokens": BATCH, "timescale": TIMESCALE}.get(coordinate) or lr_exponents(parametrization)
