"""What is watched while training: right numbers, and nothing of the training changed by looking."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny
from torch import Tensor, nn

from hptransfer.config import RunConfig
from hptransfer.diagnostics import Diagnostics
from hptransfer.observing import rms
from hptransfer.records import Record
from hptransfer.scaling import build, build_optimizer, resolve
from hptransfer.training import train

WATCHED = {
    "activation/logits",
    "activation/stream",
    "activation/largest_attention_logit",
    "gradient_noise_scale",
    "update/embedding",
    "update/hidden",
    "update/readout",
    "update/vector",
}


def trained(config: RunConfig, runs: Path) -> tuple[Record, list[dict[str, float]]]:
    record = train(config, runs)
    return record, list(record.metrics())


def test_looking_changes_nothing_of_the_training(on_text: Callable[..., RunConfig], tmp_path: Path) -> None:
    plain, lines = trained(on_text(train={"watch_every": 0}), tmp_path)
    seen, watched = trained(on_text(train={"watch_every": 3}), tmp_path)
    assert plain.path != seen.path
    assert lines == [{key: value for key, value in line.items() if key not in WATCHED} for line in watched]
    first, second = (torch.load(record.path / "weights.pt", weights_only=True) for record in (plain, seen))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_watched_steps_carry_every_number(on_text: Callable[..., RunConfig], tmp_path: Path) -> None:
    _, lines = trained(on_text(train={"watch_every": 3}), tmp_path)
    assert [line["step"] for line in lines if WATCHED & line.keys()] == [3, 6, 9, 12]
    assert all(line.keys() >= WATCHED for line in lines if line["step"] % 3 == 0)


def test_a_watched_step_is_logged_even_between_log_lines(on_text: Callable[..., RunConfig], tmp_path: Path) -> None:
    _, lines = trained(on_text(train={"watch_every": 5, "log_every": 4}), tmp_path)
    assert [line["step"] for line in lines] == [4, 5, 8, 10, 12]


def test_update_sizes_are_relative_to_the_weights() -> None:
    plan = resolve(tiny())
    model = build(plan)
    hidden = [p for name, p in model.named_parameters() if plan_role(plan, name) == "hidden"]
    diagnostics = Diagnostics(model, plan)
    before = rms(hidden)
    with torch.no_grad(), diagnostics.update_sizes() as sizes:
        for parameter in hidden:
            parameter.add_(0.5)
    assert sizes["update/hidden"] == pytest.approx(0.5 / before, rel=1e-6)
    assert sizes["update/readout"] == 0


def plan_role(plan: object, name: str) -> str:
    (tensor,) = [tensor for tensor in plan.tensors if tensor.name == name]  # type: ignore[attr-defined]
    return str(tensor.role.split(".")[0])


class Slope(nn.Module):
    """Its gradient is the mean of its inputs, whatever its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(400))


def test_gradient_noise_scale_is_that_of_known_gradients() -> None:
    """One token each, gradients N(mu, 1) in 400 dimensions with |mu|^2 = 100: tr(Σ) / |G|^2 = 4 tokens."""
    model, plan = Slope(), resolve(tiny())
    diagnostics = Diagnostics(model, plan)
    draw = torch.Generator().manual_seed(0)
    inputs = 0.5 + torch.randn(1000, 1, 400, generator=draw)

    def loss(rows: Tensor, _: Tensor) -> Tensor:
        return (rows[:, 0] @ model.weight).mean()

    tokens = torch.arange(1000).reshape(-1, 1)
    (scale,) = diagnostics._noise(tokens, tokens, lambda rows, _: loss(inputs[rows[:, 0]], rows)).values()
    assert scale == pytest.approx(4, rel=0.1)


def test_optimizer_of_a_watched_model_is_untouched() -> None:
    plan = resolve(tiny())
    model = build(plan)
    optimizer = build_optimizer(model, plan)
    inputs = torch.zeros(4, 16, dtype=torch.long)
    Diagnostics(model, plan).before_step(inputs, inputs, lambda x, y: model(x).square().mean())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part.state for part in optimizer.parts)
