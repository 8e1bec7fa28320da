"""The training loop: what a run leaves, and that nothing which happens to it on the way can be seen in that."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from processes import wait_for
from tiny import write

from hptransfer import records, training
from hptransfer.config import RunConfig, to_yaml
from hptransfer.data import open_data
from hptransfer.errors import UserError
from hptransfer.records import Record, identity, read_rows
from hptransfer.scaling import build, resolve
from hptransfer.schedules import factor, progress
from hptransfer.training import Busy, Step, Trainer, run_folder, train

Make = Callable[..., RunConfig]
RESULT_KEYS = """status loss params params_total tokens tokens_seen batch_tokens lr weight_decay lr_hidden
weight_decay_hidden width depth seed flops seconds parametrization base_width base_depth optimizer schedule seq_len data
precision"""
EVENTFUL = {"train": {"log_every": 3, "eval_every": 4, "eval_tokens": 64}}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def metrics(record: Record) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, as strict JSON."""
    text = (record.path / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def raw(record: Record) -> bytes:
    return (record.path / "metrics.jsonl").read_bytes()


def outcome(record: Record) -> dict[str, Any]:
    """The result without what a clock says."""
    assert record.result is not None
    return {key: value for key, value in record.result.items() if key != "seconds"}


def interrupting(at: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.step == at:
            raise KeyboardInterrupt

    return on_step


def one_line(problem: BaseException) -> str:
    text = str(problem)
    assert "\n" not in text
    return text


# --- what a run leaves ---


def test_a_run_leaves_all_that_others_rely_on(tmp_path: Path, on_text: Make) -> None:
    config = on_text()
    record = train(config, tmp_path)
    result = record.result
    assert result is not None
    assert set(result) >= set(RESULT_KEYS.split())
    assert (result["status"], result["tokens"], result["tokens_seen"]) == ("finished", 768, 768)
    assert 0 < result["loss"] < math.log(256)
    assert (result["lr"], result["lr_hidden"], result["width"], result["depth"]) == (0.01, 0.01, 16, 2)
    assert record.path == run_folder(config, tmp_path)
    assert record.path.parent == tmp_path
    assert record.config == resolve(config).config
    assert {path.name for path in record.path.iterdir()} - {".lock"} == {
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "weights.pt",
    }
    row = record.row()
    assert row is not None
    assert row.loss == result["loss"]
    assert read_rows([tmp_path]) == [row]


def test_a_run_without_a_base_says_so(tmp_path: Path, on_text: Make) -> None:
    result = train(on_text(parametrization={"name": "sp", "base_width": None, "base_depth": None}), tmp_path).result
    assert result is not None
    assert set(result) >= set(RESULT_KEYS.split())
    assert (result["base_width"], result["base_depth"]) == (None, None)
    (row,) = read_rows([tmp_path])
    assert "base_width" not in row.recipe


def test_metrics(tmp_path: Path, on_text: Make) -> None:
    config = on_text(schedule={"name": "cosine", "warmup": 0.25})
    lines = metrics(train(config, tmp_path))
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["tokens"] for line in lines] == [64 * step for step in range(1, 13)]
    assert [line["lr"] for line in lines] == [0.01 * factor(config.schedule, progress(step, 12)) for step in range(12)]
    assert set(lines[0]) == {"step", "tokens", "flops", "loss", "lr", "grad_norm"}
    assert lines[0]["loss"] == pytest.approx(math.log(256), rel=0.02)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_training_minimises_more_than_it_reports(tmp_path: Path, on_text: Make) -> None:
    """`loss` is the cross-entropy alone; the load-balance loss stands beside it, and is trained on."""
    experts = {"experts": 4, "experts_per_token": 1}
    uneven = {"init_multipliers": {"hidden.router": 50}}
    weak, strong = (
        train(on_text(model={**experts, "load_balance": coefficient}, parametrization=uneven), tmp_path)
        for coefficient in (1e-9, 100)
    )
    first = [metrics(record)[0] for record in (weak, strong)]
    assert first[0]["loss"] == first[1]["loss"] == pytest.approx(math.log(256), rel=0.02)
    assert first[0]["auxiliary_loss"] * 1e11 == pytest.approx(first[1]["auxiliary_loss"], rel=1e-5)
    last = [metrics(record)[-1]["auxiliary_loss"] for record in (weak, strong)]
    assert last[1] < min(first[1]["auxiliary_loss"], 0.5e11 * last[0])
    assert strong.result is not None
    assert strong.result["loss"] < 2 * math.log(256) < 100


def test_rare_lines_and_held_out_losses(tmp_path: Path, on_text: Make) -> None:
    lines = metrics(train(on_text(**EVENTFUL), tmp_path))
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 12]
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]


