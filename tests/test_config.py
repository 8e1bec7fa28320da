"""From YAML and overrides to a config, and back: forms, errors and round trips."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import configs, plain, tiny, write

from hptransfer.config import RunConfig, load_config, run_schema
from hptransfer.errors import UserError
from hptransfer.loading import parse_override, parse_yaml, read_yaml, to_yaml
from hptransfer.parametrization import FAMILIES, SCHEMES
from hptransfer.shapes import default_head_dim

SMALLEST = "model: {width: 64, depth: 2}\nparametrization: {base_width: 32, base_depth: 2}\n"
FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    return load_config(write(folder / "run.yaml", text), overrides)


def complaint(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error, without the folder that the file is in."""
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


# --- what a file has to say, and how numbers may be written ---


def test_only_the_shape_and_the_base_shape_have_to_be_given(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert (config.parametrization.name, config.optimizer.name, config.model.name) == ("completep", "adamw", "gpt")
    assert (config.schedule.name, config.data.source, config.tracking.wandb) == ("linear", "python_source", "disabled")


def test_sp_needs_no_base(tmp_path: Path) -> None:
    assert load(tmp_path, "model: {width: 64, depth: 2}\nparametrization: {name: sp}\n").base_shape.width == 64


def test_an_embedding_lr_that_scales_needs_a_base(tmp_path: Path) -> None:
    text = "model: {width: 64, depth: 2}\nparametrization: {name: sp, embedding_lr: inverse_sqrt}\n"
    message = "run.yaml: parametrization: base_width missing: embedding_lr = inverse_sqrt is 1 there"
    assert complaint(tmp_path, text) == [message]
    assert load(tmp_path, text, "parametrization.base_width=32").parametrization.options.embedding_lr == "inverse_sqrt"


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "'1e-3'", ".001"])
def test_every_way_to_write_a_number(tmp_path: Path, written: str) -> None:
    assert load(tmp_path, f"{SMALLEST}optimizer: {{lr: {written}}}\n").optimizer.lr == 1e-3
    assert load(tmp_path, SMALLEST, f"optimizer.lr={written}").optimizer.lr == 1e-3


@pytest.mark.parametrize("written", ["1e6", "1000000", "1.0e+6", "1_000_000", "1000000.0"])
def test_every_way_to_write_a_whole_number(tmp_path: Path, written: str) -> None:
    tokens = load(tmp_path, f"{SMALLEST}train: {{tokens: {written}}}\n").train.tokens
    assert tokens == 1_000_000
    assert isinstance(tokens, int)


def test_nothing_changes_once_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path, SMALLEST).optimizer.lr = 1.0


# --- every error is a line: where, key path, value, what is allowed, the nearest name ---

