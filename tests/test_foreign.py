"""Models that nobody prepared for us: what is inferred of them, against plans of the same models with roles and places
for multipliers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny
from torch import Tensor, nn

from hptransfer.errors import UserError
from hptransfer.foreign import Parametrized, parametrize
from hptransfer.foreign.folding import absorb
from hptransfer.parametrization import SCHEMES, Multipliers
from hptransfer.plan import Plan
from hptransfer.scaling import build, build_optimizer, resolve
from models import gpt, mlp

OPTIMIZERS = {
    "adamw": {"name": "adamw", "lr": 0.01, "eps": 1e-4, "weight_decay": 0.1},
    "sgd": {"name": "sgd", "lr": 0.1, "weight_decay": 0.01},
    "muon": {"name": "muon", "lr": 0.02, "eps": 1e-4},
}
RICH = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rope", "qk_norm": True}
LEARNED = {"positions": "learned", "norm": "layernorm"}
TIED = {"tie_embeddings": True, "positions": "learned"}


RUN = {"base_tokens": 192, "base_batch_tokens": 32}


def factory(model: dict[str, Any], attention: float = 8**-0.5) -> Callable[..., nn.Module]:
    """Our own model as a factory of somebody else's: sizes in, module out, no multipliers."""

    def make(width: int, depth: int) -> nn.Module:
        config = tiny(model={**model, "width": width, "depth": depth}, parametrization={"name": "sp"})
        module = mlp if model.get("name") == "mlp" else gpt
        return module.build(config.shape, Multipliers(attention=attention))

    return make


def both(
    model: dict[str, Any], scheme: str, optimizer: str, width: int = 64, depth: int = 4
) -> tuple[Plan, Parametrized]:
    """The plan of a model with roles beside it, and the same model parametrized from the outside."""
    shape, needs = {"width": width, "depth": depth}, SCHEMES[scheme].needs
    base = {key: value for key, value in {"base_width": 16, "base_depth": 2, **RUN}.items() if key in needs}
    run = {key: value for key, value in RUN.items() if key in needs}
    plan = resolve(
        tiny(
            model={**model, **shape},
            optimizer=OPTIMIZERS[optimizer],
            parametrization={"base_width": None, "base_depth": None, "name": scheme, **base},
        )
    )
    result = parametrize(
        factory(model, 1 / 8 if scheme == "umup" else 8**-0.5),
        base={"width": 16, "depth": 2},
        delta={"width": 32, "depth": 2},
        target=shape,
        scheme=scheme,
        optimizer=OPTIMIZERS[optimizer],
        attention_is_right=scheme == "umup",
        **run,
        **({"tokens": 768, "batch_tokens": 64} if run else {}),
    )
    return plan, result


def losses(model: nn.Module, optimizer: Any, steps: int = 5) -> list[float]:
    tokens = torch.randint(256, (steps, 4, 17), generator=torch.Generator().manual_seed(0))
    found = []
    for batch in tokens:
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


CASES = [
    (model, scheme, optimizer)
    for model in ({}, RICH, LEARNED, TIED, {"name": "mlp"})
    for scheme, optimizer in (("completep", "adamw"), ("completep", "sgd"), ("depth_mup", "adamw"), ("mup", "adamw"))
] + [(RICH, "spectral", "muon"), (RICH, "completedp", "adamw"), (LEARNED, "umup", "adamw"), (TIED, "sp", "adamw")]


@pytest.mark.parametrize(("model", "scheme", "optimizer"), CASES, ids=str)
def test_inferred_from_the_outside_is_what_stands_beside_the_model(model: Any, scheme: str, optimizer: str) -> None:
    """Roles, and numbers up to what is folded: the branch factor into output projections, the readout's into itself."""
    plan, result = both(model, scheme, optimizer)
    planned = {tensor.name: tensor for tensor in plan.tensors}
    assert [tensor.name for tensor in result.tensors] == list(planned)
    assert result.params == plan.params
    for tensor in result.tensors:
        expected = planned[tensor.name]
        if tensor.name.endswith(("attention_output.weight", "down.weight")):
            expected = absorb(expected, plan.multipliers.residual)
        if expected.role == "readout" and "tie_embeddings" not in model:
            expected = replace(absorb(expected, expected.multiplier), multiplier=1.0)
        assert tensor == expected


