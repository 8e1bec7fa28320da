"""From the pattern of broken promises to the rule that is wrong.

What a fault does to the first forward pass shows before anything is trained, and what comes later, in the forward
pass or in training, follows from what comes before. So only the first level with a broken promise is explained
(initialisation, then changes, then gradients), and in the changes only what breaks first on the way from the inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hptransfer.coordcheck.promises import FLAT, Axis, Exponent, Quantity, Terms, Verdict


@dataclass(frozen=True)
class Fault:
    """A rule, and where it shows first when it is broken."""

    axis: Axis
    quantity: Quantity
    kind: str
    rule: str
    missing: Exponent = FLAT
    """Of the size: too much by it where the rule is missing, too little where it is applied twice. 0: there is no
    rule that could be missing."""
    after: str = ""
    """A kind that comes before and would explain the deviation."""


HIDDEN_STD = "the factor m_in^-1/2 on the initial standard deviation of hidden matrices"
HIDDEN_LR = "the factor 1/m_in on the lr of hidden matrices"
BRANCH_LR = "the factor m_L^(α-1) on the lr inside residual branches"
SCORES = "the factor 1/head_dim on the attention logits, in place of 1/sqrt(head_dim),"
EMBEDDING_STD = "the initial standard deviation of the embedding, or the input multiplier,"
EMBEDDING_LR = "the lr of the embedding"

FAULTS = (
    Fault("width", "init", "trunk.embedding", EMBEDDING_STD),
    Fault("width", "init", "trunk.hidden", HIDDEN_STD, Exponent(1 / 2)),
    Fault("width", "init", "input", EMBEDDING_STD, after="trunk"),
    Fault("width", "init", "branch", HIDDEN_STD, Exponent(1 / 2)),
    Fault("width", "init", "scores", SCORES, Exponent(head=1 / 2), after="branch"),
    Fault("width", "init", "added", "the factor on residual branches", after="branch"),
    Fault("width", "init", "logits", "the readout's forward multiplier 1/m_in", Exponent(1)),
    Fault("depth", "init", "input", EMBEDDING_STD),
    Fault("depth", "init", "branch", "the initial standard deviation of hidden matrices"),
    Fault("depth", "init", "added", "the factor m_L^-α on residual branches", Exponent(alpha=1), after="branch"),
    Fault("depth", "init", "logits", "the readout's forward multiplier or initial standard deviation"),
    Fault("width", "change", "trunk.embedding", EMBEDDING_LR),
    Fault("width", "change", "trunk.hidden", HIDDEN_LR, Exponent(1)),
    Fault("width", "change", "input", EMBEDDING_LR),
    Fault("width", "change", "branch", HIDDEN_LR, Exponent(1)),
    Fault("width", "change", "scores", SCORES, Exponent(head=1 / 2)),
    Fault("width", "change", "added", HIDDEN_LR, Exponent(1)),
    Fault("width", "change", "trunk.vector", "the lr of the gains and biases outside of the blocks"),
    Fault("width", "change", "logits", "the lr of the readout"),
    Fault("depth", "change", "input", EMBEDDING_LR),
    Fault("depth", "change", "branch", BRANCH_LR, Exponent(1, alpha=-1)),
    Fault("depth", "change", "added", BRANCH_LR, Exponent(1, alpha=-1)),
    Fault("depth", "change", "output", BRANCH_LR, Exponent(1, alpha=-1)),
    Fault("depth", "change", "trunk", "the lr of what stands outside of the blocks"),
    Fault("depth", "change", "logits", "the lr of the readout"),
)
"""In the order of the forward pass."""


def diagnose(verdicts: Sequence[Verdict], terms: Terms) -> list[str]:
    """One sentence for each rule that the FAILs among the verdicts over one axis point to."""
    failed = [verdict for verdict in verdicts if verdict.outcome == "FAIL"]
    unbounded = [verdict.name for verdict in failed if verdict.slope is None]
    if unbounded:
        return [f"{unbounded[0]} is not finite at some size: lower the lr, or try fewer steps or smaller sizes"]
    init, change, gradient = (
        [verdict for verdict in failed if verdict.quantity == quantity] for quantity in ("init", "change", "gradient")
    )
    return _named(init, terms) or _named(change, terms)[:1] or _gradients(gradient)


def _named(failed: Sequence[Verdict], terms: Terms) -> list[str]:
    """A sentence for each fault that shows in these verdicts of one axis and quantity."""
    sentences = []
    for fault in FAULTS:
        shows = [one for one in failed if (one.axis, one.quantity) == (fault.axis, fault.quantity)]
        here = [one for one in shows if _is(one, fault.kind)]
        if here and not any(fault.after and _is(one, fault.after) for one in shows):
            sentences.append(_sentence(fault, here[0], terms))
    return sentences


def _is(verdict: Verdict, kind: str) -> bool:
    return f"{verdict.kind}.".startswith(f"{kind}.")


def _sentence(fault: Fault, verdict: Verdict, terms: Terms) -> str:
    assert verdict.slope is not None
    what = {"init": "at initialisation", "change": "of the change"}[fault.quantity]
    return (
        f"{verdict.name}: rms {what} {_goes(verdict)}, and what enters it keeps its promise: "
        f"{fault.rule} {_cause(fault, fault.missing(terms), verdict.deviation)}"
    )


def _cause(fault: Fault, missing: float, deviation: float) -> str:
    """Changes saturate behind norms and have more than one source, so that only their sign is telling."""
    if not missing:
        return f"moves with {fault.axis} and should not"
    ratio = deviation / missing
    if fault.quantity == "change" or 0.6 < abs(ratio) < 1.4:
        return "is missing" if ratio > 0 else "is applied twice"
    return f"is wrong by {fault.axis}^{deviation:+.2f}"


def _gradients(failed: Sequence[Verdict]) -> list[str]:
    """Wrong eps shows in nothing else as long as eps is small."""
    if not failed:
        return []
    each = "; ".join(f"{verdict.name} {_goes(verdict)}" for verdict in failed)
    return [f"the factor on eps does not follow the size of gradients: {each}"]


def _goes(verdict: Verdict) -> str:
    assert verdict.slope is not None
    promised = f"{verdict.low:+.2f}" + f" to {verdict.high:+.2f}" * (verdict.high > verdict.low)
    return f"goes as {verdict.axis}^{verdict.slope.value:+.2f} where {promised} is promised"
