"""CSVs of somebody else's runs: columns mapped, units checked by arithmetic, bad lines named, nothing dropped."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import write

from hptransfer.errors import UserError
from hptransfer.records import read_rows
from hptransfer.rows import Row

FILES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEAD = "params,tokens,lr,batch_tokens,loss"
RUN = "1000,2e4,0.1,64,2.5"


def read(folder: Path, text: str, **columns: str) -> list[Row]:
    return read_rows([write(folder / "runs.csv", text)], columns=columns)


def refused(folder: Path, text: str, **columns: str) -> str:
    """What the user reads, without the folder."""
    with pytest.raises(UserError) as caught:
        read(folder, text, **columns)
    return str(caught.value).replace(f"{folder}/", "")


BAD = {
    f"{HEAD}\n1000,2e4,fast,64,2.5": "runs.csv:2: lr: expected a number, got 'fast'",
    f"{HEAD}\n1000,2e4,-1,64,2.5": "runs.csv:2: lr: expected a positive number, got '-1'",
    f"{HEAD}\n1000,2e4,,64,2.5": "runs.csv:2: lr: expected a positive number, got ''",
    f"{HEAD}\n{RUN}\n1000,2e4,0.1,64": "runs.csv:3: 4 fields, the header has 5",
    f"{HEAD}\n{RUN},9": "runs.csv:2: 6 fields, the header has 5",
    f"{HEAD},status\n{RUN},finishd": "runs.csv:2: status: 'finishd'; allowed: finished, diverged, stopped, cut_short; "
    "did you mean 'finished'?",
    f"{HEAD},status\n1000,2e4,0.1,64,nan,finished": "runs.csv:2: loss: a finished run needs a finite number, got 'nan'",
    f"{HEAD}\n\n{RUN}\n\n1000,2e4,fast,64,2.5": "runs.csv:5: lr: expected a number, got 'fast'",
    f"{HEAD}\n1000,2e4,fast,64,2.5\n{RUN}\n1000,2e4,0.1,64,": "runs.csv:2: lr: expected a number, got 'fast'\n"
    "runs.csv:4: loss: empty; give a number, nan for a run that diverged, or a status",
    "params,tokens,lrs,batch_tokens,loss\n1,1,1,1,1": "runs.csv: column 'lr' is missing; did you mean 'lrs'?; needed: "
    "params, tokens, lr, batch_tokens, loss; it has params, tokens, lrs, batch_tokens, loss",
    f"{HEAD},lr\n{RUN},1": "runs.csv: column 'lr' is there twice",
    f"{HEAD},seed\n{RUN},1.5": "runs.csv:2: seed: expected a whole number, got '1.5'",
    HEAD: "runs.csv: no ended run in it",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_csv_is_a_line_for_each_problem(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text) == BAD[text]


def test_a_column_of_truths_says_which_runs_diverged(tmp_path: Path) -> None:
    rows = read(tmp_path, f"{HEAD},diverged\n{RUN},False\n1000,2e4,0.1,64,7.5,True\n1000,2e4,0.1,64,,1\n{RUN},")
    assert [row.status for row in rows] == ["finished", "diverged", "diverged", "finished"]
    said = refused(tmp_path, f"{HEAD},diverged\n{RUN},maybe")
    assert said == "runs.csv:2: diverged: 'maybe'; allowed: true, false"


def test_runs_that_differ_in_ignored_columns_alone_are_named_as_repeats(tmp_path: Path) -> None:
    said: list[str] = []
    text = f"{HEAD},beta2,note,seed\n{RUN},0.95,x,1\n1000,2e4,0.1,64,2.6,0.98,x,2\n1000,2e4,0.2,64,2.6,0.95,y,1"
    read_rows([write(tmp_path / "runs.csv", text)], warn=said.append)
    assert said[0].endswith("ignored columns: beta2, note; runs that differ in beta2 alone count as repeats of one run")


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    lines = refused(tmp_path, "\n".join([HEAD, *["1000,2e4,fast,64,2.5"] * 13])).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 3 more"


def test_a_good_csv(tmp_path: Path) -> None:
    """With a byte order mark, as spreadsheets write it, and columns that nobody knows."""
    text = (
        f"\ufeff{HEAD},seed,base_width,optimizer,note,mood\n1e3,2e4,1e-2,64,2.5,3,16,adamw,x,y\n1e3,2e4,1,64,inf,,,,,\n"
    )
    (tmp_path / "runs.csv").write_text(text, encoding="utf-8")
    said: list[str] = []
    rows = read_rows([tmp_path / "runs.csv"], said.append)
    assert said == [f"{tmp_path}/runs.csv: ignored columns: note, mood"]
    assert (rows[0].params, rows[0].lr, rows[0].seed) == (1000, 0.01, 3)
    assert rows[0].recipe == {"base_width": 16.0, "optimizer": "adamw"}
    assert (rows[1].status, math.isnan(rows[1].loss), rows[1].seed, rows[1].recipe) == ("diverged", True, None, {})
    assert [row.source for row in rows] == [f"{tmp_path}/runs.csv:2", f"{tmp_path}/runs.csv:3"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(HEAD.encode("utf-16"))
    with pytest.raises(UserError, match=r"runs\.csv: cannot read: 'utf-8' codec"):
        read_rows([tmp_path / "runs.csv"])


def test_columns_are_mapped_times_numbers_and_columns(tmp_path: Path) -> None:
    text = "size,billions,lr,seqs,length,odd*name,loss\n1e6,0.02,1e-3,16,128,7,2.5"
    row = read(tmp_path, text, params="size", tokens="billions*1e9", batch_tokens="seqs*length", seed="odd*name")[0]
    assert (row.params, row.tokens, row.batch_tokens, row.seed) == (1e6, 2e7, 2048, 7)
    assert read(tmp_path, f"{HEAD},other\n{RUN},0.2", lr="other")[0].lr == 0.2
    problem = "runs.csv:2: length: expected a number, got 'long'"
    assert refused(tmp_path, f"{HEAD},length\n{RUN},long", batch_tokens="batch_tokens*length") == problem
    assert "no such column; did you mean 'loss'?" in refused(tmp_path, f"{HEAD}\n{RUN}", lr="los")
    assert "no such column" in refused(tmp_path, f"{HEAD}\n{RUN}", lr="loss*none")
    assert "'lrr' is no column of ours; did you mean 'lr'?" in refused(tmp_path, f"{HEAD}\n{RUN}", lrr="loss")


def test_an_export_from_a_dashboard(tmp_path: Path) -> None:
    text = (
        '"Name","State","lr","params","tokens","batch_tokens","final loss"\n'
        '"a","finished","0.1","1000","2e4","64","2.5"\n"b","crashed","0.2","1000","2e4","64",""\n'
        '"c","finished","0.9","1000","2e4","64","NaN"\n'
    )
    assert "runs.csv:4: loss: a finished run needs" in refused(tmp_path, text, status="State", loss="final loss")
    rows = read(tmp_path, text.replace('finished","0.9"', 'diverged","0.9"'), status="State", loss="final loss")
    assert [row.status for row in rows] == ["finished", "cut_short", "diverged"]


# --- units ---


def test_steps_that_add_up(tmp_path: Path) -> None:
    """To whole steps; of a run that was cut short nobody knows which steps are meant."""
    text = f"{HEAD},steps,status\n{RUN},313,\n1000,2e4,0.1,64,2.5,312,finished\n1000,2e4,0.1,64,2.5,50,stopped"
    assert len(read(tmp_path, text)) == 3


def test_a_batch_in_sequences_is_found_by_arithmetic(tmp_path: Path) -> None:
    text = f"{HEAD},steps\n1e6,2e7,1e-3,16,2.5,9766\n1e6,4e7,1e-3,16,2.4,19531"
    assert refused(tmp_path, text) == (
        "runs.csv: steps x batch_tokens is 1/128 of tokens in every run: batch_tokens looks to be in sequences of 128 "
        "tokens; then say --map batch_tokens=batch_tokens*128"
    )
    assert read(tmp_path, text, batch_tokens="batch_tokens*128")[0].batch_tokens == 2048


def test_tokens_in_billions_are_found_by_arithmetic(tmp_path: Path) -> None:
    text = f"{HEAD},steps\n1e6,0.02,1e-3,2048,2.5,9766\n1e6,0.04,1e-3,2048,2.4,19531"
    assert "tokens looks to be in units of 1e+09 tokens; then say --map tokens=tokens*1e+09" in refused(tmp_path, text)


def test_lines_that_do_not_add_up_are_named(tmp_path: Path) -> None:
    assert refused(tmp_path, f"{HEAD},steps\n{RUN},313\n{RUN},100\n{RUN},400") == (
        "runs.csv:3: steps 100 x batch_tokens 64 is 6400, but tokens is 20000\n"
        "runs.csv:4: steps 400 x batch_tokens 64 is 25600, but tokens is 20000"
    )


@pytest.mark.parametrize(
    ("text", "columns", "question"),
    [
        (f"{HEAD},seq_len\n1e6,2e7,1e-3,16,2.5,128", {}, "batch_tokens=batch_tokens*SEQ_LEN if in sequences"),
        (f"{HEAD}\n2e8,4e9,1e-3,16,2.5", {}, "batch_tokens 16 is 2.5e+08 steps: in which unit is it"),
        (f"{HEAD}\n2e8,4,1e-3,65536,2.5", {}, "tokens 4 are less than one batch: in which unit is it"),
        (f"{HEAD}\n215,4e9,1e-3,65536,2.5", {}, "params=params*1e6 if in millions, --map params=params*1 if in para"),
        (
            "params,tokens,lr,batch,loss\n2e8,4e9,1e-3,65536,2.5",
            {"batch_tokens": "batch"},
            "there are no steps to check column 'batch' by: in which unit is it",
        ),
    ],
)
def test_what_arithmetic_cannot_tell_is_asked_once(
    tmp_path: Path, text: str, columns: dict[str, str], question: str
) -> None:
    asked = refused(tmp_path, text, **columns)
    assert question in asked
    found = re.search(r"--map (\w+)=(\S+\*1) if", asked)
    assert found is not None
    assert len(read(tmp_path, text, **{**columns, found[1]: found[2]})) == 1


sizes = st.floats(1e3, 1e11)
optional = st.none() | st.floats(1e-9, 1e12)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"params": sizes, "tokens_per_param": st.floats(0.1, 1e4), "lr": st.floats(1e-9, 1e3)}
            | {"steps": st.integers(1, 10**6), "loss": st.floats(1e-9, 1e12)}
            | {"weight_decay": optional, "width": optional, "seed": st.none() | st.integers(0, 10**9)}
        ),
        min_size=1,
        max_size=4,
    )
)
@FILES
def test_rows_survive_a_csv(tmp_path: Path, values: list[dict[str, Any]]) -> None:
    for one in values:
        one["tokens"] = one["params"] * one.pop("tokens_per_param")
        one["batch_tokens"] = one["tokens"] / one["steps"]
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, values[0])
        writer.writeheader()
        writer.writerows(values)
    names = [name for name in values[0] if name != "steps"]
    rows = read_rows([path])
    assert [[getattr(row, name) for name in names] for row in rows] == [[one[name] for name in names] for one in values]


@given(st.text(alphabet='params,tokelrbchi_01.e-\n"\r\x00', max_size=60), st.booleans())
@FILES
def test_any_text_as_csv_is_read_or_refused_by_name(tmp_path: Path, text: str, headed: bool) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"{HEAD}\n{text}" if headed else text, newline="")
    try:
        read_rows([path])
    except UserError as problem:
        assert str(path) in str(problem)
