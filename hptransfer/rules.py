"""What the rows of a parametrization are made of: powers of ratios. Pure data and arithmetic, no torch.

Every cell multiplies a value quoted at the base shape by powers of the ratios (this shape over the base shape):

    m_in, m_out   the tensor's own fan-in and fan-out      m_L   depth
    m_B           tokens per step                          m_D   tokens of the whole run

so every cell is 1 at the base shape. The readout stands in the multiplier form (its factor acts on the logits, its
initial scale does not change with width): the form that can share its tensor with the embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

KINDS = {
    "embedding": "only fan-out grows: token and position embeddings, the first layer",
    "hidden": "fan-in and fan-out grow: matrices inside a residual branch; `hidden.outer` outside of any",
    "readout": "only fan-in grows: logits, classifier head, an embedding tied to the readout",
    "vector": "gains and biases inside a residual branch; `vector.outer` outside of any; with `.depthwise` at the end "
    "the weights of depthwise convolutions",
}
"""The first part of every role. A finer role adds a suffix after a dot; the rule of its longest known prefix holds."""


def is_gain_or_bias(role: str) -> bool:
    """Whether such a tensor starts at one value and is left out of weight decay. A depthwise convolution (fan-in k^2,
    one group per channel) grows like a vector, but is drawn and decayed like a matrix."""
    return role.startswith("vector") and not role.endswith(".depthwise")


@dataclass(frozen=True)
class Ratios:
    """This shape and run over the base shape and run; 1 at the base. The sizes themselves stand beside the ratios."""

    fan_in: float = 1.0
    fan_out: float = 1.0
    depth: float = 1.0
    batch: float = 1.0
    tokens: float = 1.0
    absolute: "Ratios | None" = None
    """The sizes: ratios to a base of ones."""


@dataclass(frozen=True)
class Power:
    """m_in^fan_in * m_out^fan_out * m_L^(depth + alpha * α) * m_B^batch * m_D^tokens.

    An `absolute` power takes the sizes themselves in place of their ratios to the base.
    """

    fan_in: float = 0.0
    fan_out: float = 0.0
    depth: float = 0.0
    alpha: float = 0.0
    batch: float = 0.0
    tokens: float = 0.0
    absolute: bool = False

    def __call__(self, ratios: Ratios, alpha: float = 0.0) -> float:
        """The factor at these ratios; exactly 1.0 where all of them are 1."""
        if self.absolute:
            assert ratios.absolute is not None
            ratios = ratios.absolute
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
        assert self.absolute == other.absolute
        summed = {name: getattr(self, name) + getattr(other, name) for name in EXPONENTS}
        return Power(**summed, absolute=self.absolute)

    def __str__(self) -> str:
        names = ("fan_in", "fan_out", "L", "B", "D") if self.absolute else ("m_in", "m_out", "m_L", "m_B", "m_D")
        depth = _linear(self.alpha, self.depth) if self.alpha or self.depth else "0"
        exponents = [
            _fraction(self.fan_in),
            _fraction(self.fan_out),
            depth,
            _fraction(self.batch),
            _fraction(self.tokens),
        ]
        parts = [_power(name, value) for name, value in zip(names, exponents, strict=True) if value != "0"]
        return " · ".join(parts) or "1"


EXPONENTS = ("fan_in", "fan_out", "depth", "alpha", "batch", "tokens")


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
    optimizer: str | None = None
    """The optimizer of these tensors where it is not the run's own (Muon leaves vectors and embeddings to AdamW)."""


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
    init_std: float = 0.02
    """The default of parametrization.init_std (0.02: GPT-2's)."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Of optimizer families whose rows are not from `source`."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Roles, by prefix, that its source does not cover, and why."""


@dataclass(frozen=True)
class Choice:
    """One answer where sources differ."""

    exponent: float
    source: str


WEIGHT_DECAY = {
    "independent": Choice(-1, "mup, CompleteP and Wortsman et al. (arXiv:2309.14322)"),
    "sqrt": Choice(-1 / 2, "Fan et al. (arXiv:2510.15262)"),
    "unscaled": Choice(0, "nanoGPT-mup, Megatron-LM and, in compute-optimal runs, Qiu et al. (arXiv:2512.05620)"),
}
"""Weight decay over width: lr's own dependence on it to this power. Over depth, batch and tokens the scheme's rule."""

EMBEDDING_LR = {
    "constant": Choice(0, "Tensor Programs V (arXiv:2203.03466) and CompleteP"),
    "inverse_sqrt": Choice(-1 / 2, "u-muP (arXiv:2407.17465) and Hayou & Liu (arXiv:2506.15025)"),
}
"""The power of m_out in the lr of embeddings, under Adam. Their lr * weight_decay is the scheme's own."""


@dataclass(frozen=True)
class Options:
    """What is chosen where sources differ: names in WEIGHT_DECAY and EMBEDDING_LR, where None is the scheme's own rule;
    whether eps follows the size of gradients; whether gains and biases are decayed."""

    weight_decay: str | None = None
    embedding_lr: str | None = None
    scale_eps: bool = True
    decay_vectors: bool = False

    def __str__(self) -> str:
        parts = ["one eps for all tensors, as mup (microsoft/mup)"] if not self.scale_eps else []
        parts += ["gains and biases decayed, as mup and Complete(d)P (arXiv:2512.22382)"] if self.decay_vectors else []
        parts += [
            f"{what} {name}, as {table[name].source}"
            for what, name, table in (
                ("weight decay over width", self.weight_decay, WEIGHT_DECAY),
                ("embedding lr", self.embedding_lr, EMBEDDING_LR),
            )
            if name
        ]
        return "; ".join(parts)


OWN = Options()


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
