"""The report as a file: what it says, that it needs nothing else, and that nothing a user wrote can act in it."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from report_runs import make_run, make_sweep

from hptransfer.errors import UserError
from hptransfer.figures.cells import cells_of
from hptransfer.laws import fit
from hptransfer.records import read_rows
from hptransfer.report import write_report
from hptransfer.report.content import headline
from hptransfer.report.facts import factor, flat
from hptransfer.report.findings import findings

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "';--${1}{{7*7}}",
]


class Page(HTMLParser):
    """What a browser would find: text, tags with their attributes, and the data that the script reads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.inside = ""
        self.feed(self.source)
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        assert data is not None
        self.data = json.loads(data[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style") and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]


def report(tmp_path: Path, *paths: Path, **options: Any) -> Page:
    return Page(write_report(paths, options.pop("laws", None), tmp_path / "report.html", **options))


def csv(tmp_path: Path, *lines: str, columns: str = "params,tokens,lr,batch_tokens,loss") -> Path:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three widths, six learning rates each, the highest diverged."""
    return make_sweep(tmp_path_factory.mktemp("swept") / "runs")


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    return report(runs.parent, runs)


def test_nothing_outside_the_file_is_asked_for(page: Page) -> None:
    assert not page.values("src")
    assert all(link.startswith("#") for link in page.values("href") + page.values("xlink:href"))
    assert not re.search(r"@import|url\((?!#)", page.source)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page.source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_every_link_leads_to_a_run_and_every_run_to_its_folder(page: Page, runs: Path) -> None:
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    linked = {link[1:] for link in page.values("href") if link.startswith("#run-")}
    assert linked == set(page.data["runs"]) <= set(ids)
    assert {run["source"] for run in page.data["runs"].values()} == {str(path) for path in runs.iterdir()}


def test_the_data_of_a_run_is_its_files(page: Page, runs: Path) -> None:
    folder = runs / "run-128-2"
    (run,) = [run for run in page.data["runs"].values() if run["source"] == str(folder)]
    told = {
        name: {**page.data[name]["common"], **dict(zip(page.data[name]["keys"], run[name], strict=True))}
        for name in ("result", "config")
    }
    assert told["result"] == json.loads((folder / "result.json").read_text())
    assert told["config"] == flat(yaml.safe_load((folder / "config.yaml").read_text()))
    assert len(run["curve"]["tokens"]) == len(run["curve"]["loss"]) == 150
    assert run["curve"]["tokens"][-1] == 1_000_000
    (lost,) = [run for run in page.data["runs"].values() if run["source"].endswith("run-128-5")]
    assert lost["curve"]["loss"][-1] is None


def test_numbers_of_the_headline_and_of_the_cells(page: Page) -> None:
    """The known valley: optimum 0.01 at every width, floor 3 + params^-0.1."""
    floor = 3 + (12 * 2 * 256**2) ** -0.1
    assert "18 runs in 3 cells · 15 finished · 3 diverged" in page.text
    assert "The best run of the largest cell: width 256 × depth 2, 1 M tokens, 1.57 M params" in page.text
    assert f"best loss measured {floor:.4f}" in page.text
    assert page.text.count("0.005 … 0.02") == 4  # three cells and the headline
    assert "3 of 18 runs diverged" in page.text
    assert "One seed throughout" in page.text


def test_what_was_watched_is_shown_against_width(page: Page) -> None:
    assert {"training", "stability", "flatness"} <= set(page.values("id"))
    assert "activations and logits, over width" in page.text and "over depth" not in page.text


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1e6,1e7,0.1,4096,3.0", "1e6,1e7,0.2,4096,2.9"], "highest one tried in 1 M params, 10 M tokens"),
        (["1e6,1e7,0.1,4096,2.8", "1e6,1e7,0.2,4096,2.9"], "lowest one tried in 1 M params, 10 M tokens"),
        (["1e6,1e7,0.1,4096,2.8", "1e6,1e7,0.2,4096,2.9"], "Fewer than 4 learning rates"),
        (["1e6,1e7,0.1,4096,2.8"], "A single learning rate"),
        (["1e6,1e7,0.1,4096,nan", "1e6,1e7,0.2,4096,nan"], "No run finished: there is nothing to recommend"),
        (
            ["1e6,1e7,0.1,4096,2.8", "1e6,1e7,0.1,4096,2.9"],
            "2 runs share shape, budget, lr, batch, weight decay and seed",
        ),
    ],
)
def test_what_to_know_before_believing_it(tmp_path: Path, lines: list[str], words: str) -> None:
    rows = read_rows([csv(tmp_path, *lines)])
    cells = cells_of(rows)
    told = [finding.text for finding in findings(rows, cells, [{} for _ in rows])]
    assert words in " ".join([*told, headline(cells, [])["by"]])


def test_a_table_of_runs_has_no_curves_and_no_config(tmp_path: Path) -> None:
    page = report(tmp_path, csv(tmp_path, "1e6,1e7,0.1,4096,2.8", "4e6,1e7,0.1,4096,2.7"))
    assert not {"training", "stability", "flatness"} & set(page.values("id"))
    assert all(run["curve"] == {} and run["config"] == [] for run in page.data["runs"].values())
    assert {run["source"] for run in page.data["runs"].values()} == {f"{tmp_path}/runs.csv:{n}" for n in (2, 3)}


def test_stopped_runs_differing_recipes_and_twins_are_named(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", widths=[64])
    make_sweep(tmp_path / "runs", widths=[64], parametrization="sp")
    make_run(tmp_path / "runs" / "stopped", lr=0.5, status="stopped")
    make_run(tmp_path / "runs" / "cut", lr=0.6, status="cut_short")
    twin = make_run(tmp_path / "runs" / "twin", loss=4.0)
    (twin / "config.yaml").write_text((twin / "config.yaml").read_text().replace("0.02", "0.1"))
    text = report(tmp_path, tmp_path / "runs").text
    assert "1 of 15 runs were stopped early" in text
    assert "1 of 15 runs were cut short; a fit leaves them out" in text
    assert "They differ in parametrization: completep (9), sp (6)." in text
    assert "they differ in parametrization.init_std." in text


def test_runs_that_have_not_ended_are_told_to_the_page_and_to_the_caller(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", widths=[64])
    (make_run(tmp_path / "runs" / "going", lr=0.3) / "result.json").unlink()
    heard: list[str] = []
    page = report(tmp_path, tmp_path / "runs", warn=heard.append)
    assert len(heard) == 1
    assert "1 of 7 runs have not ended" in heard[0]
    assert heard[0] in page.text


def test_a_damaged_config_costs_its_keys_and_not_the_report(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", widths=[64])
    (tmp_path / "runs" / "run-64-1" / "config.yaml").write_text("model: {width: 64")
    assert "run-64-1/config.yaml:1:18: not valid YAML" in report(tmp_path, tmp_path / "runs").text


def test_laws_are_held_against_the_cell_that_they_have_not_seen(tmp_path: Path, runs: Path) -> None:
    rows = read_rows([runs])
    laws = fit([row for row in rows if row.width != 256])
    page = report(tmp_path, runs, laws=laws)
    said = laws.predict(params=12 * 2 * 256**2, tokens=1e6, width=256, depth=2, batch_tokens=4096)
    assert "The law recommends for a cell held out of its fit: width 256 × depth 2" in page.text
    assert f"lr {said.lr.value:.3g} 95 %: {said.lr.low:.3g} … {said.lr.high:.3g}" in page.text
    nearest = min((r for r in rows if r.width == 256 and r.loss > 0), key=lambda r: abs(math.log(r.lr / said.lr.value)))
    assert f"{nearest.loss / (3 + nearest.params**-0.1) - 1:+.2%}" in page.text
    for warning in said.warnings:
        assert f"Law: {warning}." in page.text
    for name, (value, low, high) in laws.exponents.items():
        assert f"{name} {value:+.3f} {low:+.3f} {high:+.3f}" in page.text
    assert "predicted" in page.values("id")
    assert re.sub(r"\s+", " ", laws.summary()) in page.text


def test_a_law_of_another_recipe_recommends_nothing(tmp_path: Path, runs: Path) -> None:
    laws = fit(read_rows([runs]))
    page = report(tmp_path, make_sweep(tmp_path / "sp", parametrization="sp"), laws=laws)
    assert "another recipe than every run here: parametrization" in page.text
    assert "The law recommends" not in page.text
    assert "predicted" not in page.values("id")


def test_a_law_pooled_over_recipes_speaks_of_each_of_them(tmp_path: Path) -> None:
    for seq_len in (128, 256):
        make_sweep(tmp_path / "runs" / str(seq_len), widths=[64, 128], seq_len=seq_len)
    laws = fit(read_rows([tmp_path / "runs"]), pool=True)
    page = report(tmp_path, tmp_path / "runs", laws=laws)
    assert "The law recommends for width 128" in page.text
    assert "Law: pooled over different recipes: seq_len" in page.text


def test_what_a_user_wrote_is_text(tmp_path: Path) -> None:
    names = [*HOSTILE, "模型 🚀 ünïcödé"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    lines = [f"{i + 1}e6,1e7,{lr},4096,2.{i},{name},{name}" for i, name in enumerate(quoted) for lr in (0.1, 0.2)]
    path = csv(tmp_path, *lines, columns="params,tokens,lr,batch_tokens,loss,parametrization,data")
    page = report(tmp_path, path, title=HOSTILE[0])
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in names:
        assert name in page.text
    assert {value for run in page.data["runs"].values() for value in run["result"]} >= set(names)


def test_names_of_folders_are_text_too(tmp_path: Path) -> None:
    runs = tmp_path / "<img onerror=alert(1) src=x> & 'ü' $x$"
    page = report(tmp_path, make_sweep(runs, widths=[64]))
    assert "img" not in [tag for tag, _ in page.tags]
    assert {run["source"] for run in page.data["runs"].values()} == {str(p) for p in runs.iterdir()}


@pytest.mark.slow
def test_a_thousand_runs_stay_under_two_megabytes(tmp_path: Path) -> None:
    for seed in range(10):
        make_sweep(tmp_path / "runs" / str(seed), widths=[64, 96, 128, 192, 256], lrs=20, seed=seed)
    path = write_report([tmp_path / "runs"], None, tmp_path / "report.html")
    assert path.stat().st_size < 2_000_000
    assert len(Page(path).data["runs"]) == 1000


def test_the_same_runs_give_the_same_page(tmp_path: Path, page: Page, runs: Path) -> None:
    assert report(tmp_path, runs).source == page.source


def test_problems_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no ended run"):
        write_report([tmp_path / "empty"], None, tmp_path / "report.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report([csv(tmp_path, "1e6,1e7,0.1,4096,2.8")], None, tmp_path / "file" / "report.html")


def test_torch_is_not_needed(tmp_path: Path) -> None:
    code = "import sys, hptransfer.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


values = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
several = st.lists(st.dictionaries(st.sampled_from("abcd"), values, max_size=4), min_size=1, max_size=5)


@given(several)
def test_factored_facts_hold_all_that_was_known(known: list[dict[str, Any]]) -> None:
    facts = factor(known)
    for run, own in zip(known, facts.own, strict=True):
        told = {**facts.common, **dict(zip(facts.keys, own, strict=True))}
        assert {key: value for key, value in told.items() if value is not None} == {
            key: value for key, value in run.items() if value is not None
        }


def test_flat_keys_are_those_of_overrides() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}
