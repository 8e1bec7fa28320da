"""What people do to models: logits, groups and training stay what they were."""

import copy
import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from foreign_model import VOCABULARY, Tied
from tiny import tiny
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import hptransfer
from hptransfer.foreign import Parametrized
from hptransfer.losses import losses
from hptransfer.plan import Plan
from hptransfer.scaling import build, resolve

STEPS, SEQUENCES, LENGTH = 4, 4, 8


class Case(NamedTuple):
    model: nn.Module
    source: Plan | Parametrized


def ours(**model: Any) -> Case:
    plan = resolve(tiny(model={"width": 32, "depth": 4, **model}))
    return Case(build(plan).double(), plan)


def theirs() -> Case:
    sizes = {"base": {"width": 16, "depth": 2}, "delta": {"width": 32, "depth": 2}, "target": {"width": 32, "depth": 4}}
    result = hptransfer.parametrize(Tied, **sizes, optimizer={"name": "adamw", "lr": 0.01})
    return Case(result.model.double(), result)


CASES: dict[str, Callable[[], Case]] = {
    "gpt": ours,
    "tied gpt": lambda: ours(tie_embeddings=True, positions="learned"),
    "mlp": lambda: ours(name="mlp"),
    "experts": lambda: ours(experts=4, experts_per_token=2),
    "foreign, tied": theirs,
}
each_case = pytest.mark.parametrize("name", CASES)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(step))
    return drawn[:, :-1], drawn[:, 1:]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        output = model(batch()[0])
    return output[0] if isinstance(output, tuple) else output


def numbers(model: nn.Module, source: Any) -> list[dict[str, Any]]:
    groups = hptransfer.param_groups(model, source)
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def train(model: nn.Module, source: Any, rows: slice = slice(None)) -> list[float]:
    """Losses of a few steps on some rows of every batch."""
    optimizer = torch.optim.AdamW(hptransfer.param_groups(model, source))
    found = []
    for step in range(STEPS):
        inputs, targets = (part[rows] for part in batch(step))
        cross_entropy, auxiliary = losses(model(inputs), targets)
        loss = cross_entropy + auxiliary
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.item())
    return found


def same(changed: nn.Module, case: Case, exactly: bool = True) -> None:
    """The changed model has the logits and the groups of the case's, and trains like it."""
    tolerance = 0 if exactly else 1e-12
    torch.testing.assert_close(logits(changed), logits(case.model), rtol=tolerance, atol=tolerance)
    assert numbers(changed, case.source) == numbers(case.model, case.source)
    assert train(changed, case.source) == pytest.approx(train(case.model, case.source), rel=1e-9)


def tied_again(model: nn.Module, case: Case) -> None:
    """`to_empty` and `assign=True` untie two modules that share a parameter; it is noticed, and the owner's to mend."""
    if isinstance(model, Tied):
        with pytest.raises(hptransfer.UserError, match=r"no numbers for the parameter 'readout\.weight'"):
            numbers(model, case.source)
        model.readout.weight = model.embedding.weight


@each_case
def test_deepcopy(name: str) -> None:
    case = CASES[name]()
    same(copy.deepcopy(case.model), case)


@each_case
def test_saved_and_assigned(name: str) -> None:
    """Saved weights assigned to a model on the meta device: nothing is copied, nothing drawn."""
    case = CASES[name]()
    file = io.BytesIO()
    torch.save(case.model.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(case.model).to("meta")
    other.load_state_dict(torch.load(file, weights_only=True), assign=True)
    tied_again(other, case)
    same(other, case)


@each_case
@pytest.mark.parametrize("whole", [True, False], ids=["fullgraph", "graph breaks allowed"])
def test_compiled(name: str, whole: bool) -> None:
    if name == "experts":
        pytest.skip("tests/test_models.py: the graph breaks where tokens are sent")
    case = CASES[name]()
    same(torch.compile(copy.deepcopy(case.model), backend="aot_eager", fullgraph=whole), case, exactly=False)


@each_case
def test_meta_device_then_materialised(name: str) -> None:
    case = CASES[name]()
    with torch.device("meta"):
        empty = CASES[name]().model
    assert all(parameter.is_meta for parameter in empty.parameters())
    full = empty.to_empty(device="cpu")
    tied_again(full, case)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.fill_(torch.nan)
    hptransfer.initialise(full, case.source)
    same(full, case)


@each_case
def test_safetensors(name: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="pip install 'hptransfer[hf]'")
    case = CASES[name]()
    safetensors.save_model(case.model, tmp_path / "model.safetensors")
    other = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    safetensors.load_model(other, tmp_path / "model.safetensors")
    same(other, case)


@each_case
def test_cast_to_bfloat16(name: str) -> None:
    case = CASES[name]()
    expected = logits(case.model)
    low = copy.deepcopy(case.model).bfloat16()
    near = (logits(low).double() - expected).norm() < 0.05 * expected.norm()
    assert near or name == "experts"  # a token near a tie goes elsewhere
    assert numbers(low, case.source) == numbers(case.model, case.source)


# --- two processes ---


def in_two_processes(work: Callable[..., None], name: str, folder: Path) -> list[Any]:
    """What both processes leave behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (work, name, folder, port), nprocs=2, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _process(rank: int, work: Callable[..., Any], name: str, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        half = slice(rank * SEQUENCES // 2, (rank + 1) * SEQUENCES // 2)
        torch.save(work(name, half), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def with_ddp(name: str, half: slice) -> dict[str, Any]:
    case = CASES[name]()
    model = DistributedDataParallel(case.model)
    first = logits(model)
    return {"groups": len(numbers(model, case.source)), "first": first, "losses": train(model, case.source, half)}


def with_fsdp2(name: str, half: slice) -> dict[str, Any]:
    """As large models begin: nothing is there until every process draws its own shards."""
    with torch.device("meta"):
        case = CASES[name]()
    model = case.model
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    model.to_empty(device="cpu")
    hptransfer.initialise(model, case.source)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    first = logits(model)
    model.reshard()  # a forward pass without a backward leaves the outermost parameters whole
    return {"groups": len(numbers(model, case.source)), "first": first, "losses": train(model, case.source, half)}


@pytest.mark.slow
@pytest.mark.parametrize("work", [with_ddp, with_fsdp2], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["tied gpt", "foreign, tied"])
def test_two_processes_train_as_one(name: str, work: Callable[..., None], tmp_path: Path) -> None:
    case = CASES[name]()
    expected = logits(case.model)
    alone = train(copy.deepcopy(case.model), case.source)
    first, second = in_two_processes(work, name, tmp_path)
    for found in (first, second):
        torch.testing.assert_close(found["first"], expected, rtol=1e-12, atol=1e-12)
        assert found["groups"] == len(numbers(case.model, case.source))
    together = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert together == pytest.approx(alone, rel=1e-9)
