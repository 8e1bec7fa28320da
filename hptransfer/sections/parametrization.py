"""The `parametrization` section."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hptransfer.errors import did_you_mean
from hptransfer.parametrization import KINDS, SCHEMES, Options
from hptransfer.sections.values import Count, Flag, NonNegative, Positive, Section


class Factors(Section):
    """Forward multipliers that users tune at the base shape."""

    input: Positive = 1.0
    """On the embeddings."""
    output: Positive = 1.0
    """On the logits."""
    attention: Positive = 1.0
    """On the attention logits."""
    residual: Positive = 1.0
    """On each residual branch."""


def _role_keys(table: dict[str, float]) -> dict[str, float]:
    for role in table:
        kind = role.split(".")[0]
        if kind not in KINDS:
            raise ValueError(
                f"unknown role {role!r}; a role begins with {', '.join(KINDS)}{did_you_mean(kind, list(KINDS))}"
            )
    return table


WeightDecayRule = Annotated[
    Literal["paper", "independent", "sqrt", "unscaled"] | None,
    AfterValidator(lambda rule: None if rule == "paper" else rule),
]
RoleFactors = Annotated[dict[str, NonNegative], AfterValidator(_role_keys)]


class Parametrization(Section):
    """How hyperparameters move with the shape. Everything is quoted at the base shape."""

    name: Annotated[str, Field(json_schema_extra={"enum": list(SCHEMES)})] = "completep"
    base_width: Count | None = None
    """Width at which the hyperparameters are quoted (the proxy's). Not needed by sp."""
    base_depth: Count | None = None
    """Depth at which the hyperparameters are quoted. Not needed by sp."""
    alpha: Positive | None = None
    """Residual branches are scaled by (depth/base_depth)^-alpha. Default: the scheme's own."""
    base_head_dim: Count | None = None
    """Head size at the base shape. Default: follows from heads or head_dim."""
    base_kv_heads: Count | None = None
    """Key and value heads at the base shape. Default: the same number of query heads per key head as the model. As many
    as the model has: their number stays over width (`check` keeps it too)."""
    base_ffn_ratio: Positive | None = None
    """ffn_ratio at the base shape. Default: the model's."""
    base_tokens: Count | None = None
    """Tokens of the run at which the hyperparameters are quoted. Needed by completedp."""
    base_batch_tokens: Count | None = None
    """Tokens per step at which the hyperparameters are quoted. Needed by completedp."""
    init_std: Positive | None = None
    """Standard deviation of the initial weights at the base shape. Default: 0.02; 1 where the scheme has its own."""
    multipliers: Factors = Factors()
    lr_multipliers: RoleFactors = {}
    """Factors on lr by role, e.g. {embedding: 4}; the longest matching prefix of a role wins."""
    init_multipliers: RoleFactors = {}
    """Factors on init_std by role; 0 starts a role at zero."""
    scale_eps: Flag = True
    """Scale the optimizer's eps with the size of the gradient (false: one eps for all, mup's own rule)."""
    decay_vectors: Flag = False
    """Decay gains and biases too (true: mup's own rule)."""
    weight_decay_rule: WeightDecayRule = None
    """Weight decay of what has an lr that depends on width. independent: lr * weight_decay stays (mup, CompleteP);
    sqrt: it shrinks by the square root (Fan et al., arXiv:2510.15262); unscaled: as lr does (nanoGPT-mup, Megatron-LM).
    Default, and paper: as in the parametrization's paper."""
    embedding_lr: Literal["constant", "inverse_sqrt"] | None = None
    """lr of embeddings over width, under Adam. constant (Tensor Programs V, CompleteP); inverse_sqrt: width^(-1/2)
    (u-muP; Hayou & Liu, arXiv:2506.15025, for large vocabularies). Default: as in the parametrization's paper."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCHEMES:
            raise ValueError(f"unknown name {name!r}; allowed: {', '.join(SCHEMES)}{did_you_mean(name, list(SCHEMES))}")
        return name

    @model_validator(mode="after")
    def _complete(self) -> "Parametrization":
        scheme = SCHEMES[self.name]
        if missing := [key for key in scheme.needs if getattr(self, key) is None]:
            raise ValueError(
                f"{' and '.join(missing)} missing: {self.name} quotes hyperparameters at a base; "
                "give that at which they were (or will be) tuned, the same in proxy and target"
            )
        low, high = scheme.alpha
        if self.alpha is not None and not low <= self.alpha <= high:
            allowed = f"{low:g} to {high:g}" if high else f"none ({self.name} does not scale depth)"
            raise ValueError(f"alpha = {self.alpha:g}; allowed under {self.name}: {allowed}")
        if self.embedding_lr == "inverse_sqrt" and self.base_width is None and self.name != "umup":
            raise ValueError("base_width missing: embedding_lr = inverse_sqrt is 1 there")
        return self

    @property
    def options(self) -> Options:
        """What is chosen where sources differ."""
        return Options(self.weight_decay_rule, self.embedding_lr, self.scale_eps, self.decay_vectors)

    @property
    def base_std(self) -> float:
        """init_std with its default."""
        return SCHEMES[self.name].init_std if self.init_std is None else self.init_std

    @property
    def depth_exponent(self) -> float:
        """α as applied."""
        return SCHEMES[self.name].alpha[1] if self.alpha is None else self.alpha