@pytest.mark.parametrize(("model", "scheme", "optimizer"), CASES, ids=str)
def test_it_trains_the_same(model: Any, scheme: str, optimizer: str) -> None:
    """Folded multipliers give the same losses as multipliers in the forward pass (abc symmetry), eps and decay on."""
    plan, result = both(model, scheme, optimizer)
    ours, theirs = build(plan).double(), result.model.double()
    expected = losses(ours, build_optimizer(ours, plan))
    assert losses(theirs, result.build_optimizer()) == pytest.approx(
        expected, rel=1e-6 if optimizer == "muon" else 1e-9
    )
    assert expected[-1] != expected[0]


# --- other people's habits ---


class Encoder(nn.Module):
    """PyTorch's own transformer, causal, behind a table of positions that is no module's."""

    def __init__(self, width: int, depth: int, norm_first: bool = True, table: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.positions = nn.Parameter(torch.zeros(1, 8, width)) if table else None
        layer = nn.TransformerEncoderLayer(width, width // 8, 2 * width, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 50)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.tokens(inputs)
        if self.positions is not None:
            x = x + self.positions[:, : inputs.shape[1]]
        return self.head(self.encoder(x))


class Vision(nn.Module):
    """Patches by a convolution, residual blocks of convolutions in an nn.Sequential, and a frozen scale."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(ConvBlock(width) for _ in range(depth)))
        self.scale = nn.Parameter(torch.full((1,), 0.5), requires_grad=False)
        self.classes = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classes(self.blocks(self.patches(images)).mean((2, 3)) * self.scale)


class ConvBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.second = nn.ConvTranspose2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(self.norm(x))))


def at_sizes(build: Callable[..., nn.Module], width: int = 64, depth: int = 4, **options: Any) -> Parametrized:
    small, wider = {"width": 16, "depth": 2}, {"width": 32, "depth": 2}
    return parametrize(build, base=small, delta=wider, target={"width": width, "depth": depth}, **options)


def roles_of(result: Parametrized) -> dict[str, str]:
    return {placed.tensor.pattern: placed.role for placed in result.placed}


def test_the_transformer_of_pytorch() -> None:
    result = at_sizes(Encoder)
    layer = "encoder.layers.*."
    assert roles_of(result) == {
        "tokens.weight": "embedding.token",
        layer + "self_attn.in_proj_weight": "hidden.in_proj_weight",
        layer + "self_attn.in_proj_bias": "vector.bias",
        layer + "self_attn.out_proj.weight": "hidden.out_proj",
        layer + "self_attn.out_proj.bias": "vector.bias",
        layer + "linear1.weight": "hidden.linear1",
        layer + "linear1.bias": "vector.bias",
        layer + "linear2.weight": "hidden.linear2",
        layer + "linear2.bias": "vector.bias",
        **{f"{layer}norm{n}.{part}": f"vector.{role}" for n in "12" for part, role in GAIN_AND_BIAS},
        "head.weight": "readout",
        "head.bias": "vector.outer",
    }
    ends = {f"{layer}{name}.{part}" for name in ("self_attn.out_proj", "linear2") for part in ("weight", "bias")}
    assert set(result.branches.hosts) == ends
    assert not result.model.head.bias.any(), "PyTorch draws it at random"


GAIN_AND_BIAS = (("weight", "gain"), ("bias", "bias"))


def test_convolutions_patches_and_a_sequential_of_blocks() -> None:
    result = at_sizes(Vision, inputs=torch.randn(2, 3, 8, 8, dtype=torch.float64))
    roles = roles_of(result)
    assert {name: role for name, role in roles.items() if not role.startswith("vector")} == {
        "patches.weight": "embedding.patch",
        "blocks.*.first.weight": "hidden.conv.first",
        "blocks.*.second.weight": "hidden.conv.second",
        "classes.weight": "readout",
    }
    assert set(result.branches.hosts) == {"blocks.*.second.weight", "blocks.*.second.bias"}
    assert result.model.scale.item() == 0.5
    assert "frozen    scale" in result.report()
    stds = {tensor.name: tensor.init_std for tensor in result.tensors}
    assert stds["blocks.0.first.weight"] == pytest.approx(0.02 / 2)
    assert stds["blocks.0.second.weight"] == pytest.approx(0.02 / 2 / 2)


def test_convolutions_in_groups() -> None:
    """Fan-in C_in/groups * k^2: as many groups as channels leave it fixed, a fixed number of groups lets it grow."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.each = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.few = nn.Conv2d(width, width, 3, padding=1, groups=2)
            self.mix = nn.Conv2d(width, width, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(torch.relu(self.few(torch.relu(self.each(x)))))

    class Grouped(Vision):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__(width, depth)
            self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    result = at_sizes(Grouped, inputs=images, optimizer=OPTIMIZERS["adamw"])
    assert roles_of(result)["blocks.*.each.weight"] == "vector.depthwise"
    tensors = {tensor.name: tensor for tensor in result.tensors}
    for name, std, lr in (("each", 1, 1), ("few", 1 / 2, 1 / 4)):
        tensor = tensors[f"blocks.0.{name}.weight"]
        assert (tensor.init_std, tensor.lr) == (pytest.approx(0.02 * std), pytest.approx(0.01 * lr)), name
    assert tensors["blocks.0.each.weight"].weight_decay == 0.1
    standard = {tensor.name: tensor for tensor in at_sizes(Grouped, inputs=images, scheme="sp_fan_in").tensors}
    for name, fan_in in (("patches", 3 * 16), ("blocks.0.each", 9), ("blocks.0.few", 32 * 9), ("blocks.0.mix", 64)):
        assert standard[f"{name}.weight"].init_std == pytest.approx(fan_in**-0.5), name


def test_convolutions_are_refused_where_the_source_has_no_rule_for_them() -> None:
    problem = r"^parametrization\.name: umup does not cover the role 'embedding\.patch'"
    with pytest.raises(UserError, match=problem):
        at_sizes(Vision, scheme="umup")
    with pytest.raises(UserError, match=r"umup does not cover the role 'hidden\.conv\.first'"):
        at_sizes(Vision, scheme="umup", roles={"patches.*": "embedding.token"})


def test_muon_takes_matrices_alone() -> None:
    with pytest.raises(UserError, match=r"muon takes matrices, and blocks\.0\.first\.weight has 4 axes"):
        at_sizes(Vision, scheme="spectral", optimizer=OPTIMIZERS["muon"])


def test_what_the_forward_takes_has_to_be_known() -> None:
    with pytest.raises(UserError, match="inputs missing: what the model's forward takes"):
        at_sizes(Vision)
    with pytest.raises(UserError, match="does not run on the example inputs"):
        at_sizes(Vision, inputs=torch.zeros(2, 5))
    assert at_sizes(Vision, scheme="mup").branches.hosts == ()


def test_a_parameter_of_no_known_layer_is_named() -> None:
    def build(width: int, depth: int) -> nn.Module:
        return Encoder(width, depth, table=True)

    with pytest.raises(UserError) as refused:
        at_sizes(build)
    assert str(refused.value).splitlines() == [
        "parametrize: positions (1, 8, 16 -> 64): a parameter of Encoder, which is no layer that is known here",
        "parametrize: say what they are: roles={'positions': 'hidden'}, by name pattern; "
        "a role begins with embedding, hidden, readout, vector",
    ]
    result = at_sizes(build, roles={"positions": "embedding.position"})
    (table,) = (tensor for tensor in result.tensors if tensor.name == "positions")
    assert (table.role, table.eps, table.lr) == ("embedding.position", pytest.approx(1e-8 / 4), 0.004)


def test_a_norm_behind_the_sum_is_refused() -> None:
    def build(width: int, depth: int) -> nn.Module:
        return Encoder(width, depth, norm_first=False)

    with pytest.raises(UserError, match=r"encoder\.layers are not x \+ f\(x\)"):
        at_sizes(build)
    assert at_sizes(build, scheme="mup").branches.factor == 1.0


def test_a_plain_stack_is_refused_and_one_that_adds_is_not() -> None:
    """Blocks that return f(x) alone: whether the sum is outside is seen at the next block."""

    class Stack(nn.Module):
        def __init__(self, width: int, depth: int, adds: bool) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, width), nn.Linear(width, 9)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))
            self.adds = adds

        def forward(self, inputs: Tensor) -> Tensor:
            x = self.embedding(inputs)
            for block in self.blocks:
                x = x + block(x) if self.adds else block(x)
            return self.head(x)

    for adds, problem in ((False, r"not x \+ f\(x\)"), (True, "half the weights do not add half as much")):
        with pytest.raises(UserError, match=problem):
            at_sizes(lambda width, depth, adds=adds: Stack(width, depth, adds))