def test_the_same_run_twice_is_the_same_bit_for_bit(tmp_path: Path, on_text: Make) -> None:
    first, second = (train(on_text(**EVENTFUL), tmp_path / name) for name in "ab")
    assert first.path.name == second.path.name
    assert raw(first) == raw(second)
    assert outcome(first) == outcome(second)
    assert raw(train(on_text(train={"seed": 1}), tmp_path)) != raw(train(on_text(), tmp_path))


def test_the_weights_give_the_recorded_loss(tmp_path: Path, on_text: Make) -> None:
    """Training and inference are one forward path, at a shape where every multiplier matters."""
    config = on_text(model={"width": 32, "depth": 4})
    record = train(config, tmp_path)
    assert record.result is not None
    plan = resolve(config)
    model = build(plan)
    model.load_state_dict(torch.load(record.path / "weights.pt", weights_only=True))
    inputs, targets = map(torch.from_numpy, open_data(plan.config.data, tmp_path).validation(8))
    with torch.no_grad():
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(record.result["loss"], rel=1e-6)


def test_the_weights_need_not_be_kept(tmp_path: Path, on_text: Make) -> None:
    record = train(on_text(train={"save_weights": False}), tmp_path)
    assert not (record.path / "weights.pt").exists()


def test_the_held_out_set_hangs_on_nothing(tmp_path: Path, on_text: Make) -> None:
    """All runs of one step of size nearly 0 have the loss of the initial weights: that of seed 0 whatever the rest."""
    still = {"optimizer": {"lr": 1e-30}, "train": {"tokens": 64}}
    base = train(on_text(**still), tmp_path).result
    for train_keys in ({"micro_batch": 1}, {"batch_tokens": 32}, {"eval_tokens": 10**9}, {"log_every": 5}):
        other = train(on_text(**{**still, "train": {"tokens": 64, **train_keys}}), tmp_path).result
        assert base is not None
        assert other is not None
        if "eval_tokens" in train_keys:
            assert other["eval_tokens"] > base["eval_tokens"] == 128
        else:
            assert other["loss"] == pytest.approx(base["loss"], rel=1e-6)


# --- numerics ---


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, on_text: Make, micro_batch: int) -> None:
    """In float64, by the losses, gradient norms and weights of 12 steps."""
    precise = {"precision": "float64", "grad_clip": 0.1}
    whole = train(on_text(train=precise), tmp_path)
    parts = train(on_text(train={**precise, "micro_batch": micro_batch}), tmp_path)
    for a, b in zip(metrics(whole), metrics(parts), strict=True):
        assert (a["loss"], a["grad_norm"]) == pytest.approx((b["loss"], b["grad_norm"]), rel=1e-9)
    weights = [torch.load(record.path / "weights.pt", weights_only=True) for record in (whole, parts)]
    for name, tensor in weights[0].items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [0.0, 0.01, 1000.0])
def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path, on_text: Make, clip: float) -> None:
    """One step of plain SGD under SP moves all weights together by lr * min(norm, clip)."""
    config = on_text(
        parametrization={"name": "sp"},
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0},
        schedule={"name": "constant", "warmup": 0},
        train={"tokens": 64, "grad_clip": clip, "precision": "float64"},
    )
    record = train(config, tmp_path)
    before = build(resolve(config)).double().state_dict()
    after = torch.load(record.path / "weights.pt", weights_only=True)
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    norm = metrics(record)[0]["grad_norm"]
    assert moved == pytest.approx(0.1 * (min(norm, clip) if clip else norm), rel=1e-4)


