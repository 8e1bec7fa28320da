"""What several test files need: a small corpus of real-looking text, configs that train on it, a W&B session."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_wandb import FakeWandb, serve
from tiny import plain, tiny
from wandb_runs import point_at

from hptransfer.config import RunConfig
from hptransfer.tracking import core_process, tracker

torch.set_num_threads(1)

# In the background SIGINT is ignored, and every process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = ["the", "a", "rate", "width", "depth", "grows", "falls", "of", "model", "loss", "small", "large", "law"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 short texts, about 8 kB."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for number in range(24):
        lines = (" ".join(draw.choices(WORDS, k=8)) for _ in range(8))
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def on_text(corpus: Path) -> Callable[..., RunConfig]:
    """`tiny` configs on the corpus."""

    def make(**sections: dict[str, object]) -> RunConfig:
        return tiny(**{**sections, "data": {"path": str(corpus), **sections.get("data", {})}})

    return make


@pytest.fixture
def plain_on_text(corpus: Path) -> Callable[..., dict[str, object]]:
    """The same as plain data, for a config file."""

    def make(**sections: dict[str, object]) -> dict[str, object]:
        return plain(**{**sections, "data": {"path": str(corpus), **sections.get("data", {})}})

    return make


@pytest.fixture
def wandb_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No W&B settings of the machine's user, and nothing left of the session afterwards."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tracker, "_silent_until", 0.0)
    monkeypatch.setattr(core_process, "LEAVE", 5.0)
    yield
    core_process.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, wandb_session: None) -> Iterator[FakeWandb]:
    """A W&B server on loopback that the environment points at."""
    with serve() as fake:
        point_at(monkeypatch, fake)
        yield fake
