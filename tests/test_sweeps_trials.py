"""Sweep files: what is read, what is refused, and which trials come of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from hptransfer.errors import UserError
from hptransfer.sweeps import Sweep, Trial, load_sweep, sampler_of
from hptransfer.sweeps import expand as expand_with
from hptransfer.sweeps.space import Overrides

ROOT = Path(__file__).parent.parent
SCHEMA = Draft7Validator(json.loads((ROOT / "tests/vendor/wandb_sweeps/schema.json").read_text()))

BASE = """\
model: {name: mlp, width: 16, depth: 1}
parametrization: {name: sp}
train: {tokens: 4096, batch_tokens: 256}
data: {source: text, path: corpus, seq_len: 16}
"""
SWEEP: dict[str, Any] = {
    "method": "grid",
    "command": ["hptransfer", "train", "base.yaml", "--train.seed=7", "${args}"],
    "parameters": {"optimizer.lr": {"values": [0.1, 0.01]}},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)


def write(**changes: Any) -> str:
    data = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    Path("sweep.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return "sweep.yaml"


def expand(sweep: Sweep, seed: int = 0, design: str = "random") -> list[Trial]:
    return expand_with(sweep, sampler_of(sweep.config, seed, design))


def points(seed: int = 0, **changes: Any) -> list[Overrides]:
    return [trial.overrides for trial in expand(load_sweep(write(**changes)), seed)]


def complaint(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        expand(load_sweep(write(**changes)))
    return str(caught.value)


def test_a_trial_is_base_fixed_overrides_and_its_point() -> None:
    trials = expand(load_sweep(write()))
    assert [trial.config.optimizer.lr for trial in trials] == [0.1, 0.01]
    assert {trial.config.train.seed for trial in trials} == {7}
    assert {trial.config.model.width for trial in trials} == {16}


def test_order_of_the_command_decides() -> None:
    both = {"parameters": {"train.seed": {"values": [1, 2]}}}
    assert [t.config.train.seed for t in expand(load_sweep(write(**both)))] == [1, 2]
    behind = ["hptransfer", "train", "base.yaml", "${args}", "train.seed=7"]
    assert [t.config.train.seed for t in expand(load_sweep(write(**both, command=behind)))] == [7, 7]


def test_a_mapping_is_one_parameter() -> None:
    ladder = [{"width": 16, "depth": 1}, {"width": 32, "depth": 2}]
    trials = expand(load_sweep(write(parameters={"model": {"values": ladder}})))
    assert [(t.config.model.width, t.config.model.depth) for t in trials] == [(16, 1), (32, 2)]
    assert {t.config.model.name for t in trials} == {"mlp"}


def test_nested_blocks_are_dotted_keys() -> None:
    nested = {"optimizer": {"parameters": {"lr": {"values": [0.1, 0.01]}}}}
    assert points(parameters=nested) == points()


def test_numbers_as_yaml_reads_them() -> None:
    write()
    Path("sweep.yaml").write_text(Path("sweep.yaml").read_text().replace("0.1", "1e-1").replace("0.01", "1e-2"))
    assert [t.config.optimizer.lr for t in expand(load_sweep("sweep.yaml"))] == [0.1, 0.01]


def test_run_cap_caps_a_grid() -> None:
    assert points(run_cap=1) == points()[:1]


def test_random_draws_are_fixed_by_the_seed_and_only_added_to_by_run_cap() -> None:
    random = {
        "method": "random",
        "parameters": {"optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1}},
    }
    few, many = points(run_cap=3, **random), points(run_cap=9, **random)
    assert few == many[:3]
    assert len({p["optimizer.lr"] for p in many}) == 9
    assert points(seed=1, run_cap=3, **random) != few


def test_trials_are_filed_under_the_sweep() -> None:
    trial = expand(load_sweep(write(name="lr ladder", project="p", entity="e")))[0]
    assert (trial.config.tracking.group, trial.config.tracking.project, trial.config.tracking.entity) == (
        "lr ladder",
        "p",
        "e",
    )
    assert expand(load_sweep(write()))[0].config.tracking.group == "sweep"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"parameters": {"optimiser.lr": {"values": [0.1]}}},
            "sweep.yaml: parameters.optimiser.lr=0.1: optimiser: unknown key (= {'lr': 0.1}); "
            "did you mean 'optimizer'?",
        ),
        (
            {"parameters": {"optimizer.lr": {"values": [0.1, -1]}}},
            "sweep.yaml: parameters.optimizer.lr=-1: optimizer.lr: input should be greater than 0, got -1",
        ),
        (
            {"command": ["train", "base.yaml", "--train.seed=x", "${args}"]},
            "sweep.yaml: command: train.seed=x: train.seed: expected a number, got 'x'",
        ),
        (
            {"parameters": {"data.seq_len": {"values": [16, 48]}}},
            "base.yaml: train.batch_tokens: 256 is not a multiple of data.seq_len = 48; nearest: 240 or 288 "
            "(in the trial data.seq_len=48 of sweep.yaml)",
        ),
        (
            {"parameters": {"optimizer.lr": {"vals": [1]}}},
            "sweep.yaml: parameters.optimizer.lr.vals: unknown key (= [1]); did you mean 'values'?",
        ),
        (
            {"parameters": {"optimizer.lr": {"values": []}}},
            "sweep.yaml: parameters.optimizer.lr: values is empty: nothing to try",
        ),
        ({"method": "gird"}, "sweep.yaml: method: got 'gird'; allowed: grid, random, bayes; did you mean 'grid'?"),
        ({"metric": {"name": "accuracy"}}, "sweep.yaml: metric.name: got 'accuracy'; allowed: loss"),
        ({"controller": {"type": "local"}}, "sweep.yaml: controller: not supported here; hptransfer is the controller"),
        ({"executor": "slurm"}, None),
        (
            {"method": "random"},
            "sweep.yaml: run_cap: missing: method random draws until it is told how many runs are enough",
        ),
        (
            {"parameters": {"optimizer.lr": {"min": 0.1, "max": 0.2}}},
            "sweep.yaml: parameters.optimizer.lr: distribution uniform has no list of values; grid takes value, "
            "values, int_uniform or q_uniform (or use method: random)",
        ),
        ({"command": ["train", "bse.yaml", "${args}"]}, "bse.yaml: no such file; did you mean 'base.yaml'?"),
    ],
)
def test_one_line_says_what_is_wrong(changes: dict[str, Any], line: str | None) -> None:
    said = complaint(**changes)
    assert "\n" not in said and said.startswith(line or "sweep.yaml: executor: unknown key")


@pytest.mark.parametrize(
    "command",
    [
        None,
        ["hptransfer", "base.yaml", "${args}"],
        ["train", "base.yaml"],
        ["train", "${args}"],
        ["train", "a.yaml", "b.yaml", "${args}"],
        ["train", "base.yaml", "${args_json}"],
        ["train", "base.yaml", "--verbose", "${args}"],
    ],
)
def test_a_command_that_names_no_run_is_refused(command: list[str] | None) -> None:
    said = complaint(command=command)
    assert said.startswith("sweep.yaml: command: ") and "\n" not in said


def test_no_parameters_no_sweep() -> None:
    assert complaint(parameters={}).startswith("sweep.yaml: parameters: ")
    assert complaint(parameters=None).startswith("sweep.yaml: parameters: missing")


def test_w_and_b_takes_the_files_of_these_tests() -> None:
    write(run_cap=3, name="x", metric={"name": "loss", "goal": "minimize"})
    assert not list(SCHEMA.iter_errors(yaml.safe_load(Path("sweep.yaml").read_text())))
    assert list(SCHEMA.iter_errors({**SWEEP, "executor": "slurm"}))


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is valid for W&B, and each of its trials is a valid run."""
    monkeypatch.chdir(ROOT)
    assert not list(SCHEMA.iter_errors(yaml.safe_load(path.read_text())))
    assert expand(load_sweep(path.relative_to(ROOT)))
    assert os.sep not in load_sweep(path).name