def bad(**sizes: Any) -> dict[str, Any]:
    return {"base": {"width": 16, "depth": 2}, "delta": {"width": 32, "depth": 2}} | {
        "target": {"width": 64, "depth": 4},
        **sizes,
    }


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (bad(delta={"width": 16, "depth": 2}), "is 16 in base and 64 in the target, and stays in delta"),
        (bad(scheme="completpe"), "unknown name 'completpe'.*mean 'completep'"),
        (bad(optimizer={"name": "adamw", "weight_decy": 1}), "optimizer.weight_decy: unknown.*mean 'weight_decay'"),
        (bad(init_st=1), "init_st.*mean 'init_std'"),
        (bad(lr_multipliers={"hidden.upp": 2}), "no tensor of the model has this role.*mean 'hidden.up'"),
        (bad(multipliers={"attention": 2}), "multipliers.attention: a model that is not ours has no place"),
        (bad(roles={"blokcs.*": "hidden"}), "no parameter has such a name"),
        (bad(roles={"readout.weight": "raedout"}), "unknown role 'raedout'.*mean 'readout'"),
        (bad(scheme="completedp", base_tokens=10, base_batch_tokens=1), "tokens and batch_tokens of the target's run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_one_line(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parametrize(factory({}), **options)


def test_blocks_that_do_not_match_say_what_to_do() -> None:
    def build(width: int, depth: int, extra: bool = False) -> nn.Module:
        model = factory({})(width, depth)
        if extra:
            model.adapter = nn.Linear(width, width)
        return model

    with pytest.raises(UserError, match=r"parameters of the target, not of base: adapter\.weight.* say base_depth="):
        parametrize(build, **bad(target={"width": 64, "depth": 4, "extra": True}))
    at_depth = bad(base={"width": 16, "depth": 4}, delta={"width": 32, "depth": 4})
    assert parametrize(build, **at_depth, base_depth=2).tensors == parametrize(build, **bad()).tensors
    assert parametrize(build, **at_depth).branches.factor == 1.0


def test_the_tuned_multipliers_are_folded_too() -> None:
    """At the base: embeddings, branches and logits as large as with the same factors in the forward pass."""
    factors = {"input": 3.0, "output": 5.0, "residual": 0.5}
    plan = resolve(tiny(optimizer=OPTIMIZERS["adamw"], parametrization={"multipliers": factors}))
    sizes = bad(target={"width": 16, "depth": 2})
    result = parametrize(factory({}), **sizes, optimizer=OPTIMIZERS["adamw"], multipliers=factors)
    ours, theirs = build(plan).double(), result.model.double()
    expected = losses(ours, build_optimizer(ours, plan))
    assert losses(theirs, result.build_optimizer()) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="is both embedding and readout"):
        parametrize(factory(TIED), **sizes, multipliers=factors)