def test_every_group_follows_its_own_peak(tmp_path: Path, on_text: Make) -> None:
    config = on_text(model={"width": 64, "depth": 4}, train={"tokens": 128})
    plan = resolve(config)
    data = open_data(plan.config.data, tmp_path)
    trainer = Trainer(plan, data, Record(tmp_path / "run"))
    trainer.run(None)
    groups = trainer.optimizer.param_groups
    peaks = {group["peak_lr"] for group in groups}
    assert peaks == {tensor.lr for tensor in plan.tensors} == {0.01, 0.0025}
    for group in groups:
        assert group["lr"] == group["peak_lr"] * factor(config.schedule, progress(1, 2))


def test_precisions(tmp_path: Path, on_text: Make) -> None:
    losses = {}
    for precision in ("float32", "bfloat16", "float64"):
        record = train(on_text(train={"precision": precision}), tmp_path)
        assert record.result is not None
        losses[precision] = record.result["loss"]
        weights = torch.load(record.path / "weights.pt", weights_only=True)
        assert {tensor.dtype for tensor in weights.values()} == {
            torch.float64 if precision == "float64" else torch.float32
        }
    assert losses["float32"] == pytest.approx(losses["float64"], rel=1e-5)
    assert losses["float32"] != losses["float64"]
    assert losses["bfloat16"] == pytest.approx(losses["float64"], rel=1e-2)
    assert losses["bfloat16"] != pytest.approx(losses["float64"], rel=1e-7)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"name": "mlp", "window": 4}},
        {"model": {"norm": "rmsnorm", "activation": "swiglu", "qk_norm": True, "kv_heads": 1, "tie_embeddings": True}},
        {"model": {"experts": 4, "experts_per_token": 2}},
        {"optimizer": {"name": "sgd", "lr": 0.5}},
        {"parametrization": {"name": "sp", "base_width": None, "base_depth": None}},
        {"schedule": {"name": "wsd"}},
        {"schedule": {"name": "constant", "warmup": 0}},
        {"data": {"tokenizer": "bpe", "vocab_size": 300}},
    ],
    ids=["mlp", "rich", "experts", "sgd", "sp", "wsd", "constant", "bpe"],
)
def test_whatever_is_trained_learns_and_can_be_resumed(tmp_path: Path, on_text: Make, sections: dict[str, Any]) -> None:
    config = on_text(**sections)
    whole = train(config, tmp_path / "whole")
    lines = metrics(whole)
    assert lines[-1]["loss"] < lines[0]["loss"]
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", interrupting(5))
    assert raw(train(config, tmp_path / "cut")) == raw(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled(tmp_path: Path, on_text: Make) -> None:
    small = {"model": {"name": "mlp", "width": 16, "depth": 1}}
    for on in (True, False):
        train(on_text(**small, train={"compile": on, "tokens": 256, "eval_tokens": 64}), tmp_path)
    compiled, eager = read_rows([tmp_path])
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-4)


# --- interruptions ---


@pytest.mark.parametrize("seed", range(4))
def test_interrupted_anywhere_any_number_of_times(tmp_path: Path, on_text: Make, seed: int) -> None:
    draw = random.Random(seed)
    config = on_text(**EVENTFUL, optimizer={"name": draw.choice(["adamw", "sgd"]), "lr": 0.02})
    whole = train(config, tmp_path / "whole")
    for at in sorted(draw.sample(range(1, 13), 3)):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut", interrupting(at))
        assert Record(run_folder(config, tmp_path / "cut")).result is None
    resumed = train(config, tmp_path / "cut")
    assert raw(resumed) == raw(whole)
    assert outcome(resumed) == outcome(whole)
    assert resumed.result is not None
    assert resumed.result["seconds"] > 0
    assert not (resumed.path / "checkpoint.pt").exists()


