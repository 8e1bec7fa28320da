"""ViT and ResNet against references written out from the papers' formulas, against mup, and in training."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mup
import pytest
import torch
import torch.nn.functional as F
from idx import write_images
from torch import Tensor, nn

from hptransfer.config import RunConfig, load_config
from hptransfer.coordcheck import check
from hptransfer.coordcheck.sizes import default_widths
from hptransfer.data import open_data
from hptransfer.errors import UserError
from hptransfer.loading import Source, validate
from hptransfer.parametrization import SCHEMES
from hptransfer.plan import Plan
from hptransfer.records import Record
from hptransfer.scaling import build, build_optimizer, param_groups, resolve
from hptransfer.testing import ModelContract
from hptransfer.training import train

DATA = {"source": "images", "size": 8, "classes": 5}
VIT: dict[str, Any] = {"name": "vit", "width": 16, "depth": 2, "head_dim": 8}
RICH_VIT = VIT | {"patch": 2, "norm": "rmsnorm", "activation": "swiglu", "qk_norm": True}
RESNET: dict[str, Any] = {"name": "resnet", "width": 8, "depth": 2}
MODELS = {"vit": VIT, "rich_vit": RICH_VIT, "resnet": RESNET, "resnet_of_3": RESNET | {"stages": 3}}
UNCOVERED = {"vit": {"umup"}, "rich_vit": {"umup"}, "resnet": {"umup", "spectral"}, "resnet_of_3": {"umup", "spectral"}}
FACTORS = {"input": 3.0, "output": 0.2, "attention": 0.7, "residual": 0.6}

for key, model in MODELS.items():
    for scheme, what in SCHEMES.items():
        for optimizer, family in (("adamw", "adam"), ("sgd", "sgd"), ("muon", "muon")):
            if family in what.rules and scheme not in UNCOVERED[key]:
                name = f"Test_{key}_{scheme}_{optimizer}"
                values = {"model": model, "data": DATA, "parametrization": scheme, "optimizer": {"name": optimizer}}
                globals()[name] = type(name, (ModelContract,), values)


def config(at: dict[str, Any], scheme: str = "completep", **sections: dict[str, Any]) -> RunConfig:
    """At twice the base width and depth, unless the sections say otherwise."""
    size = {"width": 2 * at["width"], "depth": 2 * at["depth"]}
    base = {"base_width": at["width"], "base_depth": at["depth"], "base_tokens": 100, "base_batch_tokens": 10}
    data: dict[str, Any] = {
        "model": {**at, **size, **sections.get("model", {})},
        "parametrization": {"name": scheme, **base, **sections.get("parametrization", {})},
        "optimizer": {"name": "adamw", **sections.get("optimizer", {})},
        "data": {**DATA, **sections.get("data", {})},
        "train": {"tokens": 400, "batch_tokens": 20, **sections.get("train", {})},
    }
    return validate(RunConfig, Source("c", data))


def randomised(plan: Plan) -> nn.Module:
    """The plan's model in float64, no parameter at a special value."""
    model = build(plan).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return model


def images(count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)


# --- references ---


def normed(x: Tensor, weights: dict[str, Tensor], name: str, axes: tuple[int, ...]) -> Tensor:
    """Mean 0 and variance 1 over the axes, then gain and bias, one per entry of the axis of channels."""
    x = (x - x.mean(axes, keepdim=True)) / (x.var(axes, unbiased=False, keepdim=True) + 1e-6).sqrt()
    shape = [-1] + [1] * (len(axes) - 1)
    return x * weights[f"{name}.weight"].view(shape) + weights[f"{name}.bias"].view(shape)


