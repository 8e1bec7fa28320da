"""The evidence benchmark on valleys whose optimum is known: which runs it asks for, and what it reads off them."""

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hptransfer.config import load_config
from hptransfer.scaling import resolve

ROOT = Path(__file__).parent.parent
HEADLINE = r"^\| parametrization \| size .*(?:\n\|.*)+"


def script(name: str) -> ModuleType:
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evidence, tables = script("evidence"), script("evidence_tables")


def valley(trial: Any) -> dict[str, Any]:
    """A result: sp's optimum falls by 0.8 octave for each doubling and its runs diverge at 2^-3; completep's stays."""
    drift = 0.8 * trial.size if trial.label == "sp" else 0.0
    offset = trial.exponent - (-6.2 - drift)
    noise = np.random.default_rng(hash((trial.exponent, trial.seed, trial.size)) % 2**32).normal(0, 0.003)
    loss = 2 - 0.05 * trial.size + 0.03 * offset**2 + 0.004 * offset**3 + noise
    size = dict(evidence.STUDIES["width"].sizes[trial.size])
    status = "diverged" if trial.exponent >= -3 else "finished"
    return {**size, "params": 1, "tokens": 1, "steps": 800, "lr": 2**trial.exponent, "status": status, "loss": loss}


@pytest.fixture(scope="module")
def done() -> dict[Any, dict[str, Any]]:
    """A study run to its end."""
    found: dict[Any, dict[str, Any]] = {}
    while trials := evidence.wanted("width", found):
        assert not set(trials) & set(found)
        found |= {trial: valley(trial) for trial in trials}
    return found


@pytest.mark.parametrize("name", evidence.STUDIES)
def test_every_study_is_of_runs_that_resolve(name: str) -> None:
    """The smallest size is the base of every parametrization that has one, and runs are as long as the study says."""
    study = evidence.STUDIES[name]
    for label in study.schemes:
        config = load_config(ROOT / study.config, evidence.Trial(name, label, 0, -6, 1).overrides())
        plan = resolve(config)
        assert (config.model.width, config.model.depth) == tuple(study.sizes[0].values())
        if config.parametrization.base_width is not None:
            assert (config.parametrization.base_width, config.parametrization.base_depth) == (
                config.model.width,
                config.model.depth,
            )
        assert config.optimizer.lr == 2**-6
        assert plan.steps >= (800 if name != "both" else 100)


def test_every_cell_ends_with_its_optimum_inside_and_seeds_about_it(done: dict[Any, dict[str, Any]]) -> None:
    study = evidence.STUDIES["width"]
    for label in study.schemes:
        base = evidence.best_of_cell("width", label, 0, done)
        for size in range(len(study.sizes)):
            best = evidence.best_of_cell("width", label, size, done)
            tried = {(t.exponent, t.seed) for t in done if (t.label, t.size) == (label, size)}
            assert {(best + step, 0) for step in (-1, -0.5, 0, 0.5, 1)} <= tried
            seeds = range(3 if size else 6)
            assert {(place, seed) for place in (best - 0.5, best, best + 0.5, base) for seed in seeds} <= tried
            assert len(tried) < 40


def test_drift_and_regret_of_a_known_valley(
    done: dict[Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    evidence.write("width", done)
    study = tables.read(tmp_path / "evidence_width_runs.csv")
    lines = {(line["parametrization"], line["width"]): line for line in tables.summary(study)}
    largest = lines["sp", 256]
    assert float(largest["drift low"]) < -2.4 < float(largest["drift high"])
    assert float(largest["drift"]) == pytest.approx(-2.4, abs=0.35)
    exact = 100 * (0.03 * 2.4**2 + 0.004 * 2.4**3) / 1.85
    assert float(largest["regret %"]) == pytest.approx(exact, rel=0.15)
    still = lines["mup = completep", 256]
    assert float(still["drift low"]) <= 0.02 and float(still["drift high"]) >= -0.02
    assert abs(float(still["regret %"])) < 0.2
    assert float(still["loss low"]) < 1.85 < float(still["loss high"])
    assert float(still["seed sd %"]) == pytest.approx(0.16, abs=0.08)
    assert "<svg" in tables.draw("width", study)


def test_a_diverged_run_is_worse_than_any_other(done: dict[Any, dict[str, Any]]) -> None:
    assert evidence.loss_of({"status": "diverged", "loss": 1.0}) == math.inf
    run = tables.Run
    assert tables.means([run(-3, 0, math.inf), run(-3, 1, 2.0)]) == {-3: math.inf}


def test_spread_by_hand() -> None:
    runs = [tables.Run(-6, seed, loss) for seed, loss in enumerate((1.98, 2.0, 2.02))] + [tables.Run(-5, 0, 3.0)]
    assert tables.spread(runs) == pytest.approx(0.01)


def test_documents_quote_the_committed_runs() -> None:
    """Every table of README and docs/evidence.md is what the tables of runs give."""
    documents = [ROOT / "README.md", ROOT / "docs/evidence.md"]
    quoted = [block for path in documents for block in re.findall(HEADLINE, path.read_text(), flags=re.MULTILINE)]
    given = {
        path.stem: tables.headline(tables.summary(tables.read(path)))
        for path in (ROOT / "benchmarks/results").glob("evidence_*_runs.csv")
    }
    assert set(quoted) == set(given.values())