BASE = "parametrization: {base_width: 32, base_depth: 2}"
COMPLAINTS = {
    "train: {tokns: 5}": "train.tokns: unknown key (= 5); did you mean 'tokens'?",
    "trian: {tokens: 5}": "trian: unknown key (= {'tokens': 5}); did you mean 'train'?",
    "optimizer: {beta: [0.9, 0.9]}": "optimizer.beta: unknown key (= [0.9, 0.9]); did you mean 'betas'?",
    "optimizer: {zzz: 0.9}": "optimizer.zzz: unknown key (= 0.9); allowed: name, lr, weight_decay, betas, eps",
    "optimizer: {name: sgd, eps: 1}": "optimizer.eps: unknown key (= 1); allowed: name, lr, weight_decay, momentum",
    "schedule: {wramup: null}": "schedule.wramup: unknown key (= None); did you mean 'warmup'?",
    "optimizer: {lr: fast}": "optimizer.lr: expected a number, got 'fast'",
    "optimizer: {lr: true}": "optimizer.lr: expected a number, got True",
    "optimizer: {lr: [0.1]}": "optimizer.lr: input should be a valid number, got [0.1]",
    "optimizer: {lr: 0}": "optimizer.lr: input should be greater than 0, got 0",
    "optimizer: {lr: .nan}": "optimizer.lr: input should be a finite number, got nan",
    "optimizer: {lr: .inf}": "optimizer.lr: input should be a finite number, got inf",
    "optimizer: {weight_decay: -1}": "optimizer.weight_decay: input should be greater than or equal to 0, got -1",
    "optimizer: {betas: [0.9, 1]}": "optimizer.betas.1: input should be less than 1, got 1",
    "optimizer: 3": "optimizer: expected a mapping of keys, got 3",
    "optimizer: {name: adam}": f"optimizer.name: unknown value 'adam'; allowed: {', '.join(FAMILIES)}; did you mean "
    "'adamw'?",
    "optimizer: {name: soap}": "optimizer: soap is not run here, its rows are printed: hptransfer table spectral soap; "
    f"allowed: {', '.join(FAMILIES)}",
    "schedule: {name: wds}": "schedule.name: unknown value 'wds'; allowed: linear, cosine, wsd, constant; "
    "did you mean 'wsd'?",
    "schedule: {name: wsd, warmup: 0.6, decay: 0.6}": "schedule: warmup + decay = 1.2 is more than the whole run",
    "schedule: {warmup: 2}": "schedule.warmup: input should be less than or equal to 1, got 2",
    "train: {tokens: 1.5}": "train.tokens: expected a whole number, got 1.5",
    "train: {tokens: .inf}": "train.tokens: expected a whole number, got inf",
    "train: {compile: 1}": "train.compile: input should be a valid boolean, got 1",
    "train: {precision: fp16}": "train.precision: got 'fp16'; allowed: float32, bfloat16, float64",
    "train: {tokens: 10, tokens_per_param: 20}": "train: give tokens (= 10) or tokens_per_param (= 20), not both",
    "train: {batch_tokens: 1000}": "train.batch_tokens: 1000 is not a multiple of data.seq_len = 256; "
    "nearest: 768 or 1024",
    "train: {batch_tokens: 100}": "train.batch_tokens: 100 is not a multiple of data.seq_len = 256; nearest: 256",
    "data: {source: text}": "data.path: missing: File, folder or glob, or a list of those.",
    "data: {source: txt}": "data.source: unknown value 'txt'; allowed: python_source, text, tokens, images; "
    "did you mean 'text'?",
    "data: {source: tokens, path: x}": "data.vocab_size: missing: Number of token ids.",
    "data: {tokenizer: bpe}": "data: vocab_size missing: tokenizer bpe needs the size of its vocabulary, e.g. 4096",
    "tracking: {wandb: true}": "tracking.wandb: got True; allowed: disabled, offline, online",
}


@pytest.mark.parametrize("text", COMPLAINTS)
def test_a_bad_key_or_value_is_one_line(tmp_path: Path, text: str) -> None:
    assert complaint(tmp_path, f"{SMALLEST}{text}\n") == [f"run.yaml: {COMPLAINTS[text]}"]


SHAPES = {
    "model: {width: -64, depth: 2}": "model.width: input should be greater than or equal to 1, got -64",
    "model: {width: 64}": "model.depth: missing: Number of blocks.",
    "model: {width: 64, depth: 2, heads: 5}": "model.heads: 5 does not divide model.width = 64; nearest: 2 or 4",
    "model: {width: 64, depth: 2, head_dim: 24}": "model.head_dim: 24 does not divide model.width = 64; "
    "nearest: 16 or 32",
    "model: {width: 64, depth: 2, heads: 4, kv_heads: 3}": "model.kv_heads: 3 does not divide the number of heads = 4; "
    "nearest: 2 or 4",
    "model: {width: 64, depth: 2, heads: 64}": "model.head_dim: 1 is odd; positions: rope turns pairs, so it must be "
    "even",
    "model: {width: 64, depth: 2, heads: 4, head_dim: 16}": "model: give heads (= 4) or head_dim (= 16), not both: the "
    "one given stays fixed",
    "model: {name: mpl, width: 64, depth: 2}": "model.name: unknown value 'mpl'; allowed: gpt, mlp, vit, resnet, "
    "path/to/file.py:build; did you mean 'mlp'?",
    "model: {name: mlp, width: 64, depth: 2, heads: 4}": "model.heads: unknown key (= 4); allowed: name, width, depth, "
    "window, ffn_ratio",
    "model: {width: 64, depth: 2, heads: 64, positions: learned}": "parametrization.base_width: model.heads: 64 does "
    "not divide base_width = 32; nearest: 16 or 32",
    "model: 64": "model: expected a mapping of keys, got 64",
}