def test_experts_are_one_layer_with_copies() -> None:
    class Experts(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.router = nn.Linear(width, 4, bias=False)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(4)
            )

        def forward(self, x: Tensor) -> Tensor:
            weights, chosen = self.router(x).softmax(-1).max(-1, keepdim=True)
            every = torch.stack([expert(x) for expert in self.experts], -2)
            return x + weights * every.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, x.shape[-1])).squeeze(-2)

    class Mixture(nn.Module):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, width), nn.Linear(width, 9)
            self.blocks = nn.ModuleList(Experts(width) for _ in range(depth))

        def forward(self, inputs: Tensor) -> Tensor:
            x = self.embedding(inputs)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    with pytest.raises(UserError, match=r"blocks\.\*\.router\.weight \(4, 16 -> 64\): Linear in a repeated block"):
        at_sizes(Mixture)
    result = at_sizes(Mixture, roles={"*.router.weight": "hidden.router"})
    ends = {f"blocks.*.experts.{i}.2.{part}" for i in range(4) for part in ("weight", "bias")}
    assert set(result.branches.hosts) == ends


def test_what_no_token_reaches_is_said() -> None:
    class Lazy(ConvBlock):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.idle = nn.Linear(width, width)

    class Idle(Vision):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__(width, depth)
            self.blocks = nn.Sequential(*(Lazy(width) for _ in range(depth)))

    with pytest.raises(UserError, match=r"blocks\.\*\.idle\.weight: the example inputs do not reach it"):
        at_sizes(Idle, inputs=torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_weights_depend_on_seed_and_name_alone() -> None:
    first, again, other = (at_sizes(factory({}), seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["readout.weight"], other["readout.weight"])


def test_on_the_meta_device_nothing_large_is_made() -> None:
    """The numbers of a model that fits on no machine: only the base is real."""
    here = at_sizes(factory({}))
    with torch.device("meta"):
        there = at_sizes(factory({}))
    assert there.tensors == here.tensors
    assert all(parameter.is_meta for parameter in there.model.parameters())
    there.model.to_empty(device="cpu")
    there.initialise()
    assert all(torch.equal(a, b) for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True))
