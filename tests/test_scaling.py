"""Plans against hand-computed numbers, against the mup package, and against what may never change them."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import mup
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from tiny import configs, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hptransfer.config import RunConfig
from hptransfer.errors import UserError
from hptransfer.explain import to_text
from hptransfer.parametrization import SCHEMES, Multipliers, Ratios, rule
from hptransfer.plan import Plan
from hptransfer.scaling import assign_roles, build, build_optimizer, param_groups, ratios_of, resolve
from models import gpt

RICH = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rope", "qk_norm": True, "kv_heads": 1}
LEARNED = {"positions": "learned", "qk_norm": True}
TIED = {"tie_embeddings": True, "positions": "learned"}
SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.01}
RUN = {"base_tokens": 768, "base_batch_tokens": 64}
BASED = [name for name, scheme in SCHEMES.items() if scheme.needs and "adam" in scheme.rules]


def losses(plan: Plan, steps: int = 4, dtype: torch.dtype = torch.float32) -> list[float]:
    """Of a few steps on fixed random tokens."""
    model = build(plan).to(dtype)
    return losses_of(model, build_optimizer(model, plan), plan, steps)


def losses_of(model: nn.Module, optimizer: Any, plan: Plan, steps: int = 4) -> list[float]:
    shape = plan.config.shape
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(shape.vocab_size, (steps, 4, shape.seq_len + 1), generator=generator)
    found = []
    for batch in tokens:
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


# --- the base shape ---


@pytest.mark.parametrize("optimizer", [{}, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("model", [{}, RICH, TIED, {"name": "mlp"}], ids=["plain", "rich", "tied", "mlp"])
@pytest.mark.parametrize("name", BASED)
def test_every_scheme_is_sp_at_its_base(name: str, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """Bit for bit: the plan's numbers and the losses of a few steps."""
    if optimizer and "sgd" not in SCHEMES[name].rules:
        return
    sp = resolve(tiny(model=model, optimizer=optimizer, parametrization={"name": "sp"}))
    plan = resolve(tiny(model=model, optimizer=optimizer, parametrization={"name": name, **RUN}))
    assert plan.tensors == sp.tensors
    assert plan.multipliers == sp.multipliers
    assert losses(plan) == losses(sp)


def test_over_width_alone_completep_is_mup_and_over_depth_alone_mup_is_sp() -> None:
    """What benchmarks/evidence.py shows once, because it is the same: tensor by tensor, multiplier by multiplier."""
    for wider_or_deeper, one, other in (({"width": 64}, "completep", "mup"), ({"depth": 8}, "mup", "sp")):
        plans = [resolve(tiny(model=wider_or_deeper, parametrization={"name": name, **RUN})) for name in (one, other)]
        assert plans[0].tensors == plans[1].tensors
        assert plans[0].multipliers == plans[1].multipliers