@pytest.mark.parametrize("text", SHAPES)
def test_an_impossible_shape_is_one_line(tmp_path: Path, text: str) -> None:
    assert complaint(tmp_path, f"{text}\n{BASE}\n") == [f"run.yaml: {SHAPES[text]}"]


GIVE = "give that at which they were (or will be) tuned, the same in proxy and target"
PARAMETRIZATIONS = {
    "": f"parametrization: base_width and base_depth missing: completep quotes hyperparameters at a base; {GIVE}",
    "name: mup, base_width: 32": f"parametrization: base_depth missing: mup quotes hyperparameters at a base; {GIVE}",
    "name: completp": f"parametrization.name: unknown name 'completp'; allowed: {', '.join(SCHEMES)}; did you mean "
    "'completep'?",
    "name: mup, base_width: 32, base_depth: 2, alpha: 0.5": "parametrization: alpha = 0.5; allowed under mup: none "
    "(mup does not scale depth)",
    "base_width: 32, base_depth: 2, alpha: 0.2": "parametrization: alpha = 0.2; allowed under completep: 0.5 to 1",
    "base_width: 32, base_depth: 2, lr_multipliers: {embeding: 4}": "parametrization.lr_multipliers: unknown role "
    "'embeding'; a role begins with embedding, hidden, readout, vector; did you mean 'embedding'?",
    "base_width: 32, base_depth: 2, multipliers: {inputs: 4}": "parametrization.multipliers.inputs: unknown key (= 4); "
    "did you mean 'input'?",
}


@pytest.mark.parametrize("text", PARAMETRIZATIONS)
def test_an_impossible_parametrization_is_one_line(tmp_path: Path, text: str) -> None:
    lines = complaint(tmp_path, f"model: {{width: 64, depth: 2}}\nparametrization: {{{text}}}\n")
    assert lines == [f"run.yaml: {PARAMETRIZATIONS[text]}"]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "model: {widht: 64, depth: 0}\nparametrization: {name: sp}\noptimizer: {lr: x}\ndata: {source: text}\n"
    lines = complaint(tmp_path, text, "train.seed=-1")
    assert [line.split(": ")[1] for line in lines] == [
        "model.width",
        "model.depth",
        "model.widht",
        "optimizer.lr",
        "data.path",
        "train.seed",
    ]
    assert lines[-1].startswith("override train.seed=-1: ")


def test_problems_across_sections_are_told_together(tmp_path: Path) -> None:
    lines = complaint(tmp_path, f"{SMALLEST}train: {{batch_tokens: 1000}}\n", "model.heads=5")
    assert [line.split(":")[:2] for line in lines] == [
        ["run.yaml", " train.batch_tokens"],
        ["override model.heads=5", " model.heads"],
    ]


NO_YAML = {
    "": "run.yaml: expected a mapping of keys, got an empty file",
    "- 1": "run.yaml: expected a mapping of keys, got [1]",
    "a: b: c": "run.yaml:1:5: not valid YAML: mapping values are not allowed here",
    "model: {width: 1, width: 2}": "run.yaml:1:19: not valid YAML: the key 'width' is written twice",
    "a: 1\nb: 2\na: 3": "run.yaml:3:1: not valid YAML: the key 'a' is written twice",
    "model: &m {x: *m}": "run.yaml:1:8: not valid YAML: found unconstructable recursive node",
    "a: !!python/object/apply:os.getcwd []": "run.yaml:1:4: not valid YAML: could not determine a constructor for the "
    "tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    "a: 2020-99-99": "run.yaml: not valid YAML: month must be in 1..12",
    "a: \x07": "run.yaml: not valid YAML: unacceptable character #x0007: special characters are not allowed",
}


