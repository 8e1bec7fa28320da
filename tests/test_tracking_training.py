"""Real training with a tracker: what is in W&B is what the run record has, whatever happened on the way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_wandb import FakeWandb

from hptransfer.config import RunConfig
from hptransfer.training import Step, train

pytestmark = pytest.mark.usefixtures("wandb_session")


def test_interrupted_and_resumed(tmp_path: Path, server: FakeWandb, on_text: Callable[..., RunConfig]) -> None:
    config = on_text(tracking={"wandb": "online", "group": "sweep"}, train={"eval_every": 5})

    def interrupt_at(step: Step) -> None:
        if step.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, interrupt_at)
    record = train(config, tmp_path)
    (run,) = server.runs.values()
    lines = list(record.metrics())
    assert [entry["_step"] for entry in run.history] == [line["step"] for line in lines] == list(range(1, 13))
    for entry, line in zip(run.history, lines, strict=True):
        assert entry["train/loss"] == pytest.approx(line["loss"], rel=1e-12)
        assert entry["tokens"] == line["tokens"]
        assert entry["flops"] > 0
        assert entry.get("loss") == line.get("validation_loss")
    assert run.state == "finished"
    assert record.result is not None
    assert run.summary["loss"] == pytest.approx(record.result["loss"], rel=1e-12)
    assert run.config["lr_hidden"] == record.result["lr_hidden"]


def test_asked_for_again(tmp_path: Path, server: FakeWandb, on_text: Callable[..., RunConfig]) -> None:
    record = train(on_text(), tmp_path)
    assert not server.runs
    train(on_text(tracking={"wandb": "online"}), tmp_path)
    (run,) = server.runs.values()
    assert run.name == record.path.name
    assert [entry["_step"] for entry in run.history] == list(range(1, 13))


def test_tracking_changes_no_number(tmp_path: Path, on_text: Callable[..., RunConfig]) -> None:
    plain = train(on_text(), tmp_path / "plain")
    tracked = train(on_text(tracking={"wandb": "offline"}), tmp_path / "tracked")
    assert tracked.path.name == plain.path.name
    assert list(tracked.metrics()) == list(plain.metrics())
