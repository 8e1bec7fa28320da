"""The parametrizations, row by row, with the exponents of the sources that they name. Ratios are per tensor."""

from collections.abc import Mapping
from dataclasses import replace

from hptransfer import second_order
from hptransfer.rules import Power, Rule, Scheme

IN, OUT = Power(fan_in=1), Power(fan_out=1)
PER_IN, PER_OUT = Power(fan_in=-1), Power(fan_out=-1)
ADAM_LR = Power(depth=-1, alpha=1)
SGD_LR, SGD_DECAY = Power(depth=-1, alpha=2), Power(depth=1, alpha=-2)
BRANCH_EPS = Power(alpha=-1)
BRANCH_KINDS = ("hidden", "vector")

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

# The router is an output in the absorbed form (std n^-γ with γ = 1, the default of Jiang et al. too; Megatron-LM has
# hidden's γ = 1/2). Its fan-out, the experts, grows with no width, and its gradient is Θ(1) over width.
ROUTER = Rule(init=PER_IN, lr=PER_IN, weight_decay=IN)
# m_hid^-1 m_N^1/2: mean-field in the experts' own width; hidden's m_in^(-1/2) where ffn_ratio stays.
EXPERT_DOWN_INIT = Power(fan_in=-1, fan_out=1 / 2)
UNROUTED = dict.fromkeys(
    ("hidden.router", "hidden.expert"),
    "its sources say nothing of routed experts; allowed: sp, sp_fan_in, mup, completep",
)


def _with_experts(rules: Mapping[str, Mapping[str, Rule]]) -> dict[str, dict[str, Rule]]:
    """The router's row added; experts are hidden."""
    return {family: {**rows, "hidden.router": ROUTER} for family, rows in rules.items()}


def _mean_field_experts(rules: Mapping[str, Mapping[str, Rule]]) -> dict[str, dict[str, Rule]]:
    """The rows of Jiang et al. (arXiv:2601.20205), table 1: what is theirs in the experts is the init of `down`."""
    return {
        family: {**rows, "hidden.expert.down": replace(rows["hidden"], init=EXPERT_DOWN_INIT)}
        for family, rows in _with_experts(rules).items()
    }


def _inside_branches(rule: Rule, family: str) -> Rule:
    """The rule of a tensor inside a residual branch that is scaled by m_L^-α: its gradient shrinks as m_L^-α."""
    if family == "sgd":  # no eps; lr * weight_decay stays, as in mup's rule over width
        return replace(rule, lr=rule.lr * SGD_LR, weight_decay=rule.weight_decay * SGD_DECAY)
    return replace(rule, lr=rule.lr * ADAM_LR, eps=rule.eps * BRANCH_EPS)