@pytest.mark.parametrize("text", NO_YAML)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str) -> None:
    assert complaint(tmp_path, text) == [NO_YAML[text]]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "proxy.yaml", SMALLEST)
    with pytest.raises(UserError, match=r"prox\.yaml: no such file; did you mean 'proxy\.yaml'\?$"):
        read_yaml(tmp_path / "prox.yaml")
    with pytest.raises(UserError, match=r"nowhere/proxy\.yaml: no such file$"):
        read_yaml(tmp_path / "nowhere" / "proxy.yaml")
    with pytest.raises(UserError, match=r": cannot read: Is a directory$"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: cannot read: 'utf-8' codec"):
        read_yaml(tmp_path / "latin.yaml")


@given(st.text() | st.text(alphabet="abc01:{}[]&*-?|>!#%@\"' \n", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse_yaml(text, "x.yaml")
    except UserError as problem:
        assert "\n" not in str(problem)
        assert str(problem).startswith("x.yaml")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
PATHS = [f"{section}.{key}" for section, keys in tiny().model_dump().items() for key in keys]


@given(path=st.sampled_from(PATHS), value=junk)
@FILES
def test_any_value_at_any_key_is_taken_or_refused_in_lines_about_it(tmp_path: Path, path: str, value: Any) -> None:
    section, key = path.split(".")
    data = plain()
    data.setdefault(section, {})[key] = value
    try:
        load_config(write(tmp_path / "run.yaml", data))
    except UserError as problem:
        for line in str(problem).splitlines():
            assert line.startswith(f"{tmp_path}/run.yaml: ")


# --- overrides ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", ("a.b", 1)),
        ("--a.b=1", ("a.b", 1)),
        ("a=", ("a", None)),
        ("a=null", ("a", None)),
        ("a=b=c", ("a", "b=c")),
        ("a='1'", ("a", "1")),
        ("a=[0.9, 0.95]", ("a", [0.9, 0.95])),
        ("--model={width: 64, depth: 2}", ("model", {"width": 64, "depth": 2})),
        ('--model={"width": 64, "depth": 2}', ("model", {"width": 64, "depth": 2})),
        ("a={x: \n 1}", ("a", {"x": 1})),
    ],
)
def test_forms_of_an_override(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["optimizer.lr", "--optimizer.lr", "1", "", "=3", "-a=1", "--=1", "a b=1"])
def test_what_is_no_override(text: str) -> None:
    with pytest.raises(UserError, match=r"expected a\.b=value or --a\.b=value$"):
        parse_override(text)


def test_an_override_that_is_no_yaml(tmp_path: Path) -> None:
    assert complaint(tmp_path, SMALLEST, "optimizer.lr=[1") == [
        "override optimizer.lr:1:3: not valid YAML: expected ',' or ']', but got '<stream end>'"
    ]
    assert complaint(tmp_path, SMALLEST, "optimizer={lr: 1, lr: 2}") == [
        "override optimizer:1:9: not valid YAML: the key 'lr' is written twice"
    ]


def test_a_mapping_is_merged_and_a_list_replaced(tmp_path: Path) -> None:
    text = f"{SMALLEST}optimizer: {{lr: 0.5, betas: [0.8, 0.9]}}\ntracking: {{tags: [a, b]}}\n"
    config = load(tmp_path, text, "optimizer={betas: [0.7, 0.8]}", "tracking.tags=[c]", "model={width: 128}")
    assert (config.optimizer.lr, config.optimizer.betas) == (0.5, (0.7, 0.8))
    assert (config.model.width, config.model.depth, config.tracking.tags) == (128, 2, ["c"])


def test_the_last_override_wins_and_null_takes_back(tmp_path: Path) -> None:
    text = f"{SMALLEST}train: {{tokens: 64000}}\n"
    assert load(tmp_path, text, "train.tokens=32000", "train.tokens=48000").train.tokens == 48000
    assert load(tmp_path, text, "train.tokens=null").train.tokens is None
    assert load(tmp_path, text, "train=null").train.tokens is None


def test_a_mapping_without_spaces_is_no_silent_default(tmp_path: Path) -> None:
    """YAML reads {width:64} as the key `width:64` at null."""
    assert complaint(tmp_path, SMALLEST, "--model={width:64}") == [
        "override model={width:64}: model.width:64: unknown key (= None); did you mean 'width'?"
    ]
    table = "parametrization.lr_multipliers"
    assert complaint(tmp_path, SMALLEST, f"{table}={{readout:0.5}}") == [
        f"override {table}={{readout:0.5}}: {table}.readout:0.5: a key without a value; write a space after the colon"
    ]


def test_an_override_of_the_other_of_two_exclusive_keys_replaces_it(tmp_path: Path) -> None:
    text = "model: {width: 64, depth: 2, heads: 4}\nparametrization: {name: sp}\ntrain: {tokens_per_param: 5}\n"
    config = load(tmp_path, text, "train.tokens=70000", "model={head_dim: 32}")
    assert (config.train.tokens, config.train.tokens_per_param) == (70000, None)
    assert (config.model.heads, config.model.head_dim) == (None, 32)


# --- extends ---


def test_a_target_is_its_proxy_with_three_lines_changed(tmp_path: Path) -> None:
    write(tmp_path / "shared" / "proxy.yaml", f"{SMALLEST}optimizer: {{lr: 0.5, eps: 1e-9}}\ntrain: {{tokens: 4e6}}\n")
    text = "extends: shared/proxy.yaml\nmodel: {width: 256, depth: 8}\noptimizer: {lr: 0.25}\n"
    config = load(tmp_path, text, "train.seed=3")
    assert (config.model.width, config.model.depth, config.parametrization.base_width) == (256, 8, 32)
    assert (config.optimizer.lr, config.optimizer.eps, config.train.tokens, config.train.seed) == (0.25, 1e-9, 4e6, 3)


def test_a_chain_is_relative_to_each_file_and_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a.yaml", f"{SMALLEST}optimizer: {{lr: -1}}\n")
    write(tmp_path / "b" / "b.yaml", "extends: ../a/a.yaml\ntrain: {seed: x}\n")
    lines = complaint(tmp_path, "extends: b/b.yaml\ntrain: {threads: 0}\n")
    assert [(line.split(":")[0].split("/")[-1], line.split(": ")[1]) for line in lines] == [
        ("a.yaml", "optimizer.lr"),
        ("b.yaml", "train.seed"),
        ("run.yaml", "train.threads"),
    ]


def test_a_child_may_switch_what_the_parent_gave_in_another_way(tmp_path: Path) -> None:
    write(tmp_path / "parent.yaml", f"{SMALLEST}train: {{tokens_per_param: 5}}\n")
    assert load(tmp_path, "extends: parent.yaml\ntrain: {tokens: 70000}\n").train.tokens_per_param is None
    assert load(tmp_path, "extends: parent.yaml\ntrain: {tokens_per_param: null}\n").train.tokens_per_param is None


def test_cycles_and_missing_parents_are_one_line(tmp_path: Path) -> None:
    write(tmp_path / "other.yaml", "extends: run.yaml\n")
    assert complaint(tmp_path, "extends: other.yaml\n") == [
        "run.yaml: extends: a cycle: run.yaml -> other.yaml -> run.yaml"
    ]
    assert complaint(tmp_path, "extends: run.yaml\n") == ["run.yaml: extends: a cycle: run.yaml -> run.yaml"]
    assert complaint(tmp_path, "extends: othr.yaml\n") == ["othr.yaml: no such file; did you mean 'other.yaml'?"]
    assert complaint(tmp_path, "extends: [other.yaml]\n") == [
        "run.yaml: extends: expected a file name, got ['other.yaml']"
    ]


# --- back to YAML ---


@given(configs())
@FILES
def test_a_config_survives_yaml(tmp_path: Path, config: RunConfig) -> None:
    assert load_config(write(tmp_path / "run.yaml", to_yaml(config.to_dict()))) == config


@given(configs())
@FILES
def test_a_config_survives_its_own_overrides(tmp_path: Path, config: RunConfig) -> None:
    """Every leaf, given as an override of an almost empty file."""
    text = to_yaml({"model": {"width": 8, "depth": 1}, "parametrization": {"name": "sp"}})
    overrides = [
        f"{section}.{key}={to_yaml({'v': value})[2:].strip()}"
        for section, keys in config.to_dict().items()
        for key, value in sorted(keys.items(), key=lambda item: item[0] not in ("name", "source"))
        if not isinstance(value, dict)
    ]
    tables = {k: v for k, v in config.to_dict()["parametrization"].items() if isinstance(v, dict)}
    overrides.append(f"parametrization={json.dumps(tables)}")
    assert load(tmp_path, text, *overrides) == config


names = st.text(alphabet="ab_:#- 1'\"é", min_size=1, max_size=6)
texts = st.text(max_size=12) | st.text(alphabet="a \n\t:#", max_size=6)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
trees = st.recursive(
    st.dictionaries(names, leaves | st.lists(leaves, max_size=3), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, leaves | inner, max_size=3),
    max_leaves=8,
)


@given(trees)
@settings(max_examples=100, deadline=None)
def test_plain_data_survives_yaml(tree: dict[str, Any]) -> None:
    assert parse_yaml(to_yaml(tree), "x") == (tree or None)


def test_a_comment_stands_behind_the_line_that_it_is_about() -> None:
    data = {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}, "train": {"tokens": 5}}
    text = to_yaml(data, {"optimizer": "moved", "optimizer.lr": "the law\nat 3 M params", "train.tokens": ""})
    assert text.splitlines() == [
        "optimizer:  # moved",
        "  lr: 0.001  # the law  # at 3 M params",
        "  betas: [0.9, 0.95]",
        "train:",
        "  tokens: 5",
    ]
    assert yaml.safe_load(text) == data


