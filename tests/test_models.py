"""The models against a reference written out head by head, and through everything that users do to a module."""

import copy
import fnmatch
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import gpt, mlp

PLAIN = {"input": 1.0, "residual": 1.0, "attention": 0.5, "output": 1.0}
UNEVEN = {"input": 3.0, "residual": 0.6, "attention": 0.7, "output": 0.2}
SMALL = {"width": 8, "depth": 2, "heads": 4, "head_dim": 4, "kv_heads": 2, "ffn_ratio": 2.5, "vocab_size": 11}
SMALL |= {"seq_len": 6, "window": 3}
CHOICES = {
    "norm": ["layernorm", "rmsnorm"],
    "activation": ["gelu", "swiglu"],
    "positions": ["learned", "rope"],
    "qk_norm": [False, True],
    "kv_heads": [4, 2, 1],
    "tie_embeddings": [False, True],
}
COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
RICH = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rope", "qk_norm": True, "tie_embeddings": True}
GPT2 = {"norm": "layernorm", "activation": "gelu", "positions": "learned", "qk_norm": False, "tie_embeddings": False}
MODELS = pytest.mark.parametrize(
    ("module", "options"), [(gpt, GPT2), (gpt, RICH), (mlp, {})], ids=["gpt-gpt2", "gpt-rich", "mlp"]
)


def make_shape(**options) -> SimpleNamespace:
    return SimpleNamespace(**SMALL | GPT2 | options)


def make(module, multipliers=UNEVEN, dtype=torch.float64, **options) -> nn.Module:
    """A model whose every parameter is drawn from a normal distribution, so that none is at a special value."""
    model = module.build(make_shape(**options), SimpleNamespace(**multipliers)).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) / 2)
    return model


def tokens(batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SMALL["vocab_size"], (batch, SMALL["seq_len"]), generator=generator)


# --- the reference: one vector at a time, from the papers' formulas ---


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def normalize(x: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    if prefix + "norm.bias" not in weights:
        return rms(x) * weights[prefix + "norm.weight"]
    return rms(x - x.mean(-1, keepdim=True)) * weights[prefix + "norm.weight"] + weights[prefix + "norm.bias"]


def turn(x: Tensor, position: int) -> Tensor:
    """RoPE in complex numbers: pair i times exp(1j * position * 10000^(-2i / K))."""
    half = len(x) // 2
    angle = torch.tensor([position * 10_000 ** (-i / half) for i in range(half)], dtype=torch.float64)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag])


def attention(x_TD: Tensor, weights: dict[str, Tensor], prefix: str, shape, scale: float) -> Tensor:
    h_TD = normalize(x_TD, weights, prefix)

    def head(name: str, index: int) -> Tensor:
        rows = weights[f"{prefix}{name}.weight"][index * shape.head_dim : (index + 1) * shape.head_dim]
        y_TK = h_TD @ rows.T
        if shape.qk_norm and name != "value":
            y_TK = rms(y_TK) * weights[f"{prefix}{name}_norm.weight"]
        if shape.positions == "rope" and name != "value":
            y_TK = torch.stack([turn(y, t) for t, y in enumerate(y_TK)])
        return y_TK

    heads = []
    for index in range(shape.heads):
        group = index // (shape.heads // shape.kv_heads)
        query, key, value = head("query", index), head("key", group), head("value", group)
        rows = [torch.softmax(scale * key[: t + 1] @ query[t], 0) @ value[: t + 1] for t in range(len(x_TD))]
        heads.append(torch.stack(rows))
    return torch.cat(heads, -1) @ weights[prefix + "attention_output.weight"].T