def convolved(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Every place of the output on its own: the 3 x 3 pixels round it, zeros beyond the edge, times the weights."""
    count, channels, height, width = x.shape
    framed = torch.zeros(count, channels, height + 2, width + 2, dtype=x.dtype)
    framed[:, :, 1:-1, 1:-1] = x
    rows = [
        [torch.einsum("bchw,dchw->bd", framed[:, :, i : i + 3, j : j + 3], weight) for j in range(0, width, stride)]
        for i in range(0, height, stride)
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def resnet_reference(w: dict[str, Tensor], x: Tensor, stages: int, depth: int, factors: Any) -> Tensor:
    axes = (1, 2, 3)
    x = convolved(x, w["stem.weight"], stride=2) * factors.input
    for stage in range(1, stages + 1):
        if stage > 1:
            x = convolved(normed(x, w, f"down{stage}.norm", axes).relu(), w[f"down{stage}.conv.weight"], stride=2)
        for block in range(depth):
            at = f"stage{stage}.{block}"
            h = convolved(normed(x, w, f"{at}.norm1", axes).relu(), w[f"{at}.conv1.weight"])
            h = convolved(normed(h, w, f"{at}.norm2", axes).relu(), w[f"{at}.conv2.weight"])
            x = x + factors.residual * h
    return normed(x, w, "norm", axes).relu().mean((2, 3)) @ w["readout.weight"].T * factors.output


def vit_reference(w: dict[str, Tensor], image: Tensor, heads: int, depth: int, factors: Any) -> Tensor:
    """One image (8, 8), one patch and one head at a time."""
    patches = [image[i : i + 4, j : j + 4].flatten() @ w["patch_embedding.weight"].T for i in (0, 4) for j in (0, 4)]
    x = torch.stack([w["class_token.weight"][0], *patches]) + w["position_embedding.weight"]
    x = x * factors.input
    for block in range(depth):
        at = f"blocks.{block}.attention"
        h = normed(x, w, f"{at}.norm", (1,))
        q, k, v = ((h @ w[f"{at}.{what}.weight"].T).chunk(heads, 1) for what in ("query", "key", "value"))
        mixed = [(q[i] @ k[i].T * factors.attention).softmax(1) @ v[i] for i in range(heads)]
        x = x + factors.residual * torch.cat(mixed, 1) @ w[f"{at}.attention_output.weight"].T
        at = f"blocks.{block}.feed_forward"
        h = normed(x, w, f"{at}.norm", (1,)) @ w[f"{at}.up.weight"].T
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        x = x + factors.residual * h @ w[f"{at}.down.weight"].T
    return normed(x, w, "norm", (1,))[0] @ w["readout.weight"].T * factors.output


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_resnet_is_the_formula(stages: int) -> None:
    plan = resolve(config(RESNET, parametrization={"multipliers": FACTORS}, model={"stages": stages}))
    model = randomised(plan)
    readout = plan.multipliers.output / 2  # m_in^-1
    expected = resnet_reference(model.state_dict(), images(), stages, 4, replace(plan.multipliers, output=readout))
    torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-10)


def test_vit_is_the_formula() -> None:
    plan = resolve(config(VIT, parametrization={"multipliers": FACTORS}))
    model = randomised(plan)
    factors = replace(plan.multipliers, output=plan.multipliers.output / 2)
    expected = torch.stack([vit_reference(model.state_dict(), image[0], 4, 4, factors) for image in images()])
    torch.testing.assert_close(model(images()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("key", MODELS)
def test_an_image_is_no_business_of_another(key: str) -> None:
    """So that gradients accumulate over micro-batches, and training is inference: no statistics over the batch."""
    model = randomised(resolve(config(MODELS[key])))
    alone = torch.cat([model(image.unsqueeze(0)) for image in images()])
    torch.testing.assert_close(model(images()), alone, rtol=1e-9, atol=1e-9)


# --- numbers ---


@pytest.mark.parametrize("key", MODELS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_groups_are_mups(key: str, optimizer: str) -> None:
    """4-D weights and all: mup finds what grows from shapes; only the readout has to be called one."""
    model = MODELS[key]
    settings = {"scale_eps": False, "decay_vectors": True}
    plan = resolve(config(model, "mup", parametrization=settings, optimizer={"name": optimizer, "lr": 0.03}))

    def at(width: int) -> nn.Module:
        made = build(resolve(config(model, "mup", model={"width": width})))
        made.readout = mup.MuReadout(made.readout.in_features, 5, bias=False)
        return made

    theirs = at(2 * model["width"])
    mup.set_base_shapes(theirs, at(model["width"]), delta=at(2 * model["width"]))
    decay = plan.config.optimizer.weight_decay
    oracle = {"adamw": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer](theirs.parameters(), lr=0.03, weight_decay=decay)
    ours = build(plan)
    assert numbers(param_groups(ours, plan), ours) == numbers(oracle.param_groups, theirs)


def numbers(groups: list[dict[str, Any]], model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_numbers_by_hand() -> None:
    """m_in = m_out = 2 for every convolution between channels, m_L = 2; completep, Adam."""
    plan = resolve(config(RESNET, parametrization={"init_std": 0.1}, optimizer={"lr": 0.01, "eps": 1e-8}))
    got = {t.name: (t.init_std, t.multiplier, t.lr, t.eps, t.weight_decay) for t in plan.tensors}
    assert got["stem.weight"] == pytest.approx((0.1, 1, 0.01, 0.5e-8, 0.1))
    assert got["stage2.3.conv1.weight"] == pytest.approx((0.1 / math.sqrt(2), 1, 0.005, 0.25e-8, 0.2))
    assert got["down2.conv.weight"] == pytest.approx((0.1 / math.sqrt(2), 1, 0.005, 0.5e-8, 0.2))
    assert got["readout.weight"] == pytest.approx((0.1, 0.5, 0.01, 0.5e-8, 0.1))
    assert plan.multipliers.residual == 0.5


def test_fan_in_form_is_torchs_variance() -> None:
    """sp_fan_in: 1/sqrt(channels in * 9) for convolutions, 1/sqrt(pixels) for a patch embedding."""
    stds = {t.name: t.init_std for t in resolve(config(RESNET, "sp_fan_in")).tensors}
    assert stds["stem.weight"] == pytest.approx(1 / 3)
    assert stds["stage2.0.conv1.weight"] == pytest.approx(1 / math.sqrt(32 * 9))
    stds = {t.name: t.init_std for t in resolve(config(VIT, "sp_fan_in")).tensors}
    assert stds["patch_embedding.weight"] == pytest.approx(1 / 4)
    assert stds["class_token.weight"] == stds["position_embedding.weight"] == 1


def test_what_is_counted_and_what_it_costs() -> None:
    """Counted: convolutions, gains and biases. Cost: two FLOP a multiply-add; backwards as much for each of weights
    and inputs, but the images' own gradient."""
    plan = resolve(config(RESNET, model={"width": 8, "depth": 1, "stages": 1}))
    assert plan.params == 8 * 9 + 2 * 8 * 8 * 9 + 3 * 16
    assert plan.params_total == plan.params + 8 * 5
    places = 4 * 4
    assert plan.flops_per_token == 2 * (2 * places * 8 * 9 + 3 * (places * 2 * 8 * 8 * 9 + 8 * 5))
    vit = resolve(config(VIT, model={"width": 16, "depth": 1}))
    assert vit.params == 16 * 16 + 12 * 16**2 + 3 * 32
    assert vit.params_total == vit.params + 16 + 5 * 16 + 16 * 5


@pytest.mark.parametrize("key", ["vit", "resnet"])
def test_the_absorbed_form_trains_the_same(key: str) -> None:
    """abc symmetry (2203.03466, J) in float64, over the readout and over every hidden tensor."""
    plan = resolve(config(MODELS[key], optimizer={"eps": 1e-3}))
    theta = 1 / 2

    def absorbed(tensor: Any) -> Any:
        if tensor.role != "readout":
            return tensor
        moved = {"init_std": tensor.init_std * theta, "lr": tensor.lr * theta, "multiplier": 1.0}
        return replace(tensor, **moved, eps=tensor.eps / theta, weight_decay=tensor.weight_decay / theta)

    other = replace(plan, tensors=tuple(map(absorbed, plan.tensors)))
    assert losses(other) == pytest.approx(losses(plan), rel=1e-10)


def losses(plan: Plan, steps: int = 5) -> list[float]:
    model = build(plan).double()
    optimizer = build_optimizer(model, plan)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images(4)), torch.arange(4))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("key", ["rich_vit", "resnet"])