def test_updated_is_validated_and_leaves_the_original(tmp_path: Path) -> None:
    config = tiny()
    assert config.updated(train={"tokens": None, "seed": 4}).train.tokens is None
    assert config.train.seed == 0
    with pytest.raises(ValidationError):
        config.updated(train={"seed": -4})


# --- shapes ---


def test_the_default_head_is_the_same_for_every_width_of_a_ladder() -> None:
    heads = {tiny(model={"width": width, "head_dim": None}).shape.head_dim for width in (16, 32, 64, 256)}
    assert heads == {default_head_dim(16)} == {16}
    assert [default_head_dim(width) for width in (1, 6, 48, 64, 96, 1024)] == [1, 2, 16, 64, 32, 64]


@given(configs())
@settings(max_examples=60, deadline=None)
def test_shapes_add_up_at_the_target_and_at_the_base(config: RunConfig) -> None:
    for shape in (config.shape, config.base_shape):
        if config.model.name == "gpt":
            assert shape.heads * shape.head_dim == shape.width
            assert shape.heads % shape.kv_heads == 0
    assert config.shape.width == config.model.width
    assert config.base_shape.width == config.parametrization.base_width
    assert config.base_shape.depth == config.shape.depth
    if config.model.name == "gpt":
        assert config.base_shape.head_dim == config.shape.head_dim
        assert config.base_shape.heads // config.base_shape.kv_heads == config.shape.heads // config.shape.kv_heads


