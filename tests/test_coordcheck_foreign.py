"""The coordinate check of models that nobody prepared for us."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hptransfer
from hptransfer.coordcheck import Check, check_model, to_text
from hptransfer.coordcheck.promises import kind_of
from hptransfer.errors import UserError
from hptransfer.foreign import Parametrized

VOCABULARY = 16


class Blocks(nn.Module):
    """Residual blocks with biases and dropout over an embedding that is also the readout."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, VOCABULARY, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.down, self.dropout = nn.Linear(2 * width, width), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.relu(self.up(self.norm(x)))))


def at(width: int = 32, depth: int = 2, seed: int = 0, scheme: str = "completep", broken: bool = False) -> Parametrized:
    sizes: dict[str, Any] = {"base": {"width": 32, "depth": 2}, "delta": {"width": 48, "depth": 2}}
    result = hptransfer.parametrize(
        Blocks,
        **sizes,
        target={"width": width, "depth": depth},
        scheme=scheme,
        optimizer={"name": "adamw", "lr": 0.03},
        init_std=0.1,
        seed=seed,
    )
    if broken:  # a factor that stands in the tensors and in the model
        for block in result.model.blocks:
            block.down.register_forward_hook(lambda module, args, output: output * result.branches.factor)
    return result


def batches(seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Every token is followed by one that it determines."""
    drawn = torch.randint(VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(1000 * seed + step))
    return drawn, (5 * drawn + 1) % VOCABULARY


def run(**options: Any) -> Check:
    return check_model(at, batches, steps=6, seeds=2, **options)


def test_completep_passes_over_width_and_depth_where_factors_are_folded() -> None:
    told: list[tuple[int, int]] = []
    found = run(widths=(32, 64, 128), depths=(4, 8, 16), on_run=lambda done, total: told.append((done, total)))
    assert found.passed, to_text(found)
    assert [ladder.outcome for ladder in found.ladders] == ["PASS", "PASS"]
    assert told == [(done, 12) for done in range(1, 13)]
    by = {(one.axis, one.quantity, one.name): one for ladder in found.ladders for one in ladder.verdicts}
    down = by["depth", "init", "blocks.*.down"]
    assert (down.low, down.high) == (-1, -1), "m_L^-α is in its weights"
    assert by["depth", "init", "blocks.*.up"].low == 0
    assert ("depth", "gradient", "hidden.down.folded") in by
    assert ("width", "gradient", "hidden.down") in by
    assert ("width", "gradient", "vector.bias") in by
    assert not any("dropout" in name for _, _, name in by)


def test_a_factor_applied_twice_is_named() -> None:
    def twice(**size: int) -> Parametrized:
        return at(**size, broken=True)

    found = check_model(twice, batches, depths=(4, 8, 16), steps=6, seeds=2)
    assert not found.passed
    assert "the factor m_L^-α on residual branches is applied twice" in found.ladders[0].diagnoses[0]


def test_sp_fails() -> None:
    def standard(**size: int) -> Parametrized:
        return at(**size, scheme="sp")

    assert not check_model(standard, batches, widths=(32, 64, 128), steps=6, seeds=2).passed


def test_where_a_module_stands() -> None:
    assert kind_of("init", "h.*.mlp.c_proj", "hidden.c_proj.folded") == "added.hidden.c_proj.folded"
    assert kind_of("init", "h.*.mlp.c_fc", "hidden.c_fc") == "branch.hidden.c_fc"
    assert kind_of("gradient", "", "vector.bias.folded") == "branch.vector.bias.folded"


def test_no_sizes_is_one_line() -> None:
    with pytest.raises(UserError, match="nothing to check"):
        check_model(at, batches)