def _with_depth(rules: Mapping[str, Mapping[str, Rule]]) -> dict[str, dict[str, Rule]]:
    """Depth rules added to width rules: roles inside residual branches change, `.outer` keeps the width rule."""
    return {
        family: {
            **rows,
            **{role: _inside_branches(row, family) for role, row in rows.items() if role.startswith(BRANCH_KINDS)},
            **{f"{kind}.outer": rows[kind] for kind in BRANCH_KINDS},
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


SP_FAN_IN: dict[str, Rule] = {
    **SP,
    **dict.fromkeys(
        ("embedding.patch", "hidden", "vector.depthwise", "vector.outer.depthwise"),
        Rule(init=Power(fan_in=-1 / 2, absolute=True)),
    ),
    "readout": Rule(init=Power(fan_in=-1 / 2, absolute=True)),
}

# The absorbed form of u-muP's multipliers (abc symmetry under Adam: a multiplier A moves into init and lr).
UMUP: dict[str, Rule] = {
    "embedding": Rule(lr=Power(fan_out=-1 / 2, absolute=True), weight_decay=Power(fan_out=1 / 2, absolute=True)),
    "hidden": Rule(
        init=Power(fan_in=-1 / 2, absolute=True),
        lr=Power(fan_in=-1, depth=-1 / 2, absolute=True),
        weight_decay=Power(fan_in=1, depth=1 / 2, absolute=True),
    ),
    "hidden.outer": Rule(
        init=Power(fan_in=-1 / 2, absolute=True),
        lr=Power(fan_in=-1, absolute=True),
        weight_decay=Power(fan_in=1, absolute=True),
    ),
    "readout": Rule(multiplier=Power(fan_in=-1, absolute=True)),
    "vector": Rule(lr=Power(depth=-1 / 2, absolute=True), weight_decay=Power(depth=1 / 2, absolute=True)),
    "vector.outer": Rule(),
}

MUON_SCALE = Power(fan_out=1 / 2, fan_in=-1 / 2, absolute=True)
SPECTRAL: dict[str, Rule] = {
    **{role: replace(rule, optimizer="adamw") for role, rule in _with_depth(MUP)["adam"].items()},
    "hidden": Rule(init=Power(fan_in=-1 / 2), lr=MUON_SCALE, eps=Power(fan_in=1 / 2, fan_out=-1 / 2, alpha=-1)),
    "hidden.outer": Rule(init=Power(fan_in=-1 / 2), lr=MUON_SCALE, eps=Power(fan_in=1 / 2, fan_out=-1 / 2)),
}

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
    "sp_fan_in": Scheme(
        source="standard parametrization as PyTorch has it: init std 1/sqrt(fan_in), embeddings N(0, 1)",
        rules={"adam": SP_FAN_IN, "sgd": SP_FAN_IN},
        attention=0.5,
        needs=(),
        init_std=1.0,
    ),
    "mup": Scheme(
        source="Tensor Programs V (arXiv:2203.03466), its tie-able form; eps as Complete(d)P (arXiv:2512.22382); "
        "experts as Malasnicki et al. (arXiv:2508.09752)",
        rules={
            **_with_experts(MUP),
            "shampoo": second_order.with_vectors(second_order.SHAMPOO, MUP["adam"]),
            "kfac": second_order.with_vectors(second_order.KFAC, MUP["adam"]),
        },
        sources=second_order.SOURCES,
    ),
    "depth_mup": Scheme(
        source="Tensor Programs VI (arXiv:2310.02244): mup with α = 1/2",
        rules=_with_depth(MUP),
        residual=Power(alpha=-1),
        alpha=(0.5, 0.5),
        refused=UNROUTED,
    ),
    "completep": Scheme(
        source="CompleteP (arXiv:2505.01618), Table 1; SGD m_L^(2α-1) as Bordelon et al. (arXiv:2405.15712), Table 1; "
        "experts as Jiang et al. (arXiv:2601.20205), Table 1, γ = 1",
        rules=_with_depth(_mean_field_experts(MUP)),
        residual=Power(alpha=-1),
        alpha=(0.5, 1.0),
    ),
    "completedp": Scheme(
        source="Complete(d)P (arXiv:2512.22382), Table 1, its readout in the multiplier form; eps of output norms as "
        "printed there, though their gradient goes as 1/m_out",
        rules={"adam": {role: _with_run(rule) for role, rule in COMPLETED_P.items()}},
        residual=Power(alpha=-1),
        alpha=(0.5, 1.0),
        needs=("base_width", "base_depth", "base_tokens", "base_batch_tokens"),
        refused=UNROUTED,
    ),
    "umup": Scheme(
        source="u-muP (arXiv:2407.17465), its multipliers absorbed, without its scaled backward pass; no base shape",
        rules={"adam": UMUP},
        residual=Power(depth=-1 / 2, absolute=True),
        needs=(),
        init_std=1.0,
        refused=UNROUTED
        | dict.fromkeys(
            ("embedding.patch", "hidden.conv", "hidden.outer.conv", "vector.depthwise", "vector.outer.depthwise"),
            "its source gives no rule for 2-D convolutions and patches (unit-scaling refuses them too)",
        ),
    ),
    "spectral": Scheme(
        source="the spectral condition (arXiv:2310.17813) for Muon; depth and eps as Qiu et al. (arXiv:2512.05620)",
        rules={
            "muon": SPECTRAL,
            "shampoo": second_order.with_vectors(
                second_order.with_depth(second_order.SHAMPOO, eps=Power(alpha=-2)), SPECTRAL
            ),
            "soap": second_order.with_vectors(second_order.with_depth(second_order.SOAP, eps=BRANCH_EPS), SPECTRAL),
        },
        sources=second_order.SOURCES_WITH_DEPTH,
        residual=Power(alpha=-1),
        alpha=(1.0, 1.0),
        refused=UNROUTED,
    ),
}
