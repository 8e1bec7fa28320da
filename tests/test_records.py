"""Run records: their names, their files, and the rows that fits and reports read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import configs, tiny, write

from hptransfer import records
from hptransfer.config import RunConfig, load_config, to_yaml
from hptransfer.errors import UserError
from hptransfer.records import (
    Metrics,
    Record,
    find_records,
    identity,
    read_json,
    read_rows,
    recipe,
    to_json,
    write_json,
)
from hptransfer.rows import RECIPE, row_of

FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# --- identity ---

OTHER: dict[str, dict[str, Any]] = {
    "model": {
        "name": "mlp",
        "width": 32,
        "depth": 3,
        "heads": 2,
        "head_dim": 4,
        "kv_heads": 1,
        "ffn_ratio": 3,
        "norm": "rmsnorm",
        "activation": "swiglu",
        "positions": "learned",
        "qk_norm": True,
        "tie_embeddings": True,
        "experts": 4,
        "experts_per_token": 2,
        "load_balance": 0.1,
    },
    "parametrization": {
        "name": "mup",
        "base_width": 8,
        "base_depth": 1,
        "alpha": 0.5,
        "base_head_dim": 4,
        "base_kv_heads": 1,
        "base_ffn_ratio": 3,
        "base_tokens": 6400,
        "base_batch_tokens": 32,
        "init_std": 0.03,
        "multipliers": {"input": 2},
        "lr_multipliers": {"hidden": 2},
        "init_multipliers": {"hidden": 2},
        "scale_eps": False,
        "decay_vectors": True,
        "weight_decay_rule": "sqrt",
        "embedding_lr": "inverse_sqrt",
    },
    "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 0.2, "betas": [0.8, 0.95], "eps": 1e-9},
    "schedule": {"name": "cosine", "warmup": 0.2, "final": 0.2},
    "data": {"source": "tokens", "path": "elsewhere", "seq_len": 32, "tokenizer": "bpe", "vocab_size": 256},
    "train": {
        "tokens": 1280,
        "tokens_per_param": 3,
        "batch_tokens": 128,
        "micro_batch": 2,
        "seed": 1,
        "grad_clip": 2,
        "precision": "float64",
        "compile": True,
        "eval_tokens": 64,
        "eval_every": 2,
        "log_every": 2,
        "watch_every": 7,
        "device": "cuda",
        "threads": 2,
        "checkpoint_seconds": 1,
        "save_weights": False,
        "keep_stable": True,
    },
    "tracking": {
        "wandb": "offline",
        "project": "p",
        "entity": "e",
        "group": "g",
        "name": "n",
        "job_type": "j",
        "tags": ["t"],
    },
}
"""Another value for every key there is: a new key has to say here on which side it stands."""
IGNORED = {
    "data.path",
    "train.device",
    "train.threads",
    "train.checkpoint_seconds",
    "train.save_weights",
    "train.keep_stable",
}
BESIDE = {"train.keep_stable": {"schedule": {"name": "wsd"}}}
"""Keys that need others, with which they are compared."""
TOGETHER: dict[str, dict[str, Any]] = {
    "model.experts": {"model": {"experts_per_token": 1}},
    "model.experts_per_token": {"model": {"experts": 4}},
    "model.load_balance": {"model": {"experts": 4, "experts_per_token": 2}},
    "model.name": {"model": {"heads": None}},
    "model.heads": {"model": {"head_dim": None}},
    "data.source": {"data": {"vocab_size": 256}},
    "data.tokenizer": {"data": {"vocab_size": 300}},
    "train.tokens_per_param": {"train": {"tokens": None}},
}
KEYS = [f"{section}.{key}" for section, keys in OTHER.items() for key in keys]


def test_every_key_has_been_thought_of() -> None:
    assert {section: set(keys) for section, keys in tiny().model_dump().items()} == {
        section: set(keys) for section, keys in OTHER.items()
    }


def changed(key: str) -> RunConfig:
    section, name = key.split(".")
    sections = {section: {name: OTHER[section][name]}}
    for other, keys in (TOGETHER | BESIDE).get(key, {}).items():
        sections[other] = {**keys, **sections.get(other, {})}
    if key == "data.source":
        sections["data"]["path"] = "text"
    return tiny(**sections)


@pytest.mark.parametrize("key", KEYS)
def test_a_name_hangs_on_what_determines_the_result_and_on_nothing_else(key: str) -> None:
    same = key in IGNORED or key.startswith("tracking.")
    assert (identity(changed(key), "data") == identity(tiny(**BESIDE.get(key, {})), "data")) is same


@given(st.lists(st.sampled_from(sorted(IGNORED)), unique=True))
def test_all_that_is_ignored_at_once(keys: list[str]) -> None:
    beside: dict[str, dict[str, Any]] = {"schedule": {"name": "wsd"}}
    sections: dict[str, dict[str, Any]] = {"tracking": OTHER["tracking"], **beside}
    for key in keys:
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = OTHER[section][name]
    assert identity(tiny(**sections), "data") == identity(tiny(**beside), "data")


def test_content_and_numerics_are_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = identity(tiny(), "data")
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert identity(tiny(), "other data") != name
    monkeypatch.setattr(records, "NUMERICS_VERSION", records.NUMERICS_VERSION + 1)
    assert identity(tiny(), "data") != name


@given(configs())
@FILES
def test_a_name_survives_yaml(tmp_path: Path, config: RunConfig) -> None:
    again = load_config(write(tmp_path / "run.yaml", to_yaml(config.to_dict())))
    assert identity(again, "data") == identity(config, "data")


def test_the_recipe() -> None:
    assert recipe(tiny(), "0123456789") == {
        "parametrization": "completep",
        "base_width": 16,
        "base_depth": 2,
        "model": "gpt",
        "optimizer": "adamw",
        "schedule": "linear",
        "warmup": 0.1,
        "seq_len": 16,
        "data": "text:01234567",
        "precision": "float32",
    }
    assert set(recipe(tiny(), "0")) <= set(RECIPE)
    options = {"weight_decay_rule": "sqrt", "embedding_lr": "constant"}
    assert options.items() <= recipe(tiny(parametrization=options)).items()
    assert recipe(tiny(model={"experts": 8, "experts_per_token": 2}))["model"] == "gpt:1/4 of experts"


# --- files ---


@given(
    st.recursive(
        st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_valid_whatever_the_numbers(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(to_json(value), parse_constant=refuse)


def test_what_is_not_finite_is_null() -> None:
    assert to_json({"a": math.nan, "b": [math.inf, (-math.inf, 1.5)]}) == '{"a": null, "b": [null, [null, 1.5]]}'


def test_metrics_are_cut_back_to_what_a_checkpoint_knows(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write({"step": 1, "loss": math.nan})
    end = metrics.sync()
    metrics.write({"step": 2})
    metrics.close()
    metrics = Metrics(tmp_path / "metrics.jsonl", end)
    metrics.write({"step": 3})
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "loss": null}\n{"step": 3}\n'


def test_a_line_of_metrics_is_there_for_others_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PROMPT", 1e9)
    metrics, path = Metrics(tmp_path / "metrics.jsonl", 0), tmp_path / "metrics.jsonl"
    metrics.write({"step": 1})
    assert path.read_text() == '{"step": 1}\n'
    metrics.write({"step": 2})
    assert path.read_text() == '{"step": 1}\n'
    monkeypatch.setattr(records, "PROMPT", 0.0)
    metrics.write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    metrics.close()


def test_metrics_that_are_shorter_than_a_checkpoint_knows_are_not_filled_up(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", "{}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: 3 bytes, but the checkpoint beside it goes on from byte 99"):
        Metrics(tmp_path / "metrics.jsonl", 99)
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", '{"step": 1}\n{"step": 2}\n{"ste')
    assert list(Record(tmp_path).metrics()) == [{"step": 1}, {"step": 2}]
    assert list(Record(tmp_path / "nowhere").metrics()) == []


@pytest.mark.parametrize("text", ['{"loss": ', "[1]", "", "\x00"])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    write(tmp_path / "result.json", text)
    with pytest.raises(UserError, match=r"result\.json: ") as caught:
        read_json(tmp_path / "result.json")
    assert "\n" not in str(caught.value)
    assert read_json(tmp_path / "nothing.json") is None


def test_a_damaged_config_is_in_lines_about_it(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", "model: {width: 4}\nparametrization: {name: sp}\n")
    with pytest.raises(UserError, match=r"config\.yaml: model\.depth: missing"):
        Record(tmp_path).config  # noqa: B018


def test_what_a_tracker_leaves_inside_of_a_run_is_no_run(tmp_path: Path) -> None:
    for path in ("b/config.yaml", "a/config.yaml", "a/wandb/offline-run-1/files/config.yaml", "x/y/c/config.yaml"):
        write(tmp_path / path, "{}")
    names = [record.path.relative_to(tmp_path).as_posix() for record in find_records(tmp_path)]
    assert names == ["a", "b", "x/y/c"]
    assert [record.path for record in find_records(tmp_path / "a")] == [tmp_path / "a"]


# --- rows ---

RESULT = {
    "status": "finished",
    "loss": 2.5,
    "params": 1000,
    "tokens": 20000,
    "lr": 0.01,
    "batch_tokens": 64,
    "weight_decay": 0.1,
    "width": 16,
    "depth": 2,
    "seed": 3,
    "parametrization": "completep",
    "base_width": 16,
    "seconds": 1.5,
}


def run(folder: Path, **changes: Any) -> Path:
    """A run folder that has ended."""
    write(folder / "config.yaml", "{}")
    write_json(folder / "result.json", RESULT | changes)
    return folder


def test_the_row_of_a_run(tmp_path: Path) -> None:
    row = Record(run(tmp_path / "a")).row()
    assert row is not None
    assert (row.loss, row.params, row.tokens, row.seed, row.status) == (2.5, 1000, 20000, 3, "finished")
    assert (row.lr_hidden, row.flops, row.seconds) == (None, None, 1.5)
    assert row.recipe == {"parametrization": "completep", "base_width": 16}
    assert row.source == str(tmp_path / "a")


def test_rows_of_folders_each_once_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "a")
    run(tmp_path / "runs" / "b", status="diverged", loss=None)
    write(tmp_path / "runs" / "c" / "config.yaml", "{}")
    said: list[str] = []
    rows = read_rows([tmp_path / "runs", tmp_path / "runs" / "a"], said.append)
    assert [Path(row.source).name for row in rows] == ["a", "b"]
    assert math.isnan(rows[1].loss)
    assert said == [f"{tmp_path}/runs: 1 of 3 runs have not ended and are left out"]
    with pytest.raises(UserError, match="no ended run in it"):
        read_rows([tmp_path / "runs" / "c"])
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        read_rows([tmp_path / "nowhere"])


@pytest.mark.parametrize(("name", "bad"), [("params", 0), ("tokens", None), ("lr", math.inf), ("batch_tokens", "x")])
def test_a_result_without_what_a_row_needs(name: str, bad: Any) -> None:
    with pytest.raises(UserError, match=f"^somewhere: {name}: expected a"):
        row_of(RESULT | {name: bad}, "somewhere")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file unreadable, whoever asks (root reads all)."""

    def forbid(path: Path) -> None:
        real = Path.read_text

        def read_text(self: Path, *args: Any, **options: Any) -> str:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *args, **options)

        monkeypatch.setattr(Path, "read_text", read_text)

    return forbid


def test_a_result_that_may_not_be_read(tmp_path: Path, unread: Callable[[Path], None]) -> None:
    unread(run(tmp_path / "a") / "result.json")
    with pytest.raises(UserError, match=r"result\.json: cannot read: .*Permission denied"):
        read_rows([tmp_path / "a"])