def feed_forward(x_TD: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    return ungated_or_gated(normalize(x_TD, weights, prefix), weights, prefix)


def ungated_or_gated(h_TD: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    up = h_TD @ weights[prefix + "up.weight"].T
    if prefix + "gate.weight" in weights:
        gate = h_TD @ weights[prefix + "gate.weight"].T
        return (gate * torch.sigmoid(gate) * up) @ weights[prefix + "down.weight"].T
    return (up * (1 + torch.erf(up / math.sqrt(2))) / 2) @ weights[prefix + "down.weight"].T


def embed(inputs_T: Tensor, weights: dict[str, Tensor]) -> Tensor:
    return weights.get("token_embedding.weight", weights["readout.weight"])[inputs_T]


def reference_gpt(inputs_T: Tensor, weights: dict[str, Tensor], shape, multipliers):
    """Logits (T, V); with experts also each block's imbalance."""
    x_TD = embed(inputs_T, weights)
    if shape.positions == "learned":
        x_TD = x_TD + weights["position_embedding.weight"][: len(inputs_T)]
    x_TD = multipliers.input * x_TD
    imbalances = []
    for i in range(shape.depth):
        branch = attention(x_TD, weights, f"blocks.{i}.attention.", shape, multipliers.attention)
        x_TD = x_TD + multipliers.residual * branch
        if hasattr(shape, "experts"):
            fed_TD, imbalance = reference_mixture(x_TD, weights, f"blocks.{i}.feed_forward.", shape)
            imbalances.append(imbalance)
        else:
            fed_TD = feed_forward(x_TD, weights, f"blocks.{i}.feed_forward.")
        x_TD = x_TD + multipliers.residual * fed_TD
    logits = multipliers.output * (normalize(x_TD, weights, "") @ weights["readout.weight"].T)
    return (logits, imbalances) if imbalances else logits


def reference_mlp(inputs_T: Tensor, weights: dict[str, Tensor], shape, multipliers) -> Tensor:
    embedded_TD = multipliers.input * embed(inputs_T, weights)
    kernels_DDW = weights["window_projection.weight"].unflatten(1, (shape.width, shape.window))
    x_TD = torch.zeros_like(embedded_TD)
    for t, offset in itertools.product(range(len(inputs_T)), range(shape.window)):
        source = t - shape.window + 1 + offset
        if source >= 0:
            x_TD[t] += kernels_DDW[:, :, offset] @ embedded_TD[source]
    for i in range(shape.depth):
        x_TD = x_TD + multipliers.residual * feed_forward(x_TD, weights, f"blocks.{i}.")
    return multipliers.output * (normalize(x_TD, weights, "") @ weights["readout.weight"].T)


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_gpt_equals_the_reference(options):
    model, inputs = make(gpt, **options), tokens(1)
    expected = reference_gpt(inputs[0], model.state_dict(), make_shape(**options), SimpleNamespace(**UNEVEN))
    tolerance = 1e-5 if options["positions"] == "rope" else 1e-11  # angles are float32
    torch.testing.assert_close(model(inputs)[0], expected, rtol=tolerance, atol=tolerance)


def test_mlp_equals_the_reference():
    model, inputs = make(mlp), tokens(1)
    expected = reference_mlp(inputs[0], model.state_dict(), make_shape(), SimpleNamespace(**UNEVEN))
    torch.testing.assert_close(model(inputs)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["input", "residual", "attention", "output"])
def test_each_multiplier_alone(name):
    multipliers = PLAIN | {name: 1.7}
    model, inputs = make(gpt, multipliers), tokens(1)
    expected = reference_gpt(inputs[0], model.state_dict(), make_shape(), SimpleNamespace(**multipliers))
    torch.testing.assert_close(model(inputs)[0], expected, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(make(gpt, PLAIN)(inputs)[0], expected, rtol=1e-3)


def test_the_block_of_another_library():
    """`nn.TransformerEncoderLayer`, pre-norm with a causal mask and zero biases, is our block with multipliers of 1."""
    block = make(gpt, PLAIN, kv_heads=4, head_dim=2, width=8).blocks[0]
    peer = nn.TransformerEncoderLayer(
        8, 4, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-6
    ).double()
    block.attention.multiplier = 1 / math.sqrt(2)
    ours, attention, mlp_ = block.state_dict(), "attention.", "feed_forward."
    weights = {name: torch.zeros_like(value) for name, value in peer.state_dict().items()}
    weights["self_attn.in_proj_weight"] = torch.cat([ours[f"attention.{n}.weight"] for n in ("query", "key", "value")])
    weights["self_attn.out_proj.weight"] = ours[attention + "attention_output.weight"]
    weights |= {f"norm1.{n}": ours[f"{attention}norm.{n}"] for n in ("weight", "bias")}
    weights |= {f"norm2.{n}": ours[f"{mlp_}norm.{n}"] for n in ("weight", "bias")}
    weights |= {"linear1.weight": ours[mlp_ + "up.weight"], "linear2.weight": ours[mlp_ + "down.weight"]}
    peer.load_state_dict(weights)
    x_BTD = torch.randn(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    torch.testing.assert_close(block(x_BTD, None), peer(x_BTD, mask, is_causal=True), rtol=1e-11, atol=1e-11)


# --- mixture of experts ---

MOE = {"experts": 5, "experts_per_token": 2, "load_balance": 0.5}


def reference_mixture(x_TD: Tensor, weights: dict[str, Tensor], prefix: str, shape) -> tuple[Tensor, float]:
    """Token by token: (mean over the active experts of sigmoid(router logit) * expert, imbalance)."""
    h_TD = normalize(x_TD, weights, prefix)
    mixed, times, mass = [], [0] * shape.experts, [0.0] * shape.experts
    for h_D in h_TD:
        logits = weights[prefix + "router.weight"] @ h_D
        active = sorted(range(shape.experts), key=lambda e: -logits[e])[: shape.experts_per_token]
        parts = [
            torch.sigmoid(logits[e]) * ungated_or_gated(h_D[None], weights, f"{prefix}experts.{e}.")[0] for e in active
        ]
        mixed.append(sum(parts) / len(parts))
        for e in range(shape.experts):
            times[e] += e in active
            mass[e] += torch.softmax(logits, 0)[e].item()
    tokens, choices = len(h_TD), len(h_TD) * shape.experts_per_token
    imbalance = shape.experts * sum(t / choices * m / tokens for t, m in zip(times, mass, strict=True))
    return torch.stack(mixed), imbalance


@pytest.mark.parametrize("options", [GPT2, RICH], ids=["gpt2", "rich"])
@pytest.mark.parametrize("active", [1, 2, 5])
def test_a_mixture_equals_the_reference(options, active):
    shape = make_shape(**options | MOE | {"experts_per_token": active})
    model, inputs = make(gpt, **vars(shape)), tokens(1)
    expected, imbalances = reference_gpt(inputs[0], model.state_dict(), shape, SimpleNamespace(**UNEVEN))
    logits, auxiliary = model(inputs)
    torch.testing.assert_close(logits[0], expected, rtol=1e-5, atol=1e-5)  # angles are float32
    assert auxiliary.item() == pytest.approx(0.5 * sum(imbalances) / len(imbalances), rel=1e-5)


def test_a_balanced_router_has_an_imbalance_of_one_and_one_favourite_has_as_many_as_experts():
    shape = make_shape(**MOE | {"experts": 4, "experts_per_token": 1})
    mixture = gpt.MixtureOfExperts(shape).double()
    x_BTD = torch.zeros(1, 4, 8, dtype=torch.float64)
    x_BTD[0, range(4), range(4)] = 1.0
    with torch.no_grad():
        mixture.norm = nn.Identity()
        mixture.router.weight.copy_(100 * torch.eye(4, 8))
        assert mixture(x_BTD)[1].item() == pytest.approx(1)
        mixture.router.weight.zero_()[2] = 100.0
        assert mixture(x_BTD)[1].item() == pytest.approx(4)


def test_where_a_token_goes_is_no_business_of_another():
    model, inputs = make(gpt, **GPT2 | MOE), tokens()
    alone = torch.cat([model(one.unsqueeze(0))[0] for one in inputs])
    torch.testing.assert_close(alone, model(inputs)[0], rtol=1e-12, atol=1e-12)
    for t in range(SMALL["seq_len"]):
        changed = inputs.clone()
        changed[:, t] = (changed[:, t] + 1) % SMALL["vocab_size"]
        assert not (model(inputs)[0] - model(changed)[0])[:, :t].abs().gt(1e-12).any()


def test_an_expert_without_tokens_has_a_gradient_of_zero():
    model = make(gpt, **GPT2 | MOE | {"experts": 4, "experts_per_token": 1, "depth": 1})
    with torch.no_grad():
        model.blocks[0].feed_forward.norm.weight.zero_()
        model.blocks[0].feed_forward.norm.bias.fill_(1.0)
        model.blocks[0].feed_forward.router.weight.zero_()[1] = 1.0
    logits, auxiliary = model(tokens())
    (logits.square().sum() + auxiliary).backward()
    experts = model.blocks[0].feed_forward.experts
    assert [bool(expert.down.weight.grad.any()) for expert in experts] == [False, True, False, False]


def test_a_mixture_survives():
    model, inputs = make(gpt, **RICH | MOE), tokens()
    expected = model(inputs)
    for other in (model.eval(), copy.deepcopy(model)):
        torch.testing.assert_close(other(inputs), expected, rtol=0, atol=0)
    single = make(gpt, dtype=torch.float32, **RICH | MOE)
    with torch.autocast("cpu", torch.bfloat16):
        low, balance = single(inputs)
    assert (low.dtype, balance.dtype) == (torch.bfloat16, torch.float32)
    (F.cross_entropy(low.float().flatten(0, 1), inputs.flatten()) + balance).backward()
    assert all(parameter.grad.isfinite().all() for parameter in single.parameters())


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_mixture_compiles_in_parts():
    """How many tokens go to which expert is known only in the middle of the forward pass: there the graph breaks."""
    model, inputs = make(gpt, **RICH | MOE), tokens()
    try:
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(inputs), model(inputs))
    finally:
        torch._dynamo.reset()


# --- properties ---


@MODELS
def test_causal(module, options):
    model, inputs = make(module, **options), tokens()
    for t in range(SMALL["seq_len"]):
        changed = inputs.clone()
        changed[:, t] = (changed[:, t] + 1) % SMALL["vocab_size"]
        moved = (model(inputs) != model(changed)).any(-1)
        assert not moved[:, :t].any()
        assert moved[:, t].all()


def test_mlp_sees_its_window_and_no_more():
    model, inputs = make(mlp), tokens()
    changed = inputs.clone()
    changed[:, 1] = (changed[:, 1] + 1) % SMALL["vocab_size"]
    moved = (model(inputs) != model(changed)).any(-1)
    assert moved.tolist() == [[False, True, True, True, False, False]] * 2


def test_shorter_inputs_give_the_same_logits():
    for options in (GPT2, RICH):
        model, inputs = make(gpt, **options), tokens()
        torch.testing.assert_close(model(inputs[:, :3]), model(inputs)[:, :3], rtol=1e-12, atol=1e-12)


def test_grouped_queries_equal_repeated_keys_and_values():
    grouped, full = make(gpt, kv_heads=2), make(gpt, kv_heads=4)
    weights = grouped.state_dict()
    for name, value in weights.items():
        if name.endswith(("key.weight", "value.weight")):
            weights[name] = value.unflatten(0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    torch.testing.assert_close(grouped(tokens()), full(tokens()), rtol=1e-12, atol=1e-12)


def test_rope_depends_on_the_distance_alone_and_keeps_lengths():
    query, key = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotation = gpt.rope_tables(20, 8, torch.device("cpu"))
    queries, keys = (gpt.rotate(x.expand(1, 20, 1, 8), rotation)[0, :, 0] for x in (query, key))
    scores = queries @ keys.T
    for distance in range(-19, 20):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-5)
    assert scores.std() > 0.1
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(20), rtol=1e-6, atol=0)


def test_tied_is_one_tensor_with_both_gradients():
    tied, untied = make(gpt, tie_embeddings=True), make(gpt)
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"token_embedding.weight"}
    untied.load_state_dict(tied.state_dict() | {"token_embedding.weight": tied.readout.weight.detach()})
    assert torch.equal(tied(tokens()), untied(tokens()))
    for model in (tied, untied):
        model(tokens()).square().sum().backward()
    both = untied.readout.weight.grad + untied.token_embedding.weight.grad
    torch.testing.assert_close(tied.readout.weight.grad, both, rtol=1e-12, atol=1e-12)


# --- roles ---


def roles_of(module, **options) -> dict[str, list[str]]:
    names = [name for name, _ in make(module, **options).named_parameters()]
    return {name: [role for p, role in module.ROLES.items() if fnmatch.fnmatchcase(name, p)] for name in names}


def test_every_parameter_has_one_role_and_every_pattern_a_parameter():
    for module in (gpt, mlp):
        roles = [roles_of(module, **options) for options in (*COMBINATIONS, RICH | MOE)]
        assert all(len(found) == 1 for model in roles for found in model.values())
        assert {found[0] for model in roles for found in model.values()} == set(module.ROLES.values())


def test_roles_name_by_name():
    roles = {name: found[0] for name, found in roles_of(gpt, activation="swiglu", qk_norm=True, depth=1).items()}
    assert roles == {
        "token_embedding.weight": "embedding.token",
        "position_embedding.weight": "embedding.position",
        "blocks.0.attention.norm.weight": "vector.gain",
        "blocks.0.attention.norm.bias": "vector.bias",
        "blocks.0.attention.query.weight": "hidden.query",
        "blocks.0.attention.key.weight": "hidden.key",
        "blocks.0.attention.value.weight": "hidden.value",
        "blocks.0.attention.query_norm.weight": "vector.qk_gain",
        "blocks.0.attention.key_norm.weight": "vector.qk_gain",
        "blocks.0.attention.attention_output.weight": "hidden.attention_output",
        "blocks.0.feed_forward.norm.weight": "vector.gain",
        "blocks.0.feed_forward.norm.bias": "vector.bias",
        "blocks.0.feed_forward.up.weight": "hidden.up",
        "blocks.0.feed_forward.gate.weight": "hidden.gate",
        "blocks.0.feed_forward.down.weight": "hidden.down",
        "norm.weight": "vector.outer",
        "norm.bias": "vector.outer",
        "readout.weight": "readout",
    }
    experts = {name: found[0] for name, found in roles_of(gpt, **RICH | MOE).items() if "feed_forward" in name}
    assert {name: role for name, role in experts.items() if "experts" not in name or "experts.4" in name} == {
        f"blocks.{block}.feed_forward.{name}.weight": role
        for block in range(2)
        for name, role in {
            "norm": "vector.gain",
            "router": "hidden.router",
            "experts.4.up": "hidden.expert.up",
            "experts.4.gate": "hidden.expert.gate",
            "experts.4.down": "hidden.expert.down",
        }.items()
    }
    assert roles_of(mlp)["window_projection.weight"] == ["hidden.outer"]


# --- what users do to a module ---


@MODELS
def test_logits_survive(module, options):
    model, inputs = make(module, **options), tokens()
    expected = model(inputs)
    assert torch.equal(model.eval()(inputs), expected)
    assert torch.equal(copy.deepcopy(model)(inputs), expected)
    assert not list(model.buffers())
    with torch.device("meta"):
        empty = module.build(make_shape(**options), SimpleNamespace(**UNEVEN))
    assigned = copy.deepcopy(empty)
    assigned.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(assigned(inputs), expected)
    filled = empty.double().to_empty(device="cpu")
    filled.load_state_dict(model.state_dict())
    assert torch.equal(filled(inputs), expected)


@MODELS
def test_compiles_whole(module, options):
    model, inputs = make(module, **options), tokens()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs), rtol=1e-12, atol=1e-12)


@MODELS
@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_bfloat16(module, options, how):
    model, inputs = make(module, dtype=torch.float32, **options), tokens()
    expected = model(inputs)
    cast = model.bfloat16() if how == "cast" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        logits = cast(inputs)
    F.cross_entropy(logits.float().flatten(0, 1), inputs.flatten()).backward()
    assert logits.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in cast.parameters())
    assert (logits - expected).norm() < 0.05 * expected.norm()