def test_what_stands_behind_the_last_checkpoint_is_cut_away(tmp_path: Path, on_text: Make) -> None:
    whole = train(on_text(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(on_text(), tmp_path / "cut", interrupting(7))
    path = run_folder(on_text(), tmp_path / "cut") / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 8, "loss": 1.0}\n{"ste')
    assert raw(train(on_text(), tmp_path / "cut")) == raw(whole)


@pytest.mark.parametrize("where", ["_losses", "_log", "validate"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(
    tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    config = on_text(**EVENTFUL)
    whole = train(config, tmp_path / "whole")
    real = getattr(Trainer, where)
    with monkeypatch.context() as patched:

        def signalled(self: Trainer, *args: Any, **options: Any) -> Any:
            if self.step == 4 and not asked:
                asked.append(self.step)
                os.kill(os.getpid(), number)
            return real(self, *args, **options)

        asked: list[int] = []
        patched.setattr(Trainer, where, signalled)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    assert asked
    resumed = train(config, tmp_path / "cut")
    assert raw(resumed) == raw(whole)
    assert outcome(resumed) == outcome(whole)


def test_an_interrupt_inside_of_a_step_is_not_saved(
    tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a step in a checkpoint would be done twice: the run goes on from the checkpoint before."""
    config = on_text()
    whole = train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", interrupting(3))
    real = Trainer._log
    with monkeypatch.context() as patched:

        def interrupted(self: Trainer, watched: dict[str, float], **values: float) -> None:
            if self.step == 6:
                raise KeyboardInterrupt
            real(self, watched, **values)

        patched.setattr(Trainer, "_log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    assert raw(train(config, tmp_path / "cut")) == raw(whole)


@pytest.mark.parametrize("status", ["stopped", "diverged", "finished"])
def test_interrupted_at_the_last_measurement(
    tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """How the run ended is known by then, and stays."""
    config = on_text(optimizer={"lr": 1e3 if status == "diverged" else 0.01}, train={"tokens": 64 * 60})
    on_step = (lambda step: step.step < 5) if status == "stopped" else None
    whole = train(config, tmp_path / "whole", on_step)
    assert outcome(whole)["status"] == status
    with monkeypatch.context() as patched:

        def interrupted(self: Trainer) -> float:
            raise KeyboardInterrupt

        patched.setattr(Trainer, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut", on_step)
    resumed = train(config, tmp_path / "cut")
    assert raw(resumed) == raw(whole)
    assert outcome(resumed) == outcome(whole)


def test_a_signal_at_the_last_measurement_is_not_lost(
    tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is done and recorded; whoever trains the next one hears of the Ctrl-C."""
    real = Trainer.validate

    def signalled(self: Trainer) -> tuple[float, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Trainer, "validate", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(on_text(), tmp_path)
    record = Record(run_folder(on_text(), tmp_path))
    assert outcome(record)["status"] == "finished"
    assert not (record.path / "checkpoint.pt").exists()


def started(config_file: Path, runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hptransfer", "train", str(config_file), "--runs", str(runs)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_killed_for_good_and_asked_to_end(tmp_path: Path, on_text: Make) -> None:
    """kill -9 between two checkpoints, then SIGTERM, then in peace: the metrics of an uninterrupted run."""
    config = on_text(train={"tokens": 64 * 400, "checkpoint_seconds": 0})
    file = write(tmp_path / "run.yaml", to_yaml(config.to_dict()))
    folder = run_folder(config, tmp_path / "cut")
    with started(file, tmp_path / "cut") as first:
        wait_for((folder / "checkpoint.pt").exists)
        first.kill()
    assert not (folder / "result.json").exists()
    reached = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    with started(file, tmp_path / "cut") as second:
        wait_for(lambda: torch.load(folder / "checkpoint.pt", weights_only=True)["step"] > reached)
        second.terminate()
        _, errors = second.communicate()
        assert second.returncode == 130
        assert errors.splitlines() == ["hptransfer: interrupted; the same command continues where this one stopped"]
    assert not (folder / "result.json").exists()
    quiet = config.updated(train={"checkpoint_seconds": 60})
    resumed, whole = (train(quiet, tmp_path / name) for name in ("cut", "whole"))
    assert raw(resumed) == raw(whole)
    assert outcome(resumed) == outcome(whole)


# --- ended, stopped, diverged ---


def test_a_finished_run_is_not_run_again(tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    record = train(on_text(), tmp_path)
    written = (record.path / "result.json").stat().st_mtime_ns
    replayed: list[Path] = []
    monkeypatch.setattr(training.tracking, "replay", lambda record, tracking: replayed.append(record.path))

    def forbidden(step: Step) -> None:
        raise AssertionError("trained again")

    elsewhere = {"threads": 2, "checkpoint_seconds": 1, "device": "cpu", "save_weights": False}
    again = train(on_text(train=elsewhere, tracking={"name": "x"}), tmp_path, forbidden)
    assert again == record
    assert (record.path / "result.json").stat().st_mtime_ns == written
    assert replayed == [record.path]


def test_on_step_sees_every_step_and_may_stop_the_run(tmp_path: Path, on_text: Make) -> None:
    seen: list[Step] = []

    def on_step(step: Step) -> bool:
        seen.append(step)
        return step.step < 5

    record = train(on_text(), tmp_path, on_step)
    assert [(step.step, step.steps, step.tokens) for step in seen] == [(n, 12, 64 * n) for n in range(1, 6)]
    assert [step.loss for step in seen] == [line["loss"] for line in metrics(record)]
    result = outcome(record)
    assert (result["status"], result["tokens"], result["tokens_seen"]) == ("stopped", 768, 320)
    assert result["loss"] < math.log(256)
    assert train(on_text(), tmp_path) == record


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"lr": 1e3}},
        {"optimizer": {"name": "sgd", "lr": 1e3}, "train": {"grad_clip": 0}},
        {"optimizer": {"name": "sgd", "lr": 1e30}, "schedule": {"name": "constant", "warmup": 0}},
        {"optimizer": {"lr": 1e38}, "schedule": {"name": "constant", "warmup": 0}},
    ],
    ids=["adamw", "sgd", "sgd-1e30", "adamw-1e38"],
)
def test_a_run_beyond_saving_is_recorded_as_such(tmp_path: Path, on_text: Make, sections: dict[str, Any]) -> None:
    sections["train"] = {**sections.get("train", {}), "tokens": 64 * 100}
    record = train(on_text(**sections), tmp_path)
    result = outcome(record)
    assert result["status"] == "diverged"
    assert result["loss"] is None or result["loss"] > math.log(256)
    assert result["tokens_seen"] <= 64 * 60
    assert metrics(record)[-1]["step"] == result["tokens_seen"] // 64
    (row,) = read_rows([tmp_path])
    assert row.status == "diverged"
    assert record.failure is None


def test_a_last_step_into_nowhere_is_a_divergence(tmp_path: Path, on_text: Make) -> None:
    """The only loss that was seen is that of the initial weights; the held-out one is not finite."""
    config = on_text(optimizer={"lr": 1e38}, schedule={"name": "constant", "warmup": 0}, train={"tokens": 64})
    record = train(config, tmp_path)
    assert (outcome(record)["status"], outcome(record)["loss"]) == ("diverged", None)
    assert len(read_rows([tmp_path])) == 1


# --- failures ---


def failing_on(step: int) -> Callable[[Step], None]:
    def on_step(seen: Step) -> None:
        if seen.step == step:
            raise RuntimeError("out of luck")

    return on_step


def test_a_failure_is_recorded_counted_and_forgotten_once_the_run_is_through(tmp_path: Path, on_text: Make) -> None:
    record = Record(run_folder(on_text(), tmp_path))
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="out of luck"):
            train(on_text(), tmp_path, failing_on(3))
        assert record.failure == {"message": "RuntimeError: out of luck", "attempts": attempt}
        assert record.result is None
    train(on_text(), tmp_path)
    assert record.failure is None
    assert record.result is not None


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes."),
    ],
)
def test_a_run_that_takes_too_much_memory(
    tmp_path: Path, on_text: Make, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(self: Trainer) -> None:
        raise problem

    monkeypatch.setattr(Trainer, "_train_step", fail)
    with pytest.raises(UserError, match=r": out of memory: the run takes about [\d.]+ [kMG]B; less with ") as caught:
        train(on_text(), tmp_path)
    one_line(caught.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "older"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, on_text: Make, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(on_text(), tmp_path, interrupting(5))
    record = Record(run_folder(on_text(), tmp_path))
    path = record.path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("not a checkpoint\n" * 10)
        case "other":
            torch.save({**state, "model": {"weight": torch.zeros(3)}}, path)
        case "older":
            torch.save({key: value for key, value in state.items() if key != "watch"}, path)
    before = raw(record)
    with pytest.raises(UserError) as caught:
        train(on_text(), tmp_path)
    assert one_line(caught.value).startswith(f"{path}: damaged (")
    assert raw(record) == before
    assert record.failure is not None
    assert record.failure["attempts"] == 1
    path.unlink()
    assert raw(train(on_text(), tmp_path)) == raw(train(on_text(), tmp_path / "whole"))


def test_metrics_that_went_missing_are_one_line(tmp_path: Path, on_text: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(on_text(), tmp_path, interrupting(5))
    (run_folder(on_text(), tmp_path) / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl: 0 bytes, but the checkpoint"):
        train(on_text(), tmp_path)


def test_a_run_that_another_process_is_at(tmp_path: Path, on_text: Make) -> None:
    folder = run_folder(on_text(), tmp_path)
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(Busy, match="another process is training this run") as caught:
        train(on_text(), tmp_path)
    one_line(caught.value)
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    assert train(on_text(), tmp_path).result is not None


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "meta"])
def test_a_device_that_is_not_there(tmp_path: Path, on_text: Make, device: str) -> None:
    with pytest.raises(UserError, match=f"train.device: '{device}' cannot be used here") as caught:
        train(on_text(train={"device": device}), tmp_path)
    one_line(caught.value)


def test_a_file_where_the_runs_should_be(tmp_path: Path, on_text: Make) -> None:
    write(tmp_path / "runs", "in the way")
    with pytest.raises(UserError, match=r"runs.*: cannot write: ") as caught:
        train(on_text(), tmp_path / "runs")
    one_line(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 1 MB (only root may mount one)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes of the disk free."""
    usage = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * max(0, usage.f_bavail * usage.f_frsize - leave))
    return ballast


@pytest.mark.parametrize("leave", [0, 4096, 40_000])
def test_a_full_disk_costs_one_line_alone(small_disk: Path, tmp_path: Path, on_text: Make, leave: int) -> None:
    """Full before the run begins, as it logs, and as it saves; freed, the run goes on from its checkpoint."""
    config = on_text(train={"checkpoint_seconds": 0})
    whole = train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, small_disk, interrupting(4))
    folder = run_folder(config, small_disk)
    ballast = fill(small_disk, leave)
    with pytest.raises(UserError, match=r"cannot write: No space left on device$") as caught:
        train(config, small_disk)
    assert str(folder) in one_line(caught.value)
    assert not (folder / "result.json").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".checkpoint")] == []
    ballast.unlink()
    resumed = train(config, small_disk)
    assert raw(resumed) == raw(whole)
    assert outcome(resumed) == outcome(whole)


def test_a_disk_that_is_full_for_a_while_costs_a_warning(
    small_disk: Path, tmp_path: Path, on_text: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint and no metrics fit from step 4 to step 8; nothing is missing at the end."""
    monkeypatch.setattr(records, "PROMPT", 0.0)
    config = on_text(train={"checkpoint_seconds": 0})
    whole = train(config, tmp_path / "whole")
    folder = run_folder(config, small_disk)
    kept: dict[str, bytes] = {}

    def on_step(step: Step) -> None:
        if step.step == 4:
            fill(small_disk, 0)
            kept["checkpoint"] = (folder / "checkpoint.pt").read_bytes()
        if step.step == 8:
            assert (folder / "checkpoint.pt").read_bytes() == kept["checkpoint"]
            (small_disk / "ballast").unlink()

    record = train(config, small_disk, on_step)
    assert raw(record) == raw(whole)
    assert outcome(record) == outcome(whole)
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(str(folder)) and "No space left on device; training goes on" in line


def test_a_disk_that_may_not_be_written(small_disk: Path, on_text: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(on_text(), small_disk, interrupting(4))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match="cannot write: Read-only file system") as caught:
        train(on_text(), small_disk)
    one_line(caught.value)


# --- names ---


def test_a_run_is_named_by_the_content_of_its_data(tmp_path: Path, on_text: Make, corpus: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in corpus.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    here, there = on_text(), on_text(data={"path": str(copied)})
    assert run_folder(here, tmp_path) == run_folder(there, tmp_path)
    (copied / "0.txt").write_text("something else entirely")
    assert run_folder(here, tmp_path) != run_folder(there, tmp_path)
    fingerprint = open_data(here.data, tmp_path).fingerprint
    assert run_folder(here, tmp_path).name == identity(resolve(here).config, fingerprint)


def test_batches_are_those_of_seed_and_step(tmp_path: Path, on_text: Make) -> None:
    data = open_data(on_text().data, tmp_path)
    assert np.array_equal(data.batch(0, 5, 4)[0], data.batch(0, 5, 4)[0])
    assert not np.array_equal(data.batch(0, 5, 4)[0], data.batch(0, 6, 4)[0])
