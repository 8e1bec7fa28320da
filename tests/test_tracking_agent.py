"""W&B's own `wandb sweep` and `wandb agent` run our trials, against a server on loopback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_wandb import API_KEY, ENTITY, serve

from hptransfer.records import Record, read_rows

CONFIG = {
    "model": {"width": 16, "depth": 1},
    "parametrization": {"base_width": 16, "base_depth": 1},
    "data": {"source": "text", "path": "corpus", "seq_len": 32},
    "train": {"tokens": 4096, "batch_tokens": 256, "eval_tokens": 1024, "device": "cpu"},
}
SWEEP: dict[str, Any] = {
    "project": "sweeps",
    "method": "grid",
    "metric": {"name": "loss", "goal": "minimize"},
    "command": ["${env}", sys.executable, "-m", "hptransfer", "train", "config.yaml", "${args}"],
    "parameters": {
        "optimizer.lr": {"values": [0.001, 0.01]},
        "model": {"value": {"width": 32, "depth": 2}},
        "train.seed": {"value": 3},
    },
}
LRS = {0.001, 0.01}
IMPATIENT = """
from wandb.cli.cli import cli
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.1
cli(prog_name="wandb")
"""
"""The wandb command; its agent looks every tenth of a second, not every five, whether a run has ended."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as a user has it: config, sweep, text."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    one = {**SWEEP["parameters"], "optimizer.lr": {"value": 0.01}}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**SWEEP, "parameters": one}))
    for number in range(40):
        path = tmp_path / "corpus" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"document {number} of forty, all of them about the number {number}.\n" * 30)
    return tmp_path


def wandb(project: Path, environment: dict[str, str], *arguments: str) -> str:
    """Output of the wandb command."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    settings |= {**environment, "HOME": str(project / "home"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *arguments],
        cwd=project,
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_sweep_by_wandb_agent(project: Path) -> None:
    with serve() as server:
        wandb(project, server.environment, "sweep", "sweep.yaml")
        (name,) = server.sweeps
        said = wandb(project, server.environment, "agent", f"{ENTITY}/sweeps/{name}")
        assert "Traceback" not in said
        first = dict(server.runs)
        rows = {row.lr: row for row in read_rows([project / "runs"])}
        assert set(rows) == LRS
        assert len(first) == len(LRS)
        for run in first.values():
            row = rows[run.config["optimizer"]["lr"]]
            assert (run.state, run.sweep, run.project) == ("finished", name, "sweeps")
            assert run.group == name
            assert run.summary["loss"] == pytest.approx(row.loss, rel=1e-12)
            assert (run.config["model"]["width"], row.width, row.depth) == (32, 32, 2)
            assert run.config["train"]["seed"] == run.summary["seed"] == 3
            assert run.config["optimizer.lr"] == row.lr
            assert [entry["step"] for entry in run.history] == list(range(1, 17))
            assert [entry["train/loss"] for entry in run.history] == [
                pytest.approx(line["loss"], rel=1e-12) for line in Record(Path(row.source)).metrics()
            ]

        # A run of it once more: it has ended before, and is reported, not trained.
        trained = {path: path.stat().st_mtime_ns for path in (project / "runs").glob("*/result.json")}
        wandb(project, server.environment, "sweep", "again.yaml")
        again = list(server.sweeps)[1]
        wandb(project, server.environment, "agent", f"{ENTITY}/sweeps/{again}")
        assert {path: path.stat().st_mtime_ns for path in (project / "runs").glob("*/result.json")} == trained
        (replayed,) = [run for run in server.runs.values() if run.sweep == again]
        assert replayed.summary["loss"] == pytest.approx(rows[0.01].loss, rel=1e-12)
        assert len(replayed.history) == 16

    written = [path for path in project.rglob("*") if path.is_file()]
    assert not [path for path in written if API_KEY.encode() in path.read_bytes()]
