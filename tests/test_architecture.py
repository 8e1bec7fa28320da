"""What the parts of the package may know of each other, and what none of them may do."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import hptransfer

ROOT = Path(hptransfer.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODELS = sorted((ROOT.parent / "models").glob("*.py"))
SCRIPTS = sorted((ROOT.parent / "benchmarks").glob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def room(path: Path) -> str:
    """The module or package at the top level of hptransfer that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """Every node that is run; those inside of functions only on demand."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt) and for_types_only(child):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        yield child
        yield from statements(child, inside_functions)


def imported(path: Path, inside_functions: bool) -> set[str]:
    """Dotted names of the modules that a file imports."""
    names: set[str] = set()
    for node in statements(tree(path), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module == "hptransfer":
                names |= {f"hptransfer.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("hptransfer.")}


def neighbours(inside_functions: bool) -> dict[str, set[str]]:
    """Which rooms each room imports."""
    graph: dict[str, set[str]] = {room(path): set() for path in FILES}
    for path in FILES:
        graph[room(path)] |= rooms_of(imported(path, inside_functions)) - {room(path)}
    return graph


def below(graph: dict[str, set[str]], start: str) -> set[str]:
    """All that a room imports, directly or not."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


@pytest.mark.parametrize("inside_functions", [False, True], ids=["at the top", "anywhere"])
def test_imports_go_round_in_no_circle(inside_functions: bool) -> None:
    graph = neighbours(inside_functions)
    del graph["__init__"]
    assert [name for name in graph if name in below(graph, name)] == []


UPWARDS = ["config", "records", "scaling", "training", "sweeps", "cli"]
SIDEWAYS = ["config", "records", "laws", "target", "report", "cli"]


@pytest.mark.parametrize("chain", [UPWARDS, SIDEWAYS], ids=["training", "laws"])
def test_imports_point_one_way(chain: list[str]) -> None:
    graph = neighbours(inside_functions=True)
    for number, name in enumerate(chain):
        assert set(chain[number + 1 :]) & below(graph, name) == set(), name


def test_the_two_ways_do_not_meet_before_the_command_line() -> None:
    """What reads records trains nothing; it may count a model's parameters, by an import inside of a function."""
    at_the_top, anywhere = neighbours(inside_functions=False), neighbours(inside_functions=True)
    for name in ("laws", "target", "report"):
        assert below(at_the_top, name) & {"scaling", "optimizers", "cost", "data", "training", "sweeps"} == set(), name
        assert below(anywhere, name) & {"data", "training", "sweeps"} == set(), name
    for name in ("parametrization", "schedules", "divergence", "config"):
        assert below(anywhere, name) & {"records", "scaling", "training", "laws"} == set(), name


def test_nobody_imports_the_command_line() -> None:
    users = [path.name for path in FILES if "hptransfer.cli" in imported(path, True)]
    assert users == ["__main__.py"]


def test_models_know_nothing_of_the_package() -> None:
    for path in MODELS:
        roots = {name.split(".")[0] for name in imported(path, True)}
        assert roots <= {"torch", "typing", "math", "collections", "models"}, path


WITHOUT_TORCH = [
    "",
    ".cli",
    ".errors",
    ".files",
    ".loading",
    ".sections",
    ".shapes",
    ".config",
    ".parametrization",
    ".schedules",
    ".divergence",
    ".tables",
    ".records",
    ".laws",
    ".target",
    ".report",
    ".sweeps",
]
IMPORTING = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"hptransfer{name}")
    heavy = {"torch", "wandb", "mup"} & set(sys.modules)
    assert not heavy, f"hptransfer{name} imports {heavy}"
"""


def test_what_reads_records_needs_no_torch() -> None:
    command = [sys.executable, "-c", IMPORTING, *WITHOUT_TORCH]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_the_public_names_are_there() -> None:
    for name in hptransfer.__all__:
        assert getattr(hptransfer, name) is not None
    public = {"load_config", "resolve", "train", "sweep", "fit", "Laws", "transfer"}
    assert public <= set(hptransfer.__all__)
    assert hasattr(hptransfer.Laws, "predict")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module("hptransfer").nonsense  # noqa: B018


# --- what nobody may do ---


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES + MODELS + SCRIPTS, ids=lambda path: path.relative_to(ROOT.parent).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path, True)}
    assert roots & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"} == set()
    for name, call in calls(path):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert options.get("weights_only") == "True", ast.unparse(call)
        if name in ("np.load", "numpy.load"):
            assert options.get("allow_pickle", "False") == "False", ast.unparse(call)


def test_yaml_is_read_and_written_in_one_place_and_safely() -> None:
    users = [path.name for path in FILES if "yaml" in imported(path, True)]
    assert users == ["loading.py"]
    loads = [ast.unparse(call) for name, call in calls(ROOT / "loading.py") if name.startswith("yaml.load")]
    assert loads == ["yaml.load(text, Loader=_Loader)"]
    from yaml import SafeLoader

    from hptransfer.loading import _Loader

    assert issubclass(_Loader, SafeLoader)
