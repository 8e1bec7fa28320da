"""Rows for optimizers that precondition with matrices: Shampoo, SOAP and K-FAC. They are printed; none is run here.

Over width by Ishikawa & Karakida (arXiv:2312.12226) for K-FAC and Shampoo, over width and depth (α = 1) by Qiu et al.
(arXiv:2512.05620) for Shampoo and SOAP; the two agree on Shampoo. Preconditioners in one block; Shampoo with the
exponent -1/4 on each side. lr * weight_decay stays, as it does in mup.

The sources state the readout in the absorbed form. With its factor θ = 1/m_in on the logits instead, gradients are
times θ, and the lr is divided by θ^(1 + d) where the update goes as gradient^d: d = 0 in Shampoo and SOAP, -1 in K-FAC.
What stands for `eps` is added to the factors of Shampoo, which are squares of gradients, and to the roots of SOAP.
"""

from collections.abc import Mapping
from dataclasses import replace

from hptransfer.rules import Power, Rule

ROOT = Power(fan_out=1 / 2, fan_in=-1 / 2)
ROOT_DECAY = Power(fan_out=-1 / 2, fan_in=1 / 2)
HIDDEN_STD = Power(fan_in=-1 / 2)
READOUT = Power(fan_in=-1)

SHAMPOO: dict[str, Rule] = {
    "embedding": Rule(lr=Power(fan_out=1 / 2), eps=Power(fan_out=-1), weight_decay=Power(fan_out=-1 / 2)),
    "hidden": Rule(init=HIDDEN_STD, lr=ROOT, eps=Power(fan_in=1, fan_out=-1), weight_decay=ROOT_DECAY),
    "readout": Rule(
        multiplier=READOUT, lr=Power(fan_in=1 / 2), eps=Power(fan_in=-1), weight_decay=Power(fan_in=-1 / 2)
    ),
}
SOAP: dict[str, Rule] = {
    role: replace(row, eps=eps)
    for (role, row), eps in zip(
        SHAMPOO.items(),
        (Power(fan_out=-1 / 2), Power(fan_in=1 / 2, fan_out=-1 / 2), Power(fan_in=-1 / 2)),
        strict=True,
    )
}
KFAC: dict[str, Rule] = {
    "embedding": Rule(),
    "hidden": Rule(init=HIDDEN_STD),
    "readout": Rule(multiplier=READOUT),
}
SOURCES = {
    "kfac": "Ishikawa & Karakida (arXiv:2312.12226); eps is the damping over the trace of each factor",
    "shampoo": "Ishikawa & Karakida (arXiv:2312.12226); eps as Qiu et al. (arXiv:2512.05620)",
}
SOURCES_WITH_DEPTH = {
    "shampoo": "Qiu et al. (arXiv:2512.05620), exponents -1/4",
    "soap": "Qiu et al. (arXiv:2512.05620), two-sided",
}


def with_vectors(rows: Mapping[str, Rule], adam: Mapping[str, Rule]) -> dict[str, Rule]:
    """Gains and biases, which the sources leave open, go to AdamW."""
    vectors = {role: replace(row, optimizer="adamw") for role, row in adam.items() if role.startswith("vector")}
    return {**rows, **vectors}


def with_depth(rows: Mapping[str, Rule], eps: Power) -> dict[str, Rule]:
    """Inside residual branches times m_L^-α no factor on the lr, and one on eps."""
    return {**rows, "hidden": replace(rows["hidden"], eps=rows["hidden"].eps * eps), "hidden.outer": rows["hidden"]}
