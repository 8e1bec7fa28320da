"""The command line: what it prints, where, and with which exit status."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import plain, write

from hptransfer import training
from hptransfer.cli import main, parser
from hptransfer.config import load_config, run_schema
from hptransfer.parametrization import SCHEMES, to_markdown
from hptransfer.records import Record
from hptransfer.scaling import resolve

Plain = Callable[..., dict[str, Any]]
VERBS = [
    "train",
    "explain",
    "table",
    "sweep",
    "fit",
    "predict",
    "ladder",
    "transfer",
    "confirm",
    "report",
    "schema",
    "quickstart",
]


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """`main` takes SIGTERM for Ctrl-C; pytest goes on with what it had."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def config(tmp_path: Path, plain_on_text: Plain) -> str:
    """The path of a config file of a tiny run."""
    return str(write(tmp_path / "run.yaml", plain_on_text()))


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


# --- help ---

HELP = """
import sys, time
from hptransfer.cli import main
for verb in sys.argv[1:]:
    try:
        main([verb, "--help"] if verb else ["--help"])
    except SystemExit as end:
        assert end.code == 0
slow = sorted({"torch", "numpy", "pydantic", "yaml", "wandb", "matplotlib", "mup"} & set(sys.modules))
print("imported:", slow, "seconds:", time.process_time())
"""


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    answer = python(HELP, "", *VERBS)
    assert answer.returncode == 0, answer.stderr
    last = answer.stdout.splitlines()[-1]
    assert last.startswith("imported: [] seconds: ")
    assert float(last.split()[-1]) < 0.5  # of the processor, for all verbs together


def test_every_verb_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^    {verb}\s", text, flags=re.MULTILINE)
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
        assert len(capsys.readouterr().out) > 100


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([], ["trian"], ["table"], ["schema", "--nonsense"], ["schema", "a.b=1"]):
        with pytest.raises(SystemExit) as end:
            main(line)
        assert end.value.code == 2
        assert "usage: hptransfer" in capsys.readouterr().err


def test_options_are_not_guessed_from_their_beginning() -> None:
    """`--run=x` would be an override of an unknown key, not --runs."""
    args, rest = parser().parse_known_args(["train", "c.yaml", "--run=x"])
    assert (args.runs, rest) == ("runs", ["--run=x"])


# --- explain, table, schema ---


def test_explain_as_json(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", config, "--json", "--model={width: 64, depth: 4}", "optimizer.lr=1e-3"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {"params", "params_non_embedding", "tokens", "steps", "batch_tokens", "flops", "multipliers"} <= set(plan)
    tensors = {tensor["name"]: tensor for tensor in plan["tensors"]}
    query = tensors["blocks.3.attention.query.weight"]
    assert set(query) >= {"name", "shape", "role", "init_std", "multiplier", "lr", "eps", "weight_decay"}
    assert (query["shape"], query["role"], query["lr"]) == ([64, 64], "hidden.query", 1e-3 / 4)
    assert plan["multipliers"]["residual"] == 0.5
    assert plan["config"]["optimizer"]["lr"] == 1e-3


def test_explain_as_text(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", config, "model.depth=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    alike = {line.split()[1]: int(line.split()[0]) for line in lines[1 : lines.index("")]}
    assert sum(alike.values()) == len(resolve(load_config(config, ["model.depth=3"])).tensors)
    for tensor in ("token_embedding.weight", "norm.weight", "readout.weight"):
        assert alike[tensor] == 1
    assert alike["blocks.*.feed_forward.down.weight"] == 3
    assert any(line.startswith("tokens ") and "768 in 12 steps of 64" in line for line in lines)


def test_explain_trains_nothing_and_reads_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", str(write(tmp_path / "run.yaml", plain(data={"path": "not/there"})))]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("name", list(SCHEMES))
def test_tables(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", name]) == 0
    assert capsys.readouterr().out == to_markdown(name)


def test_a_table_of_an_optimizer_as_configs_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "completep", "sgd"]) == 0
    assert "| readout | 1 | m_in^-1 | m_in | - | m_in^-1 |" in capsys.readouterr().out
    assert main(["table", "completep", "adamw"]) == 0
    assert main(["table", "completep", "--weight-decay=sqrt", "--embedding-lr", "inverse_sqrt"]) == 0
    assert "Options: weight decay over width sqrt, as Fan et al. (arXiv:2510.15262)" in capsys.readouterr().out
    assert main(["table", "spectral", "soap"]) == 0
    assert main(["table", "completp"]) == 2
    assert "did you mean 'completep'?" in capsys.readouterr().err
    assert main(["table", "umup", "sgd"]) == 2


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == run_schema()


TORCHLESS = """
import sys
from hptransfer.cli import main
for line in (["table", "completep", "sgd"], ["schema"], ["explain", "nowhere.yaml"], ["fit", "nowhere", "-o", "x"]):
    main(line)
assert "torch" not in sys.modules
"""


def test_tables_schemas_and_bad_input_need_no_torch() -> None:
    answer = python(TORCHLESS)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr


# --- train ---


def test_train_prints_the_run_folder_last(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "--runs", str(tmp_path / "runs"), "--train.seed=3", "model.depth=1"]) == 0
    printed = capsys.readouterr()
    folder = Path(printed.out.splitlines()[-1])
    assert folder.parent == tmp_path / "runs"
    record = Record(folder)
    assert record.result is not None
    assert (record.config.train.seed, record.config.model.depth) == (3, 1)
    assert printed.err == f"hptransfer: finished: loss {record.result['loss']:.4f} after 768 tokens\n"


