"""The sections of a run config: strict, frozen, typed. A field's docstring is its description in the JSON Schema."""

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    field_validator,
    model_validator,
)

from hptransfer.errors import did_you_mean
from hptransfer.parametrization import KINDS, SCHEMES, Options


def _number(value: Any) -> Any:
    """PyYAML reads 1e-3 as a string: text that is a number becomes one; booleans are not numbers."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"expected a number, got {value!r}") from None
    return value


def _whole(value: Any) -> Any:
    """1e6 and 1.0e6 are whole numbers; 1.5 is not."""
    number = _number(value)
    if isinstance(number, float):
        if not number.is_integer():
            raise ValueError(f"expected a whole number, got {value!r}")
        return int(number)
    return number


Float = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Float, Field(gt=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Flag = Annotated[bool, Strict()]
Path = Annotated[str, Field(min_length=1)]
Beta = Annotated[Float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Unknown keys are errors, values are fixed once read, and a field's docstring is its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _one_of_heads_and_head_dim(heads: int | None, head_dim: int | None) -> None:
    if heads is not None and head_dim is not None:
        raise ValueError(f"give heads (= {heads}) or head_dim (= {head_dim}), not both: the one given stays fixed")


LOAD_BALANCE = 0.01  # Switch Transformer (arXiv:2101.03961), section 2.2


class GPT(Section):
    """A decoder-only transformer (models/gpt.py)."""

    name: Literal["gpt"] = "gpt"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of blocks."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed from base to target."""
    head_dim: Count | None = None
    """Size of a head. Default (with no `heads`): the largest power of two up to 64 that divides the base width."""
    kv_heads: Count | None = None
    """Key and value heads (grouped-query attention). Default: as many as heads."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    positions: Literal["learned", "rope"] = "rope"
    qk_norm: Flag = False
    """Normalise queries and keys per head, with a gain shared over heads."""
    tie_embeddings: Flag = False
    """One tensor for token embedding and readout."""
    experts: Count | None = None
    """Experts in every block's feed-forward branch, each `ffn_ratio * width` wide. Default: none, a dense model. Their
    number may grow from base to target as long as the share of them that a token is sent to stays."""
    experts_per_token: Count | None = None
    """Experts that a token is sent to."""
    load_balance: NonNegative | None = None
    """Coefficient of the loss that keeps experts equally busy. Default, where there are experts: 0.01."""

    @model_validator(mode="before")
    @classmethod
    def _balanced(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("experts") is not None and data.get("load_balance") is None:
            return {**data, "load_balance": LOAD_BALANCE}
        return data

    @model_validator(mode="after")
    def _one_head_size(self) -> "GPT":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self

    @model_validator(mode="after")
    def _routed(self) -> "GPT":
        if self.experts is None:
            if given := [key for key in ("experts_per_token", "load_balance") if getattr(self, key) is not None]:
                raise ValueError(f"{given[0]} = {getattr(self, given[0])}, but there are no experts: give experts too")
        elif self.experts_per_token is None:
            raise ValueError(f"experts_per_token missing: to how many of its {self.experts} experts a token is sent")
        elif self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token = {self.experts_per_token} is more than experts = {self.experts}")
        return self


class MLP(Section):
    """A residual MLP that predicts the next token from a window of previous ones (models/mlp.py)."""

    name: Literal["mlp"] = "mlp"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of residual blocks."""
    window: Count = 8
    """Tokens that a prediction sees."""
    ffn_ratio: Positive = 4.0
    """Width of a block's hidden layer over `width`."""


class ViT(Section):
    """A vision transformer with a class token (models/vit.py). Reads images."""

    name: Literal["vit"] = "vit"
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of blocks."""
    patch: Count = 4
    """Side of the square patches in pixels; divides data.size."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed from base to target."""
    head_dim: Count | None = None
    """Size of a head. Default (with no `heads`): the largest power of two up to 64 that divides the base width."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    qk_norm: Flag = False
    """Normalise queries and keys per head, with a gain shared over heads."""

    @model_validator(mode="after")
    def _one_head_size(self) -> "ViT":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self


class ResNet(Section):
    """A pre-activation residual network of convolutions (models/resnet.py). Reads images."""

    name: Literal["resnet"] = "resnet"
    width: Count
    """Channels of the first stage, which has half the image's height and width; every further stage has twice the
    channels on half the height and width."""
    depth: Count
    """Residual blocks per stage, two convolutions each."""
    stages: Count = 2


def _free(value: Any) -> Any:
    """A key that only a user's own build knows: one number, text, true or false."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):  # as in _number
        return float(value)
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"expected a number, a text, true or false, got {value!r}")
    return value


