"""What a parametrization is: a table from a tensor's role to exponents. Pure data and arithmetic, no torch.

Every cell multiplies a value quoted at the base shape by powers of the ratios (this shape over the base shape):

    m_in, m_out   the tensor's own fan-in and fan-out      m_L   depth
    m_B           tokens per step                          m_D   tokens of the whole run

so every cell is 1 at the base shape. The readout stands in the multiplier form (its factor acts on the logits, its
initial scale does not change with width): the form that can share its tensor with the embedding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import TypeVar

from hptransfer.errors import UserError, did_you_mean

Value = TypeVar("Value")

KINDS = {
    "embedding": "only fan-out grows: token and position embeddings, the first layer",
    "hidden": "fan-in and fan-out grow: matrices inside a residual branch; `hidden.outer` outside of any",
    "readout": "only fan-in grows: logits, classifier head, an embedding tied to the readout",
    "vector": "gains and biases inside a residual branch; `vector.outer` outside of any",
}
"""The first part of every role. A finer role adds a suffix after a dot; the rule of its longest known prefix holds."""


@dataclass(frozen=True)
class Ratios:
    """This shape and run over the base shape and run; 1 at the base."""

    fan_in: float = 1.0
    fan_out: float = 1.0
    depth: float = 1.0
    batch: float = 1.0
    tokens: float = 1.0


@dataclass(frozen=True)
class Power:
    """m_in^fan_in * m_out^fan_out * m_L^(depth + alpha * α) * m_B^batch * m_D^tokens."""

    fan_in: float = 0.0
    fan_out: float = 0.0
    depth: float = 0.0
    alpha: float = 0.0
    batch: float = 0.0
    tokens: float = 0.0

    def __call__(self, ratios: Ratios, alpha: float = 0.0) -> float:
        """The factor at these ratios; exactly 1.0 where all of them are 1."""
        depth_exponent = self.depth + self.alpha * alpha
        return math.prod(
            float(ratio**exponent)
            for ratio, exponent in (
                (ratios.fan_in, self.fan_in),
                (ratios.fan_out, self.fan_out),
                (ratios.depth, depth_exponent),
                (ratios.batch, self.batch),
                (ratios.tokens, self.tokens),
            )
        )

    def __mul__(self, other: "Power") -> "Power":
        return Power(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __str__(self) -> str:
        symbols = {"m_in": self.fan_in, "m_out": self.fan_out, "m_B": self.batch, "m_D": self.tokens}
        parts = [_power(symbol, _fraction(value)) for symbol, value in symbols.items() if value]
        if self.alpha or self.depth:
            parts.append(_power("m_L", _linear(self.alpha, self.depth)))
        return " · ".join(parts) or "1"


ONE = Power()


@dataclass(frozen=True)
class Rule:
    """What one parametrization does to the tensors of one role under one optimizer family.

    `betas` acts on 1 - beta. `weight_decay` is that of torch.optim.AdamW, which shrinks by lr * weight_decay.
    """

    init: Power = ONE
    multiplier: Power = ONE
    lr: Power = ONE
    eps: Power = ONE
    weight_decay: Power = ONE
    betas: Power = ONE


@dataclass(frozen=True)
class Scheme:
    """A parametrization: its rules, what it does to residual branches and attention logits, and where it comes from."""

    source: str
    rules: Mapping[str, Mapping[str, Rule]]
    residual: Power = ONE
    attention: float = 1.0
    """The attention logits are scaled by head_dim^-attention, and by 1/sqrt(head_dim) at the base head size."""
    alpha: tuple[float, float] = (0.0, 0.0)
    """The range of the residual depth exponent; the upper end is the default."""
    needs: tuple[str, ...] = ("base_width", "base_depth")
    """What the config has to say of the base, since a default would silently switch the transfer off."""


# --- The rows. Exponents are those of the sources named in SCHEMES; ratios are per tensor. ---

IN, OUT = Power(fan_in=1), Power(fan_out=1)
PER_IN, PER_OUT = Power(fan_in=-1), Power(fan_out=-1)
BRANCH_LR = {"adam": Power(depth=-1, alpha=1), "sgd": Power(depth=-1, alpha=2)}
BRANCH_EPS = Power(alpha=-1)

SP: dict[str, Rule] = {"embedding": Rule(), "hidden": Rule(), "readout": Rule(), "vector": Rule()}

MUP: dict[str, dict[str, Rule]] = {
    "adam": {
        "embedding": Rule(eps=PER_OUT),
        "hidden": Rule(init=Power(fan_in=-1 / 2), lr=PER_IN, eps=PER_OUT, weight_decay=IN),
        "readout": Rule(multiplier=PER_IN, eps=PER_IN),
        "vector": Rule(eps=PER_OUT),
    },
    "sgd": {
        "embedding": Rule(lr=OUT, weight_decay=PER_OUT),
        "hidden": Rule(init=Power(fan_in=-1 / 2), lr=OUT * PER_IN, weight_decay=IN * PER_OUT),
        "readout": Rule(multiplier=PER_IN, lr=IN, weight_decay=PER_IN),
        "vector": Rule(lr=OUT, weight_decay=PER_OUT),
    },
}


def _inside_branches(rule: Rule, family: str) -> Rule:
    """The rule of a tensor inside a residual branch that is scaled by m_L^-α: its gradient shrinks as m_L^-α."""
    eps = rule.eps * BRANCH_EPS if family == "adam" else rule.eps
    return replace(rule, lr=rule.lr * BRANCH_LR[family], eps=eps)


def _with_depth(rules: Mapping[str, Mapping[str, Rule]]) -> dict[str, dict[str, Rule]]:
    """Depth rules added to width rules: roles inside residual branches change, `.outer` keeps the width rule."""
    return {
        family: {
            **rows,
            **{kind: _inside_branches(rows[kind], family) for kind in ("hidden", "vector")},
            **{f"{kind}.outer": rows[kind] for kind in ("hidden", "vector")},
        }
        for family, rows in rules.items()
    }


def _with_run(rule: Rule) -> Rule:
    """Batch and duration added to a rule for Adam: steps grow as m_D / m_B, and lr * weight_decay * steps stays."""
    shorter, longer = Power(batch=1 / 2, tokens=-1 / 2), Power(batch=-1 / 2, tokens=1 / 2)
    return replace(
        rule,
        lr=rule.lr * shorter,
        eps=rule.eps * longer,
        weight_decay=rule.weight_decay * shorter,
        betas=rule.betas * Power(batch=1, tokens=-1),
    )


COMPLETED_P: dict[str, Rule] = {
    **_with_depth(MUP)["adam"],
    "vector.outer": Rule(),  # its table's row "output weights, biases, norms"
    "vector.qk_gain": _inside_branches(Rule(), "adam"),  # one gain shared over heads: its gradient does not shrink
}

SCHEMES: dict[str, Scheme] = {
    "sp": Scheme(
        source="standard parametrization, one constant init_std for all matrices (as in GPT-2, without its 1/sqrt(2L))",
        rules={"adam": SP, "sgd": SP},
        attention=0.5,
        needs=(),
    ),
    "mup": Scheme(
        source="Tensor Programs V (arXiv:2203.03466), its tie-able form; eps as Complete(d)P (arXiv:2512.22382)",
        rules=MUP,
    ),
    "depth_mup": Scheme(
        source="Tensor Programs VI (arXiv:2310.02244): mup with α = 1/2",
        rules=_with_depth(MUP),
        residual=Power(alpha=-1),
        alpha=(0.5, 0.5),
    ),
    "completep": Scheme(
        source="CompleteP (arXiv:2505.01618), Table 1; SGD m_L^(2α-1) as Bordelon et al. (arXiv:2405.15712), Table 1",
        rules=_with_depth(MUP),
        residual=Power(alpha=-1),
        alpha=(0.5, 1.0),
    ),
    "completedp": Scheme(
        source="Complete(d)P (arXiv:2512.22382), Table 1, its readout in the multiplier form",
        rules={"adam": {role: _with_run(rule) for role, rule in COMPLETED_P.items()}},
        residual=Power(alpha=-1),
        alpha=(0.5, 1.0),
        needs=("base_width", "base_depth", "base_tokens", "base_batch_tokens"),
    ),
}


def scheme(name: str) -> Scheme:
    """The parametrization of this name; UserError where there is none."""
    if name not in SCHEMES:
        allowed = list(SCHEMES)
        raise UserError(
            f"parametrization.name: unknown name {name!r}; allowed: {', '.join(allowed)}{did_you_mean(name, allowed)}"
        )
    return SCHEMES[name]


def rule(name: str, family: str, role: str) -> Rule:
    """The rule of the longest known prefix of `role`; UserError where the pair is not defined."""
    families = scheme(name).rules
    if family not in families:
        raise UserError(
            f"parametrization.name: {name} has no rules for optimizer family {family!r}; it has {', '.join(families)}"
        )
    found = most_specific(families[family], role)
    if found is None:
        raise UserError(f"parametrization.name: {name} has no rule for the role {role!r} under {family}")
    return found


def most_specific(table: Mapping[str, Value], role: str) -> Value | None:
    """The entry of the longest dotted prefix of `role` in `table`; None where no prefix is in it."""
    parts = role.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in table:
            return table[prefix]
    return None


def attention_scale(name: str, head_dim: int, base_head_dim: int) -> float:
    """The factor on the attention logits: head_dim^-attention, exactly 1/sqrt(head_dim) at the base head size."""
    return (1 / math.sqrt(base_head_dim)) * float((base_head_dim / head_dim) ** scheme(name).attention)


def to_markdown(name: str, family: str = "adam") -> str:
    """The parametrization as a Markdown table, one line per role, printed from the same data that training uses."""
    rules = scheme(name).rules
    if family not in rules:
        rule(name, family, "hidden")
    columns: dict[str, Callable[[str, Rule], object]] = {
        "init std": lambda role, row: "constant" if role.startswith("vector") else row.init,
        "forward multiplier": lambda role, row: row.multiplier,
        "lr": lambda role, row: row.lr,
        "eps": lambda role, row: row.eps if family == "adam" else "-",
        "weight decay": lambda role, row: "0 †" if role.startswith("vector") else row.weight_decay,
        "1 - beta": lambda role, row: row.betas,
    }
    if all(row.betas == ONE for row in rules[family].values()):
        del columns["1 - beta"]
    lines = [f"| role | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for role, row in sorted(rules[family].items()):
        lines.append(f"| {role} | {' | '.join(str(cell(role, row)) for cell in columns.values())} |")
    return "\n".join([*lines, "", _footnote(name)]) + "\n"


def _footnote(name: str) -> str:
    """What the table's columns do not hold: branches, attention, and the meaning of the signs."""
    what = SCHEMES[name]
    low, high = what.alpha
    alpha = "" if high == 0 else f", α = {high:g}" if low == high else f", α = {high:g} (allowed: {low:g} to {high:g})"
    logits = "1/sqrt(head_dim)" if what.attention == 0.5 else "sqrt(base_head_dim)/head_dim"
    return (
        f"Residual branches × {what.residual}{alpha}; attention logits × {logits}. Cells multiply the value quoted at "
        f"the base shape. † `decay_vectors: true` decays gains and biases too. Source: {what.source}."
    )


def _fraction(value: float) -> str:
    return str(Fraction(value).limit_denominator(64))


def _linear(slope: float, constant: float) -> str:
    """`slope * α + constant` as text."""
    terms = {1.0: "α", -1.0: "-α"}.get(slope, f"{_fraction(slope)}α") if slope else ""
    if constant:
        sign = "+" if constant > 0 and terms else ""
        terms += f"{sign}{_fraction(constant)}"
    return terms


def _power(symbol: str, exponent: str) -> str:
    if exponent == "1":
        return symbol
    return f"{symbol}^{exponent}" if exponent in ("-1", "α", "-α") else f"{symbol}^({exponent})"


@dataclass(frozen=True)
class Multipliers:
    """The forward factors of a model as applied (`models/*.py: build(shape, multipliers)` takes them)."""

    input: float = 1.0
    """On the sum of the embeddings."""
    output: float = 1.0
    """On the logits; the readout's own factor is in it."""
    attention: float = 1.0
    """On the attention logits, 1/sqrt(head_dim) in it."""
    residual: float = 1.0
    """On each residual branch."""