def test_what_users_do_to_a_module(key: str) -> None:
    """Weights assigned to a model on the meta device, a copy, bfloat16 autocast."""
    plan = resolve(config(MODELS[key]))
    model, inputs = build(plan), images(dtype=torch.float32)
    expected = model(inputs)
    with torch.device("meta"):
        empty = build(plan)
    empty.load_state_dict(model.state_dict(), assign=True)
    for other in (empty, copy.deepcopy(model)):
        torch.testing.assert_close(other(inputs), expected, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(inputs).float() - expected).abs().max() < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("key", ["rich_vit", "resnet"])
def test_models_compile_whole(key: str) -> None:
    model, inputs = build(resolve(config(MODELS[key]))), images(dtype=torch.float32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs), rtol=1e-6, atol=1e-6)


DEPTHWISE = """
from torch import nn

ROLES = {
    "stem.weight": "embedding.patch", "blocks.*.norm.*": "vector.gain", "blocks.*.spread.weight": "vector.depthwise",
    "blocks.*.mix.weight": "hidden.conv", "readout.weight": "readout",
}

class Block(nn.Module):
    def __init__(self, width, factor):
        super().__init__()
        self.factor = factor
        self.norm = nn.GroupNorm(1, width)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x):
        return x + self.factor * self.mix(self.spread(self.norm(x)).relu())

class Net(nn.Module):
    def __init__(self, shape, multipliers):
        super().__init__()
        self.input, self.output = multipliers.input, multipliers.output
        self.stem = nn.Conv2d(shape.channels, shape.width, 2, stride=2, bias=False)
        self.blocks = nn.ModuleList(Block(shape.width, multipliers.residual) for _ in range(shape.depth))
        self.readout = nn.Linear(shape.width, shape.classes, bias=False)

    def forward(self, images):
        x = self.stem(images) * self.input
        for block in self.blocks:
            x = block(x)
        return self.readout(x.mean((2, 3)) * self.output)
"""


