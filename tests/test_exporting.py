"""What is written for other training loops is what our own loop uses."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny, write
from torch import nn

import hptransfer
from hptransfer.applied import planned_name
from hptransfer.cli import main
from hptransfer.errors import UserError
from hptransfer.exporting import export, initialise, param_groups
from hptransfer.plan import Plan
from hptransfer.records import write_json
from hptransfer.scaling import build, resolve
from hptransfer.scaling import param_groups as own_groups

BIG = {"width": 64, "depth": 4}
OPTIMIZERS = {"adamw": {}, "sgd": {"name": "sgd", "lr": 0.1}, "muon": {"name": "muon", "lr": 0.02}}


def plan_of(optimizer: str = "adamw", **model: Any) -> Plan:
    scheme = {"name": "spectral"} if optimizer == "muon" else {}
    return resolve(tiny(model=BIG | model, optimizer=OPTIMIZERS[optimizer], parametrization=scheme))


def plain(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_file_says_all_that_the_plan_does(optimizer: str, tmp_path: Path) -> None:
    plan = plan_of(optimizer)
    write_json(tmp_path / "target.json", export(plan))
    read = json.loads((tmp_path / "target.json").read_text())
    assert read["format"] == 1
    for tensor in plan.tensors:
        assert {"name": tensor.name, **read["tensors"][tensor.name]} == json.loads(json.dumps(asdict(tensor)))
    assert read["multipliers"] == asdict(plan.multipliers)
    assert read["multipliers"]["residual"] == 0.5
    assert read["schedule"] == {"name": "linear", "warmup": 0.1, "final": 0.0}
    assert read["budget"] == {"tokens": 768, "batch_tokens": 64, "steps": 12, "seq_len": 16, "grad_clip": 1.0}
    named = {name for group in read["groups"] for name in group["names"]}
    assert named == set(read["tensors"])
    assert [group["lr"] for group in read["groups"]] == [group["lr"] for group in own_groups(build(plan), plan)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_and_weights_are_the_same_from_every_source(optimizer: str, tmp_path: Path) -> None:
    plan = plan_of(optimizer)
    write_json(tmp_path / "target.json", export(plan))
    model = build(plan)
    expected = plain(own_groups(model, plan))
    for source in (plan, plan.config, export(plan), tmp_path / "target.json", str(tmp_path / "target.json")):
        assert plain(param_groups(model, source)) == expected
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        initialise(model, source)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build(plan).parameters(), strict=True))


def test_the_groups_are_plain_torch() -> None:
    plan = plan_of()
    model = build(plan)
    optimizer = torch.optim.AdamW(hptransfer.param_groups(model, plan.config))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [
        group["peak_lr"] / 2 for group in optimizer.param_groups
    ]
    assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": lambda model: nn.ModuleDict({"module": model}),
    "compile": lambda model: torch.compile(model, backend="eager"),
    "ddp of compile": lambda model: nn.ModuleDict({"module": torch.compile(model, backend="eager")}),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_are_found_through_wrappers(wrapper: str) -> None:
    plan = plan_of()
    model = build(plan)
    assert plain(param_groups(WRAPPERS[wrapper](model), plan)) == plain(own_groups(model, plan))


def test_a_module_called_module_keeps_its_name() -> None:
    assert planned_name("module.weight", {"module.weight"}) == "module.weight"
    assert planned_name("module.module.weight", {"module.weight"}) == "module.weight"
    assert planned_name("module.blocks.0._orig_mod.weight", {"blocks.0.weight"}) == "blocks.0.weight"


def test_another_model_is_refused_by_name() -> None:
    plan = plan_of()
    with pytest.raises(UserError, match=r"no parameter 'blocks\.3\.attention\.attention_output\.weight'; did you mean"):
        param_groups(build(plan_of(depth=3)), plan)
    with pytest.raises(UserError, match=r"no numbers for the parameter 'blocks\.4\.attention\.norm\.weight'; did you"):
        param_groups(build(plan_of(depth=5)), plan)


def test_a_frozen_parameter_needs_no_numbers() -> None:
    plan = plan_of()
    model = build(plan)
    model.extra = nn.Parameter(torch.zeros(3), requires_grad=False)
    assert plain(param_groups(model, plan)) == plain(own_groups(build(plan), plan))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file"),
        ("[]", "expected a JSON object"),
        ("{}", "format None; this version reads 1"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "seed": 0, "tensors": {"a": {"lr": "fast"}}}', "damaged"),
        ('{"format": 1, "seed": 0, "tensors": {"a": 3}}', "damaged"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "target.json"
    if text is not None:
        write(path, text)
    with pytest.raises(UserError, match=problem) as refused:
        param_groups(nn.Linear(1, 1), path)
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value).splitlines()) == 1


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "run.yaml", tiny(model=BIG).to_dict())
    assert main(["export", str(config), "optimizer.lr=0.5", "-o", str(tmp_path / "out/target.json")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out/target.json")
    read = json.loads((tmp_path / "out/target.json").read_text())
    assert read["tensors"]["token_embedding.weight"]["lr"] == 0.5
    assert main(["export", str(tmp_path / "absent.yaml"), "-o", "x.json"]) == 2


def test_a_parametrized_model_is_exported_with_its_factors_folded() -> None:
    def factory(width: int, depth: int) -> nn.Module:
        return build(plan_of(width=width, depth=depth))

    small, wider = {"width": 16, "depth": 2}, {"width": 32, "depth": 2}
    result = hptransfer.parametrize(factory, base=small, delta=wider, target=BIG)
    data = json.loads(json.dumps(export(result)))
    assert data["tensors"]["readout.weight"]["init_std"] == pytest.approx(0.02 / 4)
    assert plain(param_groups(result.model, data)) == plain(result.param_groups())
    assert "multipliers" not in data


# --- docs/export.md ---


def code_blocks() -> list[str]:
    text = (Path(__file__).parent.parent / "docs/export.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_bare_loop_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()
    write_json(tmp_path / "target.json", export(plan))
    model, steps = build(plan), 3
    known = {"model": model, "steps": steps, "train_step": lambda: 2.0, "validate": lambda: 1.5}
    groups, record, *_ = code_blocks()
    exec(groups + record, known)
    assert isinstance(known["optimizer"], torch.optim.AdamW)
    (row,) = hptransfer.read_rows([tmp_path / "runs"])
    assert (row.loss, row.status, row.params) == (1.5, "cut_short", 1.2e6)


def test_patterns_for_torchtitan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name, with what compilation puts into it, is found by the pattern of its own group and by no other."""
    monkeypatch.chdir(tmp_path)
    data = export(plan_of(depth=12))
    write_json(tmp_path / "target.json", data)
    titan = SimpleNamespace(
        OptimizersContainer=SimpleNamespace(Config=SimpleNamespace), ParamGroupConfig=SimpleNamespace
    )
    monkeypatch.setitem(sys.modules, "torchtitan.components.optimizer", titan)
    known: dict[str, Any] = {}
    exec(next(block for block in code_blocks() if "torchtitan" in block), known)
    configs = known["optimizer"].param_groups
    assert len(configs) == len(data["groups"])
    for config, group in zip(configs, data["groups"], strict=True):
        assert config.optimizer_kwargs["lr"] == group["lr"]
        inserted = [re.sub(r"^(blocks\.\d+)", r"\1._orig_mod", name) for name in group["names"]]
        for name in (*group["names"], *inserted):
            assert [other for other in configs if re.search(other.pattern, name)] == [config], name
