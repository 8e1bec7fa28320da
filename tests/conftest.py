"""What several test files need: a small corpus of real-looking text, and configs that train on it."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import plain, tiny

from hptransfer.config import RunConfig

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
