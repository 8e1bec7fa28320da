"""A sweep's evidence as one W&B run, and the dashboard by code, against a server on loopback."""

import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_wandb import ENTITY, FakeWandb

from hptransfer.cli import main
from hptransfer.errors import UserError
from hptransfer.laws import fit
from hptransfer.rows import Row
from hptransfer.tracking.publishing import EVIDENCE, publish
from hptransfer.tracking.workspace import CURVES, SCATTERS, build_workspace, save_workspace

pytestmark = pytest.mark.usefixtures("wandb_session")


def sweep_rows() -> list[Row]:
    """Two widths, five lrs; the optimum stands at 2^-7; the highest lr diverged."""
    return [
        Row(
            params=12.0 * 2 * width**2,
            tokens=1e6,
            lr=2.0**power,
            batch_tokens=1024,
            loss=math.nan if power == -4 else 2 + 64 / width + 0.05 * (power + 7) ** 2,
            status="diverged" if power == -4 else "finished",
            width=width,
            depth=2,
            seed=0,
            recipe={"parametrization": "completep", "base_width": 64.0},
            source=f"runs/{width}_{-power}",
        )
        for width in (64, 128)
        for power in range(-9, -3)
    ]


def test_publish(tmp_path: Path, server: FakeWandb) -> None:
    tuned, report = tmp_path / "target_tuned.yaml", tmp_path / "report.html"
    tuned.write_text("model: {width: 512}\n")
    report.write_text("<h1>Evidence</h1>")
    tracking = EVIDENCE.model_copy(update={"group": "ladder"})
    rows = sweep_rows()
    laws = fit(rows)
    where = publish(rows, tmp_path / "runs", tracking, laws=laws, tuned=tuned, report=report)
    (run,) = server.runs.values()
    assert where.endswith(run.name)
    assert (run.state, run.group, run.job_type, run.display_name) == ("finished", "ladder", "report", "evidence")
    assert run.summary["runs"] == 12
    (logged,) = run.history
    assert {name: entry["_type"] for name, entry in logged.items() if isinstance(entry, dict)} == {
        "runs": "table-file",
        "U-curves_table": "table-file",
        "optimum_table": "table-file",
        "figures/U-curves": "image-file",
        "figures/optimum": "image-file",
        "figures/predicted against measured": "image-file",
        "report": "html-file",
    }

    def media(name: str) -> bytes:
        return server.uploads[f"{run.name}/{logged[name]['path']}"]

    assert media("report") == b"<h1>Evidence</h1>"
    assert media("figures/U-curves").startswith(b"\x89PNG")
    curves = json.loads(media("U-curves_table"))
    points = {(lr, label.partition(" ×")[0]): loss for lr, label, loss in curves["data"]}
    assert len(points) == 10  # what diverged is no point of a curve
    assert points[-7.0, "width 64"] == 3.0
    best = {(size, line): lr for size, line, lr in json.loads(media("optimum_table"))["data"]}
    for row in (rows[0], rows[-1]):
        said = laws.predict(params=row.params, tokens=row.tokens, width=row.width, depth=2, batch_tokens=1024)
        assert best[math.log2(row.params), "measured"] == pytest.approx(-7.0)
        assert best[math.log2(row.params), "law"] == pytest.approx(math.log2(said.lr.value))
    assert len(best) == 4
    table = json.loads(media("runs"))
    assert len(table["data"]) == 12
    assert {"lr", "loss", "width", "parametrization", "source"} <= set(table["columns"])
    assert server.artifacts["target_tuned"]["type"] == "config"
    assert server.artifacts["target_tuned"]["state"] == "COMMITTED"
    assert b"model: {width: 512}\n" in server.uploads.values()
    assert not list((tmp_path / "home").rglob("*target_tuned*"))


def test_publish_offline(tmp_path: Path) -> None:
    where = Path(publish(sweep_rows(), tmp_path / "runs", mode="offline"))
    assert list(where.glob("*.wandb"))
    assert list(where.rglob("*.png"))
    assert not list((tmp_path / "home").rglob("*table*"))


def as_csv(path: Path, rows: list[Row]) -> Path:
    names = ["params", "tokens", "lr", "batch_tokens", "loss", "status", "width", "depth", "seed"]
    lines = [",".join(str(getattr(row, name)) for name in names) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]))
    return path


def test_publish_from_the_command_line(
    tmp_path: Path, server: FakeWandb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = as_csv(tmp_path / "sweep.csv", sweep_rows())
    assert main(["fit", str(table), "-o", "laws.yaml"]) == 0
    assert main(["report", str(table), "--laws", "laws.yaml", "-o", "report.html"]) == 0
    Path("tuned.yaml").write_text("model: {width: 512}\n")
    capsys.readouterr()
    words = ["wandb", "publish", str(table), "--project", f"{ENTITY}/ladder", "--laws", "laws.yaml"]
    assert main([*words, "--tuned", "tuned.yaml", "--report", "report.html"]) == 0
    (run,) = server.runs.values()
    assert (run.project, run.state, run.job_type) == ("ladder", "finished", "report")
    assert capsys.readouterr().out.strip().endswith(run.name)
    (logged,) = run.history
    assert {"runs", "U-curves_table", "optimum_table", "figures/predicted against measured", "report"} <= set(logged)
    assert server.uploads[f"{run.name}/{logged['report']['path']}"] == Path("report.html").read_bytes()
    assert server.artifacts["tuned"]["state"] == "COMMITTED"


def test_publish_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = as_csv(tmp_path / "sweep.csv", sweep_rows())
    assert main(["wandb", "publish", str(table), "--tuned", str(tmp_path / "nowhere.yaml")]) == 2
    assert capsys.readouterr().err == f"hptransfer: {tmp_path}/nowhere.yaml: no such file\n"


def test_workspace_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.delitem(sys.modules, "wandb_workspaces.workspaces", raising=False)
    with pytest.raises(UserError, match=r"pip install 'hptransfer\[workspace\]'"):
        build_workspace("team/ladder")


needs_workspaces = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="the extra `workspace`")


@needs_workspaces
def test_workspace_is_valid_for_its_own_reader() -> None:
    """What is built serialises, and wandb-workspaces reads it back with every panel."""
    workspace = build_workspace(f"{ENTITY}/ladder")
    view = workspace._to_model()
    again = type(workspace)._from_model(type(view).model_validate(json.loads(view.model_dump_json(by_alias=True))))
    panels = {section.name: len(section.panels) for section in again.sections}
    assert panels == {**{name: len(entries) for name, entries in (SCATTERS | CURVES).items()}, "All hyperparameters": 1}
    text = view.model_dump_json(by_alias=True)
    assert '"xAxis":"config:lr.value"' in text
    assert '"yAxis":"summary:loss"' in text


@needs_workspaces
def test_workspace_is_saved(server: FakeWandb) -> None:
    address = save_workspace(f"{ENTITY}/ladder")
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == (
        ENTITY,
        "ladder",
        "Hyperparameter transfer",
    )
    assert f"/{ENTITY}/ladder" in address


@needs_workspaces
def test_workspace_errors() -> None:
    with pytest.raises(UserError, match="expected entity/project"):
        build_workspace("ladder")
    with pytest.raises(UserError, match="no API key"):
        save_workspace("team/ladder")
