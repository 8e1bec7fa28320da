"""Published laws as data: usable with no runs at all, and as rivals of fitted ones.

A law is a product of powers of N (parameters), D (tokens), B (tokens per batch) and C (training FLOPs) for each
quantity it speaks of, with everything needed to apply it honestly beside it. `checked` says what was read in the source
and what was only recalled from it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hptransfer.errors import UserError, did_you_mean
from hptransfer.laws import priors
from hptransfer.laws.predict import Estimate, Prediction


@dataclass(frozen=True)
class Power:
    """constant * product of symbol^exponent."""

    constant: float
    exponents: Mapping[str, float]

    def at(self, values: Mapping[str, float]) -> float:
        """The value where `values` gives every symbol."""
        return self.constant * math.exp(
            sum(power * math.log(values[symbol]) for symbol, power in self.exponents.items())
        )

    def to_text(self) -> str:
        """`1.79 N^-0.713 D^0.307`."""
        return " ".join([f"{self.constant:g}", *(f"{symbol}^{power:g}" for symbol, power in self.exponents.items())])


@dataclass(frozen=True)
class PublishedLaw:
    """Formulas with their setting. `lr` is the peak lr; `tau` the AdamW timescale B / (lr * weight_decay * D)."""

    title: str
    source: str
    setting: str
    definition_of_n: str
    holds_fixed: str
    checked: str
    parametrization: str = "sp"
    formulas: Mapping[str, Power] = field(default_factory=dict)
    """By quantity: lr, batch_tokens, tau, critical_batch, lr_exponents (the constant is not published)."""

    def values(self, params: float, tokens: float, batch_tokens: float | None = None) -> dict[str, float]:
        """Every quantity that can be computed; the law's own batch where none is given. C = 6 N D."""
        known = {"N": params, "D": tokens, "C": 6 * params * tokens}
        if batch_tokens is not None:
            known["B"] = batch_tokens
        found: dict[str, float] = {}
        for quantity in ("batch_tokens", "lr", "tau", "critical_batch"):
            formula = self.formulas.get(quantity)
            if formula is not None and set(formula.exponents) <= set(known):
                found[quantity] = formula.at(known)
                if quantity == "batch_tokens":
                    known.setdefault("B", found[quantity])
        if "tau" in found and "lr" in found and "B" in known:
            found["weight_decay"] = known["B"] / (found["lr"] * found["tau"] * tokens)
        return found


LAWS: Mapping[str, PublishedLaw] = {
    "step_law": PublishedLaw(
        "Step Law",
        "arXiv:2503.04715 (Predictable Scale, Part I), equation 1",
        "AdamW, weight decay 0.1, cosine to a fixed final lr of 1e-5, sequences of 2048, dense and MoE transformers",
        "non-embedding parameters; all experts of a mixture",
        "nothing: the lr is along the optimal batch",
        "constants read in the authors' repository (means of 1000 bootstraps)",
        formulas={"lr": Power(1.79, {"N": -0.713, "D": 0.307}), "batch_tokens": Power(0.58, {"D": 0.571})},
    ),
    "deepseek": PublishedLaw(
        "DeepSeek LLM",
        "arXiv:2401.02954, section 3.1",
        "AdamW, weight decay 0.1, multi-step schedule, sequences of 4096",
        "C = M D with M the non-embedding FLOPs per token; computed here as 6 N D",
        "tokens per parameter near the compute-optimal ratio; the lr is along the optimal batch",
        "constants read in code that plots them (Porian et al.)",
        formulas={"lr": Power(0.3118, {"C": -0.1250}), "batch_tokens": Power(0.2920, {"C": 0.3271})},
    ),
    "porian": PublishedLaw(
        "Porian et al.",
        "arXiv:2406.19146, section 4.2",
        "AdamW, constant lr after warm-up, beta2 0.99 at small and 0.95 at large batches, sequences of 2048",
        "parameters with the readout, without the input embedding",
        "20 tokens per parameter; the lr is along the optimal batch",
        "constants read in a secondary table; the rounded form 0.0047 (N/108e6)^(-1/3) in the authors' code",
        formulas={"lr": Power(3.7, {"N": -0.36}), "batch_tokens": Power(0.7576, {"N": 0.703})},
    ),
    "bjorck": PublishedLaw(
        "Bjorck et al.",
        "arXiv:2409.19913",
        "AdamW, cosine, batch fixed",
        "parameters",
        "the batch",
        "form and exponents read; the printed constant gives no sane lr with N and D as numbers, so none is used",
        formulas={"lr_exponents": Power(1.0, {"N": -0.23, "D": -0.32})},
    ),
    "power_lines": PublishedLaw(
        "Power Lines",
        "arXiv:2505.13738",
        "AdamW under muP, linear decay to zero, sequences of 2048; the lr comes from muP, not from this law",
        "parameters of the authors' models; D/N enters as tokens per parameter",
        "the lr (muP)",
        "exponents read; constants and their batch unit (sequences of 2048) recalled",
        parametrization="mup",
        formulas={
            "tau": Power(1.084, {"D": -0.527, "N": 0.527}),
            "batch_tokens": Power(0.0306 * 2048, {"D": 0.383}),
            "critical_batch": Power(0.0471 * 2048, {"D": 0.462}),
        },
    ),
    "minicpm": PublishedLaw(
        "MiniCPM",
        "arXiv:2404.06395, section 3",
        "AdamW under muP, WSD schedule",
        "non-embedding parameters",
        "nothing; the batch follows the loss L that is reached: 1.21e9 / L^6.24 tokens",
        "exponent read; both constants recalled",
        parametrization="mup",
        formulas={"lr": Power(0.01, {}), "batch_from_loss": Power(1.21e9, {"L": -6.24})},
    ),
    "zhang_cbs": PublishedLaw(
        "Zhang et al., critical batch",
        "arXiv:2410.21676",
        "Adam, constant lr with weight averaging; 20 % more steps than linear scaling from 256 sequences of 512",
        "parameters in the law by N (in millions there), at 20 tokens per parameter",
        "the loss that is to be reached",
        "law in N read in the authors' notebook: 93.20 N^0.468 sequences of 512, N in millions. The law in D, "
        "22.91 D^0.47, recalled; D in millions is what agrees with the law in N (1368 against 1394 at 302M)",
        formulas={"critical_batch": Power(22.91 * 512 * 1e-6**0.47, {"D": 0.47})},
    ),
    "completedp": PublishedLaw(
        "Complete(d)P square-root rules",
        "arXiv:2512.22382",
        "AdamW under CompleteP",
        "none: relative to a base run",
        "relative to a base run, r = batch / tokens: lr and weight decay as r^(1/2), eps as r^(-1/2), 1 - beta as r",
        "lr and eps read in an implementation; betas and weight decay recalled",
        parametrization="completedp",
        formulas={"lr_exponents": Power(1.0, {"B": 0.5, "D": -0.5})},
    ),
    "small_batch_beta2": PublishedLaw(
        "beta2 half-life",
        "arXiv:2507.07101 (Marek et al.)",
        "Adam at any batch down to one sequence",
        "none: relative to a base run",
        "beta2's half-life in tokens: beta2' = beta2^(B'/B); the lr nearly constant in B",
        "read in the authors' code",
        parametrization="any",
    ),
}


