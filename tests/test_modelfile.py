"""A model of the user's own by path: every verb takes it, its content is part of a run's identity, and what is wrong
with it is one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write

from hptransfer.cli import main
from hptransfer.config import RunConfig, load_config
from hptransfer.errors import UserError
from hptransfer.modelfile import find_model
from hptransfer.records import identity, recipe
from hptransfer.scaling import resolve
from hptransfer.training import train

ROOT = Path(__file__).parent.parent
TWIN = {"name": "own/twin.py:build", "heads": None, "head_dim": 8, "ffn_ratio": 2, "width": 16, "depth": 2}
EXTRA = {"norm": "layernorm", "activation": "gelu", "positions": "rope", "qk_norm": False, "tie_embeddings": False}
SMALL = """
from dataclasses import dataclass
from torch import nn

ROLES = {"embedding.weight": "embedding.token", "readout.weight": "readout", "readout.bias": "vector.outer"}

@dataclass
class Sizes:
    width: int

def build(shape, multipliers):
    sizes = Sizes(shape.width)
    model = nn.Sequential()
    model.embedding = nn.Embedding(shape.vocab_size, sizes.width)
    model.readout = nn.Linear(sizes.width, shape.vocab_size)
    return model
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of models/gpt.py in it as own/twin.py, and a small model."""
    (tmp_path / "own").mkdir()
    shutil.copy(ROOT / "models/gpt.py", tmp_path / "own/twin.py")
    (tmp_path / "own/small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(folder: Path, plain_on_text: Callable[..., dict[str, Any]]) -> Callable[..., RunConfig]:
    def make(model: dict[str, Any], **sections: dict[str, Any]) -> RunConfig:
        data = {**plain_on_text(**sections), "model": {k: v for k, v in model.items() if v is not None}}
        return load_config(write(folder / "run.yaml", data))

    return make


def test_a_copy_of_our_model_is_our_model(config: Any, on_text: Any, tmp_path: Path) -> None:
    """The same plan, the same losses; another name."""
    for larger in ({}, {"width": 32, "depth": 4}):
        theirs, ours = config(TWIN | EXTRA | larger), on_text(model=larger)
        assert resolve(theirs).tensors == resolve(ours).tensors
        assert resolve(theirs).multipliers == resolve(ours).multipliers
        assert resolve(theirs).cost == resolve(ours).cost
    found = [train(run, tmp_path / "runs").result for run in (theirs, ours)]
    assert found[0] is not None and found[1] is not None
    assert found[0]["loss"] == found[1]["loss"]
    assert found[0]["model"].startswith("twin.py:build:")


def test_every_verb_takes_it(folder: Path, config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config(TWIN | EXTRA, train={"save_weights": False})
    sweep = {"method": "grid", "parameters": {"optimizer.lr": {"values": [0.001, 0.01]}}}
    sweep |= {"command": ["hptransfer", "train", "run.yaml", "${args}"], "metric": {"name": "loss", "goal": "minimize"}}
    write(folder / "sweep.yaml", sweep)
    assert main(["explain", "run.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["model"]["qk_norm"] is False
    assert main(["train", "run.yaml"]) == 0
    record = Path(capsys.readouterr().out.strip())
    assert json.loads((record / "result.json").read_text())["status"] == "finished"
    assert main(["sweep", "sweep.yaml", "--workers", "1"]) == 0
    assert main(["export", "run.yaml", "-o", "target.json"]) == 0


@pytest.mark.slow
def test_the_coordinate_check_takes_it(config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config(TWIN | EXTRA)
    assert main(["check", "run.yaml", "--width", "16,32,64", "--depth", "2,4,8", "--seeds", "1", "--steps", "1"]) in (
        0,
        1,
    )
    assert "coordinate check of completep" in capsys.readouterr().out


def test_identity_is_the_content_not_the_place(folder: Path, config: Any) -> None:
    first = config(TWIN | EXTRA)
    name = identity(first, "")
    shutil.copytree("own", "elsewhere")
    assert identity(config(TWIN | EXTRA | {"name": "elsewhere/twin.py:build"}), "") == name
    assert identity(config(TWIN | EXTRA | {"name": "own/twin.py:GPT"}), "") != name
    with Path("own/twin.py").open("a") as file:
        file.write("# another comment\n")
    assert identity(first, "") != name
    assert recipe(first)["model"] != recipe(config(TWIN | EXTRA | {"name": "elsewhere/twin.py:build"}))["model"]


def test_a_changed_file_is_read_again(folder: Path, config: Any) -> None:
    own = config({"name": "own/small.py:build", "width": 16, "depth": 2})
    before = resolve(own).params_total
    Path("own/small.py").write_text(SMALL.replace("sizes.width", "2 * sizes.width"))
    assert resolve(own).params_total > before
    assert find_model("own/small.py:build") is find_model("own/small.py:build")


def test_free_keys_reach_build_as_they_are(config: Any) -> None:
    own = config(TWIN | EXTRA | {"dropout": "1e-1", "flavour": "sour", "gate": True, "rank": 4})
    shape = own.shape
    assert (shape.dropout, shape.flavour, shape.gate, shape.rank) == (0.1, "sour", True, 4)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (2, 2, 8)
    assert resolve(resolve(own).config) == resolve(own)


PROBLEMS = {
    "model.name: own/absent.py: cannot read: No such file": {"name": "own/absent.py:build"},
    "model.name: own/twin.py has no function 'biuld'; did you mean 'build'?": {"name": "own/twin.py:biuld"},
    "model.width: missing: Size of the residual stream": {"name": "own/twin.py:build", "width": None},
    "model.name: string should match": {"name": "own/twin.py"},
    "model.list: expected a number, a text, true or false, got [1, 2]": {"list": [1, 2]},
    "give heads (= 2) or head_dim (= 8), not both": {"heads": 2},
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_wrong_name_or_key_is_one_line(config: Any, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(config(TWIN | EXTRA | PROBLEMS[problem]))
    assert problem in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


HEADLESS = (
    "own.py:12: build (neither model.heads nor model.head_dim is given): "
    "AttributeError: 'types.SimpleNamespace' object has no attribute "
)
BROKEN = {
    "own.py:2: cannot be imported: SyntaxError": "x = 1\nif:\n",
    "own.py:1: cannot be imported: ZeroDivisionError: division by zero": "1 / 0",
    "own.py:1: cannot be imported: SystemExit: 3": "raise SystemExit(3)",
    "own.py has no ROLES": SMALL.replace("ROLES", "ROLLS"),
    "ROLES['readout.weight']: unknown role 'raedout'": SMALL.replace('"readout"', '"raedout"'),
    "own.py: ROLES: the parameter 'readout.bias' matches no pattern": SMALL.replace("readout.bias", "readout.bais"),
    f"{HEADLESS}'heads'": SMALL.replace("sizes = Sizes(shape.width)", "sizes = Sizes(shape.heads)"),
    f"{HEADLESS}'attention'": SMALL.replace("sizes = Sizes(shape.width)", "sizes = Sizes(multipliers.attention)"),
    "own.py: build: returned int, expected a torch.nn.Module": SMALL.replace("return model", "return 5"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_file_is_one_line(folder: Path, config: Any, problem: str) -> None:
    Path("own.py").write_text(BROKEN[problem])
    with pytest.raises(UserError) as refused:
        resolve(config({"name": "own.py:build", "width": 16, "depth": 2}))
    assert problem in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_forward_that_fails_is_one_line(folder: Path, config: Any) -> None:
    Path("own.py").write_text(SMALL.replace("nn.Linear(sizes.width,", "nn.Linear(3,"))
    with pytest.raises(UserError, match=r"^own\.py: forward\(inputs\): RuntimeError: a and b"):
        _ = resolve(config({"name": "own.py:build", "width": 16, "depth": 2})).flops
