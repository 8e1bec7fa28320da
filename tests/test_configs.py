"""Every YAML that ships is a test: it is valid, means something, and trains."""

from pathlib import Path

import pytest
from idx import write_images

from hptransfer.config import load_config, run_schema
from hptransfer.scaling import resolve
from hptransfer.sweeps import expand, load_sweep, sampler_of
from hptransfer.training import train

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
LARGE = 20_000_000
"""Parameters that no test trains: such a config is trained at its base shape."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def short(path: Path, images: Path) -> list[str]:
    """Overrides that make a short run of any config: two steps of one sequence on a small corpus."""
    config = load_config(path)
    seq_len = config.data.seq_len
    overrides = [f"train.tokens={2 * seq_len}", f"train.batch_tokens={seq_len}", f"train.eval_tokens={seq_len}"]
    if config.data.source == "python_source":
        overrides.append("data.size_mb=1")
    if config.data.source == "images":
        overrides.append(f"data.path={images}")
    if resolve(config).params > LARGE:
        base = config.base_shape
        overrides.append(f"--model={{width: {base.width}, depth: {config.parametrization.base_depth}, kv_heads: null}}")
    return overrides


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_means_something(path: Path) -> None:
    plan = resolve(load_config(path))
    assert plan.steps >= 100
    assert resolve(plan.config) == plan
    assert path.read_text().startswith("# yaml-language-server: $schema=run.schema.json\n")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains(path: Path, runs: Path, images: Path) -> None:
    result = train(load_config(path, short(path, images)), runs).result
    assert result is not None
    assert result["status"] == "finished"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_expands_to_valid_runs(path: Path) -> None:
    sweep = load_sweep(path)
    trials = expand(sweep, sampler_of(sweep.config, seed=0))
    assert len(trials) > 1
    assert len({trial.config.model_dump_json() for trial in trials}) == len(trials)
    for trial in trials:
        resolve(trial.config)


def test_schema_file_is_the_one_that_the_code_prints() -> None:
    assert (ROOT / "configs/run.schema.json").read_text() == run_schema(), "hptransfer schema > configs/run.schema.json"