def test_under_sp_nothing_moves() -> None:
    small, large = (
        resolve(tiny(model={"width": w, "depth": w // 8}, parametrization={"name": "sp"})) for w in (16, 32)
    )
    numbers = {name: value for name, value in vars(small.tensors[0]).items() if name not in ("name", "shape", "role")}
    for tensor in large.tensors:
        if not tensor.role.startswith("vector"):
            assert {key: vars(tensor)[key] for key in numbers} == numbers
    assert large.multipliers == small.multipliers


# --- explain, by hand: width 16 -> 64, depth 2 -> 4, base lr 0.01, eps 1e-8, weight decay 0.1, init 0.02 ---

BIG = {"width": 64, "depth": 4}
LR, EPS, DECAY, STD = 0.01, 1e-8, 0.1, 0.02
HAND = {  # (init_std, multiplier, lr, eps, weight_decay)
    "token_embedding.weight": (STD, 1, LR, EPS / 4, DECAY),
    "position_embedding.weight": (STD, 1, LR, EPS / 4, DECAY),
    "blocks.3.attention.query.weight": (STD / 2, 1, LR / 4, EPS / 8, DECAY * 4),
    "blocks.0.attention.attention_output.weight": (STD / 2, 1, LR / 4, EPS / 8, DECAY * 4),
    "blocks.1.feed_forward.up.weight": (STD / 2, 1, LR / 4, EPS / 8, DECAY * 4),
    "blocks.1.feed_forward.down.weight": (STD / 2, 1, LR / 4, EPS / 8, DECAY * 4),
    "blocks.2.attention.norm.weight": (0, 1, LR, EPS / 8, 0),
    "blocks.2.feed_forward.norm.bias": (0, 1, LR, EPS / 8, 0),
    "blocks.2.attention.query_norm.weight": (0, 1, LR, EPS / 2, 0),
    "norm.weight": (0, 1, LR, EPS / 4, 0),
    "readout.weight": (STD, 1 / 4, LR, EPS / 4, DECAY),
}


def explained(config: RunConfig) -> dict[str, Any]:
    """What explain --json prints, with the tensors by name."""
    plain = json.loads(json.dumps(resolve(config).to_dict()))
    return {**plain, "tensors": {tensor["name"]: tensor for tensor in plain["tensors"]}}


def test_explain_by_hand() -> None:
    plan = explained(tiny(model=BIG | LEARNED, optimizer={"lr": LR}, train={"tokens": 12_800}))
    for name, expected in HAND.items():
        tensor = plan["tensors"][name]
        numbers = [tensor[key] for key in ("init_std", "multiplier", "lr", "eps", "weight_decay")]
        assert numbers == pytest.approx(expected, rel=1e-15), name
    assert plan["multipliers"] == {
        "input": 1,
        "output": 1,
        "attention": 1 / math.sqrt(8),
        "residual": 0.5,
    }
    block = 4 * 64 * 64 + 2 * 64 * 128 + 4 * 64 + 2 * 8
    assert plan["params_non_embedding"] == 4 * block + 2 * 64
    assert plan["params"] == plan["params_non_embedding"] + 2 * 256 * 64 + 16 * 64
    assert (plan["tokens"], plan["batch_tokens"], plan["steps"]) == (12_800, 64, 200)
    matrices = 4 * (4 * 64 * 64 + 2 * 64 * 128) + 256 * 64
    per_token = 6 * matrices + 12 * 4 * 64 * 16
    assert plan["flops"] == pytest.approx(per_token * 12_800, rel=0.02)
    assert plan["memory_bytes"] > 16 * plan["params"]
    assert {tensor["role"].split(".")[0] for tensor in plan["tensors"].values()} == {
        "embedding",
        "hidden",
        "readout",
        "vector",
    }


EXPERTS = {"experts": 8, "experts_per_token": 2, "ffn_ratio": 2}


def test_experts_cost_what_is_active_of_them() -> None:
    """Against the same model without experts: per token 2 of 8 experts of 2 * 16 * 32 each, and a router of 8 * 16."""
    dense, sparse = resolve(tiny()), resolve(tiny(model=EXPERTS))
    expert, router = 2 * 16 * 32, 8 * 16
    assert sparse.params - dense.params == 2 * (7 * expert + router)
    assert sparse.params_active - dense.params_active == 2 * (expert + router)
    assert dense.params_active == dense.params
    assert sparse.flops_per_token - dense.flops_per_token == 6 * 2 * (expert + router)
    assert sparse.facts["params"] == sparse.params
    counter = FlopCounterMode(display=False)
    with counter:
        logits, auxiliary = build(sparse)(torch.arange(16).unsqueeze(0))
        torch.autograd.backward(logits.sum() + auxiliary)
    dense_counter = FlopCounterMode(display=False)
    with dense_counter:
        torch.autograd.backward(build(dense)(torch.arange(16).unsqueeze(0)).sum())
    assert counter.get_total_flops() - dense_counter.get_total_flops() == sparse.cost.flops - dense.cost.flops


def test_experts_by_hand() -> None:
    """Width 16 -> 64, depth 2 -> 4, experts as many and twice as wide for their width: m_in of `down` is 8."""
    tensors = explained(tiny(model={**BIG, **EXPERTS}, parametrization={"base_ffn_ratio": 1}))["tensors"]
    expected = {
        "router": (STD / 4, LR / 4, EPS / 2, DECAY * 4),
        "experts.7.up": (STD / 2, LR / 4, EPS / 16, DECAY * 4),
        "experts.7.down": (STD / 8 * 2, LR / 8, EPS / 8, DECAY * 8),
    }
    for name, numbers in expected.items():
        tensor = tensors[f"blocks.3.feed_forward.{name}.weight"]
        found = [tensor[key] for key in ("init_std", "lr", "eps", "weight_decay")]
        assert found == pytest.approx(numbers, rel=1e-15), name


def test_attention_when_the_heads_stay_and_the_head_grows() -> None:
    """4 heads at width 16 and at width 64: head_dim 4 -> 16, so 1/sqrt(4) becomes sqrt(4)/16."""
    plan = resolve(tiny(model={"width": 64, "head_dim": None, "heads": 4}))
    assert plan.multipliers.attention == 2 / 16
    query_norm = resolve(tiny(model={"width": 64, "head_dim": None, "heads": 4, "qk_norm": True})).tensors
    assert next(t.eps for t in query_norm if t.role == "vector.qk_gain") == pytest.approx(EPS / 4)


def test_options_by_hand() -> None:
    options = {"weight_decay_rule": "sqrt", "embedding_lr": "inverse_sqrt"}
    tensors = explained(tiny(model=BIG | LEARNED, parametrization=options))["tensors"]
    found = {name: (tensors[name]["lr"], tensors[name]["weight_decay"]) for name in HAND}
    assert found["blocks.3.attention.query.weight"] == pytest.approx((LR / 4, DECAY * 2))
    assert found["token_embedding.weight"] == pytest.approx((LR / 2, DECAY * 2**0.5))
    assert found["readout.weight"] == (LR, DECAY)
    text = to_text(resolve(tiny(model=BIG, parametrization=options)))
    assert "weight decay over width sqrt, as Fan et al. (arXiv:2510.15262)" in text
    assert "options" not in to_text(resolve(tiny(model=BIG)))
    assert tiny(parametrization={"weight_decay_rule": "paper"}) == tiny()
    text = to_text(resolve(tiny(model=BIG, parametrization={"scale_eps": False, "decay_vectors": True})))
    assert "one eps for all tensors, as mup" in text
    assert "gains and biases decayed, as mup and Complete(d)P" in text


def test_tuned_multipliers_and_factors_by_role() -> None:
    plan = resolve(
        tiny(
            model=BIG,
            parametrization={
                "multipliers": {"input": 3, "output": 5, "attention": 7, "residual": 11},
                "lr_multipliers": {"hidden": 2, "hidden.query": 3, "embedding": 4},
                "init_multipliers": {"readout": 0},
            },
        )
    )
    factors = plan.multipliers
    assert (factors.input, factors.output, factors.residual) == (3, 5, 5.5)
    assert factors.attention == pytest.approx(7 / math.sqrt(8))
    by_role = {tensor.role: tensor for tensor in plan.tensors}
    assert by_role["hidden.up"].lr == pytest.approx(2 * LR / 4)
    assert by_role["hidden.query"].lr == pytest.approx(3 * LR / 4)
    assert by_role["embedding.token"].lr == pytest.approx(4 * LR)
    assert by_role["readout"].init_std == 0
    assert build(plan).output_multiplier == pytest.approx(5 / 4)
    assert not build(plan).readout.weight.any()


def test_a_factor_for_a_role_that_the_model_has_not() -> None:
    with pytest.raises(UserError, match=r"^parametrization\.lr_multipliers\.hidden\.qury: .* mean 'hidden\.query'"):
        resolve(tiny(parametrization={"lr_multipliers": {"hidden.qury": 2}}))
    with pytest.raises(UserError, match=r"embedding\.position: no tensor of gpt has this role"):
        resolve(tiny(parametrization={"init_multipliers": {"embedding.position": 2}}))


# --- the mup package as the oracle of width ---


def prepared_by_mup(model: dict[str, Any], width: int) -> nn.Module:
    """Our architecture with mup's readout and mup's shapes, at `width` with base 16."""

    def at(width: int) -> nn.Module:
        shape = tiny(model={**model, "width": width}).shape
        made = gpt.build(shape, Multipliers(attention=1 / math.sqrt(8)))
        made.readout = mup.MuReadout(width, shape.vocab_size, bias=False)
        return made

    made = at(width)
    mup.set_base_shapes(made, at(16), delta=at(32))
    return made


def numbers_by_name(groups: list[dict[str, Any]], names: dict[int, str]) -> dict[str, tuple[float, float]]:
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }


@pytest.mark.parametrize("model", [{}, LEARNED, RICH | {"kv_heads": None}], ids=["plain", "learned", "rich"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_groups_are_mups(model: dict[str, Any], optimizer: str) -> None:
    config = tiny(
        model={**model, "width": 64},
        optimizer={"name": optimizer, "lr": 0.03, "weight_decay": 0.2},
        parametrization={"name": "mup", "scale_eps": False, "decay_vectors": True},
    )
    theirs = prepared_by_mup(model, 64)
    plan = resolve(config)
    ours = build(plan)
    oracle = {"adamw": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer](theirs.parameters(), lr=0.03, weight_decay=0.2)
    expected = numbers_by_name(oracle.param_groups, {id(p): name for name, p in theirs.named_parameters()})
    actual = numbers_by_name(param_groups(ours, plan), {id(p): name for name, p in ours.named_parameters()})
    assert actual == expected
    if optimizer == "adamw":
        assert {group["eps"] for group in param_groups(ours, plan)} == {EPS}


def test_logits_and_a_step_are_mups() -> None:
    """From the same weights: the same logits to the last bit, and the same losses."""
    config = tiny(
        model={"width": 64},
        optimizer={"lr": LR, "eps": EPS},
        parametrization={"name": "mup", "scale_eps": False, "decay_vectors": True},
    )
    plan = resolve(config)
    ours, theirs = build(plan), prepared_by_mup({}, 64)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.arange(16).unsqueeze(0)
    assert torch.equal(ours(tokens), theirs(tokens))
    oracle = mup.MuAdamW(theirs.parameters(), lr=LR, eps=EPS, weight_decay=DECAY, betas=(0.9, 0.95))
    assert losses_of(ours, build_optimizer(ours, plan), plan) == pytest.approx(
        losses_of(theirs, oracle, plan), rel=1e-6
    )


def test_the_absorbed_form_trains_the_same() -> None:
    """abc symmetry (2203.03466, J): multiplier into init, lr and eps times θ, weight decay over θ, at θ = 1/m."""
    plan = resolve(tiny(model={"width": 64, "depth": 4}, optimizer={"eps": 1e-3}))
    theta = 1 / 4
    absorbed = replace(
        plan,
        tensors=tuple(
            replace(
                tensor,
                init_std=tensor.init_std * theta,
                multiplier=1.0,
                lr=tensor.lr * theta,
                eps=tensor.eps / theta,
                weight_decay=tensor.weight_decay / theta,
            )
            if tensor.role == "readout"
            else tensor
            for tensor in plan.tensors
        ),
    )
    assert losses(absorbed, 6, torch.float64) == pytest.approx(losses(plan, 6, torch.float64), rel=1e-10)


def test_betas_follow_the_batch_and_are_clamped() -> None:
    """Complete(d)P: 1 - beta times m_B/m_D; at 1/2 0.9 -> 0.95 and 0.95 -> 0.975; where it asks for more than 1, 0."""
    base = {"name": "completedp", "base_tokens": 768, "base_batch_tokens": 64}
    longer = resolve(tiny(parametrization=base, train={"tokens": 768 * 4, "batch_tokens": 128}))
    assert longer.steps == 2 * 768 / 64
    assert all(tensor.betas == pytest.approx((0.95, 0.975)) for tensor in longer.tensors)
    shorter = resolve(tiny(parametrization={**base, "base_tokens": 768 * 15}))
    assert all(tensor.betas == pytest.approx((0.0, 0.25)) for tensor in shorter.tensors)


# --- roles and groups ---

COMBINATIONS = [
    dict(zip(("norm", "activation", "positions", "qk_norm", "tie_embeddings"), values, strict=True))
    for values in itertools.product(
        ("layernorm", "rmsnorm"), ("gelu", "swiglu"), ("learned", "rope"), (False, True), (False, True)
    )
] + [{"name": "mlp"}]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_parameter_is_in_exactly_one_group_with_the_plans_numbers(optimizer: str) -> None:
    for model in COMBINATIONS:
        plan = resolve(tiny(model={**model, "width": 32}, optimizer={"name": optimizer, "lr": 0.1}))
        module = build(plan)
        names = [name for group in param_groups(module, plan) for name in group["names"]]
        assert sorted(names) == sorted(name for name, _ in module.named_parameters())
        grouped = [id(p) for group in build_optimizer(module, plan).param_groups for p in group["params"]]
        assert sorted(grouped) == sorted(map(id, module.parameters()))
        planned = {tensor.name: tensor for tensor in plan.tensors}
        for group in param_groups(module, plan):
            for name, parameter in zip(group["names"], group["params"], strict=True):
                assert dict(module.named_parameters())[name] is parameter
                assert (group["lr"], group["weight_decay"]) == (planned[name].lr, planned[name].weight_decay)


def test_a_parameter_without_a_role_or_with_two_is_named() -> None:
    with pytest.raises(UserError, match=r"^m: ROLES: the parameter 'b' matches no pattern; it needs exactly one$"):
        assign_roles(["a", "b"], {"a": "hidden"}, "m")
    with pytest.raises(UserError, match=r"the parameter 'ab' matches 'a\*' and '\*b'"):
        assign_roles(["ab"], {"a*": "hidden", "*b": "readout"}, "m")
    assert assign_roles(["ab", "c"], {"a*": "hidden", "?": "readout"}, "m") == {"ab": "hidden", "c": "readout"}


def test_ratios_are_those_of_the_axes() -> None:
    run = Ratios(depth=3)
    hidden = ratios_of("hidden.up", (48, 8), (8, 4), run)
    assert (hidden.fan_out, hidden.fan_in, hidden.depth) == (6, 2, 3)
    convolution = ratios_of("hidden", (8, 4, 3, 3), (4, 2, 3, 3), run)
    assert (convolution.fan_out, convolution.fan_in) == (2, 2)
    depthwise = ratios_of("hidden.conv.depthwise", (8, 1, 3, 3), (4, 1, 3, 3), run)
    assert (depthwise.fan_out, depthwise.fan_in) == (2, 1)
    row = rule("mup", "adam", "hidden.conv.depthwise")
    assert (row.init(depthwise), row.lr(depthwise), row.eps(depthwise)) == (1, 1, 1 / 2)  # as an input's
    readout = ratios_of("readout", (256, 8), (256, 2), run)
    assert (readout.fan_in, readout.fan_out) == (4, 1)
    embedding = ratios_of("embedding.token", (256, 8), (256, 2), run)
    assert (embedding.fan_out, embedding.fan_in) == (4, 1)
    assert ratios_of("vector.gain", (8,), (2,), run).fan_out == 4


# --- initial weights ---


def weights(**sections: dict[str, Any]) -> dict[str, torch.Tensor]:
    return dict(build(resolve(tiny(**sections))).named_parameters())


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    first = weights(model=LEARNED)
    torch.manual_seed(1)
    again = weights(model=LEARNED, optimizer={"lr": 1.0}, train={"tokens": 6400})
    assert all(torch.equal(first[name], again[name]) for name in first)
    deeper = weights(model={**LEARNED, "depth": 3, "tie_embeddings": True}, parametrization={"base_depth": 3})
    assert all(torch.equal(first[name], deeper[name]) for name in first if name in deeper)
    other = weights(model=LEARNED, train={"seed": 1})
    assert not any(torch.equal(first[n], other[n]) for n in first if n.endswith("weight") and "norm" not in n)


def test_no_two_tensors_begin_alike() -> None:
    drawn = [p.flatten()[:8].tolist() for name, p in weights().items() if p.ndim == 2]
    assert len({tuple(values) for values in drawn}) == len(drawn)


def test_initial_weights_are_as_planned() -> None:
    plan = resolve(tiny(model={"width": 128, "depth": 2, "head_dim": 16}, parametrization={"base_width": 32}))
    parameters = dict(build(plan).named_parameters())
    for tensor in plan.tensors:
        drawn = parameters[tensor.name].detach()
        if tensor.role.startswith("vector"):
            assert drawn.unique().tolist() == [0.0 if tensor.name.endswith("bias") else 1.0]
        else:
            assert drawn.mean().item() == pytest.approx(0, abs=4 * tensor.init_std / math.sqrt(tensor.size))
            assert drawn.std().item() == pytest.approx(tensor.init_std, rel=4 / math.sqrt(2 * tensor.size))


def test_weights_are_the_same_whatever_device_is_the_default() -> None:
    plan = resolve(tiny())
    with torch.device("cpu"):
        inside = build(plan).state_dict()
    assert all(torch.equal(value, inside[name]) for name, value in build(plan).state_dict().items())
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in build(plan).parameters())


# --- budgets, and resolving twice ---


def test_budgets() -> None:
    default = resolve(tiny(train={"tokens": None}))
    assert default.tokens == 20 * default.params
    half = resolve(tiny(train={"tokens": None, "tokens_per_param": 0.5}))
    assert half.tokens == round(0.5 * half.params)
    assert resolve(tiny(train={"batch_tokens": None, "tokens": 10_240})).batch_tokens == 64 * 16
    assert resolve(tiny(train={"tokens": 64 * 7 + 33})).steps == 8
    plan = resolve(tiny(train={"tokens": 64 * 7 + 31, "micro_batch": 100}))
    assert (plan.steps, plan.sequences, plan.micro_batch) == (7, 4, 4)


def test_a_budget_below_one_step_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^train\.tokens: 63 is less than one step of train\.batch_tokens = 64; .*$"):
        resolve(tiny(train={"tokens": 63}))


@given(configs())
@settings(max_examples=40, deadline=None)
def test_a_resolved_config_resolves_to_itself(config: RunConfig) -> None:
    plan = resolve(config)
    again = resolve(plan.config)
    assert again == plan
    assert plan.config.train.tokens_per_param is None
    assert plan.config.train.batch_tokens == plan.batch_tokens
    for tensor in plan.tensors:
        assert all(math.isfinite(value) and value >= 0 for value in (tensor.init_std, tensor.lr, tensor.weight_decay))
    json.dumps(plan.to_dict(), allow_nan=False)


def test_the_numbers_of_a_record_are_those_of_a_matrix_inside_a_branch() -> None:
    for model in ({}, {"name": "mlp"}):
        hidden = resolve(tiny(model={**model, "width": 64, "depth": 4})).hidden
        assert (hidden.lr, hidden.weight_decay) == (pytest.approx(LR / 4), pytest.approx(DECAY * 4))