def test_a_users_model_on_images_with_depthwise_convolutions(small: Path, tmp_path: Path) -> None:
    """Reference: init 1, lr 1, eps m_N^-1 over width; m_L^(α-1) and m_L^-α of CompleteP over depth."""
    (tmp_path / "net.py").write_text(DEPTHWISE)
    mine = {"name": f"{tmp_path / 'net.py'}:Net", "width": 8, "depth": 2}
    numbers = {}
    for scheme in ("completep", "sp", "sp_fan_in"):
        run = config(mine, scheme, parametrization={"init_std": 0.5}, optimizer={"lr": 0.01, "eps": 1e-8})
        plan = resolve(run)
        numbers[scheme] = next(t for t in plan.tensors if t.name == "blocks.0.spread.weight")
        weight = build(plan).blocks[0].spread.weight
        assert weight.std().item() == pytest.approx(numbers[scheme].init_std, rel=0.2)
    mine_at = {scheme: (t.init_std, t.lr, t.eps, t.weight_decay) for scheme, t in numbers.items()}
    assert mine_at["completep"] == pytest.approx((0.5, 0.01, 0.25e-8, 0.1))
    assert mine_at["sp"] == pytest.approx((0.5, 0.01, 1e-8, 0.1))
    assert mine_at["sp_fan_in"] == pytest.approx((0.5 / 3, 0.01, 1e-8, 0.1))
    with pytest.raises(UserError, match=r"^parametrization\.name: umup does not cover the role 'embedding.patch'"):
        resolve(config(mine, "umup"))
    result = trained(small, tmp_path, mine, tokens=100).result
    assert result is not None
    assert math.isfinite(result["loss"])


# --- what is refused ---


@pytest.mark.parametrize("key", MODELS)
def test_what_a_scheme_does_not_cover(key: str) -> None:
    for scheme in UNCOVERED[key]:
        optimizer = {"optimizer": {"name": "muon"}} if scheme == "spectral" else {}
        why = {
            "umup": "parametrization.name: umup does not cover the role 'embedding.patch': its source gives no rule",
            "spectral": "optimizer.name: muon takes matrices, and stage1.0.conv1.weight has 4 axes; allowed: adamw",
        }
        with pytest.raises(UserError) as refusal:
            resolve(config(MODELS[key], scheme, **optimizer))
        assert str(refusal.value).startswith(why[scheme])
        assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "data", "line"),
    [
        (VIT | {"patch": 3}, {}, "model.patch: 3 does not divide data.size = 8; nearest: 2 or 4"),
        (
            VIT,
            {"source": "python_source"},
            "model.name: vit reads images, but data.source: python_source; allowed: images",
        ),
        (
            {"name": "mlp", "width": 8, "depth": 2},
            DATA,
            "model.name: mlp reads tokens, but data.source: images; allowed: vit, resnet",
        ),
        (RESNET, DATA | {"seq_len": 4}, "data.seq_len: unknown key (= 4); allowed: source, path, size, classes"),
        (RESNET | {"heads": 4}, DATA, "model.heads: unknown key (= 4); allowed: name, width, depth, stages"),
    ],
)
def test_models_and_data_that_do_not_fit(model: dict[str, Any], data: dict[str, Any], line: str) -> None:
    base = {"base_width": 8, "base_depth": 2}
    sections = {"model": model, "parametrization": base, "data": data or DATA}
    with pytest.raises(UserError) as refusal:
        validate(RunConfig, Source("c", sections))
    assert str(refusal.value).splitlines() == [f"c: {line}"]