def test_a_finished_run_is_said_again(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", config, "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    first = capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr() == first


def test_a_run_that_diverged_is_no_error(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["optimizer={name: sgd, lr: 1e30}", "schedule={name: constant, warmup: 0}"]
    config = str(write(tmp_path / "bad.yaml", f"extends: {config}\n"))
    assert main(["train", config, "--runs", str(tmp_path / "runs"), "optimizer.weight_decay=null", *bad]) == 0
    assert capsys.readouterr().err.startswith("hptransfer: diverged: loss not finite after")


def test_interrupted_then_continued(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training.Trainer._train_step

    def interrupted(self: training.Trainer) -> tuple[float, float]:
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    command = ["train", config, "--runs", str(tmp_path / "runs")]
    with monkeypatch.context() as patched:
        patched.setattr(training.Trainer, "_train_step", interrupted)
        assert main(command) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "hptransfer: interrupted; the same command continues where this one stopped\n"
    assert main(command) == 0
    record = Record(Path(capsys.readouterr().out.splitlines()[-1]))
    assert [line["step"] for line in record.metrics()] == list(range(1, 13))


BAD = {
    "model.width=-1": "override model.width=-1: model.width: input should be greater than or equal to 1, got -1",
    "model.head_dim=5": "override model.head_dim=5: model.head_dim: 5 does not divide model.width = 16; nearest: ",
    "--optimizer.lrr=1": "override optimizer.lrr=1: optimizer.lrr: unknown key (= 1); did you mean 'lr'?",
    "train.batch_tokens=100": "override train.batch_tokens=100: train.batch_tokens: 100 is not a multiple of "
    "data.seq_len = 16; nearest: 96 or 112",
    "train.tokens=3": "{config}: train.tokens: 3 is less than one step of train.batch_tokens = 64; give more tokens or "
    "a smaller batch",
    "data.path=nowhere/at/all": "{config}: data.path: nowhere/at/all: no file, folder or glob matches",
    "train={tokens: 9600, batch_tokens: 9600} data.seq_len=9600": "{config}: data.seq_len: 9600 needs more than 9600 ",
    "train.device=cuda:99": "{config}: train.device: 'cuda:99' cannot be used here (",
    "nonsense": "override 'nonsense': expected a.b=value or --a.b=value",
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_input_is_one_plain_line(
    config: str, tmp_path: Path, overrides: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", config, "--runs", str(tmp_path / "runs"), *re.split(r" (?=data)", overrides)]
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("hptransfer: " + BAD[overrides].replace("{config}", config))
    assert said.err.count("\n") == 1


def test_every_line_of_an_error_stands_alone(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", config, "model.widht=1", "train.seed=x", "optimizer.name=adam"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["hptransfer", "override model.widht=1"],
        ["hptransfer", "override optimizer.name=adam"],
        ["hptransfer", "override train.seed=x"],
    ]


def test_a_reader_that_has_seen_enough(config: str) -> None:
    """`| head -1` closes the pipe: no traceback, and no complaint at the end."""
    command = [sys.executable, "-m", "hptransfer", "explain", config, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 0