def test_of_heads_and_head_dim_the_one_given_stays() -> None:
    by_heads = tiny(model={"width": 64, "head_dim": None, "heads": 4})
    assert (by_heads.shape.head_dim, by_heads.base_shape.heads, by_heads.base_shape.head_dim) == (16, 4, 4)
    by_size = tiny(model={"width": 64, "head_dim": 8})
    assert (by_size.shape.heads, by_size.base_shape.heads, by_size.base_shape.head_dim) == (8, 2, 8)
    told = tiny(model={"width": 64, "head_dim": 16}, parametrization={"base_head_dim": 4})
    assert (told.base_shape.heads, told.base_shape.head_dim) == (4, 4)


# --- schema ---


def test_the_schema_is_one_and_takes_what_we_take() -> None:
    schema = json.loads(run_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(plain())
    validator.validate({"extends": "proxy.yaml", "model": {"width": 64}, "optimizer": {"lr": 0.1}})
    validator.validate(yaml.safe_load(SMALLEST))
    for wrong in ({"modle": {}}, {"optimizer": {"lrr": 1}}, {"model": {"width": -1}}, {"schedule": {"name": "wds"}}):
        assert not validator.is_valid(wrong), wrong


@given(configs())
@settings(max_examples=10, deadline=None)
def test_the_schema_takes_every_valid_config(config: RunConfig) -> None:
    jsonschema.validate(config.to_dict(), json.loads(run_schema()))


def test_editors_are_told_what_the_keys_that_have_no_default_mean() -> None:
    sections = json.loads(run_schema())["$defs"]
    for section, key in [("GPT", "width"), ("GPT", "depth"), ("Parametrization", "base_width"), ("Train", "tokens")]:
        assert sections[section]["properties"][key]["description"], (section, key)
    assert math.isclose(sections["AdamW"]["properties"]["eps"]["default"], 1e-8)