class Custom(Section):
    """A model of your own: `name: path/to/file.py:build`, with ROLES beside it. `build` finds all keys in its shape,
    those that only it knows too."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_free)]]

    name: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    """File, from the current folder, and the function in it."""
    width: Count
    """Size of the residual stream."""
    depth: Count
    """Number of residual blocks."""
    heads: Count | None = None
    """Number of attention heads. Of `heads` and `head_dim` the one given stays fixed; neither: no attention."""
    head_dim: Count | None = None
    """Size of a head."""
    kv_heads: Count | None = None
    """Key and value heads. Default: as many as heads."""
    ffn_ratio: Positive = 4.0
    """Width of the MLP's hidden layer over `width`."""

    @model_validator(mode="after")
    def _one_head_size(self) -> "Custom":
        _one_of_heads_and_head_dim(self.heads, self.head_dim)
        return self


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
    """Key and value heads at the base shape. Default: the same number of query heads per key head as the model."""
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
        return Options(self.weight_decay_rule, self.embedding_lr)

    @property
    def base_std(self) -> float:
        """init_std with its default."""
        return SCHEMES[self.name].init_std if self.init_std is None else self.init_std

    @property
    def depth_exponent(self) -> float:
        """α as applied."""
        return SCHEMES[self.name].alpha[1] if self.alpha is None else self.alpha


class AdamW(Section):
    """torch.optim.AdamW: weight decay multiplied by lr."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 0.004
    """Peak lr at the base shape."""
    weight_decay: NonNegative = 0.1
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    eps: Positive = 1e-8


class SGD(Section):
    """torch.optim.SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    """Peak lr at the base shape."""
    weight_decay: NonNegative = 0.0
    momentum: Beta = 0.9


class Muon(Section):
    """torch.optim.Muon for hidden matrices, updates scaled by sqrt(fan_out / fan_in); AdamW for the rest."""

    name: Literal["muon"] = "muon"
    lr: Positive = 0.02
    """Peak lr of the hidden matrices."""
    adamw_lr: Positive = 0.004
    """Peak lr of the other tensors at the base shape; it keeps its ratio to lr through the schedule."""
    weight_decay: NonNegative = 0.1
    momentum: Beta = 0.95
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    """Of AdamW."""
    eps: Positive = 1e-8


class Linear(Section):
    """Warm-up, then a straight line to `final`."""

    name: Literal["linear"] = "linear"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    final: Fraction = 0.0
    """lr at the end, as a fraction of the peak."""


class Cosine(Section):
    """Warm-up, then half a cosine to `final`."""

    name: Literal["cosine"] = "cosine"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    final: Fraction = 0.1
    """lr at the end, as a fraction of the peak."""


class WSD(Section):
    """Warm-up, stable, decay: a straight line to `final` over the last part."""

    name: Literal["wsd"] = "wsd"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""
    decay: Fraction = 0.2
    """Fraction of the run spent lowering lr."""
    final: Fraction = 0.0
    """lr at the end, as a fraction of the peak."""

    @model_validator(mode="after")
    def _fits(self) -> "WSD":
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g} is more than the whole run")
        return self


class Constant(Section):
    """Warm-up, then the peak."""

    name: Literal["constant"] = "constant"
    warmup: Fraction = 0.1
    """Fraction of the run spent raising lr from 0."""


class _Encoded(Section):
    """Text that becomes tokens here."""

    seq_len: Count = 256
    """Tokens per sequence."""
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocab_size: Annotated[int, BeforeValidator(_whole), Field(ge=256)] | None = None
    """Size of the BPE vocabulary; bytes have 256."""

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if self.tokenizer == "bpe" and self.vocab_size is None:
            raise ValueError("vocab_size missing: tokenizer bpe needs the size of its vocabulary, e.g. 4096")
        if self.tokenizer == "bytes" and self.vocab_size not in (None, 256):
            raise ValueError(f"vocab_size = {self.vocab_size}; bytes have 256 (or set tokenizer: bpe)")
        return self


class PythonSource(_Encoded):
    """Real text that every machine has: .py files of the standard library and of installed dependencies."""

    source: Literal["python_source"] = "python_source"
    size_mb: Positive = 32.0
    """Megabytes of text taken at most."""


class Text(_Encoded):
    """The user's own text: files, folders, globs; a document is a file."""

    source: Literal["text"] = "text"
    path: Path | Annotated[list[Path], Field(min_length=1)]
    """File, folder or glob, or a list of those."""