def law(name: str) -> PublishedLaw:
    """The published law of this name; UserError where there is none."""
    if name not in LAWS:
        raise UserError(f"law: {name!r}; known: {', '.join(LAWS)}{did_you_mean(name, list(LAWS))}")
    return LAWS[name]


def listing() -> str:
    """All published laws, one a line."""
    width = max(map(len, LAWS))
    return "\n".join(
        f"{name:{width}s}  {one.title}: "
        + ("; ".join(_formula(*pair) for pair in one.formulas.items()) or one.holds_fixed)
        for name, one in LAWS.items()
    )


def show(name: str) -> str:
    """One law with all that is needed to apply it."""
    one = law(name)
    lines = [f"{one.title} ({one.source})", *(f"  {_formula(*pair)}" for pair in one.formulas.items())]
    facts = {
        "setting": one.setting,
        "parametrization": one.parametrization,
        "N": one.definition_of_n,
        "held fixed": one.holds_fixed,
        "checked": one.checked,
    }
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in facts.items())])


def predict_published(name: str, *, params: float, tokens: float, batch_tokens: float | None = None) -> Prediction:
    """What a published law says: values without intervals, its setting as a warning; UserError where it gives no lr."""
    one = law(name)
    for key, value in (("params", params), ("tokens", tokens), ("batch_tokens", batch_tokens or 1.0)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{key}: expected a positive number, got {value!r}")
    found = one.values(params, tokens, batch_tokens)
    batch = batch_tokens or found.get("batch_tokens")
    if "lr" not in found or batch is None:
        complete = [key for key, other in LAWS.items() if {"lr", "batch_tokens"} <= set(other.formulas)]
        raise UserError(
            f"law {name}: gives no lr and batch by itself ({one.holds_fixed}); those that do: {', '.join(complete)}"
        )
    decay = found.get("weight_decay")
    warnings = [f"{one.title}: {one.setting}; {one.parametrization}; N: {one.definition_of_n}"]
    if batch_tokens is not None and "batch_tokens" in found:
        warnings.append(
            f"{one.title} gives the lr at its own batch of {found['batch_tokens']:.0f} tokens, not at yours"
        )
    return Prediction(
        Estimate(found["lr"], optimum=found["lr"]),
        Estimate(batch, optimum=found.get("batch_tokens")),
        Estimate(decay, optimum=decay) if decay else None,
        None,
        {},
        False,
        tuple(warnings),
    )


def rivals(parametrization: str, params: float, tokens: float, batch_tokens: float) -> dict[str, dict[str, float]]:
    """Published laws that speak of the same kind of lr as the runs, each with what it says at a target."""
    kind = "mup" if parametrization in priors.WIDTH_RULE else "sp"
    return {
        name: one.values(params, tokens, None if "batch_tokens" in one.formulas else batch_tokens)
        for name, one in LAWS.items()
        if one.parametrization == kind and one.formulas.keys() & {"lr", "batch_tokens", "tau", "critical_batch"}
    }


def _formula(quantity: str, power: Power) -> str:
    return (
        f"{quantity} = {power.to_text()}"
        if quantity != "lr_exponents"
        else f"lr ~ {power.to_text().removeprefix('1 ')}"
    )
