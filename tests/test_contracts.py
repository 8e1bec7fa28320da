"""Every model under every parametrization and optimizer that covers it keeps the contract of hptransfer.testing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_model import Tied
from torch import Tensor

from hptransfer.parametrization import FAMILIES, SCHEMES
from hptransfer.testing import ModelContract

ROOT = Path(__file__).parent.parent
SHAPE = {"width": 16, "depth": 2}
MODELS: dict[str, dict[str, Any]] = {
    "GPT": {"name": "gpt", **SHAPE, "head_dim": 8},
    "RichGPT": {"name": "gpt", **SHAPE, "head_dim": 8, "kv_heads": 1, "norm": "rmsnorm", "activation": "swiglu"}
    | {"qk_norm": True},
    "TiedGPT": {"name": "gpt", **SHAPE, "heads": 2, "positions": "learned", "tie_embeddings": True},
    "MoEGPT": {"name": "gpt", **SHAPE, "head_dim": 8, "experts": 4, "experts_per_token": 2, "ffn_ratio": 1},
    "MLP": {"name": "mlp", **SHAPE, "window": 3},
}

for model_name, model in MODELS.items():
    for scheme, what in SCHEMES.items():
        for optimizer, family in FAMILIES.items():
            if family in what.rules and not ("experts" in model and "hidden.router" in what.refused):
                name = f"Test{model_name}_{scheme}_{optimizer}"
                settings = {"model": model, "parametrization": scheme, "optimizer": {"name": optimizer}}
                globals()[name] = type(name, (ModelContract,), settings)


class TestForeign(ModelContract):
    build = Tied
    base, delta, target = SHAPE, SHAPE | {"width": 32}, {"width": 64, "depth": 4}

    def inputs(self) -> Tensor:
        return torch.arange(32).reshape(4, 8)


FORGETFUL = """
from hptransfer.testing import ModelContract
class TestMine(ModelContract):
    model = {"name": "twin.py:build", "width": 16, "depth": 2, "head_dim": 8, "norm": "layernorm",
             "activation": "gelu", "positions": "rope", "qk_norm": False, "tie_embeddings": False}
"""


@pytest.mark.slow
def test_a_users_model_keeps_it_in_three_lines_or_is_caught(tmp_path: Path) -> None:
    """A multiplier that only training knows is found by the contract, and by nothing else in it."""
    code = (ROOT / "models/gpt.py").read_text()
    (tmp_path / "test_mine.py").write_text(FORGETFUL)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    (tmp_path / "twin.py").write_text(code)
    good = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "6 passed" in good.stdout, good.stdout
    forgotten = code.replace("self.output_multiplier))", "self.output_multiplier if self.training else 1.0))")
    assert forgotten != code
    (tmp_path / "twin.py").write_text(forgotten)
    bad = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 5 passed" in bad.stdout, bad.stdout
    assert "test_training_and_inference_give_the_same_logits" in bad.stdout