class Tokens(Section):
    """Memory-mapped token files as nanoGPT writes them: train.bin and val.bin in a folder."""

    source: Literal["tokens"] = "tokens"
    path: Path
    """The folder."""
    seq_len: Count = 256
    """Tokens per sequence."""
    vocab_size: Count
    """Number of token ids."""
    dtype: Literal["uint16", "uint32"] = "uint16"


class Images(Section):
    """Grey square images with class labels: the four idx files of MNIST, Fashion-MNIST and their like, gzipped or not.
    Where other data counts tokens, an image is one (train.batch_tokens: 64 is 64 images); the 10,000 test images are
    the held-out set."""

    source: Literal["images"] = "images"
    path: Path = "/usr/share/datasets/fashion-mnist"
    """The folder. Default: where Debian's package dataset-fashion-mnist puts them."""
    size: Count = 28
    """Height and width in pixels."""
    classes: Count = 10
    """Number of labels."""
    seq_len: ClassVar[int] = 1
    """In tokens: an image stands alone."""


class Train(Section):
    """Budget, batch, numerics."""

    tokens: Count | None = None
    """Budget of the run in tokens."""
    tokens_per_param: Positive | None = None
    """Budget as a multiple of the non-embedding parameters. Default, where tokens is not given: 20."""
    batch_tokens: Count | None = None
    """Tokens per optimizer step, a multiple of data.seq_len. Default: 64 sequences."""
    micro_batch: Count | None = None
    """Sequences per forward pass; gradients are accumulated over the batch. Default: the whole batch."""
    seed: Annotated[Whole, Field(lt=2**63)] = 0
    """Of the initial weights and of the order of the data."""
    grad_clip: NonNegative = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """bfloat16 is autocast: weights stay in float32."""
    compile: Flag = False
    """torch.compile the model."""
    eval_tokens: Count = 131072
    """Size of the fixed held-out set that `loss` is measured on."""
    eval_every: Count | None = None
    """Steps between measurements of the held-out loss. Default: at the end only."""
    log_every: Count = 1
    """Steps between lines of metrics.jsonl."""
    watch_every: Whole = 100
    """Steps between looks at activations, update sizes and gradient noise (one costs about a step); 0: none."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    threads: Count = 1
    """CPU threads of one run."""
    checkpoint_seconds: NonNegative = 60.0
    """Seconds between checkpoints."""
    save_weights: Flag = True
    """Keep the trained weights (weights.pt) in the run folder."""
    keep_stable: Flag = False
    """Keep the state before schedule wsd lowers the lr (stable.pt), for a longer run to go on from (sweep --deepen)."""

    @model_validator(mode="after")
    def _one_budget(self) -> "Train":
        if self.tokens is not None and self.tokens_per_param is not None:
            raise ValueError(
                f"give tokens (= {self.tokens}) or tokens_per_param (= {self.tokens_per_param:g}), not both"
            )
        return self


class Tracking(Section):
    """Weights & Biases. Never in the way of a run, never part of its identity."""

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "hptransfer"
    entity: str | None = None
    group: str | None = None
    """Default: the sweep's name."""
    name: str | None = None
    job_type: str | None = None
    """Default: proxy for the runs of a sweep, target for a config that transfer has written, else train."""
    tags: list[str] = []


def _tag(key: str, default: str, kind: Callable[[str], str] = str) -> Discriminator:
    """Unions are told apart by one key, which has a default."""

    def read(value: Any) -> str:
        if isinstance(value, dict):
            return kind(str(value.get(key, default)))
        return kind(str(getattr(value, key, default)))

    return Discriminator(read)


FILE = "path/to/file.py:build"
"""Stands for every name of a user's model file."""


ModelConfig = Annotated[
    Annotated[GPT, Tag("gpt")]
    | Annotated[MLP, Tag("mlp")]
    | Annotated[ViT, Tag("vit")]
    | Annotated[ResNet, Tag("resnet")]
    | Annotated[Custom, Tag(FILE)],
    _tag("name", "gpt", lambda name: FILE if ".py" in name else name),
]
OptimizerConfig = Annotated[
    Annotated[AdamW, Tag("adamw")] | Annotated[SGD, Tag("sgd")] | Annotated[Muon, Tag("muon")],
    _tag("name", "adamw"),
]
ScheduleConfig = Annotated[
    Annotated[Linear, Tag("linear")]
    | Annotated[Cosine, Tag("cosine")]
    | Annotated[WSD, Tag("wsd")]
    | Annotated[Constant, Tag("constant")],
    _tag("name", "linear"),
]
DataConfig = Annotated[
    Annotated[PythonSource, Tag("python_source")]
    | Annotated[Text, Tag("text")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[Images, Tag("images")],
    _tag("source", "python_source"),
]