# --- training ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "set", train=200, test=50, size=8)


def trained(small: Path, tmp_path: Path, model: dict[str, Any], **settings: Any) -> Record:
    data = {"path": str(small), "classes": 10}
    run = {"tokens": 600, "batch_tokens": 20, "watch_every": 10, "eval_tokens": 50, **settings}
    return train(
        config(model, data=data, optimizer={"lr": 0.01}, parametrization={"init_std": 0.1}, train=run), tmp_path
    )


@pytest.mark.parametrize("key", MODELS)
def test_a_run_learns(key: str, small: Path, tmp_path: Path) -> None:
    result = trained(small, tmp_path, MODELS[key]).result
    assert result is not None
    assert result["status"] == "finished"
    assert result["loss"] < 1.5 < math.log(10)
    assert result["accuracy"] > 0.5
    assert (result["tokens_seen"], result["epochs"], result["eval_tokens"], result["seq_len"]) == (600, 3, 50, 1)


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_precisions(precision: str, small: Path, tmp_path: Path) -> None:
    for model in (VIT, RESNET):
        result = trained(small, tmp_path, model, tokens=40, precision=precision).result
        assert result is not None
        assert math.isfinite(result["loss"])


def test_accuracy_is_the_share_of_labels_with_the_highest_logit(small: Path, tmp_path: Path) -> None:
    record = trained(small, tmp_path, VIT, tokens=100)
    assert record.result is not None
    plan = resolve(load_config(record.path / "config.yaml"))
    model = build(plan)
    model.load_state_dict(torch.load(record.path / "weights.pt", weights_only=True))
    held_out, labels = map(torch.from_numpy, open_data(plan.config.data, tmp_path).validation(50))
    assert record.result["accuracy"] == (model(held_out).argmax(1) == labels).double().mean().item()


def test_micro_batches_are_the_batch(small: Path, tmp_path: Path) -> None:
    whole = trained(small, tmp_path / "a", RESNET, tokens=60, precision="float64").result
    parts = trained(small, tmp_path / "b", RESNET, tokens=60, precision="float64", micro_batch=7).result
    assert whole is not None
    assert parts is not None
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-9)


@pytest.mark.parametrize("key", ["vit", "resnet"])
def test_the_coordinate_check_tells_completep_from_sp(key: str, small: Path, tmp_path: Path) -> None:
    """At initialisation, over width: all that is inside keeps its size, or hidden layers grow as width^(1/2)."""
    outcomes = {}
    for scheme in ("completep", "sp"):
        changes = {"data": {"path": str(small), "classes": 10}, "parametrization": {"init_std": 0.1}}
        run = config(MODELS[key], scheme, **changes, optimizer={"lr": 0.001}, model={"depth": 2})
        found = check(run, widths=[16, 32, 64], depths=[], steps=1, seeds=2, runs=tmp_path, workers=1)
        outcomes[scheme] = {v.name: v for v in found.ladders[0].verdicts if v.quantity == "init"}
    assert {verdict.outcome for verdict in outcomes["completep"].values()} <= {"PASS", "unsure"}
    name = {"vit": "blocks.*.feed_forward.up", "resnet": "stage1.*.conv1"}[key]
    assert outcomes["sp"][name].outcome == "FAIL"
    slope = outcomes["sp"][name].slope
    assert slope is not None
    assert slope.value == pytest.approx(0.5, abs=0.1)


def test_a_check_of_channels_starts_small() -> None:
    assert default_widths(resolve(config(RESNET)).config) == (16, 32, 64)
    assert default_widths(resolve(config(VIT)).config) == (64, 128, 256, 512)


def test_configs_that_ship_need_only_the_data() -> None:
    for name in ("vit", "resnet"):
        plan = resolve(load_config(Path(__file__).parent.parent / f"configs/{name}.yaml"))
        assert plan.flops < 3e12  # a minute or two on one core
