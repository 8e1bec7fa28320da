"""What theory promises of every module's slope over width and over depth, and whether a measured slope keeps it.

A slope is d ln(rms) / d ln(size). Data beside its source; no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hptransfer.observing import ADDED, LOGITS, SCORES, STREAM_IN, STREAM_OUT
from hptransfer.parametrization import SCHEMES, most_specific
from hptransfer.rules import Power

Axis = Literal["width", "depth"]
Quantity = Literal["init", "change", "gradient"]
"""Activation before the first step; change of it since, geometric mean over the steps; gradient, over the first."""

MARGIN = 0.25
"""How far outside of its promise a slope may lie whatever its error: half of what the smallest fault leaves
(size^(1/2), from a standard deviation).

Measured on 11 correct setups (GPTs and residual MLPs, Adam and SGD; widths 32 to 256, depths 2 to 16, 10 steps of 512
tokens, six triples out of six seeds each): 2964 slopes of activations lie at most 0.24 outside, 99 % of them within
0.2. Gradients over the first three steps (5 GPTs under Adam, widths 32 to 128, depths 2 to 8): of 112 slopes two lie
beyond 0.25, the farther at 0.32, and none by a standard error.
"""
ERRORS = 2.0
"""Standard errors on top of the margin that make a FAIL: noise alone is not a fault."""


@dataclass(frozen=True)
class Slope:
    """A fitted exponent with its standard error."""

    value: float
    error: float


def fit_slope(sizes: Sequence[float], log_values: npt.NDArray[np.float64]) -> Slope:
    """Least squares of ln rms (seeds, sizes) on ln size, one slope, an intercept per seed: seeds share data order
    and initial draws across sizes. The error is from the residuals, so what is no power law adds to it too."""
    x = np.log(np.asarray(sizes, dtype=np.float64))
    x = x - x.mean()
    y = log_values - log_values.mean(axis=1, keepdims=True)
    weight = len(y) * float(x @ x)
    slope = float((y @ x).sum()) / weight
    free = y.size - len(y) - 1
    residual = float(((y - slope * x) ** 2).sum())
    return Slope(slope, float(np.sqrt(residual / free / weight)) if free > 0 else float("inf"))


@dataclass(frozen=True)
class Exponent:
    """constant + alpha * α + head * (d ln head_dim / d ln size) + group * (d ln query heads per key head / d ln size)
    + before * (d ln (1 - 1/L) / d ln L) + raw * (α - 1/2 where updates keep the gradient's size, as SGD's do; 0 where
    they are normalised, as Adam's)."""

    constant: float = 0.0
    alpha: float = 0.0
    head: float = 0.0
    group: float = 0.0
    before: float = 0.0
    raw: float = 0.0

    def __call__(self, terms: "Terms") -> float:
        raw = 0.0 if terms.normalised else terms.alpha - 1 / 2
        grown = self.head * terms.head + self.group * terms.group + self.before * terms.before
        return self.constant + self.alpha * terms.alpha + grown + self.raw * raw


@dataclass(frozen=True)
class Terms:
    """What the promises of one ladder of sizes depend on."""

    scheme: str
    alpha: float
    """The residual depth exponent; 1 (CompleteP's) where the scheme has none."""
    head: float
    """d ln head_dim / d ln size."""
    normalised: bool
    """Whether the optimizer's updates have a size of their own, whatever the gradient's."""
    eps: Mapping[str, float]
    """d ln eps / d ln size, as applied, by role: Adam's roles, where eps is scaled. Others' gradients are promised
    nothing."""
    group: float = 0.0
    """d ln query heads per key head / d ln size: 0 unless the number of key heads is fixed."""
    before: float = 0.0
    """d ln (1 - 1/L) / d ln L over depth: of L blocks one has (L-1)/2 before it in the mean, not L/2."""


FLAT = Exponent()


@dataclass(frozen=True)
class Promise:
    """The slope of one quantity lies between `low` and `high`. For gradients: relative to eps as applied."""

    low: Exponent
    high: Exponent
    source: str


def exactly(exponent: Exponent, source: str) -> Promise:
    """A promise without a range."""
    return Promise(exponent, exponent, source)


TP5 = "Tensor Programs V (arXiv:2203.03466)"
COMPLETEP = "CompleteP (arXiv:2505.01618)"
JIANG = "Jiang et al. (arXiv:2601.20205)"

FILLED = (
    "m_L^(α-1/2) more for gradients while untrained blocks, not the embedding, fill the stream that norms divide by"
)
QUERY_KEY = Promise(
    Exponent(-3 / 2, alpha=1),
    Exponent(-1 / 2, alpha=1),
    "as in branches; measured on GPTs of depth 2 to 16: m_L^-1 at the first step as promised, then down to m_L^-1.5 "
    "(α = 1, init_std 0.02) while attention is close to uniform and what it would gain cancels",
)

ATTENDING = Promise(Exponent(head=-1 / 2), FLAT, "head_dim terms over head_dim, independent at first, then aligned")
SHARED = "those of the query heads that share a key head add up, independent at first, then aligned"

PROMISES: dict[tuple[Axis, Quantity], dict[str, Promise]] = {
    ("width", "init"): {
        "any": exactly(FLAT, f"{TP5}: coordinates of Θ(1) at initialisation"),
        "logits": exactly(
            Exponent(-1 / 2), f"{TP5}, table 8: m_in independent terms of a readout whose std stays, times 1 / m_in"
        ),
        "scores": exactly(Exponent(head=-1 / 2), f"{TP5}: head_dim independent terms, times 1 / head_dim"),
        "branch.hidden.router": exactly(Exponent(-1 / 2), f"{JIANG}: m_in independent terms, std m_in^-1"),
    },
    ("width", "change"): {
        "any": exactly(FLAT, f"{TP5}: every coordinate changes by Θ(1)"),
        "scores": Promise(
            Exponent(head=-1 / 2),
            FLAT,
            f"{TP5}: as initialised, then flat as queries and keys align",
        ),
        "branch.hidden.router": Promise(
            Exponent(-1 / 2), FLAT, f"{JIANG}: flat once its gradients agree on a direction of the stream"
        ),
    },
    ("width", "gradient"): {
        "any": exactly(FLAT, "eps follows the gradient: Complete(d)P (arXiv:2512.22382), table 1"),
        "branch.hidden.query": ATTENDING,
        "branch.hidden.key": Promise(Exponent(head=-1 / 2, group=-1 / 2), FLAT, f"{ATTENDING.source}; {SHARED}"),
        "branch.hidden.value": Promise(Exponent(group=-1 / 2), FLAT, SHARED),
        "branch.vector.qk_gain": Promise(Exponent(-1 / 2), FLAT, "one gain sums over heads, independent at first"),
        "branch.hidden.router": Promise(
            Exponent(-1 / 2), FLAT, "experts' outputs against the stream's gradient: independent at first, then aligned"
        ),
    },
    ("depth", "init"): {
        "any": exactly(FLAT, "a block's branches see a normalised stream, whatever the depth"),
        "added": exactly(Exponent(alpha=-1), f"{COMPLETEP}, table 1: residual branches times m_L^-α"),
        "output": Promise(
            Exponent(1 / 2, alpha=-1), FLAT, "m_L independent branches of m_L^-α each, beside the embedding's part"
        ),
    },
    ("depth", "change"): {
        "any": exactly(FLAT, f"{COMPLETEP}: the stream changes by Θ(1) in all, whatever the depth"),
        "branch": Promise(
            Exponent(-1, alpha=1),
            Exponent(raw=1, before=1),
            f"{COMPLETEP}: m_L^(α-1) from own weights, Θ(1) from the stream, 1 - 1/L of it where what changes comes "
            f"from the blocks before; {FILLED}",
        ),
        "scores": Promise(
            Exponent(-2, alpha=2),
            Exponent(raw=1, before=1),
            "queries and keys change as what is in a branch does, each",
        ),
        "added": Promise(Exponent(-1), Exponent(alpha=-1, raw=1), "that of its branches, times m_L^-α"),
        "output": Promise(
            Exponent(1 / 2, alpha=-1),
            Exponent(raw=1),
            f"{COMPLETEP}: flat as far as blocks pull together, m_L^(1/2-α) as far as they don't; {FILLED}",
        ),
    },
    ("depth", "gradient"): {
        "any": exactly(FLAT, "eps follows the gradient: CompleteP, table 1, as Complete(d)P (arXiv:2512.22382)"),
        "embedding": Promise(
            Exponent(1 / 2, alpha=-1),
            FLAT,
            "what comes down the stream, and through m_L independent branches of m_L^-α each while they are untrained",
        ),
        "branch": Promise(
            Exponent(-1, alpha=1),
            Exponent(-1 / 2, alpha=1),
            f"m_L^-α, and m_L^(α-1) where a gradient needs what other weights of the block have learned; {FILLED}",
        ),
        "branch.hidden.query": QUERY_KEY,
        "branch.hidden.key": QUERY_KEY,
        "branch.vector.qk_gain": QUERY_KEY,
    },
}
"""By kind (see `kind_of`); a kind that is not named takes "any"."""

AS_PRINTED = {
    ("completedp", "width", "vector.outer"): exactly(
        Exponent(-1),
        "Complete(d)P's table 1 leaves eps of output norms as it is, and so does completedp, though their gradient "
        "goes as 1/m_out (as CompleteP's code has it): their gain is trained less once that is as small as eps",
    )
}
"""Gradients, by (scheme, axis, role), whose eps is as the scheme's paper prints it and not as they go."""


def promise_for(axis: Axis, quantity: Quantity, kind: str) -> Promise:
    """By the longest dotted prefix of the kind."""
    table = PROMISES[axis, quantity]
    return most_specific(table, kind) or table["any"]


FOLDED = ".folded"
"""At the end of a role: the factor on residual branches is in the tensor, so that what it gives is what is added."""


def kind_of(quantity: Quantity, name: str, role: str) -> str:
    """Where a module or a role stands: "branch" is inside a block, "trunk" outside; more exactly by role."""
    if quantity == "gradient":
        kind = role.split(".")[0]
        return f"branch.{role}" if kind in ("hidden", "vector") and not role.startswith(f"{kind}.outer") else role
    special = {LOGITS: "logits", SCORES: "scores", STREAM_IN: "input", STREAM_OUT: "output", ADDED: "added"}
    place = "added" if role.endswith(FOLDED) else "branch" if ".*" in name else "trunk"
    where = special.get(name.rsplit(".", 1)[-1]) or place
    return f"{where}.{role}" if role else where


STANDARD = ("sp", "sp_fan_in")
"""They promise nothing, so that there would be nothing to check: they are held to what transfer needs, the promises
of the others."""


def claims(scheme: str, axis: Axis) -> bool:
    """Whether a parametrization promises anything over this axis, or is held to it."""
    return axis == "width" or scheme in STANDARD or residual_exponent(scheme, 1.0) > 0


def residual_exponent(scheme: str, alpha: float) -> float:
    """x, where residual branches are scaled by depth^-x."""
    power = SCHEMES[scheme].residual
    return -(power.depth + power.alpha * alpha)


def scales_eps(scheme: str) -> bool:
    """Whether the parametrization has a rule for eps at all."""
    return any(rule.eps != Power() for rules in SCHEMES[scheme].rules.values() for rule in rules.values())


# --- Verdicts ---


@dataclass(frozen=True)
class Verdict:
    """One slope, what it should be, and the answer."""

    axis: Axis
    quantity: Quantity
    name: str
    kind: str
    slope: Slope | None
    """None where there is none to fit: zero at some size, or not finite."""
    low: float
    high: float
    outcome: str
    """PASS; FAIL; "unsure": beyond the margin, but within the errors, so more seeds are needed; "zero": nothing to
    judge; "not claimed" by the parametrization; "as printed": not kept, by the scheme's own paper (AS_PRINTED)."""
    source: str

    @property
    def deviation(self) -> float:
        """How far the slope lies outside of its promise, signed; 0 inside."""
        return _deviation(self.slope, self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `check --json`."""
        return {
            "axis": self.axis,
            "quantity": self.quantity,
            "name": self.name,
            "slope": self.slope and self.slope.value,
            "standard_error": self.slope and self.slope.error,
            "promise": [self.low, self.high],
            "verdict": self.outcome,
            "source": self.source,
        }


def judge(
    axis: Axis,
    quantity: Quantity,
    name: str,
    sizes: Sequence[int],
    values: npt.NDArray[np.float64],
    terms: Terms,
    role: str = "",
) -> Verdict:
    """The verdict on the rms `values` (seeds, sizes) of a module, or of a role's gradients.

    `role`: of the module's own tensors; "" where it has none.
    """
    kind = kind_of(quantity, name, name if quantity == "gradient" else role)
    promise = promise_for(axis, quantity, kind)
    follows = terms.eps.get(name, 0.0) if quantity == "gradient" else 0.0
    low, high = (follows + exponent(terms) for exponent in (promise.low, promise.high))
    usable = bool((np.isfinite(values) & (values > 0)).all())
    slope = fit_slope(sizes, np.log(values)) if usable else None
    outcome = _outcome(slope, low, high)
    if slope is None and (values == 0).any():
        outcome = "zero"
    printed = AS_PRINTED.get((terms.scheme, axis, name)) if quantity == "gradient" and outcome != "PASS" else None
    if printed and _outcome(slope, follows + printed.low(terms), follows + printed.high(terms)) != "FAIL":
        outcome, promise = "as printed", printed
    if not claims(terms.scheme, axis) or (quantity == "gradient" and name not in terms.eps):
        outcome = "not claimed"
    return Verdict(axis, quantity, name, kind, slope, low, high, outcome, promise.source)


def _deviation(slope: Slope | None, low: float, high: float) -> float:
    return 0.0 if slope is None else max(0.0, slope.value - high) + min(0.0, slope.value - low)


def _outcome(slope: Slope | None, low: float, high: float) -> str:
    off = abs(_deviation(slope, low, high))
    if slope is None or off > MARGIN + ERRORS * slope.error:
        return "FAIL"
    return "PASS" if off <= MARGIN else "unsure"
