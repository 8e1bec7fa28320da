"""The README is true: its commands run (in a short form), its table is the printed one, its tree is the real one."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from hptransfer.cli import main
from hptransfer.loading import read_yaml
from hptransfer.parametrization import to_markdown

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = {"tokens": 4096, "batch_tokens": 512, "eval_tokens": 1024}


def commands(document: Path) -> list[str]:
    """The hptransfer commands in the document's sh blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("hptransfer ")]


@pytest.fixture
def shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's configs and sweeps, their runs cut to a few steps on a small corpus."""
    for name in ("configs", "sweeps", "models"):
        shutil.copytree(ROOT / name, tmp_path / name)
    proxy = tmp_path / "configs/quickstart.yaml"
    text = proxy.read_text()
    settings = ", ".join(f"{key}: {value}" for key, value in SHORT.items())
    text = re.sub(r"train: \{.*\}", f"train: {{{settings}}}", text).replace("seq_len: 128", "seq_len: 128, size_mb: 1")
    proxy.write_text(text)
    assert read_yaml(proxy)["train"] == SHORT
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_run(document: Path, shortened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(document):
        words = shlex.split(command)[1:]
        if words[0] == "quickstart":
            continue  # tests/test_quickstart.py
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"


def test_there_are_commands_to_run() -> None:
    assert len(commands(ROOT / "README.md")) >= 8


def test_parametrization_table_is_the_printed_one() -> None:
    assert to_markdown("completep") in (ROOT / "README.md").read_text()


def test_tree_is_the_real_one() -> None:
    (tree,) = re.findall(r"```text\n(hptransfer/\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    named = re.findall(r"^  ([\w/.]+)", tree, flags=re.MULTILINE)
    real = [path.name + "/" * path.is_dir() for path in (ROOT / "hptransfer").iterdir() if path.name[0] != "_"]
    assert sorted(named) == sorted(name for name in real if name != "py.typed")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link
